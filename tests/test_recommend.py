"""recommend.py and runs/recommender.py: against eval's ranking and a plain loop, through the command line."""

import csv
import json
import os
import shutil

import duckdb
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import without_sums, write_layout

import data
import eval as evaluation
import model
import recommend
from lib import devices
from lib.errors import UserError
from lib.random_streams import Stream, generator
from runs import recommender as recommender_module
from runs.histories import Ids
from runs.recommender import Recommender
from runs.synthetic_users import folder_of, load_dataset, open_distilled


@pytest.fixture(scope="module")
def opened(distilled_run):
    """(SyntheticUsers, Dataset, Recommender)."""
    run = open_distilled(distilled_run)
    return run, load_dataset(run), Recommender(run)


def test_python_users_import_it_from_recommend():
    assert recommend.Recommender is Recommender


def test_lists_are_those_of_evals_ranking(opened):
    """The test view's contexts give the run's own test metrics, and every user's HR and nDCG by a loop."""
    distilled, dataset, recommender = opened
    view = dataset.test_view(generator(distilled.settings["seed"], Stream.TEST))
    columns, scores = recommender.rank(view.context, 10)
    kernel = model.Kernel(
        1, distilled.settings["normalize"], data.item_weights(dataset, distilled.settings["item_discount"])
    )
    rows = jnp.asarray(distilled.rows)
    alpha = model.ridge(kernel(rows), rows, distilled.lamda)
    scores_of_batch, mesh = evaluation.scores_of(kernel, rows, [alpha]), devices.start(False)
    [expected] = evaluation.evaluate(scores_of_batch, 1, view, dataset.frequency, 32, mesh)
    for user in range(dataset.users):
        targets = set(view.targets[user].indices)
        gains = [column in targets for column in columns[user]]
        most = min(len(targets), 10)
        assert 100 * sum(gains) / most == pytest.approx(expected["HR@10"][user], abs=1e-3)
        ideal = sum(1 / np.log2(place + 2) for place in range(most))
        gain = sum(gain / np.log2(place + 2) for place, gain in enumerate(gains))
        assert 100 * gain / ideal == pytest.approx(expected["NDCG@10"][user], abs=1e-3)
        assert not set(columns[user]) & set(view.context[user].indices) and (np.diff(scores[user]) <= 0).all()
    summary = evaluation.summarise(expected)["HR@10"]
    assert summary == pytest.approx(distilled.result["test"]["HR@10"], abs=1e-3)


def test_padding_ids_and_empty_histories(opened):
    """A user who has seen all but three, one who has seen nothing, one at a time and many: the same lists."""
    distilled, dataset, recommender = opened
    histories = np.zeros((5, dataset.items), np.int8)
    histories[0, 3:] = 1
    histories[2:] = np.random.default_rng(0).random((3, dataset.items)) < 0.2
    ids, scores = recommender.top_k(sp.csr_matrix(histories), 1000)
    assert (
        ids.shape == (5, dataset.items)
        and ids[0].count() == 3
        and scores[0].count() == 3
        and ids[1].count() == dataset.items
    )
    assert set(ids[0].compressed()) == set(dataset.item_ids[:3])
    for user in range(5):
        alone, alone_scores = recommender.top_k(sp.csr_matrix(histories[user : user + 1]), 4)
        np.testing.assert_allclose(alone_scores[0].filled(0), scores[user, :4].filled(0), atol=1e-4)
    with pytest.raises(ValueError, match="columns"):
        recommender.rank(sp.csr_matrix((1, 3)), 5)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        recommender.top_k(sp.csr_matrix(histories), 0)
    assert recommender.rank(sp.csr_matrix((0, dataset.items)), 5)[0].shape == (0, 5)


@pytest.fixture(scope="module")
def larger(opened, tmp_path_factory):
    """(SyntheticUsers, histories of 300 users): 50 random rows of 1,501 items, the last of them all 0."""
    rng = np.random.default_rng(3)
    rows = np.clip(rng.exponential(0.1, (50, 1501)), 0, 1).astype(np.float32)
    rows[:, -9:] = 0
    run = opened[0]._replace(
        folder=tmp_path_factory.mktemp("larger"),
        rows=rows,
        item_ids=np.arange(1501),
        item_weights=rng.uniform(0.5, 2, 1501).astype(np.float32),
        lamda=0.01,
    )
    return run, sp.csr_matrix(rng.random((300, 1501)) < 0.03, dtype=np.int8)


@pytest.mark.parametrize("batch_bytes", [2**28, 100_000, 1])  # 64, 16 and 1 users
def test_lists_do_not_depend_on_who_else_is_asked_for(larger, monkeypatch, batch_bytes):
    """One user, several, all, in any order: the same items, and the same bits of their scores."""
    run, histories = larger
    monkeypatch.setattr(recommender_module, "BATCH_BYTES", batch_bytes)
    recommender = Recommender(run)
    columns, scores = recommender.rank(histories, 20)
    shuffled = np.random.default_rng(4).permutation(300)
    groups = [[user] for user in range(0, 300, 5)] + [[7, 2, 299], range(100), shuffled]
    for group in groups:
        some, some_scores = recommender.rank(histories[group], 20)
        assert (some == columns[group]).all() and (some_scores == scores[group]).all()
    items, alike = np.array([5, 1500, 7, 5]), recommender.similar(np.arange(200), 20)
    for asked in ([5], [7, 5], [199, 0, 64]):
        for alone, together in zip(recommender.similar(np.array(asked), 20), alike):
            assert (alone == together[asked]).all()
    assert (recommender.similar(items, 20)[0][0] == alike[0][5]).all()


def test_candidates_and_seen_items_against_a_loop(larger):
    """Lists that run out of items, too."""
    run, histories = larger
    histories, recommender = histories[:20], Recommender(run)
    columns, scores = recommender.rank(histories, 1501, include_seen=True)
    assert (np.sort(columns, axis=1) == np.arange(1501)).all()
    candidates = np.random.default_rng(5).random(1501) < 0.05
    candidates[histories[3].indices] = True
    for only in (None, candidates):
        for include_seen in (False, True):
            found, given = recommender.rank(histories, 130, only, include_seen)
            for user in range(20):
                seen = set() if include_seen else set(histories[user].indices)
                allowed = [
                    place
                    for place, column in enumerate(columns[user])
                    if column not in seen and (only is None or only[column])
                ][:130]
                rest = [-1] * (130 - len(allowed))
                assert found[user].tolist() == columns[user, allowed].tolist() + rest
                assert given[user].tolist() == scores[user, allowed].tolist() + [-np.inf] * len(rest)
    assert (found == -1).any() and recommender.top_k(histories, 130, only)[0].mask.any()
    with pytest.raises(ValueError, match="candidates have the shape"):
        recommender.rank(histories, 5, candidates[1:])


def test_similar_items_are_the_correlated_ones(larger):
    run, _ = larger
    items, candidates = np.array([3, 1000, 1499]), np.arange(1501) % 3 > 0
    for only in (None, candidates):
        columns, scores = Recommender(run).similar(items, 10, only)
        for item, found, given in zip(items, columns, scores):
            centred = run.rows - run.rows.mean(axis=0, dtype=float)
            correlation = np.zeros(1501)
            for other in range(1501):
                norms = np.linalg.norm(centred[:, item]) * np.linalg.norm(centred[:, other])
                correlation[other] = centred[:, item] @ centred[:, other] / norms if norms else 0
            ranked = [other for other in range(1501) if other != item and (only is None or only[other])]
            best = sorted(ranked, key=lambda other: -correlation[other])[:10]
            assert found.tolist() == best
            np.testing.assert_allclose(given, correlation[best], atol=1e-5)


def test_large_rows_are_compared_by_parts(larger, monkeypatch):
    run, histories = larger
    columns, scores = Recommender(run).rank(histories[:9], 20)
    (run.folder / "inverse.npz").unlink()
    monkeypatch.setattr(recommender_module, "LARGE_ROWS", 0)
    sizes, make = set(), model.Kernel

    def watched(*settings):
        kernel = make(*settings)
        return lambda rows, others=None: (sizes.add(len(rows)), kernel(rows, others))[1]

    monkeypatch.setattr(model, "Kernel", watched)
    by_parts = Recommender(run).rank(histories[:9], 20)
    (run.folder / "inverse.npz").unlink()
    assert sizes == {64, 24, 25, 26}
    np.testing.assert_allclose(by_parts[1], scores, atol=1e-4)
    assert (by_parts[0] == columns).mean() > 0.95


def test_contributions_against_a_loop(opened, monkeypatch):
    """Each item left out in turn, in blocks that cut histories, with short lists and an empty history."""
    distilled, dataset, recommender = opened
    histories = dataset.train[:6].toarray()
    histories[1, 3:], histories[2] = 1, 0
    columns, scores = recommender.rank(sp.csr_matrix(histories), 5)
    monkeypatch.setattr(recommender_module, "HISTORIES_AT_ONCE", 16)
    found = recommender.contributions(sp.csr_matrix(histories * 2), columns)
    kernel = jax.jit(model.Kernel(1, distilled.settings["normalize"], distilled.item_weights))
    alpha = np.asarray(model.ridge(kernel(distilled.rows), distilled.rows, distilled.lamda))

    def totals(histories, listed):
        cross = np.asarray(kernel(histories.astype(np.float32), distilled.rows))
        return (cross @ alpha)[:, listed].sum(axis=1, dtype=np.float64)

    assert columns[1, 3] == -1 and found[2].nnz == 0 and found.nnz == histories.sum()
    for user, history in enumerate(histories):
        listed = [column for column in columns[user] if column >= 0]
        items = np.flatnonzero(history)
        whole = totals(history[None], listed)
        assert whole == pytest.approx(scores[user][: len(listed)].sum(), abs=1e-4)
        without = np.tile(history, (len(items), 1))
        without[np.arange(len(items)), items] = 0
        if len(items):
            expected = whole - totals(without, listed)
            assert found[user].toarray()[0, items] == pytest.approx(expected, abs=2e-4)
    assert abs(found).max() > 0.01
    reasons = recommender.reasons(sp.csr_matrix(histories), columns)
    best = np.argsort(-found[0].toarray()[0], kind="stable")[:3]
    assert reasons[2] == [] and [column for column, _ in reasons[0]] == best.tolist()


def test_the_solution_is_kept_and_made_again(distilled_run, tmp_path, opened, monkeypatch, capsys):
    """Read back while distilled.npz is the same; not once it is another, nor when the file is damaged."""
    run = without_sums(shutil.copytree(distilled_run, tmp_path / "run"))
    Recommender.load(run)
    history = opened[1].train[:4]
    expected, scores = opened[2].rank(history, 5)
    ridge = model.ridge
    monkeypatch.setattr(model, "ridge", lambda *arguments: pytest.fail("solved again"))
    assert (Recommender.load(run).rank(history, 5)[0] == expected).all()
    monkeypatch.setattr(model, "ridge", ridge)
    (run / "inverse.npz").write_bytes((run / "inverse.npz").read_bytes()[:-100])
    assert (Recommender.load(run).rank(history, 5)[0] == expected).all()
    with np.load(run / "inverse.npz") as file:
        kept = dict(file)
    for wrong in (
        {},
        {"inverse": kept["inverse"][1:]},
        {"inverse": kept["inverse"].astype(str)},
        {"inverse": np.full_like(kept["inverse"], np.nan)},
    ):
        np.savez(run / "inverse.npz", key=kept["key"], **wrong)
        assert (Recommender.load(run).rank(history, 5)[0] == expected).all()
    (run / "inverse.npz").unlink()
    (run / "inverse.npz").mkdir()  # cannot be written
    assert (
        Recommender.load(run).rank(history, 5)[0] == expected
    ).all() and "could not be written" in capsys.readouterr().err
    (run / "inverse.npz").rmdir()
    with np.load(run / "distilled.npz") as file:
        arrays = dict(file)
    np.savez(run / "distilled.npz", **{**arrays, "data": arrays["data"][::-1] ** 3})
    made = Recommender.load(run).rank(history, 5)
    (run / "inverse.npz").unlink()
    again = Recommender.load(run).rank(history, 5)
    assert (made[0] == again[0]).all() and (made[1] == again[1]).all() and (made[1] != scores).any()
    np.savez(run / "distilled.npz", **{**arrays, "data": np.full_like(arrays["data"], np.nan)})
    with pytest.raises(UserError, match="not finite"):
        Recommender.load(run)


def test_every_format_says_the_same(run_script, distilled_run, tmp_path, opened):
    """All users; ids and titles come back as they are, and in a table nothing steers the terminal."""
    _, dataset, recommender = opened
    everything = sp.csr_matrix(dataset.train + dataset.validation + dataset.test)
    ids, scores = recommender.top_k(everything, 100)
    expected = [
        (user, rank, str(item), float(score))
        for user, items, given in zip(dataset.user_ids, ids, scores)
        for rank, (item, score) in enumerate(zip(items.compressed(), given.compressed()), 1)
    ]
    title = dict(zip(dataset.item_ids, dataset.titles))
    for kind in ("csv", "parquet", "jsonl"):
        done = run_script(
            "recommend.py", f"--run={distilled_run}", "--all", "--k=100", f"--out={tmp_path / 'lists'}.{kind}"
        )
        assert done.returncode == 0 and "60 of 60 lists are shorter than --k=100" in done.stderr, done.stderr
    with open(tmp_path / "lists.csv", newline="", encoding="utf-8") as file:
        plain = [
            (row["user"], int(row["rank"]), row["item"], float(row["score"]), row["title"])
            for row in csv.DictReader(file)
        ]
    parquet = list(
        duckdb.read_parquet(str(tmp_path / "lists.parquet"))
        .df()[["user", "rank", "item", "score", "title"]]
        .itertuples(index=False, name=None)
    )
    lines = [
        json.loads(line) for line in (tmp_path / "lists.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    objects = [
        (line["user"], rank, row["item"], row["score"], row["title"])
        for line in lines
        for rank, row in enumerate(line["items"], 1)
    ]
    for found in (plain, parquet, objects):
        assert [row[:3] for row in found] == [row[:3] for row in expected]
        assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], abs=1e-4)
        assert all(row[4] == title[row[2]] for row in found)
    table = run_script("recommend.py", f"--run={distilled_run}", "--all", "--k=100", "--explain").stdout
    assert (
        "\x1b" not in table
        and "\u2028" not in table
        and " because of i" in table
        and "a\N{REPLACEMENT CHARACTER}b" in table
    )


def test_known_and_new_users_get_the_same_from_the_same_history(run_script, distilled_run, tmp_path, opened):
    _, dataset, _ = opened
    history = [
        str(dataset.item_ids[column])
        for part in (dataset.train, dataset.validation, dataset.test)
        for column in part[4].indices
    ]
    pd.DataFrame({"user": ["x"] * len(history) + ["nobody"], "item": [*history, "unheard of"]}).to_csv(
        tmp_path / "history.csv", index=False
    )
    quoted = ",".join('"' + item.replace('"', '""') + '"' for item in history)
    known, new, listed = (
        run_script("recommend.py", f"--run={distilled_run}", *more)
        for more in (["--user=u4"], [f"--history={tmp_path / 'history.csv'}"], [f"--items={quoted}"])
    )
    rows = lambda done: [line.split()[:3] for line in done.stdout.splitlines()[1:]]  # rank, score, item
    assert len(rows(known)) == 10 and rows(known) == rows(new) == rows(listed)
    assert "has no item unheard of" in new.stderr and "history of user nobody" in new.stderr
    assert new.returncode == 0


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--user=u1,missing"], 0, "titled has no user missing: left out"),
        (["--user=missing"], 1, "no user is left"),
        (["--items=i1,missing"], 0, "titled has no item missing"),
        (["--items=,"], 1, "the history is empty"),
        (["--items=missing"], 1, "the history is empty"),
        (["--history=/nowhere.csv"], 1, "cannot be read"),
        (
            ["--user=u1", "--all"],
            1,
            "recommend: give one of --user, --all, --items, --history and --similar-to; --help lists the",
        ),
        (["--user=u1", "--similar-to=i1"], 1, "give one of --user, --all"),
        (["--similar-to=i1,missing"], 0, "titled has no item missing: left out"),
        (["--similar-to=missing"], 1, "no item is left"),
        (["--similar-to="], 1, "no item is left"),
        (["--similar-to=i1", "--include-seen"], 1, "--include-seen is about a user's history"),
        (["--similar-to=i1", "--explain"], 1, "--explain is about a user's history"),
        (["--all", "--only=/nowhere.txt"], 1, "recommend: /nowhere.txt cannot be read: No such file"),
        (["--all", "--without=/"], 1, "recommend: / cannot be read: Is a directory"),
        (["--all", "--only=/bin/sh"], 1, "/bin/sh is damaged: it is not text in UTF-8; --only needs"),
        (["--all", "--without=/dev/null"], 1, "/dev/null is no file, but a pipe or a device"),
        (["--all", "--k=0"], 1, "at least 1"),
        (["--all", "--k=many"], 1, "recommend: argument --k: invalid int value"),
        (["--all", "--format=parquet"], 1, "needs --out"),
        (["--all", "--out="], 1, "--out must name a file"),
        (["--all", "--out=/"], 1, "is a folder"),
        (["--all", "--out=l.json"], 1, "or --format must be given"),
        (["--all", "--explain", "--out=l.csv"], 1, "--explain has no column in csv"),
        (
            ["--user=u1", "--out=/nowhere/l.csv"],
            1,
            "there is no folder /nowhere; `mkdir -p /nowhere` makes it",
        ),
        (["--user=u1", "--data_dir=/nowhere"], 1, "there is no data set"),
    ],
)
def test_bad_input(run_script, distilled_run, arguments, code, says):
    done = run_script("recommend.py", f"--run={distilled_run}", *arguments)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr
    assert code == 0 or done.stdout == "" and done.stderr.strip().split("\n")[-1].startswith("recommend: ")


@pytest.mark.parametrize(
    "text, says",
    [
        (
            "user,item\nann,50,5\n",
            "the rows have 3 fields, the header has 2: user, item. Make columns user and item",
        ),
        ("item,item\n1,2\n", "two columns named item. Make"),
        ("thing,x\n1,2\n", "no column 'item', only thing, x. Make"),
        ("", "is empty"),
    ],
)
def test_histories_that_cannot_be_read(tmp_path, text, says):
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(UserError) as error:
        recommend.read_history(tmp_path / "new.csv")
    assert f"--history={tmp_path / 'new.csv'} cannot be read: " in str(error.value)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_histories_are_read_as_they_are_meant(tmp_path, capsys):
    """Spaces, blank lines and a byte order mark do not matter; rows without an id are named by number."""
    path = tmp_path / "new.csv"
    path.write_text('\ufeffuser , item\nann , 50 \n\nbob,\n,7\n"b, c","x, 1"\nNA,null\n', encoding="utf-8")
    assert recommend.read_history(path) == (["ann", "b, c", "NA"], ["50", "x, 1", "null"])
    said = capsys.readouterr().err
    assert "2 rows of" in said and "line 4: no item id; new.csv, line 5: no user id" in said
    path.write_text("item\n5\n\n7\n")
    assert recommend.read_history(path) == (["", ""], ["5", "7"]) and capsys.readouterr().err == ""
    path.write_text("user,item\n")
    assert recommend.read_history(path) == ([], [])
    assert recommend.split_ids('1, 2\n3,"a, b"\r\n\n4,') == ["1", "2", "3", "a, b", "4"]


def lines_of(done):
    """The JSON lines that a call of recommend.py has printed."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def test_one_user_several_and_all_get_the_same_bits(run_script, distilled_run):
    call = lambda *asked: lines_of(
        run_script("recommend.py", f"--run={distilled_run}", "--format=jsonl", *asked)
    )
    everybody = {line["user"]: line for line in call("--all")}
    assert len(everybody) == 60
    for asked in (["u3"], ["u59"], ["u8", "u3", "u41"]):
        lines = call(*(f"--user={user}" for user in asked))
        assert lines == [everybody[user] for user in asked]


def test_only_without_and_seen_items(run_script, distilled_run, tmp_path, opened):
    """Ids with commas and quotes are whole lines; a byte order mark and Windows' line ends do not matter."""
    _, dataset, _ = opened
    ids = [str(item) for item in dataset.item_ids]
    comma = next(item for item in ids if "," in item)
    only, without = [comma, *ids[1:21]], ids[11:15]
    (tmp_path / "only.txt").write_text("\ufeff" + "\r\n\r\n".join([*only, "missing"]), encoding="utf-8")
    (tmp_path / "without.txt").write_text("\n".join([*without, " "]))
    options = [f"--run={distilled_run}", "--format=jsonl", f"--only={tmp_path / 'only.txt'}"]
    options.append(f"--without={tmp_path / 'without.txt'}")
    allowed = set(only) - set(without)
    history = {
        user: {
            ids[column]
            for part in (dataset.train, dataset.validation, dataset.test)
            for column in part[row].indices
        }
        for row, user in enumerate(dataset.user_ids)
    }
    for more in ([], ["--include-seen"]):
        done = run_script("recommend.py", *options, "--all", "--k=15", *more)
        lengths = []
        for line in lines_of(done):
            listed = {item["item"] for item in line["items"]}
            expected = allowed if more else allowed - history[line["user"]]
            assert listed <= expected and len(listed) == len(line["items"]) == min(15, len(expected))
            lengths.append(len(listed))
        assert done.stderr.count("titled has no item missing: left out") == 1
        short = sum(length < 15 for length in lengths)
        says = f"{short} of 60 lists are shorter than --k=15, the shortest has {min(lengths)}"
        assert (says in done.stderr) == (short > 0) == (not more)
    alike = lines_of(
        run_script(
            "recommend.py", *options, f'--similar-to="{comma.replace(chr(34), chr(34) * 2)}"', "--k=99"
        )
    )
    assert {item["item"] for item in alike[0]["items"]} == allowed - {comma}
    assert alike[0]["similar_to"] == comma
    (tmp_path / "without.txt").write_text("\n".join(only))
    done = run_script("recommend.py", *options, "--all")
    assert done.returncode == 1 and "--only and --without leave no item to recommend" in done.stderr


def test_similar_items_in_every_format(run_script, distilled_run, tmp_path, opened):
    _, dataset, recommender = opened
    asked = [str(item) for item in dataset.item_ids if "," not in item][5:8]
    columns, scores = recommender.similar(np.flatnonzero(np.isin(dataset.item_ids, asked)), 4)
    expected = [
        (item, rank, str(dataset.item_ids[column]), float(score), str(dataset.titles[column]))
        for item, row, given in zip(asked, columns, scores)
        for rank, (column, score) in enumerate(zip(row, given), 1)
    ]
    for kind in ("csv", "parquet", "jsonl", "txt"):
        asked_for = f"--similar-to={asked[0]}", f"--similar-to={','.join(asked[1:])}"
        done = run_script(
            "recommend.py",
            f"--run={distilled_run}",
            *asked_for,
            "--k=4",
            f"--out={tmp_path / 'alike'}.{kind}",
        )
        assert done.returncode == 0 and done.stderr == "" and "lists for 3 items" in done.stdout
    table = pd.read_csv(tmp_path / "alike.csv", keep_default_na=False)
    assert list(table) == ["similar_to", "rank", "item", "title", "score"]
    lines = [
        json.loads(line) for line in (tmp_path / "alike.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    frames = [table, duckdb.read_parquet(str(tmp_path / "alike.parquet")).df()]
    found = [
        list(zip(*(frame[name] for name in ("similar_to", "rank", "item", "score", "title"))))
        for frame in frames
    ]
    found.append(
        [
            (line["similar_to"], rank, item["item"], item["score"], item["title"])
            for line in lines
            for rank, item in enumerate(line["items"], 1)
        ]
    )
    for rows in found:
        assert [row[:3] for row in rows] == [row[:3] for row in expected]
        assert [row[3] for row in rows] == pytest.approx([row[3] for row in expected], abs=1e-5)
        assert [row[4] for row in rows] == [row[4] for row in expected]
    text = (tmp_path / "alike.txt").read_text(encoding="utf-8")
    assert text.count("similar to i") == 3 and text.startswith(f"similar to {asked[0]}: ")


@pytest.mark.parametrize(
    "manifest, says",
    [
        (None, "left out\n"),
        ({"split_seed": 42}, "left out\n"),
        ({"min_rating": None, "min_item_count": 1, "since": None}, "left out\n"),
        (
            {"min_item_count": 5, "min_user_count": 10, "min_rating": 4.0},
            "left out (prep.sh kept interactions rated 4.0 or more, users with at least 10 interactions, "
            "items with at least 5 interactions)\n",
        ),
        ({"min_rating": 1, "min_count": 1}, "left out (prep.sh kept interactions rated 1 or more)\n"),
        ({"since": "2020-01-01"}, "left out (prep.sh kept interactions since 2020-01-01)\n"),
        ({"since": "\x1b[31m"}, None),
        ({"since": [1]}, None),
        ([1], None),
    ],
)
def test_unknown_ids_come_with_the_filters_of_the_data_set(opened, tmp_path, capsys, manifest, says):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    if says is None:
        with pytest.raises(UserError, match="manifest.json is damaged"):
            Ids(opened[1], tmp_path)
        return
    ids = Ids(opened[1], tmp_path)
    assert ids.users(["u4", "gone"]).ids == ["u4"]
    assert capsys.readouterr().err == f"recommend: titled has no user gone: {says}"
    assert ids.new_users(["", ""], ["gone", "i1"]).histories.nnz == 1
    assert capsys.readouterr().err == f"recommend: titled has no item gone: {says}"


def test_who_has_seen_everything(run_script, distilled_run, tmp_path, opened):
    """Is named, has an empty list without an explanation, and is not counted."""
    everything = pd.DataFrame({"user": "all", "item": opened[1].item_ids})
    pd.concat([everything, pd.DataFrame({"user": ["some"], "item": ["i1"]})]).to_csv(
        tmp_path / "new.csv", index=False
    )
    done = run_script(
        "recommend.py",
        f"--run={distilled_run}",
        f"--history={tmp_path / 'new.csv'}",
        "--explain",
        f"--out={tmp_path / 'l.JSONL'}",
    )
    assert (
        done.returncode == 0 and done.stderr == "recommend: no item is left for user all: the list is empty\n"
    )
    assert done.stdout.endswith("lists for 1 users\n")
    lines = [json.loads(line) for line in (tmp_path / "l.JSONL").read_text().splitlines()]
    assert (
        lines[0] == {"user": "all", "items": [], "because": []}
        and len(lines[1]["items"]) == 10
        and [reason["item"] for reason in lines[1]["because"]] == ["i1"]
    )


def test_runs_that_cannot_be_used(distilled_run, titled_data, tmp_path):
    """No run, one that has not finished, one of another script, one that is damaged, other data than then."""
    copy = lambda name: without_sums(shutil.copytree(distilled_run, tmp_path / name))
    (copy("unfinished") / "result.json").unlink()
    (copy("baseline") / "distilled.npz").unlink()
    (copy("cut") / "distilled.npz").write_bytes(b"PK")
    (copy("torn") / "config.json").write_text("{")
    change = lambda name, file, **new: (copy(name) / file).write_text(
        json.dumps(
            {
                key: value
                for key, value in {**json.loads((distilled_run / file).read_text()), **new}.items()
                if value != "gone"
            }
        )
    )
    change("versionless", "config.json", versions="gone")
    change("speechless", "config.json", command=None)
    change("stepless", "result.json", best_step="gone")
    change("worded", "result.json", test={"HR@100": "much"})
    with np.load(distilled_run / "distilled.npz") as file:
        arrays = dict(file)
    settings = json.loads(str(arrays["settings"]))
    for name, new in (
        ("empty", {"settings": "{}"}),
        ("listed", {"settings": "[]"}),
        ("foreign", {"settings": json.dumps({**settings, "dataset": "ml-1m"})}),
        ("text", {"data": arrays["data"].astype(str)}),
        ("heavy", {"item_weights": arrays["item_weights"].astype(str)}),
        ("moved", {"settings": json.dumps({**settings, "data_dir": "/elsewhere"})}),
        ("negative", {"data": -arrays["data"]}),
        ("unnamed", {"item_ids": np.frombuffer(b'["\\ud800", 1]', np.uint8)}),
        ("nested", {"settings": 3000 * "["}),
    ):
        np.savez(copy(name) / "distilled.npz", **{**arrays, **new})
    for name, new in (  # of a stranger: both files agree
        ("upward", {"dataset": "../../x"}),
        ("steering", {"dataset": "a\x1b[31m"}),
        ("deep", {"depth": 10**7}),
        ("open", {"depth": "auto"}),
        ("fewer", {"user_support": 5}),
        ("unknown", {"later\x1b[31m": 1}),
        ("steered", {"later": "\x1b[31m"}),
    ):
        np.savez(copy(name) / "distilled.npz", **{**arrays, "settings": json.dumps({**settings, **new})})
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["settings"].update(new)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert open_distilled(tmp_path / "moved").settings["data_dir"] == "/elsewhere"
    altered = shutil.copytree(distilled_run, tmp_path / "altered")
    np.savez(altered / "distilled.npz", **{**arrays, "data": arrays["data"] / 2})
    for name, says in (
        ("nothing", "is no run"),
        ("unfinished", "has not finished"),
        ("baseline", "Give a run of distill.py"),
        ("cut", "truncated or damaged"),
        ("torn", "config.json is damaged"),
        ("versionless", "has no versions"),
        ("speechless", "its command is null"),
        ("stepless", "has no best_step"),
        ("worded", 'its HR@100 is "much"'),
        ("heavy", "shapes do not fit, or numbers are not finite"),
        ("empty", 'dataset is missing, and in config.json it is "titled"'),
        ("listed", "does not hold what distill.py writes .it is \\[\\]"),
        ("foreign", 'not of this run: its dataset is "ml-1m"'),
        ("text", "shapes do not fit, or numbers are not finite"),
        ("altered", "distilled.npz has been altered since the run ended"),
        ("negative", "or not in range"),
        ("unnamed", "does not hold what distill.py writes"),
        ("nested", "nested too deeply"),
        ("upward", "dataset must be the name of a folder under data_dir, not"),
        ("steering", "dataset must be the name of a folder under data_dir, not"),
        ("deep", "depth must be a whole number from 0 to 4 or auto, not 10000000"),
        ("open", "depth is auto"),
        ("fewer", "shapes do not fit"),
        ("unknown", "the name of a setting must be one line"),
        ("steered", "later must be one line of text"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            open_distilled(tmp_path / name)
        assert str(caught.value).isprintable()
    rng = np.random.default_rng(5)
    user, item = rng.integers(60, size=900), rng.integers(80, size=900)
    write_layout(tmp_path / "titled", user, item, rng.choice(3, 900, p=[0.8, 0.1, 0.1]))
    with pytest.raises(UserError, match="has changed since"):
        load_dataset(open_distilled(distilled_run), tmp_path)
    assert (
        load_dataset(open_distilled(distilled_run), titled_data).fingerprint
        == data.load("titled", titled_data).fingerprint
    )


def test_a_wrong_run_lists_the_newest_that_can_be_used(distilled_run, tmp_path):
    def says(run, results):
        with pytest.raises(UserError) as error:
            open_distilled(folder_of(run, results))
        return str(error.value)

    none = f"{tmp_path} has no finished run of distill.py: `python distill.py` makes one"
    assert says("run", tmp_path).endswith(none)
    (tmp_path / "empty").mkdir()
    assert says("empty", tmp_path) == f"{tmp_path / 'empty'} is no run: it has no config.json. {none}"
    for age, name in enumerate(["unfinished", "cut", "torn", "metrics", *"abcdefghijkl"]):
        shutil.copytree(distilled_run, tmp_path / name)
        os.utime(tmp_path / name / "distilled.npz", (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished" / "result.json").unlink()
    (tmp_path / "cut" / "distilled.npz").write_bytes((tmp_path / "a" / "distilled.npz").read_bytes()[:-100])
    (tmp_path / "torn" / "config.json").write_text("{")
    (tmp_path / "metrics" / "distilled.npz").unlink()
    newest = f"{tmp_path}, the newest first: a, b, c, d, e, f, g, h, i, j and 2 more"
    for run in ("run", "empty", "metrics", tmp_path):
        assert says(run, tmp_path).endswith(newest)


@pytest.mark.parametrize("process", [False, True])
def test_two_precisions_in_one_process(distilled_run, opened, process):
    """A Recommender calculates in its run's precision, between others', and the process keeps its own."""
    distilled, dataset, _ = opened
    double = distilled._replace(settings={**distilled.settings, "float64": True}, digest="another")
    with jax.enable_x64(process):
        recommenders = [Recommender(run) for run in (distilled, double, distilled, double)]
        assert jnp.ones(1).dtype == (np.float64 if process else np.float32)
        lists = [recommender.rank(dataset.train, 5) for recommender in recommenders]
        assert jnp.ones(1).dtype == (np.float64 if process else np.float32)
        contributions = [
            recommender.contributions(dataset.train[:3], columns[:3])
            for recommender, (columns, _) in zip(recommenders, lists)
        ]
    kernel = model.Kernel(1, distilled.settings["normalize"], distilled.item_weights)
    with jax.enable_x64(True):
        rows = jnp.asarray(distilled.rows, float)
        expected = np.asarray(
            model.predict(
                kernel(dataset.train.toarray().astype(float), rows),
                model.ridge(kernel(rows), rows, distilled.lamda),
            )
        )
    for given, (columns, scores), dtype, tolerance in zip(
        contributions, lists, [np.float32, np.float64] * 2, [1e-4, 1e-8] * 2
    ):
        assert scores.dtype == given.dtype == dtype
        np.testing.assert_allclose(scores, np.take_along_axis(expected, columns, axis=1), atol=tolerance)
    assert np.abs(lists[0][1] - np.take_along_axis(expected, lists[0][0], axis=1)).max() > 1e-8
