"""recommend.py: against eval's ranking and a plain loop, through its command line, and asked for what there is not."""
import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ROOT, write_layout

import data
import devices
import eval as evaluation
import model
import recommend
from distilled import load_dataset, open_distilled
from settings import UserError


@pytest.fixture(scope="module")
def opened(distilled_run):
    """(distilled, dataset, recommender)."""
    distilled = open_distilled(distilled_run)
    return distilled, load_dataset(distilled), recommend.Recommender(distilled)


def test_lists_are_those_of_evals_ranking(opened):
    """From the test view's contexts: the run's own test metrics come out, and every user's HR and nDCG by a loop."""
    distilled, dataset, recommender = opened
    view = dataset.test_view(np.random.default_rng([distilled.settings["seed"], 3]))
    columns, scores = recommender.rank(view.context, 10)
    kernel = model.make_kernel(1, distilled.settings["normalize"])
    [(_, _, expected)] = evaluation.search_lamda(kernel, distilled.rows, [distilled.lamda], view, evaluation.inverse_propensity(dataset.frequency),
                                                 32, devices.start(False))
    for user in range(dataset.users):
        targets = set(view.targets[user].indices)
        gains = [column in targets for column in columns[user]]
        most = min(len(targets), 10)
        assert 100 * sum(gains) / most == pytest.approx(expected["HR@10"][user], abs=1e-3)
        ideal = sum(1 / np.log2(place + 2) for place in range(most))
        assert 100 * sum(gain / np.log2(place + 2) for place, gain in enumerate(gains)) / ideal == pytest.approx(expected["NDCG@10"][user], abs=1e-3)
        assert not set(columns[user]) & set(view.context[user].indices) and (np.diff(scores[user]) <= 0).all()
    assert evaluation.summarise(expected)["HR@10"] == pytest.approx(distilled.result["test"]["HR@10"], abs=1e-3)


def test_padding_ids_and_empty_histories(opened):
    """A user who has seen all but three, one who has seen nothing, one at a time and many: the same lists."""
    distilled, dataset, recommender = opened
    histories = np.zeros((5, dataset.items), np.int8)
    histories[0, 3:] = 1
    histories[2:] = np.random.default_rng(0).random((3, dataset.items)) < 0.2
    ids, scores = recommender.top_k(sp.csr_matrix(histories), 1000)
    assert ids.shape == (5, dataset.items) and ids[0].count() == 3 and scores[0].count() == 3 and ids[1].count() == dataset.items
    assert set(ids[0].compressed()) == set(dataset.item_ids[:3])
    for user in range(5):
        alone, alone_scores = recommender.top_k(sp.csr_matrix(histories[user:user + 1]), 4)
        np.testing.assert_allclose(alone_scores[0].filled(0), scores[user, :4].filled(0), atol=1e-4)
    with pytest.raises(ValueError, match="columns"):
        recommender.rank(sp.csr_matrix((1, 3)), 5)
    assert recommender.rank(sp.csr_matrix((0, dataset.items)), 5)[0].shape == (0, 5)


def test_contributions_add_up_to_the_scores(opened):
    _, dataset, recommender = opened
    histories = dataset.train[:7]
    columns, scores = recommender.rank(histories, 5)
    given = recommender.contributions(histories, columns)
    assert given.shape == (7, len(recommender.rows))
    np.testing.assert_allclose(given.sum(axis=1), scores.sum(axis=1), rtol=1e-3, atol=1e-4)
    kernel, alpha = model.make_kernel(1, True), np.asarray(recommender._alpha)
    cross = np.asarray(kernel(histories.toarray().astype(np.float32), recommender.rows))
    for user in range(7):
        for number in range(len(recommender.rows)):
            assert given[user, number] == pytest.approx(sum(cross[user, number] * alpha[number, column] for column in columns[user]), rel=1e-3, abs=1e-4)


def test_alpha_is_kept_and_made_again(distilled_run, tmp_path, opened, monkeypatch, capsys):
    """Read back while distilled.npz is the same; not once it is another, nor when the file is damaged."""
    run = shutil.copytree(distilled_run, tmp_path / "run")
    recommend.Recommender.load(run)
    history = opened[1].train[:4]
    expected = opened[2].rank(history, 5)[0]
    solve = recommend._solve
    monkeypatch.setattr(recommend, "_solve", lambda *arguments: pytest.fail("solved again"))
    assert (recommend.Recommender.load(run).rank(history, 5)[0] == expected).all()
    monkeypatch.setattr(recommend, "_solve", solve)
    (run / "alpha.npz").write_bytes((run / "alpha.npz").read_bytes()[:-100])
    assert (recommend.Recommender.load(run).rank(history, 5)[0] == expected).all()
    (run / "alpha.npz").unlink()
    (run / "alpha.npz").mkdir()  # cannot be written
    assert (recommend.Recommender.load(run).rank(history, 5)[0] == expected).all() and "could not be written" in capsys.readouterr().err
    (run / "alpha.npz").rmdir()
    with np.load(run / "distilled.npz") as file:
        arrays = dict(file)
    np.savez(run / "distilled.npz", **{**arrays, "data": arrays["data"][::-1] ** 3})
    other = recommend.Recommender.load(run)
    solved = np.asarray(solve(other._kernel, other._rows, arrays["lamda"]))
    np.testing.assert_array_equal(np.asarray(other._alpha), solved)
    np.savez(run / "distilled.npz", **{**arrays, "data": np.full_like(arrays["data"], np.nan)})
    with pytest.raises(UserError, match="not finite"):
        recommend.Recommender.load(run)


def test_every_format_says_the_same(run_script, distilled_run, tmp_path, opened):
    """All users; ids and titles come back as they are, and in a table nothing steers the terminal."""
    _, dataset, recommender = opened
    everything = sp.csr_matrix(dataset.train + dataset.validation + dataset.test)
    ids, scores = recommender.top_k(everything, 100)
    expected = [(user, rank, str(item), float(score)) for user, items, given in zip(dataset.user_ids, ids, scores)
                for rank, (item, score) in enumerate(zip(items.compressed(), given.compressed()), 1)]
    title = dict(zip(dataset.item_ids, dataset.titles))
    for kind in ("csv", "parquet", "jsonl"):
        done = run_script("recommend.py", f"--run={distilled_run}", "--all", "--k=100", f"--out={tmp_path / 'lists'}.{kind}")
        assert done.returncode == 0 and "fewer than --k=100" in done.stderr, done.stderr
    with open(tmp_path / "lists.csv", newline="", encoding="utf-8") as file:
        plain = [(row["user"], int(row["rank"]), row["item"], float(row["score"]), row["title"]) for row in csv.DictReader(file)]
    parquet = list(pd.read_parquet(tmp_path / "lists.parquet")[["user", "rank", "item", "score", "title"]].itertuples(index=False, name=None))
    lines = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    objects = [(line["user"], rank, row["item"], row["score"], row["title"]) for line in lines for rank, row in enumerate(line["items"], 1)]
    for found in (plain, parquet, objects):
        assert [row[:3] for row in found] == [row[:3] for row in expected]
        assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], abs=1e-4)
        assert all(row[4] == title[row[2]] for row in found)
    table = run_script("recommend.py", f"--run={distilled_run}", "--all", "--k=100", "--explain").stdout
    assert "\x1b" not in table and "\u2028" not in table and "from synthetic user" in table and "a\N{REPLACEMENT CHARACTER}b" in table


def test_known_and_new_users_get_the_same_from_the_same_history(run_script, distilled_run, tmp_path, opened):
    _, dataset, _ = opened
    history = [str(dataset.item_ids[column]) for part in (dataset.train, dataset.validation, dataset.test) for column in part[4].indices]
    pd.DataFrame({"user": ["x"] * len(history) + ["nobody"], "item": [*history, "unheard of"]}).to_csv(tmp_path / "history.csv", index=False)
    quoted = ",".join('"' + each.replace('"', '""') + '"' for each in history)
    known, new, listed = (run_script("recommend.py", f"--run={distilled_run}", *more) for more in (
        ["--user=u4"], [f"--history={tmp_path / 'history.csv'}"], [f"--items={quoted}"]))
    rows = lambda done: [(line.split()[2], float(line.split()[1])) for line in done.stdout.splitlines()[1:]]
    assert len(rows(known)) == 10 and [each[0] for each in rows(known)] == [each[0] for each in rows(new)] == [each[0] for each in rows(listed)]
    assert "has no item unheard of" in new.stderr and "history of user nobody" in new.stderr and new.returncode == 0


@pytest.mark.parametrize("arguments, code, says", [
    (["--user=u1,missing"], 0, "titled has no user missing: left out"),
    (["--user=missing"], 1, "nobody left"),
    (["--items=i1,missing"], 0, "titled has no item missing"),
    (["--items=,"], 1, "the history is empty"),
    (["--items=missing"], 1, "the history is empty"),
    (["--history=/nowhere.csv"], 1, "cannot be read"),
    (["--user=u1", "--all"], 2, "one of --user, --all, --items and --history"),
    (["--all", "--k=0"], 2, "at least 1"),
    (["--all", "--format=parquet"], 2, "needs --out"),
    (["--user=u1", "--data_dir=/nowhere"], 1, "there is no data set"),
])
def test_bad_input(run_script, distilled_run, arguments, code, says):
    done = run_script("recommend.py", f"--run={distilled_run}", *arguments)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr
    assert code == 0 or code == 2 or done.stdout == ""


def test_runs_that_cannot_be_used(distilled_run, titled_data, tmp_path):
    """No run, one that has not finished, one of another script, one that is damaged, other data than then."""
    copy = lambda name: shutil.copytree(distilled_run, tmp_path / name)
    (copy("unfinished") / "result.json").unlink()
    (copy("baseline") / "distilled.npz").unlink()
    (copy("cut") / "distilled.npz").write_bytes(b"PK")
    (copy("torn") / "config.json").write_text("{")
    for name, says in (("nothing", "is no run"), ("unfinished", "has not finished"), ("baseline", "a run of distill.py is needed"),
                       ("cut", "truncated or damaged"), ("torn", "config.json cannot be read")):
        with pytest.raises(UserError, match=says):
            open_distilled(tmp_path / name)
    rng = np.random.default_rng(5)
    user, item = rng.integers(60, size=900), rng.integers(80, size=900)
    write_layout(tmp_path / "titled", user, item, rng.choice(3, 900, p=[0.8, 0.1, 0.1]))
    with pytest.raises(UserError, match="has changed since"):
        load_dataset(open_distilled(distilled_run), tmp_path)
    assert load_dataset(open_distilled(distilled_run), titled_data).fingerprint == data.load("titled", titled_data).fingerprint
