"""Interaction data: reads data/<name>/ and serves train, validation and test as sparse matrices.

A data set is two files in the layout of the paper's release: `total_data.hdf5` with the datasets
`user`, `item` (and `rating`, which is not used: everything that was rated counts as 1), one entry an
interaction, and `index.npz` with the array `data`: 0 train, 1 validation, 2 test, -1 dropped.
What prep.sh adds is used where it is there: `users.csv` and `items.csv` (original ids, titles) and
`manifest.json`, whose checksums tell a damaged file from a sound one.

U users, I items; matrices are scipy CSR, (U, I), int8, 0 or 1. Nothing here ever holds U x I numbers.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pooch
import scipy.sparse as sp

from lib.errors import UserError
from lib.files import read_npz
from lib.random_streams import Stream, generator

INTERACTIONS, INDEX, MANIFEST = "total_data.hdf5", "index.npz", "manifest.json"
DROPPED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
WHOLE_NUMBER = r"0|-?[1-9]\d{0,17}"  # an id that is as good as an int64: written as one would be
NEGATIVES_PER_USER = 50  # for the AUC
INTERACTIONS_AT_ONCE, USERS_AT_ONCE = 8_000_000, 20_000  # what one pass holds in memory


class View(NamedTuple):
    """One evaluation: what is known of each user, what is to be found, what it is told apart from.

    V of the process's own users, in ascending order.
    """

    users: np.ndarray  # (V,): rows of the Dataset's matrices
    context: sp.csr_matrix  # (V, I): fed to the model and left out of the ranking
    targets: sp.csr_matrix  # (V, I)
    negatives: np.ndarray  # (V, 50) int32: items in neither train nor targets; -1 where there are none


@dataclass(frozen=True)
class Dataset:
    """The interactions of all users, or of those that one of several processes works on.

    What says "own" has a row for each of the process's users, who are neighbours; the rest is of all U.
    """

    name: str
    train: sp.csr_matrix  # (own, I)
    validation: sp.csr_matrix  # (own, I)
    test: sp.csr_matrix  # (own, I)
    user_ids: np.ndarray  # (own,) the source's own ids, numbers or text
    item_ids: np.ndarray  # (I,)
    titles: np.ndarray | None  # (I,) text, where the source has it
    first_user: int  # the number of the first of the own users
    lengths: np.ndarray  # (3, U): interactions of each user in train, validation, test
    frequency: (
        np.ndarray
    )  # (I,): train interactions of each item; add_noise leaves it as it is, since it weighs the metrics
    fingerprint: str  # hexadecimal; the same only for the same interactions in the same order
    gather: Callable  # (own, ...) array -> the arrays of all processes, joined

    @property
    def users(self):
        return self.lengths.shape[1]

    @property
    def items(self):
        return len(self.item_ids)

    def own(self, users):
        """Where ascending user numbers meet the own users: (slice of `users`, their rows in the matrices)."""
        start, stop = np.searchsorted(users, [self.first_user, self.first_user + self.train.shape[0]])
        return slice(start, stop), users[start:stop] - self.first_user

    def sample_users(self, count, seed):
        """Numbers of as many users, drawn evenly without replacement, in random order; the same for the same seed."""
        return generator(seed, Stream.START).choice(self.users, count, replace=False)

    def train_frequency(self):
        """Interactions of each item in train as it is, noise included, (I,)."""
        return self.gather(np.bincount(self.train.indices, minlength=self.items)[None]).sum(axis=0)

    def train_rows(self, users):
        """The train rows of any users, in their order, CSR (len(users), I); every process gets all of them."""
        order = np.argsort(users)
        own = self.train[self.own(users[order])[1]]
        indices, lengths = self.gather(own.indices), self.gather(np.diff(own.indptr))
        rows = sp.csr_matrix(
            (np.ones(len(indices), np.int8), indices, np.append(0, np.cumsum(lengths))),
            (len(users), self.items),
        )
        return rows[np.argsort(order)]

    def validation_view(self, rng, count=-1):
        """Train rows as context, validation rows as targets; rng draws the negatives.

        Args:
            count: as many users, drawn by rng from those with targets, if there are more; -1: all users.
        """
        users = np.flatnonzero(self.lengths[VALIDATION])
        users = (
            np.sort(rng.choice(users, count, replace=False))
            if 0 < count < len(users)
            else np.arange(self.users)
        )
        position, rows = self.own(users)
        # As all processes together would: the numbers for users before the own ones are passed over.
        rng.bit_generator.advance(int(position.start) * NEGATIVES_PER_USER)
        context, targets = self.train[rows], self.validation[rows]
        return View(rows, context, targets, sample_negatives(rng, _union(context, targets)))

    def test_view(self, rng):
        """Train and validation rows as context, test rows as targets, of all users; rng draws the negatives."""
        rng.bit_generator.advance(int(self.first_user) * NEGATIVES_PER_USER)
        return View(
            np.arange(self.train.shape[0]),
            _union(self.train, self.validation),
            self.test,
            sample_negatives(rng, _union(self.train, self.test)),
        )


def load(name, data_dir, repeats="keep", process=0, processes=1, gather=lambda own: own):
    """Reads data_dir/name into a Dataset, a slice of the file at a time.

    Items and users are renumbered from 0 after dropping, in the order of their ids. A pair that
    stands twice in a part counts once.

    Args:
        repeats: what becomes of a target that stands in an earlier part, too (train, then validation): "keep"
            it, as a target that no ranking can hit because it is in the context, which is how the paper
            counts; or "drop" it.
        process, processes: whose users to keep; users are cut into as many runs of neighbours.
        gather: with several processes, joins their arrays (devices.gather).

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    folder = Path(data_dir) / name
    if not folder.is_dir():
        there = sorted(path.parent.name for path in Path(data_dir).glob(f"*/{INTERACTIONS}"))
        raise UserError(
            f"there is no data set {folder}; ./prep.sh {name} makes it if it is one that prep.sh knows, --data_dir looks "
            f"elsewhere; in {data_dir} there is {', '.join(there) or 'none'}"
        )
    _verify_checksums(folder)
    part = _read_index(folder / INDEX)
    user_ids = item_ids = np.empty(0, np.int32)
    digests = [hashlib.blake2b() for _ in ("user", "item", "part")]
    for columns in _read_slices(folder, part):
        user_ids, item_ids = (
            np.union1d(ids, pd.unique(column)) for ids, column in zip((user_ids, item_ids), columns)
        )
        for digest, column in zip(digests, columns):
            digest.update(column)
    first, last = shares(len(user_ids), processes)[process : process + 2]
    columns = []
    for user, item, code in _read_slices(folder, part):
        user = np.searchsorted(user_ids, user)
        own = (user >= first) & (user < last)
        columns.append(
            (
                (user[own] - first).astype(np.int32),
                np.searchsorted(item_ids, item[own]).astype(np.int32),
                code[own],
            )
        )
    user, item, part = (
        (np.concatenate(each) for each in zip(*columns)) if columns else np.empty((3, 0), np.int8)
    )
    del columns
    shape = last - first, len(item_ids)
    train, validation, test = (
        _to_csr(user[part == each], item[part == each], shape) for each in (TRAIN, VALIDATION, TEST)
    )
    if repeats == "drop":
        validation = _without(validation, train)
        test = _without(_without(test, train), validation)
    lengths = gather(
        np.stack([np.diff(each.indptr) for each in (train, validation, test)], axis=1).astype(np.int32)
    ).T
    if not lengths[TRAIN].any():
        raise UserError(f"{folder}: no interaction is marked as train (0) in {INDEX}")
    frequency = gather(np.bincount(train.indices, minlength=shape[1])[None]).sum(axis=0)
    user_table, item_table = _read_table(folder / "users.csv"), _read_table(folder / "items.csv")
    titles = (
        _column(item_table, "title", item_ids) if item_table is not None and "title" in item_table else None
    )
    user_ids, item_ids = _column(user_table, "id", user_ids), _column(item_table, "id", item_ids)
    digest = hashlib.blake2b("\0".join(map(str, [repeats, *user_ids, *item_ids])).encode(), digest_size=8)
    for column in digests:
        digest.update(column.digest())
    return Dataset(
        name,
        train,
        validation,
        test,
        user_ids[first:last],
        item_ids,
        titles,
        first,
        lengths,
        frequency,
        digest.hexdigest(),
        gather,
    )


def add_noise(dataset, share, seed):
    """The Dataset with part of its train interactions replaced by random ones of the same users.

    Each interaction is replaced with the probability `share`, by an item drawn evenly from those the user has in no
    part: so what is to be found stays, and may be found. Two that become the same item are one. Every number of processes
    makes the same noise.

    Args:
        share: between 0 and 1; 0 returns the Dataset itself.
    """
    if share == 0:
        return dataset
    chosen, drawn = (generator(seed, stream) for stream in (Stream.NOISE_PLACES, Stream.NOISE_ITEMS))
    before = int(dataset.lengths[TRAIN][: dataset.first_user].sum())
    for rng in (chosen, drawn):
        rng.bit_generator.advance(before)
    train, known = dataset.train, _union(_union(dataset.train, dataset.validation), dataset.test)
    user = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    free = dataset.items - np.diff(known.indptr)[user]
    replaced = (chosen.random(train.nnz) < share) & (free > 0)
    items = _free_items(known, user, (drawn.random(train.nnz) * free).astype(np.int64))
    noisy = _to_csr(user, np.where(replaced, items, train.indices), train.shape)
    lengths = dataset.lengths.copy()
    lengths[TRAIN] = dataset.gather(np.diff(noisy.indptr))
    return dataclasses.replace(dataset, train=noisy, lengths=lengths)


def item_weights(dataset, discount):
    """What an item is multiplied by in the kernel, (I,) float32: ((f_i + 1) / the mean of that)^-discount; None for a discount of 0.

    f_i are the item's interactions in train as it is, noise included.
    """
    if discount == 0:
        return None
    frequency = dataset.train_frequency() + 1
    return ((frequency / frequency.mean()) ** -discount).astype(np.float32)


def shares(users, processes):
    """Where each process's own users begin, and where the last one's end; (processes + 1,)."""
    return np.arange(processes + 1) * users // processes


def sample_negatives(rng, positives, per_user=NEGATIVES_PER_USER):
    """Items drawn evenly, with replacement, from those that are not a user's positives; (U, per_user).

    Args:
        rng: a numpy Generator.
        positives: CSR (U, I), what must not be drawn.

    Returns:
        int32; -1 in the rows of users to whom every item is positive.
    """
    blocks = [
        _sample_negatives(rng, positives[start : start + USERS_AT_ONCE], per_user)
        for start in range(0, positives.shape[0], USERS_AT_ONCE)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, per_user), np.int32)


def _sample_negatives(rng, positives, per_user):
    users, items = positives.shape
    free = items - np.diff(positives.indptr)[:, None]
    drawn = (rng.random((users, per_user)) * free).astype(np.int64)
    return np.where(free > 0, _free_items(positives, np.arange(users)[:, None], drawn), -1).astype(np.int32)


def _free_items(positives, user, rank):
    """Of each user the item that is the rank-th, from 0, of those not among the positives; user and rank broadcast.

    It lies behind as many positives as have at most `rank` free items before them. One sorted list of (user, free items
    before) answers that for every user at once.
    """
    users, items = positives.shape
    positives.sort_indices()
    count = np.diff(positives.indptr)
    place = np.arange(positives.nnz) - np.repeat(positives.indptr[:-1], count)
    keys = np.repeat(np.arange(users), count) * (items + 1) + positives.indices - place
    return rank + np.searchsorted(keys, user * (items + 1) + rank, side="right") - positives.indptr[user]


def _to_csr(user, item, shape):
    matrix = sp.csr_matrix((np.ones(len(user), np.int8), (user, item)), shape)  # adds up what stands twice
    matrix.data[:] = 1  # whatever the sum, even one that ran over
    return matrix


def _union(matrix, other):
    both = matrix + other
    both.data[:] = 1
    return both


def _without(matrix, other):
    """The entries of matrix that other does not have."""
    rest = matrix - matrix.multiply(other)
    rest.eliminate_zeros()
    return sp.csr_matrix(rest)


def _verify_checksums(folder):
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    try:
        expected = dict(json.loads(manifest.read_text())["sha256"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{manifest} cannot be read ({error}); delete {folder} and run ./prep.sh again"
        ) from error
    for name, digest in expected.items():
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing; delete {folder} and run ./prep.sh again")
        if pooch.file_hash(folder / name) != digest:
            raise UserError(
                f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; "
                f"delete {folder} and run ./prep.sh again"
            )


def _read_slices(folder, part):
    """Generates (user, item, part), int32, int32 and int8, of the interactions that are not dropped."""
    path = folder / INTERACTIONS
    if not path.exists():
        raise UserError(f"there is no {path}; ./prep.sh makes it")
    try:
        with h5py.File(path, "r") as file:
            columns = {key: file[key] for key in ("user", "item")}
            lengths = {key: len(file[key]) for key in file}
            for key, column in columns.items():
                if column.ndim != 1 or column.dtype.kind not in "iu":
                    raise UserError(
                        f"{path}: '{key}' must be a list of whole numbers, not {column.ndim}-d {column.dtype}"
                    )
            if len(set(lengths.values())) > 1:
                raise UserError(f"{path}: the datasets differ in length: {lengths}")
            if len(part) != lengths["user"]:
                raise UserError(
                    f"{folder / INDEX} has {len(part):,} entries, {INTERACTIONS} has {lengths['user']:,}: "
                    "they do not belong together"
                )
            for start in range(0, len(part), INTERACTIONS_AT_ONCE):
                here = slice(start, start + INTERACTIONS_AT_ONCE)
                kept = part[here] != DROPPED
                yield (
                    *(_checked_ids(path, key, column[here])[kept] for key, column in columns.items()),
                    part[here][kept],
                )
    except (UserError, MemoryError):
        raise
    except Exception as error:  # h5py passes on whatever the library stumbled over
        raise UserError(f"{path} cannot be read, it is truncated or damaged: {_first_line(error)}") from error


def _checked_ids(path, key, ids):
    if len(ids) and (ids.min() < 0 or ids.max() >= 2**31):
        raise UserError(
            f"{path}: '{key}' has the id {ids.min() if ids.min() < 0 else ids.max()}; ids are from 0 to 2^31 - 1"
        )
    return ids.astype(np.int32)


def _read_index(path):
    if not path.exists():
        raise UserError(f"there is no {path}; ./prep.sh makes it")
    part = read_npz(path, "./prep.sh makes it anew once the folder is gone").get("data", np.empty((0, 0)))
    if (
        part.ndim != 1
        or part.dtype.kind not in "iu"
        or not np.isin(part, (DROPPED, TRAIN, VALIDATION, TEST)).all()
    ):
        raise UserError(
            f"{path}: 'data' must be a list of 0 (train), 1 (validation), 2 (test) and -1 (dropped)"
        )
    return part.astype(np.int8)


def _read_table(path):
    """users.csv or items.csv, indexed by the number that stands in the HDF5 file; None if not there."""
    if not path.exists():
        return None
    try:
        # As text: only `_column` knows whether all ids are numbers, and 007 is not one.
        table = pd.read_csv(path, keep_default_na=False, dtype=str).astype({"index": np.int64})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from error
    for column in ("index", "id"):
        if column in table and (twice := table[column].duplicated()).any():
            value = table[column][twice].iloc[0]
            raise UserError(f"{path} has the {column} {value} twice: remove or rename all but one")
    return table.set_index("index")


def _column(table, column, numbers):
    """The table's column for these numbers; without a table, the numbers themselves."""
    if table is None:
        return numbers
    try:
        values = table[column].loc[numbers]
        if column == "id" and values.str.fullmatch(WHOLE_NUMBER).all():
            return values.to_numpy(np.int64)
        return values.to_numpy(object).astype(str)  # objects would need pickles to be saved
    except KeyError as error:
        raise UserError(
            f"users.csv or items.csv does not name what {INTERACTIONS} holds: {_first_line(error)}"
        ) from error


def _first_line(error):
    return str(error).strip().split("\n")[0][:200]
