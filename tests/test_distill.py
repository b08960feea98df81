"""distill.py through its command line: what it leaves and says; no accident changes a bit of it."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
from conftest import (
    ROOT,
    environment_of,
    environment_without_cache,
    shorten_rehearsals,
    without_sums,
    write_layout,
)

import data
import distill
import model
from eval import scores_of, summarise, tie_order
from hyper_params import hyper_params
from lib import devices
from lib.errors import IN_USE, UserError
from lib.files import read_npz
from lib.metric_names import METRICS
from lib.settings import resolve
from runs import batches, lifecycle, published, recipes
from runs.evaluation import Evaluation
from runs.rows import GROWTH, keep_apart, make_rows
from runs.synthetic_users import open_distilled, to_matrix

pytestmark = pytest.mark.usefixtures("no_pictures")

STEPS = 200
TINY = [
    "--dataset=tiny",
    "--recipe=plain",
    "--keep_step=best",
    "--keep_lamda=step",
    "--user_support=8",
    "--num_per_user=10",
    "--noise_groups=2",
    "--batch_size=50",
    "--learning_rate=0.02",
    "--cosine_decay=false",
    "--score_scale=1",
    "--normalize=true",
    f"--train_steps={STEPS}",
    "--patience=1000",
    "--log_freq=25",
]


def folders(results):
    return [path for path in results.iterdir() if path.is_dir() and path.name[0] != "."]


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    """One whole run: (its folder, its output, its arguments)."""
    results = tmp_path_factory.mktemp("results")
    arguments = [*TINY, f"--data_dir={tiny_data}", f"--results_dir={results}"]
    done = subprocess.run(
        [sys.executable, "distill.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    [folder] = folders(results)
    return folder, done, arguments


def test_what_a_run_says_and_leaves(finished, tiny):
    folder, done, _ = finished
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny: 150 users") and f"run: {folder} on 1 x cpu, tiny" in done.stdout
    assert re.fullmatch(
        r"test  HR@10 \S+  HR@100 \S+  NDCG@10 \S+  NDCG@100 \S+  PSP@10 \S+  PSP@100 \S+  AUC 0\.\d{4}",
        lines[-1],
    )
    assert done.stderr == "", "nothing but errors goes to stderr when it is not a terminal"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "log.txt",
        "metrics.jsonl",
        "checkpoint.npz",
        "users.npz",
        "distilled.npz",
        "result.json",
        "sums.json",
        "curve.png",
    }
    result = json.loads((folder / "result.json").read_text())
    assert result["dataset"] == "tiny" and f"NDCG@10 {result['test']['NDCG@10']:.2f}" in lines[-1]
    assert {"HR@10", "HR@100", "NDCG@10", "NDCG@100", "PSP@10", "PSP@100", "AUC"} <= result[
        "val"
    ].keys() & result["test"].keys()
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [0, 6, 12, *range(25, STEPS + 1, 25)]
    best = max(history, key=lambda line: line["validation"]["NDCG@10"])
    assert (
        result["best_step"] == best["step"]
        and result["lamda"] == best["lamda"]
        and result["val"] == best["validation"]
    )
    with np.load(folder / "distilled.npz", allow_pickle=False) as distilled:
        assert (
            distilled["data"].shape == distilled["logits"].shape == (8, tiny.train.shape[1])
            and distilled["data"].dtype == np.float32
        )
        assert (
            distilled["data"].min() >= 0
            and distilled["data"].max() <= 1
            and (distilled["item_ids"] == tiny.item_ids).all()
        )
    config = json.loads((folder / "config.json").read_text())
    assert (
        config["settings"]["user_support"] == 8
        and config["versions"]["jax"]
        and config["devices"] == "1 x cpu"
    )


def test_it_learns(finished):
    """Distilled users are clearly better than the real ones they started as."""
    history = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert max(line["validation"]["NDCG@10"] for line in history) > 1.1 * history[0]["validation"]["NDCG@10"]


def test_a_finished_run_is_not_run_again(finished, run_script):
    folder, done, arguments = finished
    before = (folder / "result.json").stat().st_mtime_ns
    again = run_script("distill.py", *arguments)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "finished before" in again.stdout and (folder / "result.json").stat().st_mtime_ns == before


def test_killed_and_resumed_is_the_same_to_the_bit(finished, tmp_path):
    """Stopped twice: by SIGKILL, which gives it no moment to prepare, after its first validation."""
    arguments = [*finished[2], f"--results_dir={tmp_path}"]
    command = [sys.executable, "-u", "distill.py", *arguments]
    for number, code, after in ((signal.SIGKILL, -9, "step   25"), (signal.SIGTERM, 143, "step  100")):
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                if line.startswith(after):
                    process.send_signal(number)
                    break
            rest, errors = process.communicate(timeout=120)
        assert process.returncode == code, rest + errors
        assert "Traceback" not in errors
        assert (number == signal.SIGKILL) or "the same command goes on from there" in rest
    [folder] = folders(tmp_path)
    assert not (folder / "result.json").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "going on from step" in done.stdout
    assert done.stdout.splitlines()[-1] == finished[1].stdout.splitlines()[-1]
    for key, whole in read_npz(finished[0] / "distilled.npz", "").items():
        if key != "settings":
            assert read_npz(folder / "distilled.npz", "")[key].tobytes() == whole.tobytes(), key
    steps = [
        [json.loads(line)["step"] for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (folder, finished[0])
    ]
    assert steps[0] == steps[1]


def test_adam_with_one_second_moment_a_user_is_the_plain_loop():
    rng = np.random.default_rng(0)
    gradients = [
        distill.Params(rng.normal(size=(3, 4)) * [[1.0], [1e-3], [30.0]], rng.normal(size=()))
        for _ in range(5)
    ]
    adam = distill.scale_by_adam_of_users()
    state = adam.init(jax.tree.map(np.zeros_like, gradients[0]))
    mean, square, own = np.zeros((3, 4)), np.zeros(3), [0.0, 0.0]
    for count, gradient in enumerate(gradients, 1):
        moved, state = adam.update(gradient, state)
        mean = 0.9 * mean + 0.1 * gradient.logits
        for user in range(3):
            square[user] = 0.999 * square[user] + 0.001 * sum(g**2 for g in gradient.logits[user]) / 4
            size = np.sqrt(square[user] / (1 - 0.999**count)) + 1e-8
            expected = mean[user] / (1 - 0.9**count) / size
            np.testing.assert_allclose(moved.logits[user], expected, rtol=1e-4)
        own = [0.9 * own[0] + 0.1 * gradient.log_lamda, 0.999 * own[1] + 0.001 * gradient.log_lamda**2]
        expected = own[0] / (1 - 0.9**count) / (np.sqrt(own[1] / (1 - 0.999**count)) + 1e-8)
        assert float(moved.log_lamda) == pytest.approx(expected, rel=1e-4)


def test_the_step_and_lamda_that_are_kept(finished, tiny_data, tmp_path, run_script):
    words = *TINY, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"
    assert run_script("distill.py", *words, "--keep_step=30", "--keep_lamda=0.5").returncode == 0
    [folder] = folders(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert (result["best_step"], result["steps"], result["lamda"]) == (30, 30, 0.5)
    assert read_npz(folder / "distilled.npz", "")["lamda"] == 0.5
    assert run_script("distill.py", *words, "--keep_lamda=best", "--train_steps=25").returncode == 0
    [other] = set(folders(tmp_path)) - {folder}
    result = json.loads((other / "result.json").read_text())
    history = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    best = max(line["validation"]["NDCG@10"] for line in history)
    assert result["val"]["NDCG@10"] >= best, "the step's own lamda is among those that are tried"


@pytest.mark.parametrize("peak, expected", [(0.01, 0.01), (0.04, 0.03), (5.0, 7.29), (1e-4, 0.01)])
def test_the_last_lamda_is_climbed_to_from_the_learned_one(peak, expected):
    class Hill:
        tried = []

        def best_lamda(self, kernel, rows, lamdas):
            self.tried += lamdas
            return (max(lamdas, key=lambda lamda: -abs(np.log(lamda / peak))), "alpha", {})

    lamda, *_ = distill.final_model({"keep_lamda": "best"}, Hill(), None, None, {"lamda": 0.01})
    assert lamda == pytest.approx(expected) and len(set(Hill.tried)) < 12


def test_a_start_by_popularity_ranks_by_it(tiny):
    settings = {**hyper_params, "user_support": 9, "start": "popularity", "start_users": 1, "seed": 1}
    logits = distill.initial_logits(settings, tiny)
    share = np.exp(logits / 10)
    share /= share.sum(axis=1, keepdims=True)
    rows = tiny.train_rows(tiny.sample_users(9, 1)).toarray()
    popularity = (tiny.frequency + 0.5) / (tiny.frequency + 0.5).sum()
    expected = 0.8 * popularity + 0.2 * rows / rows.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(share, expected, rtol=1e-4)
    assert (distill.initial_logits({**settings, "start": "users"}, tiny) == rows).all()


def test_a_start_that_several_users_share_has_a_part_of_each(tiny):
    settings = {**hyper_params, "user_support": 40, "start": "users", "start_users": 4, "seed": 1}
    start = distill.initial_logits(settings, tiny) > 0
    of_each = [tiny.train_rows(tiny.sample_users(40, 1, place)).toarray() > 0 for place in range(4)]
    assert not (start & ~np.any(of_each, axis=0)).any()
    assert len({rows.tobytes() for rows in of_each}) == 4
    for rows in of_each:
        shared = (start & rows).sum() / rows.sum()  # a quarter of its own, and some that others gave
        assert 0.2 < shared < 0.5
    short = dataclasses.replace(tiny, train=tiny.train.multiply(np.arange(tiny.items) < 20).tocsr())
    start = distill.initial_logits({**settings, "start_users": 20}, short)
    first = short.train_rows(short.sample_users(40, 1)).toarray()
    assert start.any(axis=1)[first.any(axis=1)].all(), "not empty, unless the first user is"
    lengths = distill.initial_logits(settings, tiny).sum() / 40
    assert 0.7 * tiny.lengths[data.TRAIN].mean() < lengths < 1.3 * tiny.lengths[data.TRAIN].mean()


def test_two_at_once(tiny_data, tmp_path, run_script):
    arguments = [
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--train_steps=100000",
        "--patience=100000",
    ]
    command = [sys.executable, "-u", "distill.py", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        next(line for line in first.stdout if line.startswith("step    0"))
        second = run_script("distill.py", *arguments)
        first.kill()
    assert second.returncode == IN_USE and re.fullmatch(
        r"distill: another process is running these settings in .*\n", second.stderr
    )


def test_starting_again_keeps_what_was_there(tiny_data, tmp_path, run_script):
    arguments = [
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--train_steps=2",
        "--resume=false",
    ]
    outputs = [run_script("distill.py", *arguments).stdout.splitlines()[-1] for _ in range(2)]
    assert outputs[0] == outputs[1] and outputs[0].startswith("test ")
    assert sorted(folder.name[-5:] == ".old1" for folder in folders(tmp_path)) == [False, True]
    shown = run_script("distill.py", *arguments, "--resume=true")  # too short for a step to be timed
    assert shown.returncode == 0 and shown.stdout.splitlines()[-1] == outputs[0], shown.stderr


def fails(done, *words):
    """It ended with one line that has these words."""
    assert done.returncode not in (0, None) and len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_faults_of_settings_and_data_are_one_line(tiny_data, tmp_path, run_script):
    here = [f"--data_dir={tiny_data}", f"--results_dir={tmp_path / 'results'}"]
    for asked in ("--user_support=500", "--paper=true"):
        done = run_script("distill.py", *here, "--dataset=tiny", asked)
        fails(done, "user_support is 500, but tiny has 150 users", "Try --user_support=auto")
    for asked in ("150", "-1"):
        everyone = run_script("distill.py", *here, "--dataset=tiny", f"--user_support={asked}")
        fails(everyone, "tiny has 150 users: as many synthetic users distil nothing. Try --user_support=auto")
    fails(run_script("distill.py", *here, *TINY, "--noise_groups=9"), "noise_groups is 9")
    fails(run_script("distill.py", *here, *TINY, "--gumbel_tau=-1"), "gumbel_tau must be a number from")
    fails(run_script("distill.py", *here, "--dataset=nothing"), "there is no data set", "./prep.sh nothing")
    long = run_script("distill.py", here[0], *TINY, f"--results_dir={tmp_path / ('x' * 3000)}")
    fails(long, "File name too long")
    assert max(map(len, long.stdout.splitlines())) < 1000
    user, item = np.repeat(np.arange(20), 4), np.tile(np.arange(4), 20)
    write_layout(tmp_path / "data" / "tiny", user, item, np.tile([0, 0, 0, 2], 20))
    fails(
        run_script("distill.py", *TINY, f"--data_dir={tmp_path / 'data'}"),
        "tiny has no validation interactions",
    )
    assert not (tmp_path / "results").exists() or not folders(tmp_path / "results")


@pytest.mark.parametrize("users, items", [(1, 3), (3, 5), (40, 5)])
def test_very_few_users_and_items_make_a_run(tmp_path, run_script, monkeypatch, users, items):
    """Three interactions of each user, one in every part; the settings are the defaults."""
    shorten_rehearsals(monkeypatch)
    place = np.arange(3 * users)
    user, part = place // 3, place % 3
    write_layout(tmp_path / "tiny", user, (user + part) % items, part)
    folders_of = f"--data_dir={tmp_path}", f"--results_dir={tmp_path / 'results'}"
    done = run_script("distill.py", "--dataset=tiny", *folders_of, "--train_steps=3")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("test  HR@10 "), done.stderr
    support = max(1, users // 4)
    assert f"user_support={support} (a quarter of the {users} users)" in done.stdout
    [folder] = folders(tmp_path / "results")
    assert read_npz(folder / "distilled.npz", "")["data"].shape == (support, items)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["user_support"] == support and config["settings"]["num_per_user"] == 1
    assert {"user_support", "num_per_user"} <= config["auto"].keys()


def test_some_users_without_validation_items_and_items_without_train_rows(tmp_path, run_script):
    rng = np.random.default_rng(0)
    user, item = (
        np.repeat(np.arange(30), 6),
        np.concatenate([rng.choice(25, 6, replace=False) for _ in range(30)]),
    )
    part = np.tile([0, 0, 0, 0, 0, 2], 30)
    part[4:60:6] = 1
    user, item, part = (
        np.append(column, value) for column, value in ((user, [0, 0]), (item, [99, 98]), (part, [1, 2]))
    )
    write_layout(tmp_path / "tiny", user, item, part)
    done = run_script(
        "distill.py",
        *TINY,
        "--train_steps=3",
        f"--data_dir={tmp_path}",
        f"--results_dir={tmp_path / 'results'}",
    )
    assert done.returncode == 0 and "nan" not in done.stdout, done.stderr


@pytest.mark.parametrize(
    "name, how",
    [
        ("checkpoint.npz", "truncated"),
        ("checkpoint.npz", "flipped"),
        ("distilled.npz", "flipped"),
        ("result.json", "truncated"),
    ],
)
def test_damaged_run_files_are_named_and_kept(finished, tmp_path, run_script, name, how):
    results = tmp_path / "results"
    shutil.copytree(finished[0].parent, results)
    [folder] = folders(results)
    if name == "checkpoint.npz":
        (folder / "result.json").unlink()
    content = bytearray((folder / name).read_bytes())
    if how == "flipped":
        content[len(content) // 3] ^= 1
    else:
        content = content[: len(content) // 2]
    (folder / name).write_bytes(content)
    fails(
        run_script("distill.py", *finished[2], f"--results_dir={results}"),
        name,
        "--resume=false starts again",
    )
    assert (folder / name).read_bytes() == content


def test_the_best_step_by_another_metric(tiny_data, tmp_path, run_script):
    metric = "HR@10"
    done = run_script(
        "distill.py",
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--train_steps=100",
        f"--best_by={metric}",
    )
    assert done.returncode == 0
    history = [json.loads(line) for line in (folders(tmp_path)[0] / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((folders(tmp_path)[0] / "result.json").read_text())["val"][metric]
    assert best == max(line["validation"][metric] for line in history)


def test_patience_counts_steps_without_a_better_validation(tiny_data, tmp_path, run_script):
    done = run_script(
        "distill.py",
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--patience=30",
        "--learning_rate=1e-9",
    )
    result = json.loads((folders(tmp_path)[0] / "result.json").read_text())
    assert done.returncode == 0 and result["steps"] == result["best_step"] + 30 < STEPS


def test_a_patience_shorter_than_the_schedule_validates_before_it_stops(tiny_data, tmp_path, run_script):
    done = run_script(
        "distill.py",
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--patience=10",
        "--validate_early=false",
        "--train_steps=30",
        "--learning_rate=0.1",
    )
    assert done.returncode == 0 and "step   10" in done.stdout
    assert json.loads((folders(tmp_path)[0] / "result.json").read_text())["best_step"] > 0


def test_what_changed_since_a_run_began_is_said(finished, tmp_path, run_script):
    results = tmp_path / "results"
    shutil.copytree(finished[0].parent, results)
    [folder] = folders(results)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "devices": "8 x abacus"}))
    done = run_script("distill.py", *finished[2], f"--results_dir={results}")
    assert "note: the run began under other conditions: devices 8 x abacus then, 1 x cpu now" in done.stdout
    assert json.loads((folder / "config.json").read_text())["devices"] == "8 x abacus", (
        "how it began stays on record"
    )


@pytest.mark.parametrize("share", [0.8, 1])
def test_batches_are_real_users_and_feed_the_share_of_their_interactions(tiny, share):
    mesh = devices.start(False)
    make = batches.make_batches(
        tiny, mesh, seed=42, batch_size=60, keep_prob=share, sampled_items=-1, batches_per_step=2
    )
    rows = {bytes(row) for row in tiny.train.toarray()}
    drawn = [np.asarray(batch.entries) for step in range(20) for batch in make(step)]
    assert all(bytes((row > 0).astype(np.int8)) in rows for batch in drawn for row in batch)
    fed, held_out = (
        sum((batch == part).sum() for batch in drawn) for part in (batches.FED, batches.HELD_OUT)
    )
    assert drawn[0].shape == (60, tiny.items) and fed / (fed + held_out) == pytest.approx(share, abs=0.01)
    assert (
        all((one.entries == two.entries).all() for one, two in zip(make(3), make(3)))
        and not (drawn[0] == drawn[1]).all()
    )


@pytest.mark.parametrize("sampled", [5, 40, 10**6])
def test_a_batch_has_the_items_of_its_users_and_a_sample_of_the_others(tiny, sampled):
    mesh, alike = devices.start(False), {"seed": 42, "batch_size": 9, "keep_prob": 0.5, "batches_per_step": 2}
    narrow = batches.make_batches(tiny, mesh, sampled_items=sampled, **alike)
    wide = batches.make_batches(tiny, mesh, sampled_items=-1, **alike)
    widths, ranked = set(), np.zeros(tiny.items)
    for step in range(30):
        for one, whole in zip(narrow(step), wide(step)):
            entries, items, counts = map(np.asarray, one[:3])
            whole = np.asarray(whole.entries)
            present = (whole > 0).any(axis=0)
            assert (whole[:, items] == entries).all() and (np.diff(items) > 0).all()
            assert set(np.flatnonzero(present)) <= set(items) and (counts[present[items]] == 1).all()
            assert counts.sum() == pytest.approx(tiny.items, rel=1e-6)
            assert len(items) >= min(tiny.items, present.sum() + sampled)
            widths.add(len(items))
            ranked[items] += 1
    assert len(widths) <= 4 and (sampled < 10**6 or widths == {tiny.items})
    again, other = narrow(3)[0].items, narrow(4)[0].items
    assert (again == narrow(3)[0].items).all() and (
        sampled == 10**6 or set(again.tolist()) != {*other.tolist()}
    )
    assert ranked.all(), "every item is ranked at times"


@pytest.mark.parametrize("name", model.LOSSES)
def test_a_step_on_all_items_of_a_part_is_the_step_on_all_items(tiny, name):
    """Loss and gradient. With some of the items, the loss and its gradient are those in the mean."""
    settings, _ = resolve(["--user_support=8", "--num_per_user=30", "--batch_size=12", "--score_scale=50"])
    settings, _ = recipes.resolve_auto({**settings, "loss": name}, recipes.statistics_of(tiny))
    kernel, mesh = model.Kernel(1, True, data.item_weights(tiny, 0.25)), devices.start(False)
    params = distill.initial_params(settings, distill.initial_logits(settings, tiny))
    objective = distill.make_objective(settings, tiny, kernel, model.LOSSES[name])
    slope = jax.jit(jax.value_and_grad(objective, has_aux=True))

    def of(sampled, seed=0):
        make = batches.make_batches(tiny, mesh, 0, 12, 0.5, sampled, 1)
        [batch] = make(0)
        if seed:
            present = np.asarray(make(0)[0].counts) == 1
            rng, of_users = np.random.default_rng(seed), np.zeros(tiny.items, bool)
            of_users[np.asarray(batch.items)[present]] = True
            whole = batches.make_batches(tiny, mesh, 0, 12, 0.5, -1, 1)(0)[0].entries
            items, counts = batches.choose_items(rng, of_users, sampled)
            batch = batches.Batch(whole[:, items], jnp.asarray(items), jnp.asarray(counts))
        (loss, _), gradient = slope(params, None, jax.random.key(0), batch)
        return float(loss), np.asarray(gradient.logits)

    loss, gradient = of(-1)
    same_loss, same_gradient = of(10**6)
    assert same_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(same_gradient, gradient, rtol=0, atol=5e-4 * np.abs(gradient).max())
    if name == "squared":  # needs no sample
        some_loss, some_gradient = of(20)
        assert some_loss == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(some_gradient, gradient, rtol=0, atol=5e-4 * np.abs(gradient).max())
        return
    losses, gradients = zip(*(of(20, seed) for seed in range(1, 41)))
    assert np.std(losses) > 0 and np.mean(losses) == pytest.approx(loss, rel=0.01)
    mean, apart = np.mean(gradients, axis=0), np.mean([np.abs(one - gradient).sum() for one in gradients])
    assert np.abs(mean - gradient).sum() < 0.3 * apart


@pytest.mark.parametrize("sampled", [-1, 20])
@pytest.mark.parametrize("objective", ["held_out", "reconstruct"])
@pytest.mark.parametrize("name, dense", [("softmax", "targets"), ("squared", "nothing")])
def test_a_step_by_places_is_the_dense_step(tiny, name, dense, objective, sampled):
    settings, _ = resolve([f"--objective={objective}", "--user_support=8", "--num_per_user=30"])
    settings, _ = recipes.resolve_auto({**settings, "loss": name}, recipes.statistics_of(tiny))
    kernel, mesh = model.Kernel(1, True, data.item_weights(tiny, 0.25)), devices.start(False)
    params = distill.initial_params(settings, distill.initial_logits(settings, tiny))
    objective = distill.make_objective(settings, tiny, kernel, model.LOSSES[name])
    slope, found = jax.jit(jax.value_and_grad(objective, has_aux=True)), []
    keep_prob = 0.5 if settings["objective"] == "held_out" else 1
    for form in ("all", dense):
        [batch] = batches.make_batches(tiny, mesh, 0, 12, keep_prob, sampled, 1, form)(0)
        (loss, _), gradient = slope(params, None, jax.random.key(0), batch)
        found.append((float(loss), np.asarray(gradient.logits)))
    (loss, gradient), (same_loss, same_gradient) = found
    assert same_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(same_gradient, gradient, rtol=0, atol=5e-4 * np.abs(gradient).max())


def test_accumulated_batches_share_their_noise_and_make_their_mean(tiny):
    """Two batches in one step, without a random split: the same update as from both at once."""

    def step(batches, **changes):
        arguments = ["--user_support=8", "--num_per_user=5", "--objective=reconstruct"]
        arguments += ["--history_discount=0", "--loss=softmax"]
        settings = {**recipes.resolve_auto(resolve(arguments)[0], recipes.statistics_of(tiny))[0], **changes}
        kernel, mesh = model.Kernel(1, True), devices.start(False)
        _, optimizer, update, _ = distill.build(settings, tiny, kernel, model.cross_entropy, mesh)
        state = distill.initial_state(settings, distill.initial_logits(settings, tiny), optimizer)
        return update(state, 0.1, jax.random.key(0), batches, np.zeros(1, np.int32))

    rows = jnp.asarray(tiny.train[:100].toarray())
    batch = batches.Batch
    whole, (loss, *_) = step([batch(rows)], batch_size=100)
    parts, (mean_loss, *_) = step([batch(rows[:50]), batch(rows[50:])], batch_size=50, accumulate_steps=2)
    assert float(loss) == pytest.approx(float(mean_loss), rel=1e-5)
    # Adam divides by the gradient's own size: its first step is the sign, so the moments are compared.
    for one, two in zip(jax.tree.leaves(whole.adam), jax.tree.leaves(parts.adam)):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-6)


def test_a_step_that_memory_cannot_hold_is_refused_with_what_would_fit(tiny, monkeypatch):
    monkeypatch.setattr(devices, "free_bytes", lambda mesh: 1_300_000)
    mesh, settings = (
        devices.start(False),
        {
            **hyper_params,
            "user_support": 20,
            "num_per_user": 50,
            "batch_size": -1,
            "sampled_items": -1,
            "noise_groups": 1,
        },
    )
    with pytest.raises(
        UserError, match="a step with 150 real users on each device needs 0.0 GiB there, and .* --batch_size="
    ) as caught:
        distill.check_fits({**settings, "user_support": 60}, tiny, mesh)
    fits = int(str(caught.value).split("--batch_size=")[1].split()[0])
    distill.check_fits({**settings, "user_support": 60, "batch_size": fits}, tiny, mesh)
    with pytest.raises(UserError, match="a smaller user_support"):
        distill.check_fits({**settings, "user_support": 140, "num_per_user": 900}, tiny, mesh)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tiny_data, tmp_path, run_script):
    done = run_script(
        "distill.py",
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--user_support=40",
        "--lamda=1",
        "--num_per_user=1",
        "--gumbel_tau=1e6",
        "--learning_rate=1e5",
    )  # users all alike, and lamda leaps
    fails(done, "failed at lamda", "its loss is nan", "checkpoint.npz")
    [folder] = folders(tmp_path)
    assert np.isfinite(read_npz(folder / "checkpoint.npz", "")["state_0"]).all()


def test_a_kernel_that_is_not_positive_definite_is_named(tmp_path, run_script):
    """Users who are all alike, and lamda 0."""
    user, item = np.repeat(np.arange(30), 8), np.tile(np.arange(8), 30)
    item[7::8] += np.arange(30)
    write_layout(tmp_path / "tiny", user, item, np.tile([0, 0, 0, 0, 0, 0, 1, 2], 30))
    fails(
        run_script(
            "distill.py",
            *TINY,
            f"--data_dir={tmp_path}",
            f"--results_dir={tmp_path / 'results'}",
            "--learn_lamda=false",
            "--lamda_grid=[0]",
        ),
        "not positive definite in float32 at lamda 0",
    )


def test_a_disk_that_is_full_is_one_line_and_resumes(tiny_data, tmp_path, run_script):
    """A limit on the size of files, smaller than a checkpoint, stands in for the full disk."""
    arguments = [*TINY, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}", "--train_steps=2"]
    fails(run_script("distill.py", *arguments, largest_file=8), "File too large: '", "checkpoint.npz'")
    [folder] = folders(tmp_path)
    assert not list(folder.glob(".*")), "no part of a file is left"
    assert run_script("distill.py", *arguments).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--paper=true", "--user_support=8", "--num_per_user=5"],
        ["--learn_lamda=false", "--accumulate_steps=3", "--gumbel_tau=0.3", "--float64=true"],
        [
            "--batch_size=-1",
            "--depth=2",
            "--objective=reconstruct",
            "--noise_groups=-1",
            "--eval_batch_size=7",
        ],
        ["--loss=generalized", "--depth=0", "--item_discount=-0.2", "--keep_prob=0.6", "--sampled_items=9"],
    ],
)
def test_other_settings_run(tiny_data, tmp_path, run_script, arguments):
    done = run_script(
        "distill.py",
        *TINY,
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--train_steps=30",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    assert "step   25" in done.stdout and "nan" not in done.stdout


def test_another_seed_compiles_nothing(tiny_data, tmp_path, run_script):
    programs = []
    for seed in (1, 2):
        words = f"--data_dir={tiny_data}", f"--results_dir={tmp_path}", "--train_steps=2", f"--seed={seed}"
        done = run_script("distill.py", *TINY, *words, env=environment_without_cache())
        assert done.returncode == 0 and done.stderr.count("\n") <= 2, done.stderr
        programs.append({path.name for path in tmp_path.glob(".compiled-*/*-cache")})
    assert programs[0] and programs[0] == programs[1]


def test_many_devices_give_the_same_metrics(finished, tmp_path, run_script):
    """8 virtual devices, and a batch and a number of users that 8 does not divide."""
    arguments = [*finished[2], "--train_steps=50", "--float64=true"]
    results = []
    for name, options in (("one", {}), ("eight", {"env": environment_of(8)})):
        done = run_script(
            "distill.py",
            *arguments,
            f"--results_dir={tmp_path / name}",
            f"--eval_batch_size={13 if options else 500}",
            **options,
        )
        assert done.returncode == 0 and ("on 8 x cpu" in done.stdout) == bool(options), done.stderr
        [folder] = folders(tmp_path / name)
        results.append(json.loads((folder / "result.json").read_text()))
    assert results[0]["val"] == pytest.approx(results[1]["val"], abs=1e-3)
    assert results[0]["test"] == pytest.approx(results[1]["test"], abs=1e-3)


def small(tiny_data, results, *arguments):
    """distill.main with a small run's settings; its folder."""
    distill.main(
        [*TINY, f"--data_dir={tiny_data}", f"--results_dir={results}", "--train_steps=30", *arguments]
    )
    [folder] = folders(results)
    return folder


def test_every_run_ends_with_what_it_is_to_be_compared_with(tiny, tiny_data, tmp_path, capsys):
    folder = small(tiny_data, tmp_path)
    lines, result = capsys.readouterr().out.splitlines(), json.loads((folder / "result.json").read_text())
    assert result["yardsticks"].keys() == {"popularity", "∞-AE on 8 random users"}
    popularity = result["yardsticks"]["popularity"]
    counts = np.asarray(tiny.train.sum(axis=0), float).ravel()
    hits, order = [], tie_order(tiny.items)
    for user in range(tiny.users):
        scores, targets = counts.copy(), set(tiny.test[user].indices)
        scores[tiny.train[user].indices] = scores[tiny.validation[user].indices] = -1
        if targets:
            top = order[np.argsort(-scores[order], kind="stable")[:10]]
            hits.append(100 * len(targets & set(top)) / min(len(targets), 10))
    assert popularity["test"]["HR@10"] == pytest.approx(np.mean(hits))
    assert any(line.startswith("for comparison, popularity: validation NDCG@10") for line in lines[-5:])
    assert any(line.startswith("for comparison, ∞-AE on 8 random users: ") for line in lines[-5:]) and lines[
        -1
    ].startswith("test  HR@10")
    assert "the paper's" not in "".join(lines), "its figures are of other data"


def test_a_run_that_learnt_nothing_says_so(tiny_data, tmp_path, capsys):
    folder = small(tiny_data, tmp_path, "--learning_rate=1e-9", "--lamda=1")
    result = json.loads((folder / "result.json").read_text())
    learnt = result["best_step"] > 0
    assert result["learnt"] == learnt
    assert ("NOTHING WAS LEARNT" in capsys.readouterr().out) == (not learnt)
    (without_sums(folder) / "result.json").write_text(json.dumps({**result, "best_step": 0, "learnt": False}))
    for script in ("export.py --format=csv", "recommend.py --user=0"):
        name, argument = script.split()
        done = subprocess.run(
            [sys.executable, name, f"--run={folder}", argument],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0
        assert "keeps its start, so its 8 synthetic users are what they began as" in done.stderr


@pytest.mark.parametrize("popular, worse", [(99.0, True), (0.0, False)])
def test_a_run_worse_than_popularity_says_so(popular, worse, tiny):
    metrics = dict.fromkeys(METRICS, 50.0)
    result = {
        "best_step": 3,
        "steps": 3,
        "lamda": 1.0,
        "wall_seconds": 1.0,
        "step_seconds": None,
        "peak_rss_mb": 1.0,
        "test": metrics,
        "val": metrics,
        "yardsticks": {"popularity": {"val": metrics, "test": dict.fromkeys(metrics, popular)}},
    }
    lines = list(lifecycle.last_lines({**hyper_params, "best_by": "NDCG@10"}, tiny, result, "distill"))
    assert any(line.startswith("WORSE THAN RECOMMENDING WHAT IS POPULAR") for line in lines) == worse


def test_the_paper_s_figure_is_of_its_own_split_and_number_of_users():
    split = next(key for key, name in published.RELEASED.items() if name == "ml-1m")
    settings = {"user_support": 500, "noise": 0.0}
    assert published.figure(split, "distill", settings) == 32.52
    assert published.figure(split, "distill", {**settings, "user_support": 1}) is None
    assert published.figure(split, "distill", {**settings, "noise": 0.1}) is None
    assert published.figure("another split", "distill", settings) is None
    assert published.figure(split, "infinite_ae", {**settings, "user_support": -1}) == 32.82


def test_config_keeps_what_auto_became_and_why(tiny_data, tmp_path):
    config = json.loads((small(tiny_data, tmp_path) / "config.json").read_text())
    assert (
        "auto" not in config["settings"].values()
        and config["auto"]["loss"].startswith("recipe '")
        and "learning_rate" not in config["auto"]
    )
    assert config["data"] == {
        "users": 150,
        "items": config["data"]["items"],
        "interactions": config["data"]["interactions"],
        "new_users": False,
    }


# ---- Sparse rows ---------------------------------------------------------------------------------------


def test_sparse_rows_are_few_bytes_that_every_script_reads(tiny, tiny_data, tmp_path):
    """No more of them than as many real users have; what is tested is what is kept."""
    run = small(tiny_data, tmp_path, "--rows=sparse", "--recipe=interactions", "--keep_lamda=step")
    users = open_distilled(run)
    assert users.result["learnt"] and users.result["best_step"] > 0
    most = int(len(users.rows) * tiny.lengths[data.TRAIN].mean())
    assert most / 2 < (users.rows > 0).sum() <= most
    np.testing.assert_allclose(users.rows * 255, (users.rows * 255).round(), atol=1e-4)
    size = (run / "distilled.npz").stat().st_size
    assert size < 10 * most + 8000 and (users.logits == users.rows).all()
    hard = to_matrix(users, "hard", 0)
    assert set(hard.data) == {1} and (hard.toarray() == (users.rows > 0)).all()
    kernel = model.Kernel(users.settings["depth"], users.settings["normalize"], users.item_weights)
    [alpha] = model.fit(kernel, users.rows, [users.lamda])
    test = Evaluation(tiny, users.settings, devices.start(False)).test(scores_of(kernel, users.rows, [alpha]))
    assert summarise(test)["NDCG@10"] == pytest.approx(users.result["test"]["NDCG@10"], rel=1e-4)


def test_sparse_rows_shrink_to_their_length(tiny):
    """Each update leaves logits from 0 to GROWTH, so few of which are above 0 as the schedule allows."""
    settings = {
        "user_support": 10,
        "row_length": 0.5,
        "max_overlap": 1.0,
        "rows": "sparse",
        "train_steps": 10,
    }
    most, optimizer = int(5 * tiny.lengths[data.TRAIN].mean()), make_rows(settings, tiny).project
    params = distill.Params(jnp.asarray(tiny.train[:10].toarray(), jnp.float32), jnp.zeros(()))
    state, rng, counts = optimizer.init(params), np.random.default_rng(0), []
    for _ in range(10):
        updates = distill.Params(jnp.asarray(rng.normal(size=params.logits.shape), jnp.float32), jnp.ones(()))
        updates, state = optimizer.update(updates, state, params)
        params = optax.apply_updates(params, updates)
        counts.append(int((params.logits > 0).sum()))
        assert 0 <= params.logits.min() and params.logits.max() <= GROWTH * 1.0001
    assert float(params.log_lamda) == 10, "lamda is left alone"
    assert counts[0] > 2 * most and counts == sorted(counts, reverse=True) and counts[6:] == [counts[-1]] * 4
    assert 0.95 * most <= counts[-1] <= most


def jaccard(row, history):
    """Of two sets; that of nothing with nothing is 0."""
    return len(row & history) / max(len(row | history), 1)


@pytest.mark.parametrize("most", [0, 0.35, 0.5, 1])
def test_rows_are_kept_apart_from_every_history(most):
    """As with sets, one item at a time."""
    rng = np.random.default_rng(1)
    histories = (rng.random((30, 12)) < 0.4) * 1.0
    histories[3] = 0
    rows = (rng.random((8, 12)) < 0.5) * rng.random((8, 12))
    rows[2] = 0
    sets = [set(np.flatnonzero(history)) for history in histories]
    kept = keep_apart(rows, sp.csr_matrix(histories), most)
    for row, new in zip(rows, kept):
        while row.any():
            overlaps = [jaccard(set(np.flatnonzero(row)), history) for history in sets]
            if max(overlaps) <= most:
                break
            shared = sets[int(np.argmax(overlaps))] & set(np.flatnonzero(row))
            row[min(shared, key=lambda item: row[item])] = 0
        assert (new == row).all()
    assert kept.any() or most == 0


def test_a_run_whose_users_are_kept_apart(tiny, tiny_data, tmp_path, run_script):
    arguments = "--dataset=tiny", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}", "--user_support=10"
    few = "--rows=sparse", "--max_overlap=0.15", "--train_steps=12", "--log_freq=6"
    done = run_script("distill.py", *arguments, *few, "--recipe=plain", "--keep_step=12", "--keep_lamda=step")
    [folder] = folders(tmp_path)
    rows = open_distilled(folder).rows
    says = f"10 synthetic users have {(rows > 0).sum()} interactions; {(~rows.any(axis=1)).sum()} have none"
    assert done.returncode == 0 and says in done.stdout
    real = [set(tiny.train[user].indices) for user in range(tiny.users)]
    assert max(jaccard(set(np.flatnonzero(row)), history) for row in rows for history in real) <= 0.15
    assert rows.any()
