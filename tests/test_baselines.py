"""baselines.py: closed forms in NumPy, every model against popularity on planted data; faults."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import ROOT, environment_of, write_layout
from hypothesis import given, settings
from hypothesis import strategies as st

import baselines
from lib.errors import UserError
from lib.random_streams import Stream, generator
from prep.filters import split_interactions
from rivals import closed_forms

QUICK = {
    "mf": {"dimensions": 8, "l2": 0.001, "learning_rate": 0.02, "batch_size": 256},
    "neumf": {"dimensions": 8, "l2": 1e-5, "learning_rate": 0.01, "batch_size": 256},
    "mvae": {"hidden": 32, "dimensions": 8, "learning_rate": 0.01, "batch_size": 64},
    "recvae": {"hidden": 32, "dimensions": 8, "learning_rate": 0.01, "batch_size": 64},
    "lightgcn": {"dimensions": 16, "layers": 2, "l2": 1e-4, "learning_rate": 0.05, "batch_size": 1024},
    "ease": {"l2": 30},
    "edlae": {"l2": 30, "dropout": 0.3},
    "rp3beta": {"alpha": 1.0, "beta": 0.5, "neighbours": 30},
    "svd_ae": {"dimensions": 8},
    "ials": {"dimensions": 8, "l2": 0.01, "unobserved": 0.1, "epochs": 5},
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """300 users of 8 tastes, whose items are the likelier the better two vectors of 8 numbers agree."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 120))
    user = np.repeat(np.arange(300), 20)
    item = np.argsort(-taste - rng.gumbel(size=taste.shape), axis=1)[:, :20].ravel()
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / "planted", user, item, split_interactions(user, rng))
    return folder


def command(data_dir, results, model, *arguments):
    return [
        "--dataset=planted",
        f"--data_dir={data_dir}",
        f"--results_dir={results}",
        f"--model={model}",
        *arguments,
    ]


def result_of(results, model):
    [folder] = results.glob(f"{model}-planted-*")
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def popularity(planted, tmp_path_factory):
    """The test NDCG@10 of PopRec on it."""
    results = tmp_path_factory.mktemp("results")
    subprocess.run(
        [sys.executable, str(ROOT / "baselines.py"), *command(planted, results, "pop")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return result_of(results, "pop")["test"]["NDCG@10"]


@pytest.mark.parametrize("model", QUICK)
def test_each_model_learns_a_planted_pattern_better_than_popularity(
    planted, popularity, tmp_path, run_script, model
):
    done = run_script(
        "baselines.py",
        *command(
            planted, tmp_path, model, f"--grid={json.dumps([QUICK[model]])}", "--epochs=30", "--patience=10"
        ),
    )
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path, model)["test"]["NDCG@10"] > 2 * popularity
    assert done.stdout.splitlines()[-1].startswith("test  HR@10")


def test_a_finished_run_is_shown_again(planted, tmp_path, run_script):
    first, second = (run_script("baselines.py", *command(planted, tmp_path, "ease")) for _ in range(2))
    assert (
        "finished before" in second.stdout
        and first.stdout.splitlines()[-2:] == second.stdout.splitlines()[-2:]
    ), second.stderr
    [path] = tmp_path.glob("*/result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "val": 1}))
    done = run_script("baselines.py", *command(planted, tmp_path, "ease"))
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and "result.json is damaged" in done.stderr
    )


def slow_ease(rows, l2, dropout=0.0):
    """B, (I, I), from the inverse of X'X + dropout / (1 - dropout) diag(X'X) + l2 Id; rows: (m, I) dense."""
    gram = rows.T @ rows
    ridge = dropout / (1 - dropout) * np.diag(np.diag(gram)) + l2 * np.eye(rows.shape[1])
    inverse = np.linalg.inv(gram + ridge)
    weights = -inverse / np.diag(inverse)
    return weights - np.diag(np.diag(weights))


def test_edlae_is_least_squares_over_inputs_that_lose_items():
    """Item j from the others, each of which is dropped or else divided by 1 - dropout (Steck, 2020).

    With so many random inputs for every user, the least squares are near their expectation.
    """
    rng = np.random.default_rng(0)
    rows = (rng.random((20, 5)) < 0.5).astype(float)
    many = np.tile(rows, (20_000, 1))
    fed = many * (rng.random(many.shape) > 0.4) / 0.6
    found = slow_ease(rows, 3.0, 0.4)
    for item in range(5):
        others = np.delete(np.arange(5), item)
        gram = fed[:, others].T @ fed[:, others] / 20_000 + 3 * np.eye(4)
        wanted = np.linalg.solve(gram, fed[:, others].T @ many[:, item] / 20_000)
        assert found[others, item] == pytest.approx(wanted, abs=0.01)


def test_ease_solves_its_problem():
    """Column j of B is ridge regression of item j on all others, B_jj = 0 (Steck, WWW 2019)."""
    rows = (np.random.default_rng(0).random((50, 12)) < 0.3).astype(float)
    found = slow_ease(rows, 7.0)
    for item in range(12):
        others = np.delete(np.arange(12), item)
        x = rows[:, others]
        assert found[others, item] == pytest.approx(
            np.linalg.solve(x.T @ x + 7 * np.eye(11), x.T @ rows[:, item]), abs=1e-9
        )
    assert not found.diagonal().any()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    users=st.integers(1, 40),
    items=st.integers(2, 40),
    density=st.sampled_from([0.02, 0.2, 0.7]),
    l2=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 5000.0]),
    dropout=st.sampled_from([None, 0.0, 0.2, 0.9]),
    soft=st.booleans(),
)
def test_ease_and_edlae_by_users_and_by_items_are_the_slow_formula(
    seed, users, items, density, l2, dropout, soft
):
    """Also with repeated and empty users, items that nobody has, and weights from 0 to 1."""
    rng = np.random.default_rng(seed)
    rows = rng.random((users, items)) * (rng.random((users, items)) < density)
    rows = (rows if soft else np.ceil(rows)) * (rng.random(items) < 0.9) * (rng.random((users, 1)) < 0.9)
    rows = np.concatenate([rows, rows[rng.integers(users, size=3)]])
    expected = slow_ease(rows, l2, dropout or 0)
    contexts = np.concatenate([rows, rng.random((5, items)) < 0.3]).astype(np.float32)
    for few in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(closed_forms, "has_few_users", lambda users, items, few=few: few)
            if dropout is None:
                weights = closed_forms.ease(sp.csr_matrix(rows), l2)
            else:
                weights = closed_forms.edlae(sp.csr_matrix(rows), l2, dropout)
        assert callable(weights) == few
        found = closed_forms.rank_by_items(weights, contexts)
        scale = 1 + np.abs(contexts) @ np.abs(expected)
        assert (np.abs(found - contexts @ expected) < 2e-6 * scale).all()


@pytest.mark.parametrize("size", [1, 2, 7, 16, 33])
def test_an_inverse_in_blocks_is_the_inverse(monkeypatch, size):
    """Also of a matrix that is not positive definite in its first or only in its last block."""
    monkeypatch.setattr(closed_forms, "BLOCK", 4)
    rows = np.random.default_rng(size).normal(size=(size, size + 2))
    matrix = rows @ rows.T + 0.1 * np.eye(size)
    found = matrix.copy()
    assert closed_forms._invert(found)
    assert found == pytest.approx(np.linalg.inv(matrix), rel=1e-9, abs=1e-9)
    for place in {0, size - 1}:
        wrong = matrix.copy()
        wrong[place, place] = -1
        assert not closed_forms._invert(wrong)


@pytest.mark.parametrize("few", [True, False])
def test_ease_gives_no_numbers_where_the_matrix_is_not_positive_definite(monkeypatch, few):
    monkeypatch.setattr(closed_forms, "has_few_users", lambda users, items: few)
    weights = closed_forms.ease(sp.csr_matrix(np.ones((3, 4))), 0.0)
    assert np.isnan(closed_forms.rank_by_items(weights, np.ones((2, 4), np.int8))).all()


def test_ease_by_users_leaves_out_a_strength_at_which_only_rounding_errors_are_left():
    """The user who alone has item 0 determines it: 1 - d is l2 / (1 + l2)."""
    scores = closed_forms.ease(sp.csr_matrix(np.eye(2, 4)), 1e-18)
    assert not np.isfinite(closed_forms.rank_by_items(scores, np.ones((1, 4), np.int8))).all()


def test_a_strength_that_ease_cannot_use_is_left_out(planted, tmp_path, run_script):
    done = run_script(
        "baselines.py",
        *command(
            planted,
            tmp_path,
            "ease",
            '--grid=[{"l2": 1e-30}, {"l2": 30}]',
            "--sampler=head",
            "--user_support=90",  # of 120 items
        ),
    )
    assert done.returncode == 0 and re.search("l2 1e-30 +left out: its scores are not finite", done.stdout), (
        done.stderr
    )
    assert result_of(tmp_path, "ease")["choice"] == {"l2": 30}


def test_popularity_counts():
    assert list(closed_forms.popularity(sp.csr_matrix(np.array([[1, 0, 1], [1, 0, 0]], np.int8)))[0]) == [
        2,
        0,
        1,
    ]


def some_rows(rng, users=30, items=20, soft=True):
    """(m, I): a repeated user, an item that nobody has, weights between 0 and 1 if soft."""
    rows = rng.random((users, items)) * (rng.random((users, items)) < rng.random(items))
    rows[:, 3] = 0
    rows[1] = rows[0]
    return rows if soft else np.ceil(rows)


@pytest.mark.parametrize("neighbours", [1, 5, 19, 20, 100])
@pytest.mark.parametrize("soft", [True, False])
def test_rp3beta_in_loops(neighbours, soft):
    rows = some_rows(np.random.default_rng(neighbours), soft=True)
    rows = rows if soft else np.ceil(rows - 0.5)  # few enough for a sparse product
    assert (soft, np.mean(rows > 0) > closed_forms.DENSE) in {(True, True), (False, True)}
    expected = np.zeros((20, 20))
    for i in range(20):
        for j in set(range(20)) - {i}:
            for row in rows[(rows[:, i] > 0) & (rows[:, j] > 0)]:
                there, back = row[i] / rows[:, i].sum(), row[j] / row.sum()
                expected[i, j] += there**0.7 * back**0.7 / rows[:, j].sum() ** 0.4
        expected[i, np.argsort(-expected[i])[neighbours:]] = 0
    found = closed_forms.rp3beta(sp.csr_matrix(rows), 0.7, 0.4, neighbours)
    assert closed_forms.rank_by_items(found, np.eye(20)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("dimensions", [2, 7, 19, 25])
def test_svd_ae_is_the_formula_with_a_dense_decomposition(dimensions):
    """Up to the rank of the matrix, which is 19: two users are alike."""
    rng = np.random.default_rng(dimensions)
    rows = some_rows(rng, 20, 30)
    users, items = rows.sum(axis=1), np.where(rows.sum(axis=0) > 0, rows.sum(axis=0), 1)
    left, values, right = np.linalg.svd(rows / np.sqrt(np.outer(users, items)))
    rank = min(dimensions, 19)
    inverse = right[:rank].T @ np.diag(1 / values[:rank]) @ left[:, :rank].T
    context = np.ceil(some_rows(rng, 6, 30))
    context[2] = 0
    length = np.maximum(context.sum(axis=1, keepdims=True), 1)
    expected = context / np.sqrt(length * items) @ inverse @ rows
    weights = closed_forms.svd_ae(sp.csr_matrix(rows), dimensions)
    assert weights[0].shape == (30, rank) and weights[1].shape == (rank, 30)
    found = np.asarray(closed_forms.rank_by_factors(weights, context.astype(np.int8)))
    assert found == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())


def slow_als_step(rows, others, l2, unobserved, exponent):
    """Each row's normal equation, for all items with their weights; rows: (m, k), others: (k, d), dense."""
    found = []
    for row in rows:
        ridge = l2 * (row.sum() + unobserved * len(row)) ** exponent * np.eye(others.shape[1])
        matrix = others.T @ np.diag(row + unobserved) @ others + ridge
        found.append(np.linalg.lstsq(matrix, others.T @ row)[0])  # 0 for an empty row and matrix
    return np.array(found)


@pytest.mark.parametrize("dimensions", [2, 6, 40])  # below, among and above the lengths of the rows
@pytest.mark.parametrize("strengths", [(0.1, 0.2, 1.0), (0.3, 0.0, 0.5), (0.02, 1.0, 0.0)])
@pytest.mark.parametrize("soft", [True, False])
def test_a_step_of_als_solves_each_rows_normal_equation(dimensions, strengths, soft):
    rng = np.random.default_rng(dimensions)
    rows = some_rows(rng, soft=soft)
    rows[5] = 0
    others = rng.normal(size=(20, dimensions)).astype(np.float32)
    found = closed_forms.als_step(sp.csr_matrix(rows, dtype=np.float32), others, *strengths)
    assert found.dtype == np.float32
    assert found == pytest.approx(slow_als_step(rows, others.astype(float), *strengths), abs=1e-3)


def test_ials_lowers_its_loss_step_by_step_and_scores_a_context_by_the_same_equation():
    rng = np.random.default_rng(0)
    rows, strengths = some_rows(rng), (0.05, 0.1, 0.8)
    l2, unobserved, exponent = strengths

    def loss(users, items):
        scores = users @ items.T
        sizes = [rows.sum(axis) + unobserved * rows.shape[axis] for axis in (1, 0)]
        norms = [(size**exponent * (factors**2).sum(1)).sum() for size, factors in zip(sizes, (users, items))]
        return (rows * (1 - scores) ** 2).sum() + unobserved * (scores**2).sum() + l2 * sum(norms)

    items = 0.1 / np.sqrt(4) * generator(7, Stream.FACTORS).normal(size=(20, 4))
    losses = []
    for _ in range(6):
        users = slow_als_step(rows, items, *strengths)
        losses.append(loss(users, items))
        items = slow_als_step(rows.T, users, *strengths)
        losses.append(loss(users, items))
    assert (np.diff(losses) < 0).all() and losses[-1] < 0.9 * losses[0]
    setting = {"dimensions": 4, "l2": l2, "unobserved": unobserved, "exponent": exponent, "epochs": 6}
    context = some_rows(rng, 8, soft=False)
    expected = slow_als_step(context, items, *strengths) @ items.T
    first, again = (closed_forms.ials(sp.csr_matrix(rows), seed=7, **setting) for _ in range(2))
    found = closed_forms.rank_by_items(first, context.astype(np.int8))
    assert found == pytest.approx(expected, abs=2e-3)
    assert np.array_equal(found, closed_forms.rank_by_items(again, context.astype(np.int8)))


def test_ials_gives_no_numbers_where_a_step_has_none():
    factors = np.full((4, 3), np.nan, np.float32)
    assert np.isnan(closed_forms.als_step(sp.csr_matrix((2, 4), dtype=np.float32), factors, 1, 1, 1)).all()


@pytest.mark.parametrize("model", ["edlae", "rp3beta", "svd_ae", "ials"])
def test_few_users_whom_one_does_not_score_are_enough(model):
    """Also one user alone, and more dimensions or neighbours than there are."""
    rows = some_rows(np.random.default_rng(0))
    fit, rank = closed_forms.CLOSED_FORMS[model]
    setting = {**QUICK[model], **({"seed": 1} if model == "ials" else {})}
    for users in (1, 4):
        weights = fit(sp.csr_matrix(rows[:users], dtype=np.float32), **setting)
        scores = np.asarray(rank(weights, np.ceil(rows[-5:]).astype(np.int8)))
        assert scores.shape == (5, 20) and np.isfinite(scores).all() and scores.any()


@pytest.mark.parametrize("model", ["mf", "lightgcn"])
def test_users_it_was_not_trained_on_are_folded_in(planted, popularity, tmp_path, run_script, model):
    """Half the users teach it what all of them like."""
    arguments = "--user_support=150", f"--grid={json.dumps([QUICK[model]])}", "--epochs=60"
    done = run_script("baselines.py", *command(planted, tmp_path, model, *arguments))
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path, model)["test"]["NDCG@10"] > popularity + 3


def test_weights_are_refused_by_models_of_pairs():
    settings = {"model": "mf", "grid": [QUICK["mf"]], "user_support": 9, "sampler": "distilled"}
    with pytest.raises(UserError, match="from interactions, not from weights: try --sampler=distilled_hard"):
        baselines.check(settings, SimpleNamespace(users=30, items=20, new_users=None))


@pytest.mark.parametrize(
    "model, grid, epochs",
    [
        ("mf", [{**QUICK["mf"], "l2": l2} for l2 in (0.001, 0.01)], 40),
        ("recvae", [{**QUICK["recvae"], "gamma": gamma} for gamma in (0.005, 0.01)], 10),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(planted, tmp_path, run_script, model, grid, epochs):
    arguments = [f"--grid={json.dumps(grid)}", f"--epochs={epochs}", f"--patience={epochs}"]
    whole = run_script("baselines.py", *command(planted, tmp_path / "whole", model, *arguments))
    assert whole.returncode == 0, whole.stderr
    cut = [sys.executable, str(ROOT / "baselines.py"), *command(planted, tmp_path / "cut", model, *arguments)]
    process = subprocess.Popen(
        cut, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    next(line for line in process.stdout if "epoch 5 " in line)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on from there" in rest
    again = run_script("baselines.py", *command(planted, tmp_path / "cut", model, *arguments))
    assert again.returncode == 0 and "going on from setting 1 of 2, epoch" in again.stdout, again.stderr
    first, second = result_of(tmp_path / "whole", model), result_of(tmp_path / "cut", model)
    assert (first["test"], first["val"], first["choice"]) == (second["test"], second["val"], second["choice"])


def kill_after(words, command):
    """Runs a command, and kills it with SIGKILL as soon as it has said the words."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    assert any(words in line for line in process.stdout)
    process.kill()
    process.communicate(timeout=60)


def test_a_grid_that_was_killed_goes_on_after_its_last_checkpoint(planted, tmp_path, run_script):
    whole = run_script("baselines.py", *command(planted, tmp_path / "whole", "ease"))
    assert whole.returncode == 0 and "so l2 50 is tried, too" in whole.stdout, whole.stderr
    cut = [sys.executable, str(ROOT / "baselines.py"), *command(planted, tmp_path / "cut", "ease")]
    kill_after("l2 1000 ", cut)  # it was said, so the checkpoint has the one before
    again = run_script("baselines.py", *command(planted, tmp_path / "cut", "ease"))
    assert again.returncode == 0 and re.search(r"going on from setting [34] of 6", again.stdout), again.stderr
    assert "l2 500 " not in again.stdout
    first, second = result_of(tmp_path / "whole", "ease"), result_of(tmp_path / "cut", "ease")
    assert (first["test"], first["val"], first["choice"]) == (second["test"], second["val"], second["choice"])


@pytest.mark.parametrize("cut_at", [3, 4])
def test_a_grid_of_closed_forms_grows_the_same_way_after_a_resume(
    planted, tmp_path, monkeypatch, run_script, cut_at
):
    """After its last setting, and after a further one."""
    monkeypatch.setitem(baselines.default_grids, "ease", [{"l2": l2} for l2 in (800, 1600, 3200)])
    whole = run_script("baselines.py", *command(planted, tmp_path / "whole", "ease"))
    assert whole.returncode == 0 and "so l2 400 is tried, too" in whole.stdout, whole.stderr
    [folder] = (tmp_path / "whole").glob("ease-*")
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    cut = tmp_path / "cut" / folder.name
    cut.mkdir(parents=True)
    place = {"stage": 0, "step": cut_at - 1, "validated": True, "history": history[:cut_at], "seconds": []}
    with open(cut / "checkpoint.npz", "wb") as file:
        np.savez(file, state=np.array(json.dumps({**place, "wall_seconds": 1.0})))
    again = run_script("baselines.py", *command(planted, tmp_path / "cut", "ease"))
    assert f"going on from setting {cut_at} of" in again.stdout and "l2 800 " not in again.stdout, (
        again.stderr
    )
    assert (cut / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    first, second = result_of(tmp_path / "whole", "ease"), result_of(tmp_path / "cut", "ease")
    assert first["test"] == second["test"] and first["choice"] == second["choice"]
    assert first["choice"]["l2"] < 800 and len(history) > 4


def test_a_learners_grid_grows_and_one_by_hand_does_not(planted, tmp_path, monkeypatch, run_script):
    grid = [{**QUICK["mf"], "l2": l2} for l2 in (0.3, 1.0)]  # planted asks for a small l2
    monkeypatch.setitem(baselines.default_grids, "mf", grid)
    arguments = "--epochs=10", "--patience=10"
    done = run_script("baselines.py", *command(planted, tmp_path / "own", "mf", *arguments))
    assert done.returncode == 0 and "l2 0.1" in done.stdout and "is tried, too" in done.stdout, done.stderr
    result = result_of(tmp_path / "own", "mf")
    assert result["choice"]["l2"] < 0.3 and result["choice"] == {**grid[0], "l2": result["choice"]["l2"]}
    hand = [{**QUICK["mf"], "l2": l2} for l2 in (0.4, 1.0)]
    by_hand = f"--grid={json.dumps(hand)}"
    done = run_script("baselines.py", *command(planted, tmp_path / "hand", "mf", by_hand, *arguments))
    assert done.returncode == 0 and "is tried, too" not in done.stdout, done.stderr
    assert "note: the best l2, 0.4, lies at the end" in done.stdout and "'--grid=[" in done.stdout
    assert result_of(tmp_path / "hand", "mf")["choice"] == hand[0]


@pytest.mark.parametrize(
    "model, setting",
    [
        ("mf", {"dimensions": 8, "negatives": 10_000}),
        ("neumf", {"dimensions": 8, "negatives": 10_000}),
        ("mvae", {"hidden": 4, "dimensions": 2}),
        ("recvae", {"hidden": 4, "dimensions": 2}),
        ("lightgcn", {"dimensions": 8, "negatives": 10_000}),
    ],
)
def test_a_learner_that_does_not_fit_is_refused_with_the_batch_that_would(monkeypatch, model, setting):
    setting = {**setting, "learning_rate": 0.1, "batch_size": 4096}
    least = lambda size: baselines.least_bytes(model, 30_000, 2_000, 400_000, {**setting, "batch_size": size})
    dataset = SimpleNamespace(users=30_000, items=2_000, new_users=None, lengths=np.full((3, 1), 400_000))
    asked = {"model": model, "grid": [setting], "user_support": -1, "sampler": "random"}
    free = SimpleNamespace(available=least(4096))
    monkeypatch.setattr(baselines.psutil, "virtual_memory", lambda: free)
    baselines.check(asked, dataset)
    free.available = least(1024)
    with pytest.raises(
        UserError, match=f"{model} needs .* batch_size 4096, .* A batch_size of 1,024 would fit"
    ):
        baselines.check(asked, dataset)


@pytest.mark.parametrize(
    "model, users, items, support, sampler, needed",
    [
        ("ease", 2_000, 35_000, -1, "random", 24 * 2_000**2),
        ("edlae", 50_000, 35_000, -1, "random", 24 * 35_000**2),
        ("ease", 50_000, 35_000, 500, "head", 24 * 500**2),
        ("ease", 50_000, 35_000, 500, "interactions", 24 * 35_000**2),  # which spread over most users
    ],
)
def test_ease_is_refused_only_where_its_cheaper_form_does_not_fit(
    monkeypatch, model, users, items, support, sampler, needed
):
    dataset = SimpleNamespace(users=users, items=items)
    asked = {"model": model, "grid": [{"l2": 1}], "user_support": support, "sampler": sampler}
    free = SimpleNamespace(available=needed)
    monkeypatch.setattr(baselines.psutil, "virtual_memory", lambda: free)
    baselines.check(asked, dataset)
    free.available -= 1
    with pytest.raises(UserError, match=rf"{model} needs .* GiB for .* users and 35,000 items"):
        baselines.check(asked, dataset)


def test_a_setting_that_diverges_is_left_and_the_best_kept(planted, tmp_path, run_script):
    grid = [{**QUICK["mf"]}, {**QUICK["mf"], "learning_rate": 1e30}]
    done = run_script(
        "baselines.py", *command(planted, tmp_path, "mf", f"--grid={json.dumps(grid)}", "--epochs=5")
    )
    assert done.returncode == 0 and "diverged in epoch" in done.stdout, done.stderr
    assert result_of(tmp_path, "mf")["choice"] == grid[0]
    failed = run_script(
        "baselines.py", *command(planted, tmp_path, "mf", f"--grid={json.dumps(grid[1:])}", "--epochs=5")
    )
    assert (
        failed.returncode == 1
        and len(failed.stderr.splitlines()) == 1
        and "mf diverged with every setting" in failed.stderr
    )


def test_eight_devices_give_the_same_metrics(planted, tmp_path, run_script):
    for count in (1, 8):
        done = run_script(
            "baselines.py",
            *command(planted, tmp_path / str(count), "ease", '--grid=[{"l2": 30}]'),
            env=environment_of(count),
        )
        assert done.returncode == 0, done.stderr
    assert result_of(tmp_path / "1", "ease")["test"] == pytest.approx(
        result_of(tmp_path / "8", "ease")["test"], abs=1e-3
    )


@pytest.mark.parametrize(
    "model, arguments, words",
    [
        ("als", [], "model must be one of pop"),
        ("rp3beta", ['--grid=[{"alpha": 0}]'], "needs a positive alpha"),
        ("rp3beta", ['--grid=[{"alpha": 1, "neighbours": 0.5}]'], "neighbours must be a whole number from 1"),
        ("svd_ae", ['--grid=[{"dimensions": 1}]'], "dimensions must be a whole number from 2"),
        ("ials", ['--grid=[{"dimensions": 8}]'], "needs a positive l2"),
        ("ials", ['--grid=[{"l2": 1, "seed": 3}]'], "ials has no 'seed'; it has l2, unobserved"),
        ("neumf", ["--user_support=100"], "recommends only to users it was trained on"),
        ("ease", ["--user_support=301"], "301, but planted has 300 users"),
        ("ease", ['--grid=[{"l2": 0}]'], "needs a positive l2"),
        ("edlae", ['--grid=[{"l2": 1, "dropout": 1}]'], "dropout must be a number from 0 below 1"),
        (
            "mf",
            ['--grid=[{"negatives": 1000000, "dimensions": 1000000, "learning_rate": 1, "batch_size": 9}]'],
            "GiB for 300 users and 120 items with negatives 1000000, dimensions 1000000, ",
        ),
        ("mf", ['--grid=[{"l3": 0}]'], "mf has no 'l3'; it has"),
        ("mf", ['--grid=[{"dimensions": 8}]'], "needs a positive learning_rate"),
        ("ease", ['--grid=[{"l2": "many"}]'], "l2 must be a number"),
        ("mf", ['--grid=[{"dimensions": 2.5}]'], "dimensions must be a whole number from 2"),
        ("mf", ['--grid=[{"batch_size": 2.5}]'], "batch_size must be a whole number"),
        ("mf", ['--grid=[{"negatives": 0}]'], "negatives must be a whole number from 1"),
        ("recvae", ['--grid=[{"encoder_passes": 0}]'], "encoder_passes must be a whole number from 1"),
        ("mvae", ['--grid=[{"dropout": 1}]'], "dropout must be a number from 0 below 1"),
        ("ease", ['--grid=[{"l2": NaN}]'], "l2 must be a number"),
        ("ease", ["--grid=5"], "grid must be a list"),
        ("ease", ["--gumbel_tau=1"], "has no use for gumbel_tau"),
    ],
)
def test_wrong_settings(planted, tmp_path, run_script, model, arguments, words):
    done = run_script("baselines.py", *command(planted, tmp_path, model, *arguments))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr
