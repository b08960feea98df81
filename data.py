"""Prepared interactions: reads data/<name>/ and serves train, validation and test as sparse matrices.

A data set is two files in the layout of the paper's release, with one entry an interaction:

    total_data.hdf5   `user` and `item`, whole numbers; `rating` is not read: every interaction counts as 1
    index.npz         `data`: 0 train, 1 validation, 2 test, -1 dropped; of new users, 3 context

New users are those with context interactions: no model is trained on them. They are fed their context, and
asked for their validation or their test interactions; then nobody else is asked.

prep.sh adds `users.csv` and `items.csv`, the original ids and titles, and `manifest.json`, the checksums.
They are used if they exist. docs/data.md says where data sets come from.

U users, I items. Matrices are scipy CSR of int8, 0 or 1; no array here has U x I entries. Several
processes divide the users into shards of neighbours. A process's local users are its shard; they are
U_local, which is U if there is one process.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pooch
import scipy.sparse as sp
from typing_extensions import TypedDict

from hyper_params import name as file_name
from lib.checks import read_json
from lib.errors import UserError
from lib.files import check_regular, read_npz, refusal
from lib.random_streams import Stream, generator

INTERACTIONS, INDEX, MANIFEST = "total_data.hdf5", "index.npz", "manifest.json"
DROPPED, TRAIN, VALIDATION, TEST, CONTEXT = -1, 0, 1, 2, 3
WHOLE_NUMBER = r"0|-?[1-9]\d{0,17}"  # an id that survives being read as int64 and written again
NEGATIVES_PER_USER = 50  # for the AUC
INTERACTIONS_AT_ONCE, USERS_AT_ONCE = 8_000_000, 20_000  # bound the memory of one pass


class Manifest(TypedDict):
    """What data.load reads of a manifest."""

    sha256: dict[file_name, str]


class View(NamedTuple):
    """What one evaluation needs of V local users, in ascending order."""

    users: np.ndarray  # (V,): their rows in the matrices of the Dataset, or of its new users
    context: sp.csr_matrix  # (V, I): fed to the model, and left out of the ranking
    targets: sp.csr_matrix  # (V, I): to be ranked high
    negatives: np.ndarray  # (V, 50) int32: items in neither train nor targets; -1 if a user has none


@dataclass(frozen=True)
class Dataset:
    """The interactions of the local users, and what every process knows of all U users."""

    name: str
    train: sp.csr_matrix  # (U_local, I)
    validation: sp.csr_matrix  # (U_local, I)
    test: sp.csr_matrix  # (U_local, I)
    user_ids: np.ndarray  # (U_local,): the source's own ids, int64 or objects of text
    item_ids: np.ndarray  # (I,): likewise
    titles: np.ndarray | None  # (I,): objects of text; None if the source has no titles
    first_user: int  # the first local user's number among all U
    lengths: np.ndarray  # (3, U) int32: interactions of each user in train, validation, test
    frequency: np.ndarray  # (I,): train interactions of each item before any noise; weighs the metrics
    fingerprint: str  # hexadecimal; equal only for the same interactions in the same order
    gather: Callable  # (n, ...) array of this process -> the arrays of all processes, concatenated
    new_users: "Dataset | None" = None  # who is asked instead of these; their context is its train

    @property
    def asked(self):
        """The Dataset whose users are asked for their validation and test interactions."""
        return self.new_users or self

    @property
    def users(self):
        """U, the number of users of all processes."""
        return self.lengths.shape[1]

    @property
    def items(self):
        """I, the number of items."""
        return len(self.item_ids)

    def local_rows(self, users):
        """Which of the given users are local, and their rows in this process's matrices.

        Args:
            users: (n,) numbers among all U, ascending.

        Returns:
            (the slice of `users` that is local, the rows of those users).
        """
        start, stop = np.searchsorted(users, [self.first_user, self.first_user + self.train.shape[0]])
        return slice(start, stop), users[start:stop] - self.first_user

    def sample_users(self, count, seed, place=0):
        """(count,) numbers of random users, without replacement, in random order; fixed by seed and place."""
        position = (place,) if place else ()
        return generator(seed, Stream.START, *position).choice(self.users, count, replace=False)

    @property
    def all_user_ids(self):
        """The ids of the local users and, behind them, of the new ones."""
        return np.concatenate([self.user_ids, self.new_users.user_ids]) if self.new_users else self.user_ids

    def all_interactions(self, users):
        """Train, validation and test of users, added: CSR (n, I).

        Args:
            users: (n,) places in all_user_ids, in any order.
        """
        if not self.new_users:
            return sp.csr_matrix(self.train[users] + self.validation[users] + self.test[users])
        order = np.argsort(users, kind="stable")
        known, new = np.split(users[order], [np.searchsorted(users[order], len(self.user_ids))])
        of_new = self.new_users.all_interactions(new - len(self.user_ids))
        of_known = self.train[known] + self.validation[known] + self.test[known]
        return sp.vstack([of_known, of_new], "csr")[np.argsort(order)]

    def train_frequency(self):
        """(I,) train interactions of each item, noise included."""
        return self.gather(np.bincount(self.train.indices, minlength=self.items)[None]).sum(axis=0)

    def train_rows(self, users):
        """The train rows of any users, of every process, in the order given.

        Args:
            users: (n,) numbers among all U, in any order; the same in every process.

        Returns:
            CSR (n, I), the same in every process.
        """
        order = np.argsort(users)  # ascending: then the processes' rows follow each other
        local = self.train[self.local_rows(users[order])[1]]
        indices, lengths = self.gather(local.indices), self.gather(np.diff(local.indptr))
        ones, indptr = np.ones(len(indices), np.int8), np.append(0, np.cumsum(lengths))
        return sp.csr_matrix((ones, indices, indptr), (len(users), self.items))[np.argsort(order)]

    def validation_view(self, rng, count=-1):
        """The View with train rows as context and validation rows as targets.

        Args:
            rng: numpy Generator, for the users and the negatives.
            count: users to draw from those with targets, if more than `count` have any; -1: all U users.
        """
        if self.new_users:
            return self.new_users.validation_view(rng, count)
        users, with_targets = np.arange(self.users), np.flatnonzero(self.lengths[VALIDATION])
        if 0 < count < len(with_targets):
            users = np.sort(rng.choice(with_targets, count, replace=False))
        position, rows = self.local_rows(users)
        _skip_draws(rng, position.start * NEGATIVES_PER_USER)
        context, targets = self.train[rows], self.validation[rows]
        return View(rows, context, targets, sample_negatives(rng, _union(context, targets)))

    def test_view(self, rng):
        """The View of all users with train and validation rows as context and test rows as targets.

        Args:
            rng: numpy Generator, for the negatives.
        """
        if self.new_users:
            return self.new_users.test_view(rng)
        _skip_draws(rng, self.first_user * NEGATIVES_PER_USER)
        negatives = sample_negatives(rng, _union(self.train, self.test))
        rows, context = np.arange(self.train.shape[0]), _union(self.train, self.validation)
        return View(rows, context, self.test, negatives)


def load(name, data_dir, repeats="keep", process=0, processes=1, gather=lambda local: local):
    """The Dataset in the folder data_dir/name, read a slice of the files at a time.

    Users and items are renumbered from 0 in the order of their ids; those of dropped interactions alone
    are left out. A pair of user and item that occurs twice in one part counts once.

    Args:
        repeats: what to do with a target that also occurs in an earlier part (train, then validation).
            "keep" it: it is in the context, so no ranking can hit it; the paper counts so. Or "drop" it.
        process, processes: which shard of the users to load, and how many there are.
        gather: joins the arrays of several processes (devices.gather).

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    folder = Path(data_dir) / name
    if not folder.is_dir():
        present = sorted(path.parent.name for path in Path(data_dir).glob(f"*/{INTERACTIONS}"))
        raise UserError(
            f"there is no data set {folder}; {data_dir} has {', '.join(present) or 'none'}. "
            f"Run ./prep.sh {name}, or point --data_dir at the folder that holds it."
        )
    _verify_checksums(folder)
    index = _read_index(folder / INDEX)
    users, items, is_new, digests = _read_ids(folder, index)
    local = [_shard(np.flatnonzero(is_new == kind), process, processes) for kind in (False, True)]
    matrices = _read_rows(folder, index, users, items, local)
    frequency = gather(np.bincount(matrices[0][0].indices, minlength=len(items))[None]).sum(axis=0)
    user_ids, _ = _read_names(folder / "users.csv", users)
    item_ids, titles = _read_names(folder / "items.csv", items)
    names = "\0".join(map(str, [repeats, *user_ids, *item_ids]))
    fingerprint = hashlib.blake2b(names.encode(), digest_size=8)
    for digest in digests:
        fingerprint.update(digest)

    def dataset(kind, new_users=None):
        train, validation, test = matrices[kind]
        if repeats == "drop":
            validation = _without(validation, train)
            test = _without(_without(test, train), validation)
        lengths = np.stack([np.diff(matrix.indptr) for matrix in (train, validation, test)], axis=1)
        return Dataset(
            name=name,
            train=train,
            validation=validation,
            test=test,
            user_ids=user_ids[local[kind]],
            item_ids=item_ids,
            titles=titles,
            first_user=shard_offsets((is_new == kind).sum(), processes)[process],
            lengths=gather(lengths.astype(np.int32)).T,
            frequency=frequency,
            fingerprint=fingerprint.hexdigest(),
            gather=gather,
            new_users=new_users,
        )

    loaded = dataset(False, dataset(True) if is_new.any() else None)
    if not loaded.lengths[TRAIN].any():
        raise UserError(f"{folder / INDEX}: no interaction is marked as train (0)")
    return loaded


def add_noise(dataset, probability, seed):
    """The Dataset with some train interactions replaced by random items of the same users.

    Each train interaction is replaced with the given probability. The new item is drawn evenly from the
    items that the user has in no part, so the targets stay, and stay reachable. Two interactions that
    become the same item count once. The noise does not depend on the number of processes.

    Args:
        probability: from 0 to 1; 0 returns the Dataset itself.
    """
    if probability == 0:
        return dataset
    place_rng, item_rng = (generator(seed, stream) for stream in (Stream.NOISE_PLACES, Stream.NOISE_ITEMS))
    for rng in (place_rng, item_rng):
        _skip_draws(rng, dataset.lengths[TRAIN][: dataset.first_user].sum())
    train = dataset.train
    known = _union(_union(train, dataset.validation), dataset.test)
    user = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    unknown_count = dataset.items - np.diff(known.indptr)[user]
    replaced = (place_rng.random(train.nnz) < probability) & (unknown_count > 0)
    rank = (item_rng.random(train.nnz) * unknown_count).astype(np.int64)
    noisy = _to_csr(user, np.where(replaced, _nth_absent(known, user, rank), train.indices), train.shape)
    lengths = dataset.lengths.copy()
    lengths[TRAIN] = dataset.gather(np.diff(noisy.indptr))
    return dataclasses.replace(dataset, train=noisy, lengths=lengths)


def redraw(dataset, draw):
    """The Dataset with its train and validation interactions divided anew at random; its test stays as it is.

    Of each user's n interactions in both, a tenth goes to validation, at least one if n is 2 or more. Like
    the test, it then asks about users with few interactions, of whom a given validation may have none. The
    users of train are asked, whether or not there are new ones.

    Args:
        draw: a number from 0; each divides otherwise.
    """
    known = _union(dataset.train, dataset.validation)
    lengths = np.diff(known.indptr)
    rng = generator(0, Stream.REDRAW, draw)
    _skip_draws(rng, dataset.gather(lengths)[: dataset.first_user].sum())
    user, numbers = np.repeat(np.arange(len(lengths)), lengths), rng.random(known.nnz)
    order = np.lexsort((numbers, user))  # users stay together, their interactions in random order
    place = np.arange(known.nnz) - known.indptr[user]
    held_out = place < np.where(lengths > 1, np.maximum(1, lengths // 10), 0)[user]
    part = lambda chosen: _to_csr(user[chosen], known.indices[order][chosen], known.shape)
    train, validation = part(~held_out), part(held_out)
    divided = np.stack([np.diff(matrix.indptr) for matrix in (train, validation)], axis=1)
    of_all = np.stack([*dataset.gather(divided.astype(np.int32)).T, dataset.lengths[TEST]])
    redrawn = dataclasses.replace(dataset, train=train, validation=validation, lengths=of_all, new_users=None)
    return dataclasses.replace(redrawn, frequency=redrawn.train_frequency())


def item_weights(dataset, discount):
    """What the kernel multiplies each item by: (f_i / mean f)^-discount.

    f_i is 1 + the train interactions of item i, noise included.

    Returns:
        (I,) float32; None if the discount is 0.
    """
    if discount == 0:
        return None
    frequency = dataset.train_frequency() + 1
    return ((frequency / frequency.mean()) ** -discount).astype(np.float32)


def _shard(users, process, processes):
    """A process's part of the users."""
    first, last = shard_offsets(len(users), processes)[process : process + 2]
    return users[first:last]


def shard_offsets(users, processes):
    """(processes + 1,) the number of each process's first local user, and U at the end."""
    return np.arange(processes + 1) * users // processes


def sample_negatives(rng, positives, per_user=NEGATIVES_PER_USER):
    """Items drawn evenly, with replacement, from those that are not among a user's positives.

    Args:
        rng: numpy Generator.
        positives: CSR (n, I).

    Returns:
        (n, per_user) int32; -1 in the rows of users to whom every item is positive.
    """
    starts = range(0, positives.shape[0], USERS_AT_ONCE)
    blocks = [_sample_negatives(rng, positives[start : start + USERS_AT_ONCE], per_user) for start in starts]
    return np.concatenate(blocks) if blocks else np.empty((0, per_user), np.int32)


def _sample_negatives(rng, positives, per_user):
    users, items = positives.shape
    absent_count = items - np.diff(positives.indptr)[:, None]
    rank = (rng.random((users, per_user)) * absent_count).astype(np.int64)
    negatives = _nth_absent(positives, np.arange(users)[:, None], rank)
    return np.where(absent_count > 0, negatives, -1).astype(np.int32)


def _nth_absent(matrix, user, rank):
    """The rank-th item, from 0, that a user's row of the matrix lacks; user and rank broadcast.

    An item present in the row has (its index - its place in the row) absent items before it. The answer
    is rank + the number of present items with at most `rank` absent ones before them. One sorted list of
    (user, absent items before) finds that number for all users at once.
    """
    users, items = matrix.shape
    matrix.sort_indices()
    lengths = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    keys = np.repeat(np.arange(users), lengths) * (items + 1) + matrix.indices - place
    return rank + np.searchsorted(keys, user * (items + 1) + rank, side="right") - matrix.indptr[user]


def _skip_draws(rng, count):
    """Passes over the draws for earlier shards, so that results do not depend on the number of processes."""
    rng.bit_generator.advance(int(count))


def _to_csr(user, item, shape):
    matrix = sp.csr_matrix((np.ones(len(user), np.int8), (user, item)), shape)  # adds up repeated pairs
    matrix.data[:] = 1  # even where the sum has overflowed
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


# ---- Files ---------------------------------------------------------------------------------------------


def _verify_checksums(folder):
    manifest, repair = folder / MANIFEST, f"delete {folder} and run ./prep.sh again"
    for path in folder.iterdir():
        check_regular(path)
    if not manifest.exists():
        return
    for name, sha256 in read_json(manifest, Manifest, repair)["sha256"].items():
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing; {repair}")
        if pooch.file_hash(folder / name) != sha256 and _digest_of(folder / name) != sha256:
            raise UserError(f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; {repair}")


def names_digest(numbers, ids):
    """A hexadecimal digest of the columns index and id of users.csv or items.csv.

    Titles do not count, so that people may edit them.
    """
    content = "\n".join(f"{number} {one}" for number, one in zip(numbers, ids))
    return hashlib.sha256(content.encode()).hexdigest()


def _digest_of(path):
    """The digest of a file's ids; None if it has none."""
    try:
        table = pd.read_csv(path, usecols=["index", "id"], dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return None
    return names_digest(table["index"], table["id"])


def _read_index(path):
    """(N,) int8, the part of each interaction."""
    if not path.exists():
        raise UserError(f"{path} is missing. Run ./prep.sh to make it.")
    index = read_npz(path, f"delete {path.parent} and run ./prep.sh again").get("data", np.empty((0, 0)))
    parts = (DROPPED, TRAIN, VALIDATION, TEST, CONTEXT)
    if index.ndim != 1 or index.dtype.kind not in "iu" or not np.isin(index, parts).all():
        raise UserError(
            f"{path}: 'data' must be a list of 0 (train), 1 (validation), 2 (test), 3 (context of new users) "
            "and -1 (dropped)"
        )
    return index.astype(np.int8)


def _read_ids(folder, index):
    """The users and items of the interactions that are not dropped, and what identifies these interactions.

    Returns:
        (ascending user ids; ascending item ids; of each user, whether it is new; [digests of the columns
        user, item, part]).
    """
    users = items = new = known = asked = np.empty(0, np.int32)
    has_new = (index == CONTEXT).any()
    digests = [hashlib.blake2b() for _ in ("user", "item", "part")]
    for user, item, part in _read_slices(folder, index):
        users, items = np.union1d(users, pd.unique(user)), np.union1d(items, pd.unique(item))
        if has_new:
            new = np.union1d(new, pd.unique(user[part == CONTEXT]))
            known = np.union1d(known, pd.unique(user[part == TRAIN]))
            asked = np.union1d(asked, pd.unique(user[(part == VALIDATION) | (part == TEST)]))
        for digest, column in zip(digests, (user, item, part)):
            digest.update(column)
    if has_new and len(wrong := np.union1d(np.intersect1d(new, known), np.setdiff1d(asked, new))):
        raise UserError(
            f"{folder / INDEX}: users with context (3) are not trained on, and where there are any, they "
            f"alone are asked; the user {wrong[0]} has other interactions, too"
        )
    return users, items, np.isin(users, new), [digest.digest() for digest in digests]


def _read_rows(folder, index, users, items, groups):
    """Of each group of users [train or context, validation, test], each CSR (users of the group, I).

    Args:
        groups: arrays of places in `users`, ascending.
    """
    slices, wanted = [np.empty((3, 0), np.int8)], np.zeros(len(users), bool)
    wanted[np.concatenate(groups)] = True
    for user, item, part in _read_slices(folder, index):
        user = np.searchsorted(users, user)
        local = wanted[user]
        item = np.searchsorted(items, item[local])
        slices.append((user[local].astype(np.int32), item.astype(np.int32), part[local]))
    user, item, part = (np.concatenate(column) for column in zip(*slices))
    del slices
    part = np.where(part == CONTEXT, np.int8(TRAIN), part)
    matrices = []
    for group in groups:
        number = np.full(len(users), -1, np.int32)
        number[group] = np.arange(len(group))
        row, shape = number[user], (len(group), len(items))
        chosen = [(row >= 0) & (part == code) for code in (TRAIN, VALIDATION, TEST)]
        matrices.append([_to_csr(row[one], item[one], shape) for one in chosen])
    return matrices


def _read_slices(folder, index):
    """Generates (user, item, part), int32, int32 and int8, of the interactions that are not dropped."""
    path = folder / INTERACTIONS
    if not path.exists():
        raise UserError(f"{path} is missing. Run ./prep.sh to make it.")
    try:
        with h5py.File(path, "r") as file:
            columns = {key: file[key] for key in ("user", "item")}
            for key, column in columns.items():
                if column.ndim != 1 or column.dtype.kind not in "iu":
                    raise UserError(
                        f"{path}: '{key}' must be a list of whole numbers, not {column.ndim}-d {column.dtype}"
                    )
            lengths = {key: len(column) for key, column in columns.items()}
            if len(set(lengths.values())) > 1:
                raise UserError(f"{path}: the datasets differ in length: {lengths}")
            if len(index) != lengths["user"]:
                raise UserError(
                    f"{folder / INDEX} has {len(index):,} entries, {INTERACTIONS} has {lengths['user']:,}: "
                    "they do not belong together"
                )
            for start in range(0, len(index), INTERACTIONS_AT_ONCE):
                rows = slice(start, start + INTERACTIONS_AT_ONCE)
                kept = index[rows] != DROPPED
                user, item = (_checked_ids(path, key, columns[key][rows]) for key in ("user", "item"))
                yield user[kept], item[kept], index[rows][kept]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # h5py raises many kinds of exceptions for a damaged file
        if reason := refusal(error):
            raise UserError(f"{path} cannot be read: {reason}") from error
        raise UserError(f"{path} cannot be read, it is truncated or damaged: {_first_line(error)}") from error


def _checked_ids(path, key, ids):
    if len(ids) and (ids.min() < 0 or ids.max() >= 2**31):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise UserError(f"{path}: '{key}' has the id {wrong}; ids must be from 0 to 2^31 - 1")
    return ids.astype(np.int32)


def _read_names(path, ids):
    """The original ids and titles from users.csv or items.csv.

    Args:
        ids: (n,) as in the HDF5 file.

    Returns:
        (n,) original ids, int64 if all are whole numbers, else objects of text; (n,) titles, or None
        without a column of titles. Without the file: (ids, None).
    """
    if not path.exists():
        return ids, None
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)  # as numbers, 007 would become 7
        table = table.astype({"index": np.int64})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}") from error
    if "id" not in table:
        raise UserError(f"{path} has no column 'id'")
    for column in ("index", "id"):
        repeated = table[column].duplicated()
        if repeated.any():
            value = table[column][repeated].iloc[0]
            raise UserError(f"{path} has the {column} {value} twice: remove or rename all but one")
    table = table.set_index("index")
    missing = ids[~np.isin(ids, table.index)]
    if len(missing):
        raise UserError(f"{path} has no row with the index {missing[0]}, which stands in {INTERACTIONS}")
    table = table.loc[ids]
    whole = table.id.str.fullmatch(WHOLE_NUMBER).all()
    original = table.id.to_numpy(np.int64) if whole else _to_text(table.id)
    return original, _to_text(table.title) if "title" in table else None


def _to_text(column):
    return column.to_numpy(object)  # not as wide as the longest: one long id would cost its length for each


def _first_line(error):
    return str(error).strip().split("\n")[0][:200]
