"""prep/splits.py and --split: against loops, and through the command line."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from conftest import arc_cosine_ntk, write, write_layout
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

import data
import distill
import eval as evaluation
from data import CONTEXT, DROPPED, TEST, TRAIN, VALIDATION
from hyper_params import grids
from lib import devices
from lib.errors import UserError
from prep import filters, from_python, preprocess, splits, tables
from runs.synthetic_users import open_distilled

# Nothing that validation decides.
QUICK = "--recipe=plain", "--keep_step=3", "--keep_lamda=step", "--user_support=8", "--train_steps=3"
moments = strategies.sampled_from([-np.inf, *range(12)])


def counts_of(part):
    return [int((part == code).sum()) for code in (DROPPED, TRAIN, VALIDATION, TEST)]


# ---- By users ------------------------------------------------------------------------------------------


@hypothesis_settings(deadline=None)
@given(
    strategies.sets(strategies.tuples(strategies.integers(0, 30), strategies.integers(0, 12)), min_size=1),
    strategies.integers(0, 3),
)
def test_by_users_nobody_who_is_asked_is_in_train_and_nothing_is_lost(pairs, seed):
    user, item = np.array(sorted(pairs)).T
    users = len(set(user.tolist()))
    if users < 12:
        with pytest.raises(UserError, match=f"at least 12 users, and there are {users}"):
            splits.split_users(user, item, seed)
        return
    part, lost, described = splits.split_users(user, item, seed)
    assert (part == splits.split_users(user, item, seed)[0]).all()
    assert described == {"new_users": {"validation": users // 12, "test": users // 6}}
    parts = {one: part[user == one].tolist() for one in set(user.tolist())}
    trained = [one for one, of_user in parts.items() if TRAIN in of_user]
    assert len(trained) == users - users // 12 - users // 6
    assert all(set(parts[one]) == {TRAIN} for one in trained)
    items, short, unknown = set(item[part == TRAIN].tolist()), 0, 0
    for one in parts.keys() - set(trained):
        known = [code for code, of in zip(parts[one], item[user == one].tolist()) if of in items]
        unknown += len(parts[one]) - len(known)
        if len(known) < 2:
            short += len(known)
            assert set(parts[one]) == {DROPPED}
            continue
        assert known.count(CONTEXT) == len(known) - max(1, len(known) // 5)
        assert len({*known} - {CONTEXT}) == 1 and not {*known} & {TRAIN, DROPPED}
        assert parts[one].count(DROPPED) == len(parts[one]) - len(known)
    assert (lost["unknown"], lost["too_short"]) == (unknown, short)
    assert (part == DROPPED).sum() == unknown + short


def test_no_training_sees_what_a_new_user_does(tmp_path):
    """Other interactions of new users, and other targets: the same synthetic users."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((60, 40)) < 0.3)
    part, _, _ = splits.split_users(user, item, 1)
    is_new, poisoned = np.isin(user, user[part == CONTEXT]), item.copy()
    poisoned[is_new] = 39 - item[is_new]
    rows = []
    for name, items in (("whole", item), ("poisoned", poisoned)):
        write_layout(tmp_path / name, user, items, part)
        run = distill.main(
            [f"--dataset={name}", f"--data_dir={tmp_path}", f"--results_dir={tmp_path}", *QUICK]
        )
        rows.append(open_distilled(run).rows)
    assert (rows[0] == rows[1]).all()


def test_every_script_asks_the_new_users(tiny_data, tmp_path, run_script):
    """infinite_ae.py against the kernel regression itself; NeuMF, which knows no others, refuses."""
    where = ["--dataset=tiny-users", f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"]
    said = run_script("distill.py", *where, *QUICK)
    assert said.returncode == 0, said.stderr
    assert "nothing is trained on 37 further users: 12 validate, 25 are tested" in said.stdout
    for script, *more in (
        ("baselines.py", "--model=ease"),
        ("baselines.py", "--model=mf", f"--grid={json.dumps(grids['mf'][:1])}", "--epochs=5"),
        ("infinite_ae.py", "--lamda_grid=[1]"),
    ):
        assert run_script(script, *where, *more).returncode == 0
    dataset = data.load("tiny-users", tiny_data)
    new = dataset.new_users
    [run] = tmp_path.glob("infinite_ae-*")
    rows, context = dataset.train.toarray() * 1.0, (new.train + new.validation).toarray() * 1.0
    gram = arc_cosine_ntk(rows, rows, 1)
    ridge = np.trace(gram) / len(gram) * np.eye(len(gram))
    scores = arc_cosine_ntk(context, rows, 1) @ np.linalg.solve(gram + ridge, rows)
    scores[context > 0] = -np.inf
    place = np.argsort(np.argsort(-scores, axis=1), axis=1)
    hits = [(place[user, new.test[user].indices] < 10).sum() for user in range(new.users)]
    expected = [100 * hit / min(10, count) for hit, count in zip(hits, new.lengths[TEST]) if count]
    result = json.loads((run / "result.json").read_text())
    assert result["test"]["HR@10"] == pytest.approx(np.mean(expected), abs=0.5)
    refused = run_script("baselines.py", *where, "--model=neumf")
    assert refused.returncode == 1 and "tiny-users asks about others" in refused.stderr
    [run] = tmp_path.glob("distill-*")
    asked = run_script("recommend.py", f"--run={run}", f"--user={new.user_ids[3]}", "--k=3", "--explain")
    assert asked.returncode == 0 and "because of" in asked.stdout
    shown = run_script("report.py", f"--run={run}")
    assert shown.returncode == 0 and "held-out" not in shown.stdout
    assert "The yardstick" not in (run / "report.html").read_text(encoding="utf-8")


def test_a_prepared_data_set_is_split_anew(titled_data, tmp_path, capsys):
    """Its interactions, ids and titles stay; a folder of new users can be split at random again."""
    before = data.load("titled", titled_data)
    pairs_of = lambda group: {
        (group.user_ids[user], group.item_ids[item])
        for user, item in zip(*(group.train + group.validation + group.test).nonzero())
    }
    for folder, split in ((titled_data / "titled", "users"), (tmp_path / "users", "random")):
        preprocess.main([f"--file={folder}", f"--name={split}", f"--data_dir={tmp_path}", f"--split={split}"])
    assert "of the users, 5 validate and 10 are tested" in capsys.readouterr().err
    by_users, again = (data.load(name, tmp_path) for name in ("users", "random"))
    assert pairs_of(by_users) | pairs_of(by_users.new_users) == pairs_of(again) == pairs_of(before)
    titles = dict(zip(before.item_ids, before.titles))
    assert all(titles[item] == title for item, title in zip(again.item_ids, again.titles))
    with pytest.raises(UserError, match="is a prepared data set. Leave out --user-col"):
        preprocess.main(
            [f"--file={tmp_path / 'users'}", "--name=x", f"--data_dir={tmp_path}", "--user-col=1"]
        )


# ---- By time -------------------------------------------------------------------------------------------


@hypothesis_settings(deadline=None)
@given(strategies.lists(moments, min_size=1, max_size=60))
def test_by_time_no_part_reaches_into_the_next_and_the_shares_are_the_closest(times):
    time = np.array(times, float)
    different = sorted(set(times))
    if len(different) < 3:
        with pytest.raises(UserError, match=f"at least 3 different times, and there are {len(different)}"):
            splits.split_by_time(time)
        return
    part, (first, second) = splits.split_by_time(time)
    assert sum(counts_of(part)[1:]) == len(times)
    assert time[part == TRAIN].max() < first == time[part == VALIDATION].min()
    assert time[part == VALIDATION].max() < second == time[part == TEST].min()
    miss = lambda point, share: abs(sum(one >= point for one in times) - share * len(times))
    assert miss(second, 0.1) <= min(miss(point, 0.1) for point in different[2:]) + 1e-9
    assert miss(first, 0.2) <= min(miss(point, 0.2) for point in different[1:] if point < second) + 1e-9


def test_by_time_a_tenth_each_is_validation_and_test():
    part, points = splits.split_by_time(np.random.default_rng(0).permutation(1000))
    assert counts_of(part) == [0, 800, 100, 100] and points == [800, 900]


rows_with_parts = strategies.lists(
    strategies.tuples(*(strategies.integers(0, 5),) * 2, strategies.sampled_from([-1, 0, 0, 0, 1, 2])),
    min_size=1,
    max_size=40,
)


@hypothesis_settings(deadline=None)
@given(rows_with_parts)
def test_what_train_does_not_have_is_left_out_and_counted(rows):
    user, item, part = (np.array(column) for column in zip(*rows))
    users, items = ({row[place] for row in rows if row[2] == TRAIN} for place in (0, 1))
    unknown = [row for row in rows if row[2] > TRAIN and (row[0] not in users or row[1] not in items)]
    expected = [DROPPED if row in unknown else row[2] for row in rows]
    if not set(expected) >= {TRAIN, VALIDATION, TEST}:
        with pytest.raises(UserError, match="nothing is left of (train|validation|test)"):
            splits.leave_out_unknown(user, item, part.astype(np.int8))
        return
    left, lost = splits.leave_out_unknown(user, item, part.astype(np.int8))
    assert left.tolist() == expected and left.dtype == np.int8
    assert lost == {
        "unknown": len(unknown),
        "unknown_users": len({row[0] for row in unknown} - users),
        "unknown_items": len({row[1] for row in unknown} - items),
    }


@hypothesis_settings(deadline=None)
@given(
    strategies.lists(
        strategies.tuples(*(strategies.integers(0, 3),) * 2, strategies.integers(1, 5), moments),
        min_size=1,
        max_size=40,
    ),
    strategies.booleans(),
)
def test_the_time_of_a_pair_is_that_of_its_rating_or_of_its_first_count(rows, is_count):
    user, item, rating, time = (np.array(column) for column in zip(*rows))
    interactions = tables.Interactions(
        user.astype(np.int32),
        np.arange(4),
        item.astype(np.int32),
        np.arange(4),
        rating.astype(np.float32),
        time.astype(float),
        is_count,
    )
    chosen = filters.Filters(min_user_count=1)
    found, _ = filters.filter_interactions(interactions, chosen, keep_times=True)
    times = {}
    for u, i, _, moment in rows:
        times.setdefault((u, i), []).append(moment)
    pairs = zip(found.user_ids[found.user], found.item_ids[found.item])
    assert dict(zip(pairs, found.time)) == {
        pair: (min if is_count else max)(of_pair) for pair, of_pair in times.items()
    }
    without, _ = filters.filter_interactions(interactions, chosen)
    assert without.time is None and (without.rating == found.rating).all()


# ---- Each user's last ----------------------------------------------------------------------------------


@hypothesis_settings(deadline=None)
@given(strategies.lists(strategies.tuples(strategies.integers(0, 8), moments), max_size=80))
def test_the_last_is_test_and_the_one_before_it_validation(rows):
    user, time = (np.array([row[place] for row in sorted(rows)]) for place in (0, 1))
    part = splits.split_last(user, time, seed=3)
    for one in set(user.tolist()):
        parts, times = part[user == one], time[user == one]
        if len(parts) < 3:
            assert (parts == DROPPED).all()
            continue
        assert counts_of(parts) == [0, len(parts) - 2, 1, 1]
        [validation], [test] = times[parts == VALIDATION], times[parts == TEST]
        assert times[parts == TRAIN].max() <= validation <= test == times.max()


def test_a_seeded_draw_orders_what_happened_at_the_same_time():
    """Of 10 interactions at once each is the test of a tenth of 3,000 users: within 4 standard deviations."""
    user = np.repeat(np.arange(3000), 10)
    first, again, other = (splits.split_last(user, np.zeros(len(user)), seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    for code in (VALIDATION, TEST):
        share = (first.reshape(3000, 10) == code).mean(axis=0)
        assert (np.abs(share - 0.1) < 4 * (0.1 * 0.9 / 3000) ** 0.5).all()


def test_users_some_at_a_time_are_split_alike(monkeypatch):
    rng = np.random.default_rng(0)
    user, time = np.sort(rng.integers(0, 60, 1000)), rng.integers(0, 9, 1000)
    whole = splits.split_last(user, time, 1)
    monkeypatch.setattr(filters, "SPLIT_AT_ONCE", 70)
    assert (splits.split_last(user, time, 1) == whole).all()


# ---- Through the command line --------------------------------------------------------------------------


def table(users=12, items=14, seed=0):
    """[(user, item, seconds)]: users come one after another and stay a while; at last an item and a user."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, item, 10**9 + 1000 * user + int(rng.integers(0, 4000)))
        for user in range(users)
        for item in rng.choice(items, int(rng.integers(3, 10)), replace=False).tolist()
    ]
    return [*rows, (0, 99, 10**9 + 10**6), *((98, item, 10**9 + 10**6 + item) for item in range(3))]


def own(path, rows):
    lines = (f"u{user},i{item},4,{time}\n" for user, item, time in rows)
    return write(path, "user,item,rating,time\n" + "".join(lines))


def manifest_of(folder):
    return json.loads((folder / data.MANIFEST).read_text())


def loaded(tmp_path, name):
    """(Dataset, {part: {(user, item)} by the sources' own ids})."""
    dataset = data.load(name, tmp_path)
    pairs = {}
    for part in splits.PARTS:
        rows, columns = getattr(dataset, part).nonzero()
        pairs[part] = set(zip(dataset.user_ids[rows], dataset.item_ids[columns]))
    return dataset, pairs


def test_own_data_by_time(tmp_path, capsys):
    rows = table()
    path = own(tmp_path / "a.csv", rows)
    preprocess.main([f"--file={path}", "--name=mine", f"--data_dir={tmp_path}", "--split=time"])
    said, manifest = capsys.readouterr(), manifest_of(tmp_path / "mine")
    assert said.out == "mine\n" and manifest["split"] == "time"
    first, second = manifest["split_times"]
    part_of = lambda time: "train" if time < first else "validation" if time < second else "test"
    expected = {name: set() for name in splits.PARTS}
    for user, item, time in rows:
        expected[part_of(time)].add((f"u{user}", f"i{item}"))
    users, items = ({pair[place] for pair in expected["train"]} for place in (0, 1))
    known = {
        name: {(user, item) for user, item in pairs if user in users and item in items}
        for name, pairs in expected.items()
    }
    dataset, pairs = loaded(tmp_path, "mine")
    assert pairs == known
    unknown = len(rows) - sum(map(len, known.values()))
    counts = manifest["counts"]
    assert counts["unknown"] == counts["dropped"] == unknown > 0
    assert counts["unknown_users"] and counts["unknown_items"]
    assert (counts["users"], counts["items"]) == (dataset.users, dataset.items)
    assert (
        f"left out: {unknown:,} interactions of validation or test, since train does not have "
        f"{counts['unknown_users']} of their users and {counts['unknown_items']} of their items"
    ) in said.err
    assert f" test, {unknown} left out" in said.err
    assert f"validation before {np.datetime64(int(second), 's')}, test from then on (UTC)" in said.err


def test_users_without_targets_are_in_no_mean(tmp_path):
    path = own(tmp_path / "a.csv", table())
    preprocess.main([f"--file={path}", "--name=mine", f"--data_dir={tmp_path}", "--split=time"])
    dataset = data.load("mine", tmp_path)
    mesh = devices.start(False)
    weights = evaluation.inverse_propensity(dataset.frequency)
    scores = lambda users, context: (context * 0.0 + np.arange(dataset.items, dtype=np.float32),)
    rng = np.random.default_rng(0)
    for part, view in ((VALIDATION, dataset.validation_view(rng)), (TEST, dataset.test_view(rng))):
        without = dataset.lengths[part] == 0
        assert without.any() and not without.all()
        [metrics] = evaluation.evaluate(scores, 1, view, weights, 8, mesh)
        assert (np.isnan(metrics["NDCG@10"]) == without).all()
        assert evaluation.summarise(metrics)["HR@100"] == 100


def test_splits_of_known_data_stand_side_by_side(tmp_path, capsys):
    rows = table()
    path = write(tmp_path / "u.data", "".join(f"{u}\t{i}\t3\t{time}\n" for u, i, time in rows))
    for split in ("random", "time", "last", "users"):
        preprocess.main(["ml-100k", f"--file={path}", f"--data_dir={tmp_path}", f"--split={split}"])
    assert capsys.readouterr().out == "ml-100k\nml-100k-time\nml-100k-last\nml-100k-users\n"
    _, pairs = loaded(tmp_path, "ml-100k-last")
    for user in {row[0] for row in rows}:
        of_user = sorted((time, item) for other, item, time in rows if other == user)
        assert [item for one, item in pairs["test"] if one == user] == [of_user[-1][1]]
        assert [item for one, item in pairs["validation"] if one == user] == [of_user[-2][1]]
    assert sum(map(len, pairs.values())) == len(rows)
    manifests = [manifest_of(tmp_path / name) for name in ("ml-100k", "ml-100k-time", "ml-100k-last")]
    assert [one["split"] for one in manifests] == ["the paper's", "time", "last"]
    made = [one["sha256"]["total_data.hdf5"] for one in manifests]
    assert len(set(made)) == 1, "the interactions are the same, only their parts differ"
    preprocess.main(["ml-100k", f"--data_dir={tmp_path}", "--split=last"])
    assert "ml-100k-last exists already" in capsys.readouterr().err
    with pytest.raises(UserError, match="ml-100k-last is a split of ml-100k. Type ./prep.sh ml-100k --split"):
        preprocess.main(["ml-100k-last", f"--data_dir={tmp_path}"])


@pytest.mark.parametrize("split", ["random", "users", "time", "last"])
def test_the_same_command_gives_the_same_bits_and_no_folder_becomes_another_split(tmp_path, split):
    path = own(tmp_path / "a.csv", table())
    arguments = [f"--file={path}", "--name=mine", f"--split={split}"]
    for folder in ("one", "two"):
        preprocess.main([*arguments, f"--data_dir={tmp_path / folder}"])
    files = sorted((tmp_path / "one" / "mine").iterdir())
    assert len(files) == 5
    assert all(file.read_bytes() == (tmp_path / "two" / "mine" / file.name).read_bytes() for file in files)
    other = "last" if split == "random" else "random"
    with pytest.raises(UserError, match=f"--split was {split}, is {other}. .* choose another --name"):
        preprocess.main([*arguments[:2], f"--split={other}", f"--data_dir={tmp_path / 'one'}"])


def test_the_split_at_random_stays_what_it_was():
    user = np.sort(np.random.default_rng(0).integers(0, 50, 900))
    digests = [
        hashlib.sha256(filters.split_sorted(user, 42, every_user).tobytes()).hexdigest()[:12]
        for every_user in (False, True)
    ]
    assert digests == ["6e29b7138176", "c0a4e1056d88"]


@pytest.mark.parametrize("split", ["users", "time", "last"])
def test_python_splits_as_the_command_line_does(tmp_path, split):
    """The same parts of the same pairs, from dates as from seconds."""
    rows = table()
    path = own(tmp_path / "a.csv", rows)
    preprocess.main([f"--file={path}", "--name=mine", f"--data_dir={tmp_path}", f"--split={split}"])
    frame = pd.DataFrame(rows, columns=["user", "item", "time"]).assign(title="t")
    frame["user"], frame["item"] = "u" + frame["user"].astype(str), "i" + frame["item"].astype(str)
    dated = frame.assign(time=pd.to_datetime(frame["time"], unit="s").astype(str))
    expected = loaded(tmp_path, "mine")[1]
    for interactions in (frame, dated):
        assert loaded(tmp_path, from_python.save(interactions, tmp_path, split=split))[1] == expected
    assert from_python.save(frame, tmp_path) != from_python.save(frame, tmp_path, split=split)
    with pytest.raises(UserError, match="split must be one of random, users, time, last, not 'week'"):
        from_python.save(frame, tmp_path, split="week")
    if split != "users":
        with pytest.raises(UserError, match="needs times"):
            from_python.save(frame.drop(columns="time"), tmp_path, split=split)


# ---- Three files ---------------------------------------------------------------------------------------


TRAIN_ROWS = "user,item\n" + "".join(f"{user},{item}\n" for user in "abc" for item in range(user == "a", 5))


def three(tmp_path, validation, test, train=TRAIN_ROWS, *options):
    paths = [
        write(tmp_path / f"{name}.csv", content)
        for name, content in zip(splits.PARTS, (train, validation, test))
    ]
    split = f"--split={','.join(map(str, paths))}"
    preprocess.main([split, "--name=given", f"--data_dir={tmp_path}", *options])


some_rows = strategies.lists(
    strategies.tuples(*(strategies.integers(0, 3),) * 2, strategies.integers(-1, 2)), min_size=1, max_size=15
)


def reading_of_rows(rows, first_id):
    """A tables.Reading of (user, item, rating) whose ids count from first_id."""
    user, item, rating = (np.array(column) for column in zip(*rows))
    codes = [np.unique(column, return_inverse=True) for column in (user, item)]
    (user_ids, user), (item_ids, item) = ((ids + first_id, code.astype(np.int32)) for ids, code in codes)
    interactions = tables.Interactions(user, user_ids, item, item_ids, rating.astype(np.float32))
    return tables.Reading(interactions, rows=len(rows))


@hypothesis_settings(deadline=None)
@given(strategies.tuples(some_rows, some_rows, some_rows))
def test_each_row_of_three_files_is_in_one_part_or_counted(files):
    """Each file's ids begin elsewhere, so that files know users and items that others do not."""
    readings = [reading_of_rows(rows, first_id) for first_id, rows in enumerate(files)]
    rows = [[(u + first, i + first, r) for u, i, r in rows] for first, rows in enumerate(files)]
    latest = [{(u, i): r for u, i, r in of_file} for of_file in rows]  # the last row of a pair counts
    any_likes = any(r > 0 for pairs in latest for r in pairs.values())
    liked = [{pair for pair, r in pairs.items() if r > 0 or not any_likes} for pairs in latest]
    first_of = [pairs - set().union(*liked[:place]) for place, pairs in enumerate(liked)]
    users, items = ({pair[place] for pair in liked[0]} for place in (0, 1))
    expected = [{(u, i) for u, i in pairs if u in users and i in items} for pairs in first_of]
    if not all(expected):
        with pytest.raises(UserError, match="nothing is left of"):
            splits.split_as_given(readings)
        return
    reading, found, part, lost = splits.split_as_given(readings)
    pairs = list(zip(found.user_ids[found.user].tolist(), found.item_ids[found.item].tolist()))
    for code, of_part in zip((TRAIN, VALIDATION, TEST), expected):
        assert sorted(pair for pair, one in zip(pairs, part) if one == code) == sorted(of_part)
    assert counts_of(part)[0] == lost["in_two_files"] + lost["unknown"]
    assert reading.rows == len(pairs) + lost["duplicates"] + lost["too_low"]
    assert lost["in_two_files"] == sum(map(len, liked)) - sum(map(len, first_of))


def test_three_files_are_the_three_parts(tmp_path, capsys):
    """User e has one train item; d and item 9 are unknown; pairs stand in two files, and twice in one."""
    train = TRAIN_ROWS + "e,0\ne,0\n"
    three(tmp_path, "user,item\na,0\nb,0\nd,1\n", "user,item\nc,9\na,0\nd,2\ne,3\ne,4\n", train)
    _, pairs = loaded(tmp_path, "given")
    assert pairs["train"] == {("a", 1), ("a", 2), ("a", 3), ("a", 4), ("e", 0)} | {
        (user, item) for user in "bc" for item in range(5)
    }
    assert pairs["validation"] == {("a", 0)} and pairs["test"] == {("e", 3), ("e", 4)}
    said, manifest = capsys.readouterr().err, manifest_of(tmp_path / "given")
    assert "train: columns: user=user item=item" in said and "test: columns: " in said
    assert "left out: 2 pairs of validation or test that an earlier file has" in said
    assert (
        "left out: 3 interactions of validation or test, since train does not have 1 of their users and 1"
        in said
    )
    lost = {"duplicates": 1, "in_two_files": 2, "unknown": 3, "unknown_users": 1, "unknown_items": 1}
    assert lost.items() <= manifest["counts"].items() and manifest["counts"]["rows"] == 16 + 3 + 5
    assert manifest["counts"]["train"] + 3 + manifest["counts"]["dropped"] + 1 == manifest["counts"]["rows"]
    assert manifest["min_user_count"] == 1, "no filter has been applied"
    assert manifest["split"] == "files" and list(manifest["source_sha256"]) == list(splits.PARTS)
    three(tmp_path, "user,item\na,0\nb,0\nd,1\n", "user,item\nc,9\na,0\nd,2\ne,3\ne,4\n", train)
    assert "given exists already" in capsys.readouterr().err
    with pytest.raises(UserError, match="had another sha256 than"):
        three(tmp_path, "user,item\na,0\n", "user,item\nb,0\nc,1\n")


def test_ids_mean_the_same_in_all_three_files_and_no_likes_go(tmp_path, capsys):
    """Numbers are spelled as 1 and 1.0, or are numbers in one file and texts in another; 0 is no like."""
    train = (
        "user,item,rating\n"
        + "".join(f"{user},{item},4\n" for user in range(3) for item in range(4))
        + "0,4,1\n1,5,0\n"
    )
    titles = write(tmp_path / "titles.csv", "item,title\n0,Zero\n1,One\n")
    three(
        tmp_path, "user,item,rating\n1.0,4.0,5\n0,5,2\n", "user;item;rating\n2;4;0.5\nx;4;3\n1;0;0\n", train,
        f"--titles={titles}",
    )  # fmt: skip
    dataset, pairs = loaded(tmp_path, "given")
    assert pairs["validation"] == {(1, 4)} and pairs["test"] == {(2, 4)}
    assert dict(zip(dataset.item_ids, dataset.titles))[1] == "One", "which only train has"
    assert "left out: 2 pairs with too low a rating" in capsys.readouterr().err


def test_a_file_of_which_nothing_is_left_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing is left of validation: train does not have the"):
        three(tmp_path, "user,item\nd,0\n", "user,item\na,0\n")
    with pytest.raises(UserError, match="nothing is left of test: it has no inter.*, or an earlier"):
        three(tmp_path, "user,item\na,0\n", "user,item\na,1\n")
    with pytest.raises(UserError, match=r"1 of 2 rows cannot be used \(validation.csv, line 3: a\)"):
        three(tmp_path, "user,item\na,1\na\n", "user,item\na,1\n")
    with pytest.raises(UserError, match="nothing is left of train: it has no interactions"):
        three(tmp_path, "user,item\na,1\n", "user,item\na,1\n", "user,item\n")
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--split=people"], "must be one of random, users, time, last, or three files .*, not 'people'"),
        (["--split=a,b", "--name=x"], "three files are TRAIN,VALIDATION,TEST, not a,b"),
        (["--split=a,,b", "--name=x"], "three files are"),
        (["--split=a,b,c"], "Add --name=NAME"),
        (["--split=a,b,c", "ml-1m"], "Add --name=NAME"),
        (["--split=a,b,c", "ml-1m", "--name=x"], "--name is for a table of your own"),
        (["--split=a,b,c", "--name=x", "--file=d"], "Leave out --file"),
        (["--split=a,b,c", "--name=x", "--min-user-count=3"], "--min-user-count would change the split"),
        (["--split=a,b,c", "--name=x", "--since=2020-01-01"], "--since would change the split"),
        (["--split=a,b,c", "--name=x"], "there is no file 'a'"),
        (["--file=a.csv", "--name=ml-1m-time"], "ml-1m-time is a data set that prep.sh knows"),
        (["--split=time", "--min-user-count=2", "ml-1m"], "at least 3"),
    ],
)
def test_wrong_uses_are_named(tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        preprocess.main([*arguments, f"--data_dir={tmp_path}"])


@pytest.mark.parametrize("split", ["time", "last"])
def test_without_times_there_is_no_split_by_time(tmp_path, split):
    path = write(tmp_path / "a.csv", TRAIN_ROWS)
    with pytest.raises(UserError, match=f"--split={split} needs times, and there is no column of them. Name"):
        preprocess.main([f"--file={path}", "--name=x", f"--split={split}", f"--data_dir={tmp_path}"])
    assert not (tmp_path / "x").exists()
