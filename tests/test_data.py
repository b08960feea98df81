"""data.py: the layout, its faults, and the sampling, against plain loops."""

import dataclasses
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import ROOT, write_layout
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

import data
from lib.errors import UserError

SHARED = ROOT.parent / "shared" / "data"

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
        found = data.load("set", folder, repeats)
        for matrix, pairs, lengths in zip(
            (found.train, found.validation, found.test), expected, found.lengths
        ):
            assert {(found.user_ids[u], found.item_ids[i]) for u, i in zip(*matrix.nonzero())} == pairs
            assert matrix.nnz == len(pairs) and matrix.dtype == np.int8 and set(matrix.data) <= {1}
            assert (lengths == matrix.getnnz(axis=1)).all()
        assert (found.frequency == found.train.getnnz(axis=0)).all()
    kept = [e for e in entries if e[2] >= 0]
    assert found.user_ids.tolist() == sorted(
        {e[0] * 1000 for e in kept}
    ) and found.item_ids.tolist() == sorted({e[1] for e in kept})


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


def test_views_keep_what_is_known_apart_from_what_is_asked(tiny):
    for view in (tiny.validation_view(np.random.default_rng(0)), tiny.test_view(np.random.default_rng(0))):
        assert view.context.multiply(view.targets).nnz == 0
    assert (tiny.test_view(np.random.default_rng(0)).context != tiny.train + tiny.validation).nnz == 0


def test_shares_of_several_processes_make_the_whole(tiny, tiny_data, monkeypatch):
    """Each of 4 processes loads, in small slices, its own users only; what they see together is what one sees alone."""
    monkeypatch.setattr(data, "INTERACTIONS_AT_ONCE", 70)
    monkeypatch.setattr(data, "USERS_AT_ONCE", 11)
    barrier, given = threading.Barrier(4, timeout=60), {}

    def process(number):
        def gather(own):
            given[number] = own
            barrier.wait()
            joined = np.concatenate([given[each] for each in range(4)])
            barrier.wait()
            return joined

        part = data.load("tiny", tiny_data, process=number, processes=4, gather=gather)
        return part, part.train_rows(np.array([149, 3, 80])), data.add_noise(part, 0.2, seed=5)

    with ThreadPoolExecutor(4) as threads:
        parts, rows, noisy = zip(*threads.map(process, range(4)))
    same_noise = data.add_noise(tiny, 0.2, seed=5)
    assert (sp.vstack([each.train for each in noisy]) != same_noise.train).nnz == 0 and all(
        (each.lengths == same_noise.lengths).all() for each in noisy
    )
    assert all((each != tiny.train[[149, 3, 80]]).nnz == 0 for each in rows)
    for part in parts:
        assert part.fingerprint == tiny.fingerprint and part.users == 150
        assert (part.lengths == tiny.lengths).all() and (part.frequency == tiny.frequency).all()
    assert sum(part.train.shape[0] for part in parts) == 150
    for view in (
        lambda dataset: dataset.validation_view(np.random.default_rng(0), 40),
        lambda dataset: dataset.validation_view(np.random.default_rng(1)),
        lambda dataset: dataset.test_view(np.random.default_rng(2)),
    ):
        whole, shares = view(tiny), [view(part) for part in parts]
        assert (
            np.concatenate([share.users + part.first_user for share, part in zip(shares, parts)])
            == whole.users
        ).all()
        for name in ("context", "targets"):
            assert (sp.vstack([getattr(share, name) for share in shares]) != getattr(whole, name)).nnz == 0
        assert (np.concatenate([share.negatives for share in shares]) == whole.negatives).all()


def test_validation_on_a_sample_asks_users_with_targets(tiny):
    view = tiny.validation_view(np.random.default_rng(0), 40)
    assert (
        len(set(view.users)) == 40 and view.targets.getnnz(axis=1).all() and (np.diff(view.users) > 0).all()
    )
    assert len(tiny.validation_view(np.random.default_rng(0), 1000).users) == 150


def test_fingerprint_changes_with_one_interaction(tiny_data, tmp_path):
    with h5py.File(tiny_data / "tiny" / "total_data.hdf5") as file:
        user, item = file["user"][:], file["item"][:]
    part = np.load(tiny_data / "tiny" / "index.npz")["data"]
    write_layout(tmp_path / "same", user, item, part)
    part[np.flatnonzero(part == 0)[0]] = 2
    write_layout(tmp_path / "other", user, item, part)
    same, other, first = (
        data.load("same", tmp_path),
        data.load("other", tmp_path),
        data.load("tiny", tiny_data),
    )
    assert same.fingerprint == first.fingerprint != other.fingerprint


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
    found = 0
    for place in rng.integers(len(sound), size=60):
        content = bytearray(sound)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            data.load("set", tmp_path)
        except UserError:
            found += 1
    assert found > 5


@pytest.mark.parametrize(
    "user, item, part, words",
    [
        ([0, 1, 2], [0, 1, 2], [0, 1], "do not belong together"),
        ([0, -1, 2], [0, 1, 2], [0, 1, 2], "'user' has the id -1"),
        ([0, 1, 2], [0, -7, 2], [0, 1, 2], "'item' has the id -7"),
        ([0, 1, 2], [0, 1, 2], [0, 1, 3], "'data' must be a list of"),
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


@pytest.mark.parametrize("name", ["users.csv", "items.csv"])
@pytest.mark.parametrize(
    "rows, words",
    [
        ("0,a\n1,b\n2,c\n1,d\n", "has the index 1 twice"),
        ("0,a\n1,b\n2,a\n", "has the id a twice"),
        ("0,7\n1,7\n2,8\n", "has the id 7 twice"),
    ],
)
def test_ids_that_stand_twice_are_named(tmp_path, name, rows, words):
    write_layout(tmp_path / "set", [0, 1, 2], [0, 1, 2], [0, 0, 2])
    (tmp_path / "set" / name).write_text("index,id\n" + rows)
    with pytest.raises(UserError, match=f"{re.escape(name)} {words}") as error:
        data.load("set", tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_data_set_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"\./prep\.sh ml-1m makes it"):
        data.load("ml-1m", tmp_path)


def test_pickles_are_not_loaded(tmp_path):
    write_layout(tmp_path / "set", [0], [0], [0])
    np.savez(tmp_path / "set" / "index.npz", data=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="index.npz cannot be read"):
        data.load("set", tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="the paper's released files are not beside the project")
@pytest.mark.parametrize(
    "name, shape, train, validation, test",
    [("ml-1m", (6040, 3706), 791_718, 99_692, 108_799), ("magazine", (3092, 1305), 5_934, 436, 6_145)],
)
def test_the_released_files_as_they_are(name, shape, train, validation, test):
    found = data.load(name, SHARED)
    assert found.train.shape == shape and (found.train.nnz, found.validation.nnz, found.test.nnz) == (
        train,
        validation,
        test,
    )


def test_ids_and_titles_that_are_text_can_be_saved_without_pickles(tmp_path):
    write_layout(tmp_path / "set", [0, 0, 1], [0, 1, 1], [0, 0, 0])
    (tmp_path / "set" / "items.csv").write_text('index,id,title\n0,B0001,"Tea, green"\n1,B0002,NA\n')
    (tmp_path / "set" / "users.csv").write_text("index,id\n0,007\n1,x\n")
    found = data.load("set", tmp_path)
    assert found.item_ids.tolist() == ["B0001", "B0002"] and found.titles.tolist() == ["Tea, green", "NA"]
    assert found.user_ids.tolist() == ["007", "x"]
    (tmp_path / "set" / "users.csv").write_text("index,id\n0,007\n1,10\n")
    assert data.load("set", tmp_path).user_ids.tolist() == ["007", "10"]
    assert not any(each.dtype.hasobject for each in (found.item_ids, found.titles, found.user_ids))


def test_noise_replaces_its_share_by_items_the_user_has_in_no_part(tiny):
    noisy = data.add_noise(tiny, 0.3, seed=1)
    added, lost = (
        ((one - one.multiply(other)) > 0)
        for one, other in ((noisy.train, tiny.train), (tiny.train, noisy.train))
    )
    assert 0.26 < lost.nnz / tiny.train.nnz < 0.34 and 0.95 * lost.nnz < added.nnz <= lost.nnz
    assert added.multiply(tiny.validation + tiny.test).nnz == 0
    assert (
        (noisy.lengths[data.TRAIN] == noisy.train.getnnz(axis=1)).all()
        and noisy.validation is tiny.validation
        and noisy.fingerprint == tiny.fingerprint
    )
    assert (
        (noisy.train != data.add_noise(tiny, 0.3, seed=1).train).nnz
        == 0
        < (noisy.train != data.add_noise(tiny, 0.3, seed=2).train).nnz
    )
    assert data.add_noise(tiny, 0, seed=1) is tiny


def test_the_free_items_of_a_row_in_their_order():
    matrix = sp.csr_matrix(np.tile(np.array([0, 1, 0, 0, 1] + [0] * 7, np.int8), (20000, 1)))
    rank = np.random.default_rng(0).integers(10, size=20000)
    items = data._free_items(matrix, np.arange(20000), rank)
    assert (items == np.array([0, 2, 3, 5, 6, 7, 8, 9, 10, 11])[rank]).all()


def test_item_weights_are_those_of_train_as_it_is(tiny):
    noisy = data.add_noise(tiny, 0.3, seed=1)
    count = noisy.train.toarray().sum(axis=0) + 1.0
    assert (count != tiny.frequency + 1).any()
    np.testing.assert_allclose(data.item_weights(noisy, 0.25), (count.mean() / count) ** 0.25, rtol=1e-6)
    assert data.item_weights(noisy, 0) is None


def test_item_weights_of_several_processes_are_those_of_one(tiny):
    parts = [dataclasses.replace(tiny, train=tiny.train[rows]) for rows in (slice(0, 50), slice(50, None))]
    counts = np.stack([np.bincount(part.train.indices, minlength=tiny.items) for part in parts])
    joined = dataclasses.replace(parts[0], gather=lambda own: counts)
    np.testing.assert_array_equal(data.item_weights(joined, 0.25), data.item_weights(tiny, 0.25))
