"""Interaction data: reads data/<name>/ and serves train, validation and test as sparse matrices.

A data set is two files in the layout of the paper's release: `total_data.hdf5` with the datasets
`user`, `item` (and `rating`, which is not used: everything that was rated counts as 1), one entry an
interaction, and `index.npz` with the array `data`: 0 train, 1 validation, 2 test, -1 dropped.
What prep.sh adds is used where it is there: `users.csv` and `items.csv` (original ids, titles) and
`manifest.json`, whose checksums tell a damaged file from a sound one.

U users, I items, P the most targets any user has; matrices are scipy CSR, (U, I), int8, 0 or 1.
"""
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pooch
import scipy.sparse as sp

from runs import read_npz
from settings import UserError

INTERACTIONS, INDEX, MANIFEST = "total_data.hdf5", "index.npz", "manifest.json"
DROPPED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
NEGATIVES_PER_USER = 50  # for the AUC


class View(NamedTuple):
    """One evaluation: what is known of each user, what is to be found, what it is told apart from."""
    context: sp.csr_matrix   # (U, I): fed to the model and left out of the ranking
    targets: sp.csr_matrix   # (U, I): disjoint from the context
    negatives: np.ndarray    # (U, 50) int32: items in neither train nor targets; -1 where there are none


@dataclass(frozen=True)
class Dataset:
    name: str
    train: sp.csr_matrix       # (U, I)
    validation: sp.csr_matrix  # (U, I), disjoint from train
    test: sp.csr_matrix        # (U, I), disjoint from train and validation
    user_ids: np.ndarray       # (U,) the source's own ids, numbers or text
    item_ids: np.ndarray       # (I,)
    titles: np.ndarray | None  # (I,) text, where the source has it

    @cached_property
    def fingerprint(self):
        """Hexadecimal digest of the matrices and ids: the same only for the same interactions."""
        digest = hashlib.blake2b(digest_size=8)
        for matrix in (self.train, self.validation, self.test):
            digest.update(np.asarray(matrix.shape, np.int64))
            digest.update(matrix.indptr.astype(np.int64))
            digest.update(matrix.indices.astype(np.int32))
        digest.update("\0".join(map(str, [*self.user_ids, *self.item_ids])).encode())
        return digest.hexdigest()

    def validation_view(self, rng):
        """Train rows as context, validation rows as targets; rng draws the negatives."""
        return View(self.train, self.validation, sample_negatives(rng, self.train + self.validation))

    def test_view(self, rng):
        """Train and validation rows as context, test rows as targets; rng draws the negatives."""
        return View(self.train + self.validation, self.test, sample_negatives(rng, self.train + self.test))


def load(name, data_dir):
    """Reads data_dir/name into a Dataset.

    Items and users are renumbered from 0 after dropping, in the order of their ids. A pair that
    stands twice counts once: in train if it ever is there, else in validation, else in test.

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    folder = Path(data_dir) / name
    if not folder.is_dir():
        raise UserError(f"there is no data set {folder}; ./prep.sh {name} makes it, --data_dir looks elsewhere")
    _verify_checksums(folder)
    user, item = _read_interactions(folder / INTERACTIONS)
    part = _read_index(folder / INDEX)
    if len(part) != len(user):
        raise UserError(f"{folder / INDEX} has {len(part):,} entries, {INTERACTIONS} has {len(user):,}: "
                        "they do not belong together")
    kept = part != DROPPED
    user, user_ids = pd.factorize(user[kept], sort=True)
    item, item_ids = pd.factorize(item[kept], sort=True)
    part = part[kept]
    shape = len(user_ids), len(item_ids)
    train, validation, test = (_to_csr(user[part == each], item[part == each], shape)
                               for each in (TRAIN, VALIDATION, TEST))
    if train.nnz == 0:
        raise UserError(f"{folder}: no interaction is marked as train (0) in {INDEX}")
    validation = _without(validation, train)
    test = _without(_without(test, train), validation)
    user_table, item_table = _read_table(folder / "users.csv"), _read_table(folder / "items.csv")
    titles = _column(item_table, "title", item_ids) if item_table is not None and "title" in item_table else None
    return Dataset(name, train, validation, test, _column(user_table, "id", user_ids),
                   _column(item_table, "id", item_ids), titles)


def sample_negatives(rng, positives, per_user=NEGATIVES_PER_USER):
    """Items drawn evenly, with replacement, from those that are not a user's positives; (U, per_user).

    Args:
        rng: a numpy Generator.
        positives: CSR (U, I), what must not be drawn.

    Returns:
        int32; -1 in the rows of users to whom every item is positive.
    """
    users, items = positives.shape
    positives = positives.sorted_indices()
    count = np.diff(positives.indptr)
    free = items - count
    drawn = (rng.random((users, per_user)) * free[:, None]).astype(np.int64)
    # The r-th item that is not positive lies behind as many positives as have at most r free items
    # before them. One sorted list of (user, free items before) answers that for every user at once.
    place = np.arange(positives.nnz) - np.repeat(positives.indptr[:-1], count)
    before = positives.indices - place
    keys = np.repeat(np.arange(users), count) * (items + 1) + before
    wanted = np.arange(users)[:, None] * (items + 1) + drawn
    passed = np.searchsorted(keys, wanted, side="right") - positives.indptr[:-1, None]
    return np.where(free[:, None] > 0, drawn + passed, -1).astype(np.int32)


def sample_users(rng, matrix, count):
    """A CSR matrix (count, I) of rows drawn without replacement, in random order."""
    return matrix[rng.choice(matrix.shape[0], count, replace=False)]


def _to_csr(user, item, shape):
    matrix = sp.csr_matrix((np.ones(len(user), np.int64), (user, item)), shape)
    matrix.sum_duplicates()
    return sp.csr_matrix((np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), shape)


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
        raise UserError(f"{manifest} cannot be read ({error}); delete {folder} and run ./prep.sh again") from error
    for name, digest in expected.items():
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing; delete {folder} and run ./prep.sh again")
        if pooch.file_hash(folder / name) != digest:
            raise UserError(f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; "
                            f"delete {folder} and run ./prep.sh again")


def _read_interactions(path):
    if not path.exists():
        raise UserError(f"there is no {path}; ./prep.sh makes it")
    try:
        with h5py.File(path, "r") as file:
            columns = {key: file[key][:] for key in ("user", "item")}
            lengths = {key: len(file[key]) for key in file}
    except Exception as error:  # h5py passes on whatever the library stumbled over
        raise UserError(f"{path} cannot be read, it is truncated or damaged: {_first_line(error)}") from error
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: the datasets differ in length: {lengths}")
    for key, ids in columns.items():
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise UserError(f"{path}: '{key}' must be a list of whole numbers, not {ids.ndim}-d {ids.dtype}")
        if len(ids) and (ids.min() < 0 or ids.max() >= 2 ** 31):
            raise UserError(f"{path}: '{key}' has the id {ids.min() if ids.min() < 0 else ids.max()}; "
                            "ids are from 0 to 2^31 - 1")
    return columns["user"], columns["item"]


def _read_index(path):
    if not path.exists():
        raise UserError(f"there is no {path}; ./prep.sh makes it")
    part = read_npz(path, "./prep.sh makes it anew once the folder is gone").get("data", np.empty((0, 0)))
    if part.ndim != 1 or part.dtype.kind not in "iu" or not np.isin(part, (DROPPED, TRAIN, VALIDATION, TEST)).all():
        raise UserError(f"{path}: 'data' must be a list of 0 (train), 1 (validation), 2 (test) and -1 (dropped)")
    return part


def _read_table(path):
    """users.csv or items.csv, indexed by the number that stands in the HDF5 file; None if not there."""
    if not path.exists():
        return None
    try:
        return pd.read_csv(path, index_col="index", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from error


def _column(table, column, numbers):
    """The table's column for these numbers; without a table, the numbers themselves."""
    if table is None:
        return numbers
    try:
        values = table[column].loc[numbers].to_numpy()
        return values.astype(str) if values.dtype == object else values  # objects would need pickles to be saved
    except KeyError as error:
        raise UserError(f"users.csv or items.csv does not name what {INTERACTIONS} holds: {_first_line(error)}") from error


def _first_line(error):
    return str(error).strip().split("\n")[0][:200]
