"""Who gets a list, and of which items: the source's own ids become histories and a mask, for recommend.py."""

import csv
import io
import sys
from typing import NamedTuple, NotRequired

import numpy as np
import pandas as pd
import scipy.sparse as sp
from typing_extensions import TypedDict

from data import MANIFEST
from hyper_params import line
from lib.checks import read_json
from lib.errors import UserError, printable
from lib.files import read_text

MOST_NAMED = 20  # ids, in a warning
# What prep.sh keeps, by the keys of a data set's manifest.
FILTERS = {
    "min_rating": "interactions rated {} or more",
    "min_count": "interactions with a count of {} or more",
    "since": "interactions since {}",
    "until": "interactions until {}",
    "min_user_count": "users with at least {} interactions",
    "min_item_count": "items with at least {} interactions",
}

Filters = TypedDict("Filters", dict.fromkeys(FILTERS, NotRequired[line | float | None]))


class Users(NamedTuple):
    """The B users, or items, that get a list."""

    ids: list  # "" for the one user without an id
    histories: sp.csr_matrix  # (B, I); of an item: the item itself
    kind: str = "user"  # or "similar_to"

    def name(self, place):
        """What the list of a user or item is called: you, user 1, or similar to 1."""
        own_id = self.ids[place]
        return "you" if own_id == "" else f"{self.kind.replace('_', ' ')} {printable(own_id)}"


class Ids:
    """Finds the users and items of a data set by their own ids; names the unknown ones on stderr."""

    def __init__(self, dataset, folder):
        """
        Args:
            dataset: data.Dataset.
            folder: of the data set. Its manifest, if there is one, tells which ids were left out.
        """
        self.dataset = dataset
        path, repair = folder / MANIFEST, f"delete {folder} and run ./prep.sh again"
        manifest = read_json(path, Filters, repair) if path.exists() else {}
        # A count of 1 filters nothing.
        unset = lambda key: manifest.get(key) in (None, 1 if key.endswith("_count") else None)
        kept = [text.format(manifest[key]) for key, text in FILTERS.items() if not unset(key)]
        self._note = f" (prep.sh kept {', '.join(kept)})" if kept else ""

    def _places(self, kind, texts):
        """The place of each text among the ids of the kind, an array; -1 for an unknown one."""
        ids = self.dataset.all_user_ids if kind == "user" else self.dataset.item_ids
        places = pd.Index(ids.astype(str)).get_indexer(pd.Index(texts, dtype=object))
        unknown = dict.fromkeys(text for text, place in zip(texts, places) if place < 0)
        warn(f"{self.dataset.name} has no {kind}", list(unknown), f"left out{self._note}")
        return places

    def _known(self, kind, texts):
        places = self._places(kind, texts)
        places = places[places >= 0]
        if not len(places):
            raise UserError(f"no {kind} is left. Give {kind}s by their ids in the data set")
        return places

    def users(self, texts):
        """Users of the data set with all of their interactions; texts is None for all users."""
        ids = self.dataset.all_user_ids
        users = np.arange(len(ids)) if texts is None else self._known("user", texts)
        return Users(ids[users].tolist(), self.dataset.all_interactions(users))

    def items(self, texts):
        """Items of the data set, each with itself as its history."""
        columns = self._known("item", texts)
        items = sp.identity(self.dataset.items, np.int8, "csr")
        return Users(self.dataset.item_ids[columns].tolist(), items[columns], "similar_to")

    def new_users(self, users, items):
        """Users who are not in the data set; users and items are lists of texts, one entry an interaction."""
        columns = self._places("item", items)
        is_known = columns >= 0
        ids = list(dict.fromkeys(user for user, known in zip(users, is_known) if known))
        lost = [user for user in dict.fromkeys(users) if user not in {"", *ids}]
        warn("nothing is left of the history of user", lost, "left out")
        if not ids:
            raise UserError("the history is empty. Items are given by their ids in the data set")
        rows = pd.Index(ids).get_indexer(pd.Index(users)[is_known])
        ones = np.ones(len(rows), np.int32)
        shape = len(ids), self.dataset.items
        return Users(ids, sp.csr_matrix((ones, (rows, columns[is_known])), shape))

    def candidates(self, only, without):
        """The items that two files leave, boolean (I,); a file is one of ids, an id a line, or None."""
        candidates = np.ones(self.dataset.items, bool)
        for option, path in (("only", only), ("without", without)):
            if path is not None:
                columns = self._places("item", read_ids(option, path))
                named = np.isin(np.arange(self.dataset.items), columns)
                candidates &= named if option == "only" else ~named
        if not candidates.any():
            raise UserError("--only and --without leave no item to recommend")
        return candidates


def read_ids(option, path):
    """The ids in a file, one a line; UserError if there are none."""
    lines = read_text(path, f"--{option} needs the id of an item a line").split("\n")
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f"--{option}={path} is empty, and needs the id of an item a line")
    return ids


def split_ids(text):
    """The ids in a text, with commas or line ends between; an id with a comma is quoted, as in CSV."""
    rows = csv.reader(io.StringIO(text, newline=None), skipinitialspace=True)
    return [field.strip() for row in rows for field in row if field.strip()]


def warn(problem, ids, consequence):
    """Says on stderr which ids have a problem; nothing, if the list is empty."""
    if ids:
        more = f" and {len(ids) - MOST_NAMED:,} more" if len(ids) > MOST_NAMED else ""
        names = ", ".join(map(printable, ids[:MOST_NAMED]))
        print(f"recommend: {problem} {names}{more}: {consequence}", file=sys.stderr)
