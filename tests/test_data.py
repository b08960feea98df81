"""data.py: the layout, its faults, and the sampling, against plain loops."""

import dataclasses
import errno
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import write_layout
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

import data
from lib.errors import UserError
from runs.synthetic_users import pack_ids, unpack_ids

entries = strategies.lists(
    strategies.tuples(
        strategies.integers(0, 6), strategies.integers(0, 9), strategies.sampled_from([-1, 0, 0, 0, 1, 2])
    ),
    min_size=1,
    max_size=60,
)


@hypothesis_settings(deadline=None, max_examples=60)
@given(entries)
def test_load_against_a_loop(tmp_path_factory, entries):
    """Renumbering, duplicates and pairs that stand in two parts, on arbitrary small data."""
    folder = tmp_path_factory.mktemp("loop")
    write_layout(
        folder / "set", [e[0] * 1000 for e in entries], [e[1] for e in entries], [e[2] for e in entries]
    )
    sets = {part: {(u * 1000, i) for u, i, p in entries if p == part} for part in (0, 1, 2)}
    if not sets[0]:
        with pytest.raises(UserError, match="train"):
            data.load("set", folder)
        return
    for repeats, expected in (
        ("keep", sets.values()),
        ("drop", (sets[0], sets[1] - sets[0], sets[2] - sets[1] - sets[0])),
    ):
        dataset = data.load("set", folder, repeats)
        matrices = dataset.train, dataset.validation, dataset.test
        for matrix, pairs, lengths in zip(matrices, expected, dataset.lengths):
            assert {(dataset.user_ids[u], dataset.item_ids[i]) for u, i in zip(*matrix.nonzero())} == pairs
            assert matrix.nnz == len(pairs) and matrix.dtype == np.int8 and set(matrix.data) <= {1}
            assert (lengths == matrix.getnnz(axis=1)).all()
        assert (dataset.frequency == dataset.train.getnnz(axis=0)).all()
        kept = [e for e in entries if e[2] >= 0]
        assert dataset.user_ids.tolist() == sorted({e[0] * 1000 for e in kept})
        assert dataset.item_ids.tolist() == sorted({e[1] for e in kept})


def test_new_users_are_asked_and_the_others_are_trained_on(tiny, tiny_data):
    dataset = data.load("tiny-users", tiny_data)
    new = dataset.new_users
    assert dataset.users == 113 and new.users == 37 and dataset.asked is new
    assert sorted([*dataset.user_ids, *new.user_ids]) == tiny.user_ids.tolist()
    assert not dataset.validation.nnz and not dataset.test.nnz
    assert (dataset.frequency == dataset.train.getnnz(axis=0)).all()
    assert [(lengths > 0).sum() for lengths in new.lengths] == [37, 12, 25]
    rng, number = np.random.default_rng(0), data.VALIDATION
    for view, other in ((dataset.validation_view(rng), new.test), (dataset.test_view(rng), new.validation)):
        asked = np.diff(view.targets.indptr) > 0
        assert asked.sum() == (12 if number == data.VALIDATION else 25) and not other[asked].nnz
        assert (view.context[asked] != new.train[asked]).nnz == 0
        assert not (view.context.multiply(view.targets)).nnz
        number = data.TEST
    users = np.array([120, 3, 149, 0, 120])
    expected = tiny.all_interactions(np.searchsorted(tiny.user_ids, dataset.all_user_ids[users]))
    assert (dataset.all_interactions(users) != expected).nnz == 0
    redrawn = data.redraw(dataset, 0)
    assert redrawn.new_users is None and (redrawn.lengths[data.VALIDATION] > 0).all()


@pytest.mark.parametrize(
    ("part", "user"), [((0, 3, 1), (1, 1, 1)), ((0, 3, 1, 2), (0, 1, 1, 0)), ((0, 3, 2, 2), (0, 1, 1, 2))]
)
def test_where_there_are_new_users_they_alone_are_asked_and_never_trained_on(tmp_path, part, user):
    write_layout(tmp_path / "set", user, range(len(user)), part)
    with pytest.raises(UserError, match=f"they alone are asked; the user {max(0, user[-1])} has other"):
        data.load("set", tmp_path)


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    strategies.integers(1, 6),
    strategies.integers(1, 12),
    strategies.floats(0, 1),
    strategies.integers(0, 2**32),
)
def test_negatives_are_never_positives(users, items, density, seed):
    rng = np.random.default_rng(seed)
    positives = sp.csr_matrix((rng.random((users, items)) < density).astype(np.int8))
    negatives = data.sample_negatives(rng, positives, 7)
    for user in range(users):
        allowed = set(range(items)) - set(positives[user].indices)
        assert set(negatives[user]) <= allowed if allowed else set(negatives[user]) == {-1}


def test_negatives_are_drawn_evenly():
    positives = sp.csr_matrix(np.array([[0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0]], np.int8))
    negatives = data.sample_negatives(np.random.default_rng(0), positives, 30_000)
    np.testing.assert_allclose(
        np.bincount(negatives[0], minlength=6) / 30_000, np.array([1, 0, 1, 0, 0, 1]) / 3, atol=0.01
    )
    np.testing.assert_allclose(
        np.bincount(negatives[1], minlength=6) / 30_000, np.array([0, 0, 1, 1, 1, 1]) / 4, atol=0.01
    )


def test_views_have_the_rows_of_their_parts_and_negatives_of_neither_train_nor_targets(tiny):
    for view, context, targets in (
        (tiny.validation_view(np.random.default_rng(0)), tiny.train, tiny.validation),
        (tiny.test_view(np.random.default_rng(0)), tiny.train + tiny.validation, tiny.test),
    ):
        assert (view.users == np.arange(150)).all() and view.negatives.shape == (150, 50)
        assert (view.context != context).nnz == (view.targets != targets).nnz == 0
        assert not (tiny.train + targets)[np.arange(150)[:, None], view.negatives].nnz


@pytest.mark.parametrize("name", ["tiny", "tiny-users"])
def test_shards_of_several_processes_make_the_whole(tiny_data, monkeypatch, name):
    """Four processes load a shard each, in small slices; joined, all is as with one process."""
    tiny = data.load(name, tiny_data)
    monkeypatch.setattr(data, "INTERACTIONS_AT_ONCE", 70)
    monkeypatch.setattr(data, "USERS_AT_ONCE", 11)
    barrier, arrays = threading.Barrier(4, timeout=60), {}

    def run(process):
        def gather(local):
            arrays[process] = local
            barrier.wait()
            joined = np.concatenate([arrays[i] for i in range(4)])
            barrier.wait()
            return joined

        shard = data.load(name, tiny_data, process=process, processes=4, gather=gather)
        return shard, shard.train_rows(np.array([112, 3, 80])), data.add_noise(shard, 0.2, seed=5)

    with ThreadPoolExecutor(4) as threads:
        shards, rows_of_all, noisy_shards = zip(*threads.map(run, range(4)))
    noisy = data.add_noise(tiny, 0.2, seed=5)
    assert (sp.vstack([shard.train for shard in noisy_shards]) != noisy.train).nnz == 0
    assert all((shard.lengths == noisy.lengths).all() for shard in noisy_shards)
    assert all((rows != tiny.train[[112, 3, 80]]).nnz == 0 for rows in rows_of_all)
    for shard in shards:
        assert shard.fingerprint == tiny.fingerprint and shard.users == tiny.users
        assert (shard.lengths == tiny.lengths).all() and (shard.frequency == tiny.frequency).all()
    sizes = [shard.train.shape[0] for shard in shards]
    assert sum(sizes) == tiny.users and max(sizes) - min(sizes) == 1
    for view_of in (
        lambda dataset: dataset.validation_view(np.random.default_rng(0), 7),
        lambda dataset: dataset.validation_view(np.random.default_rng(1)),
        lambda dataset: dataset.test_view(np.random.default_rng(2)),
    ):
        whole, views = view_of(tiny), [view_of(shard) for shard in shards]
        users = [view.users + shard.asked.first_user for view, shard in zip(views, shards)]
        assert (np.concatenate(users) == whole.users).all()
        for name in ("context", "targets"):
            assert (sp.vstack([getattr(view, name) for view in views]) != getattr(whole, name)).nnz == 0
        assert (np.concatenate([view.negatives for view in views]) == whole.negatives).all()


def test_a_sample_of_validation_is_drawn_from_users_with_targets(tmp_path):
    """Of 60 users every third has no validation item; without a sample, all users are in the view."""
    part = np.tile([0, 1, 2], (60, 1))
    part[::3, 1] = 0
    write_layout(tmp_path / "set", np.repeat(np.arange(60), 3), np.tile(np.arange(3), 60), part.ravel())
    dataset = data.load("set", tmp_path)
    view = dataset.validation_view(np.random.default_rng(0), 30)
    assert len(view.users) == 30 and (np.diff(view.users) > 0).all() and (view.users % 3).all()
    assert (view.targets.getnnz(axis=1) == 1).all()
    other = dataset.validation_view(np.random.default_rng(1), 30)
    assert (view.users != other.users).any()
    for count in (40, 1000, -1):
        assert len(dataset.validation_view(np.random.default_rng(0), count).users) == 60


def test_fingerprint_changes_with_one_interaction_their_order_or_what_repeats_are(tiny_data, tmp_path):
    with h5py.File(tiny_data / "tiny" / "total_data.hdf5") as file:
        user, item = file["user"][:], file["item"][:]
    part = np.load(tiny_data / "tiny" / "index.npz")["data"]

    def fingerprint(user, item, part, repeats="keep"):
        write_layout(tmp_path / "set", user, item, part)
        return data.load("set", tmp_path, repeats).fingerprint

    moved, replaced = part.copy(), item.copy()
    moved[np.flatnonzero(part == 0)[0]] = 2
    replaced[0] = item.max() - item[0]
    fingerprints = [
        fingerprint(user, item, part),
        fingerprint(user, item, moved),
        fingerprint(user, replaced, part),
        fingerprint(user[::-1], item[::-1], part[::-1]),
        fingerprint(user, item, part, "drop"),
    ]
    assert fingerprints[0] == data.load("tiny", tiny_data).fingerprint and len(set(fingerprints)) == 5


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = b""
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["total_data.hdf5", "index.npz"])
@pytest.mark.parametrize("how", ["truncated", "empty"])
def test_damaged_files_are_named(tmp_path, name, how):
    write_layout(tmp_path / "set", [0, 0, 1] * 100, list(range(300)), [0, 1, 2] * 100)
    damage(tmp_path / "set" / name, how)
    with pytest.raises(UserError, match=f"{re.escape(name)} cannot be read"):
        data.load("set", tmp_path)


def test_a_flipped_bit_in_the_index_is_found(tmp_path):
    write_layout(tmp_path / "set", [0, 0, 1] * 100, list(range(300)), [0, 1, 2] * 100)
    damage(tmp_path / "set" / "index.npz", "flipped")
    with pytest.raises(UserError, match="index.npz cannot be read"):
        data.load("set", tmp_path)


@pytest.mark.parametrize("name", ["total_data.hdf5", "index.npz"])
def test_no_flipped_bit_ends_in_anything_but_a_user_error(tmp_path, name):
    """What the files' own checksums do not cover may load; nothing may escape as a traceback."""
    write_layout(tmp_path / "set", np.repeat(np.arange(50), 6), np.tile(np.arange(60), 5), [0, 1, 2] * 100)
    path, rng = tmp_path / "set" / name, np.random.default_rng(0)
    sound = path.read_bytes()
    noticed = 0
    for position in rng.integers(len(sound), size=60):
        content = bytearray(sound)
        content[position] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            data.load("set", tmp_path)
        except UserError:
            noticed += 1
    assert noticed > 5


@pytest.mark.parametrize(
    "user, item, part, words",
    [
        ([0, 1, 2], [0, 1, 2], [0, 1], "do not belong together"),
        ([0, -1, 2], [0, 1, 2], [0, 1, 2], "'user' has the id -1"),
        ([0, 1, 2], [0, -7, 2], [0, 1, 2], "'item' has the id -7"),
        ([0, 1, 2], [0, 1, 2], [0, 1, 4], "'data' must be a list of"),
        ([0, 1, 2], [0, 1, 2], [0.5, 1, 2], "'data' must be a list of"),
        ([0, 1, 2], [0, 1, 2], [1, 1, 2], "no interaction is marked as train"),
    ],
)
def test_wrong_content_is_named(tmp_path, user, item, part, words):
    write_layout(tmp_path / "set", user, item, part)
    with pytest.raises(UserError, match=re.escape(words)):
        data.load("set", tmp_path)


@pytest.mark.parametrize(
    "column, words",
    [
        (np.array([0, 1, 2**40]), "the id 1099511627776"),
        (np.array([0.0, 1.0, 2.0]), "whole numbers"),
        (np.zeros((3, 2), int), "whole numbers"),
        (np.array([0, 1]), "differ in length"),
    ],
)
def test_wrong_columns_are_named(tmp_path, column, words):
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 1, 2])
    with h5py.File(tmp_path / "set" / "total_data.hdf5", "a") as file:
        del file["item"]
        file["item"] = column
    with pytest.raises(UserError, match=words):
        data.load("set", tmp_path)


def test_what_else_an_hdf5_file_holds_is_not_read(tmp_path):
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 1, 2])
    alone = data.load("set", tmp_path)
    with h5py.File(tmp_path / "set" / "total_data.hdf5", "a") as file:
        del file["rating"]
        file["rating"], file["scalar"] = [1.0], 5
        file.create_group("more")["user"] = [1]
    assert data.load("set", tmp_path).fingerprint == alone.fingerprint


@pytest.mark.parametrize("name", ["total_data.hdf5", "index.npz", "manifest.json"])
def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, monkeypatch, name):
    """The user of the tests may be one whom no permission stops."""
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 1, 2])
    (tmp_path / "set" / "manifest.json").write_text('{"sha256": {}}')

    def refuse(path, *more, **options):
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, "a long text of h5py's, errno = 13", str(path))
        return real_open(path, *more, **options)

    real_open, real_file = open, h5py.File
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr(h5py, "File", lambda path, mode: refuse(path) and real_file(path, mode))
    with pytest.raises(UserError, match=f"^{tmp_path}/set/{name} cannot be read: (Permission|a long)"):
        data.load("set", tmp_path)


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"sha256": {"../x": "1"}}', '{"sha256": 5}', 3000 * "["])
def test_a_damaged_manifest_is_named(tmp_path, manifest):
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 1, 2])
    (tmp_path / "set" / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="manifest.json is damaged .*; delete .* and run ./prep.sh again"):
        data.load("set", tmp_path)


@pytest.mark.parametrize("name", ["users.csv", "items.csv"])
@pytest.mark.parametrize(
    "rows, words",
    [
        ("0,a\n1,b\n2,c\n1,d\n", "has the index 1 twice"),
        ("0,a\n1,b\n2,a\n", "has the id a twice"),
        ("0,7\n1,7\n2,8\n", "has the id 7 twice"),
    ],
)
def test_repeated_ids_are_named(tmp_path, name, rows, words):
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 0, 2])
    (tmp_path / "set" / name).write_text("index,id\n" + rows)
    with pytest.raises(UserError, match=f"{re.escape(name)} {words}") as error:
        data.load("set", tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_data_set_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"Run \./prep\.sh ml-1m, or point --data_dir"):
        data.load("ml-1m", tmp_path)


def test_pickles_are_not_loaded(tmp_path):
    write_layout(tmp_path / "set", [0], [0], [0])
    np.savez(tmp_path / "set" / "index.npz", data=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="index.npz cannot be read"):
        data.load("set", tmp_path)


def test_ids_and_titles_may_be_text(tmp_path):
    write_layout(tmp_path / "set", [0, 0, 1], [0, 1, 1], [0, 0, 0])
    (tmp_path / "set" / "items.csv").write_text('index,id,title\n0,B0001,"Tea, green"\n1,B0002,NA\n')
    (tmp_path / "set" / "users.csv").write_text("index,id\n0,007\n1,x\n")
    dataset = data.load("set", tmp_path)
    assert dataset.item_ids.tolist() == ["B0001", "B0002"]
    assert dataset.titles.tolist() == ["Tea, green", "NA"] and dataset.user_ids.tolist() == ["007", "x"]
    (tmp_path / "set" / "users.csv").write_text("index,id\n0,007\n1,10\n")
    assert data.load("set", tmp_path).user_ids.tolist() == ["007", "10"]


@pytest.mark.parametrize(
    "ids", [np.array([3, 7]), np.array(["007", "a\0b"], object), np.array(["é", "x" * 9999], object)]
)
def test_ids_of_a_run_are_saved_without_pickles_and_as_long_as_they_are(ids):
    packed = pack_ids(ids)
    assert not packed.dtype.hasobject and packed.nbytes < 20_000
    assert unpack_ids(packed).tolist() == ids.tolist() == unpack_ids(np.asarray(ids.tolist())).tolist()


@pytest.mark.parametrize(
    "rows, words",
    [
        ("index,id\n0,a\n2,c\n", "items.csv has no row with the index 1"),
        ("index,name\n0,a\n1,b\n2,c\n", "items.csv has no column 'id'"),
        ("id\na\nb\nc\n", "items.csv cannot be read"),
        ("index,id\nx,a\n", "items.csv cannot be read"),
    ],
)
def test_tables_that_do_not_name_every_item(tmp_path, rows, words):
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 0, 2])
    (tmp_path / "set" / "items.csv").write_text(rows)
    with pytest.raises(UserError, match=words):
        data.load("set", tmp_path)


def test_noise_replaces_its_share_by_items_the_user_has_in_no_part(tiny):
    noisy = data.add_noise(tiny, 0.3, seed=1)
    added = (noisy.train - noisy.train.multiply(tiny.train)) > 0
    lost = (tiny.train - tiny.train.multiply(noisy.train)) > 0
    assert 0.26 < lost.nnz / tiny.train.nnz < 0.34 and 0.95 * lost.nnz < added.nnz <= lost.nnz
    assert added.multiply(tiny.validation + tiny.test).nnz == 0
    assert (noisy.lengths[data.TRAIN] == noisy.train.getnnz(axis=1)).all()
    assert noisy.validation is tiny.validation and noisy.fingerprint == tiny.fingerprint
    assert (noisy.train != data.add_noise(tiny, 0.3, seed=1).train).nnz == 0
    assert (noisy.train != data.add_noise(tiny, 0.3, seed=2).train).nnz > 0
    assert data.add_noise(tiny, 0, seed=1) is tiny


def test_absent_items_of_many_rows_against_a_loop():
    rng = np.random.default_rng(0)
    present = rng.random((500, 12)) < rng.random((500, 1))
    present[:, 7] = False  # at least one item is absent
    rank = rng.integers((~present).sum(axis=1))
    items = data._nth_absent(sp.csr_matrix(present.astype(np.int8)), np.arange(500), rank)
    assert items.tolist() == [np.flatnonzero(~row)[k] for row, k in zip(present, rank)]


def test_item_weights_count_train_with_its_noise(tiny):
    noisy = data.add_noise(tiny, 0.3, seed=1)
    count = noisy.train.toarray().sum(axis=0) + 1.0
    assert (count != tiny.frequency + 1).any()
    np.testing.assert_allclose(data.item_weights(noisy, 0.25), (count.mean() / count) ** 0.25, rtol=1e-6)
    assert data.item_weights(noisy, 0) is None


def test_item_weights_of_several_processes_are_those_of_one(tiny):
    parts = [dataclasses.replace(tiny, train=tiny.train[rows]) for rows in (slice(0, 50), slice(50, None))]
    counts = np.stack([np.bincount(part.train.indices, minlength=tiny.items) for part in parts])
    joined = dataclasses.replace(parts[0], gather=lambda local: counts)
    np.testing.assert_array_equal(data.item_weights(joined, 0.25), data.item_weights(tiny, 0.25))
