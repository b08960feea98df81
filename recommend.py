"""Recommends to real users, known or new, with the ∞-AE trained on a run's synthetic users alone.

    python recommend.py --run=results/<run> --user=1 --user=2,3          users of the data set, by their own ids
    python recommend.py --run=results/<run> --all --k=100 --out=top.parquet
    python recommend.py --run=results/<run> --items='1,50,"one, with a comma"'   somebody new, by what they liked
    python recommend.py --run=results/<run> --history=new.csv            many new ones: columns user (or none, for one) and item
    python recommend.py --run=results/<run> --user=1 --explain           and the items of the history that speak for it most

A list leaves out what the user has seen: of a known user, all interactions in the data set, those that were kept
for validation and test among them. A user's scores are K(c, X) alpha, c their history; alpha is kept in alpha.npz in
the run's folder. From Python:

    recommender = Recommender.load("results/<run>")
    ids, scores = recommender.top_k(histories, 10)       # CSR (B, I) in; (B, 10) each out
"""

import csv
import io
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

import model
from eval import scores_of
from lib import devices
from lib.errors import Parser, UserError, run_script
from lib.files import atomic, keep_arrays
from runs.synthetic_users import folder_of, load_dataset, open_distilled, warn_if_not_learnt

MOST_AT_ONCE = 1024  # users of one call to the devices
SHORTEST_LIST = 128  # of what the devices rank, so that one program serves every shorter k
REASONS_NAMED = 3  # items of the history, in an explanation
FORMATS = ("table", "csv", "jsonl", "parquet")
ENDINGS = {"": "table", ".txt": "table", ".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


@partial(jax.jit, static_argnums=2)
def _top(scores, context, k):
    scores, columns = jax.lax.top_k(jnp.where(context > 0, -jnp.inf, scores), k)
    return scores, jnp.where(jnp.isfinite(scores), columns, -1)


@jax.jit
def _total(scores, columns):
    return jnp.where(columns >= 0, jnp.take_along_axis(scores, columns, axis=1), 0).sum(axis=1)


@partial(jax.jit, static_argnums=0)
def _solve(kernel, rows, lamda):
    return model.ridge(kernel(rows), rows, lamda)


class Recommender:
    """The ∞-AE trained on S synthetic users, ready to rank the I items of its data set."""

    def __init__(self, distilled):
        settings = distilled.settings
        devices.find()  # or says in one line that there is none
        self._float64 = settings["float64"]
        self.item_ids, self.rows = distilled.item_ids, distilled.rows
        self._kernel = model.make_kernel(settings["depth"], settings["normalize"], distilled.item_weights)
        with self._precision():
            self._rows = jnp.asarray(self.rows, float if self._float64 else np.float32)
            fits = lambda alpha: (
                alpha.shape == self._rows.shape
                and alpha.dtype == self._rows.dtype
                and np.isfinite(alpha).all()
            )
            kept = keep_arrays(
                distilled.folder / "alpha.npz",
                distilled.digest,
                lambda: {"alpha": np.asarray(_solve(self._kernel, self._rows, distilled.lamda))},
                lambda kept: "alpha" in kept and fits(kept["alpha"]),
            )
            self._alpha = jnp.asarray(kept["alpha"])
        if not np.isfinite(kept["alpha"]).all():
            raise UserError(
                f"the kernel of {distilled.folder}'s synthetic users is not positive definite at its lamda of {distilled.lamda:.3g} "
                f"in {self._rows.dtype}, though it was when it was made: the folder, or this machine's JAX, is not what it was"
            )
        self._scores = scores_of(self._kernel, self._rows, [self._alpha])

    @classmethod
    def load(cls, run):
        """Opens the folder of a finished run of distill.py; solves for alpha the first time, and compiles what ranks for one user.

        It calculates in the run's precision (float64), and leaves JAX's own alone.

        Raises:
            UserError: it is no such run, or is damaged.
        """
        recommender = cls(open_distilled(run))
        recommender.rank(sp.csr_matrix((1, len(recommender.item_ids))), 1)
        return recommender

    def rank(self, histories, k):
        """The k best items of every user that are not in their history.

        Args:
            histories: CSR (B, I), a column for each of item_ids; what is not 0 was liked.
            k: how many, at least 1.

        Returns:
            (columns (B, k') int32, scores (B, k') float), best first, equal ones by column; k' is the least of k and I.
            Users with fewer than k' items outside their history have columns of -1 and scores of -inf at the end.

        Raises:
            ValueError: k is less than 1, or the histories have another number of items.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        k = min(k, len(self.item_ids))
        length = min(max(1 << (k - 1).bit_length(), SHORTEST_LIST), len(self.item_ids))
        parts = [(np.empty((0, k), self._alpha.dtype), np.empty((0, k), np.int32))]
        with self._precision():
            for _, context, scores, users in self._batches(histories):
                parts.append([np.asarray(each)[:users, :k] for each in _top(scores(), context, length)])
        scores, columns = (np.concatenate(each) for each in zip(*parts))
        return columns, scores

    def top_k(self, histories, k):
        """As `rank`, in the items' own ids: masked arrays (ids, scores), (B, k') each, masked where a list has ended."""
        columns, scores = self.rank(histories, k)
        ended = columns < 0
        return np.ma.masked_array(self.item_ids[columns], ended), np.ma.masked_array(scores, ended)

    def contributions(self, histories, columns):
        """What each item of a history adds to the scores of a list, CSR (B, I) with the histories' entries.

        It is what the sum of the list's scores loses when that item alone is left out of the history; the list stays
        as it is. It may be negative. The contributions do not add up to the sum, since the items work together.

        Args:
            histories: CSR (B, I).
            columns: the lists, (B, k) from `rank`.
        """
        histories = sp.csr_matrix(histories != 0, dtype=np.int8)
        user, item = histories.nonzero()
        left = np.empty(len(user), self._alpha.dtype)
        # A row for every item of every history: as many at once as the devices take.
        for start in tqdm(
            range(0, len(user), MOST_AT_ONCE), desc="explaining", leave=False, disable=None, delay=2
        ):
            block = slice(start, start + MOST_AT_ONCE)
            rows = histories[user[block]]
            out = (np.ones(rows.shape[0], np.int8), (np.arange(rows.shape[0]), item[block]))
            left[block] = self._totals(rows - sp.csr_matrix(out, rows.shape), columns[user[block]])
        return sp.csr_matrix((self._totals(histories, columns)[user] - left, (user, item)), histories.shape)

    def _totals(self, histories, columns):
        """The sum of the scores of each list, (B,)."""
        parts = [np.empty(0, self._alpha.dtype)]
        with self._precision():
            for start, context, scores, users in self._batches(histories):
                lists = columns[start : start + users]
                lists = np.pad(lists, ((0, len(context) - users), (0, 0)), constant_values=-1)
                parts.append(np.asarray(_total(scores(), lists))[:users])
        return np.concatenate(parts)

    def _precision(self):
        """What all that JAX calculates here stands in, whatever the precision of the process."""
        return jax.enable_x64(self._float64)

    def _batches(self, histories):
        """(first user, their context (B', I) int8, a function that gives their scores, how many they are), users by users.

        B' is a power of two, so that few programs are compiled for any number of users.
        """
        if histories.shape[1] != len(self.item_ids):
            raise ValueError(
                f"histories have {histories.shape[1]} columns, and the run has {len(self.item_ids)} items"
            )
        for start in range(0, histories.shape[0], MOST_AT_ONCE):
            rows = histories[start : start + MOST_AT_ONCE]
            context = np.zeros((1 << (rows.shape[0] - 1).bit_length(), rows.shape[1]), np.int8)
            context[: rows.shape[0]] = rows.toarray() != 0
            yield start, context, lambda context=context: next(self._scores(None, context)), rows.shape[0]


class Asked(NamedTuple):
    """Who is to get a list: B users."""

    names: list  # their ids; "" for the one of --items
    histories: sp.csr_matrix  # (B, I)


def positions(ids, wanted):
    """Where each id of `wanted` (texts) stands in `ids` (numbers or text); -1 for those that are not there."""
    return pd.Index(ids.astype(str)).get_indexer(pd.Index(wanted, dtype=object))


def known_users(dataset, wanted):
    """Asked of users of the data set, with all their interactions as history; wanted: texts, or None for all."""
    numbers = np.arange(dataset.users)
    if wanted is not None:
        numbers = positions(dataset.user_ids, wanted)
        complain(
            f"{dataset.name} has no user",
            [name for name, number in zip(wanted, numbers) if number < 0],
            "left out",
        )
        numbers = numbers[numbers >= 0]
    if not len(numbers):
        raise UserError("there is nobody left to recommend to")
    return Asked(
        dataset.user_ids[numbers].tolist(),
        sp.csr_matrix(sum(part[numbers] for part in (dataset.train, dataset.validation, dataset.test))),
    )


def new_users(dataset, users, items):
    """Asked of somebody new: two lists of texts, an entry an interaction."""
    columns = positions(dataset.item_ids, items)
    complain(
        f"{dataset.name} has no item",
        list(dict.fromkeys(item for item, column in zip(items, columns) if column < 0)),
        "left out",
    )
    names = list(dict.fromkeys(user for user, column in zip(users, columns) if column >= 0))
    kept = {"", *names}
    complain(
        "nothing is left of the history of user",
        [name for name in dict.fromkeys(users) if name not in kept],
        "left out",
    )
    if not names:
        raise UserError(
            "the history is empty: there is nothing to recommend by; items are given by their ids in the data set"
        )
    here = columns >= 0
    rows = pd.Index(names).get_indexer(pd.Index(users)[here])
    return Asked(
        names,
        sp.csr_matrix((np.ones(len(rows), np.int32), (rows, columns[here])), (len(names), dataset.items)),
    )


def complain(what, ids, end):
    """Says of some ids what is the matter with them, on stderr, and lets the rest go on."""
    if ids:
        more = f" and {len(ids) - 20:,} more" if len(ids) > 20 else ""
        print(f"recommend: {what} {', '.join(map(show, ids[:20]))}{more}: {end}", file=sys.stderr)


def read_history(path):
    """(users, items), lists of texts, of a .csv with the columns user and item, or item alone."""
    try:
        # The header is read as a row, so that pandas counts every line's fields by it, and renames and takes nothing for an index.
        table = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False
        )
    except (OSError, ValueError) as error:  # ValueError: of pandas' parser, and of text that is not UTF-8
        raise UserError(
            f"--history={path} cannot be read: {str(error).strip().splitlines()[0].rpartition('C error: ')[2]}"
        ) from error
    table = table.apply(lambda column: column.str.strip())
    names = list(table.loc[0])
    if "item" not in names or len(set(names)) != len(names):
        raise UserError(
            f"--history={path} must begin with a line of names, 'user,item' or 'item', not '{','.join(names)}'"
        )
    table = table[1:].set_axis(names, axis=1)[lambda table: (table != "").any(axis=1)]  # no blank lines
    for name in [name for name in ("user", "item") if name in names]:
        complain(
            f"--history={path} has no {name} in row", list(table.index[table[name] == ""] + 1), "left out"
        )
        table = table[table[name] != ""]
    return list(table["user"]) if "user" in table else [""] * len(table), list(table["item"])


def split_ids(text):
    """The ids of a list with commas or ends of lines between; one that holds a comma stands in double quotes, as in CSV."""
    return [
        each.strip()
        for line in csv.reader(io.StringIO(text, newline=None), skipinitialspace=True)
        for each in line
        if each.strip()
    ]


def explain(recommender, asked, columns):
    """For each user the items of the history that weigh most in the list: lists of (column, contribution).

    The list of a user to whom nothing is recommended is empty.
    """
    contributions, reasons = recommender.contributions(asked.histories, columns), []
    for user in range(len(asked.names)):
        given = contributions[user]
        best = np.argsort(-given.data, kind="stable")[:REASONS_NAMED] if columns[user, 0] >= 0 else []
        reasons.append([(int(given.indices[place]), float(given.data[place])) for place in best])
    return reasons


def show(text):
    """The text for a terminal: what would steer it, such as an escape or the end of a line, becomes a visible mark."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(text))


def to_frame(asked, columns, scores, dataset):
    """A row a recommendation: user, rank, item, title (where there are any), score."""
    user, place = np.nonzero(columns >= 0)
    column = columns[user, place]
    names = pd.Series(asked.names, dtype=object if isinstance(asked.names[0], str) else None)
    titles = {} if dataset.titles is None else {"title": dataset.titles[column]}
    return pd.DataFrame(
        {
            "user": names.to_numpy()[user],
            "rank": place + 1,
            "item": dataset.item_ids[column],
            **titles,
            "score": scores[user, place],
        }
    )


def to_text(asked, columns, scores, dataset, reasons):
    """The lists for people, each followed by its explanation."""
    lines, title = [], lambda column: "" if dataset.titles is None else show(dataset.titles[column])
    item = lambda column: show(dataset.item_ids[column]) + f": {title(column)}" * bool(title(column).strip())
    for place, name in enumerate(asked.names):
        lines.append(f"user {show(name)}" if name != "" else "you")
        found = columns[place][columns[place] >= 0]
        width = max((len(show(dataset.item_ids[column])) for column in found), default=0)
        lines += [
            f"{rank:5d}  {score:8.4f}  {show(dataset.item_ids[column]):>{width}}  {title(column)}".rstrip()
            for rank, (column, score) in enumerate(zip(found, scores[place]), 1)
        ]
        lines += [
            f"       {given:+.3g} of {scores[place][: len(found)].sum():.3f} because of {item(column)}"
            for column, given in (reasons[place] if reasons else [])
        ]
    return "".join(line + "\n" for line in lines)


def to_json_lines(asked, columns, scores, dataset, reasons):
    """An object a user: user, items (item, title, score), with reasons because (item, title, contribution)."""

    def item(column):
        return {
            "item": dataset.item_ids[column].item(),
            **({} if dataset.titles is None else {"title": str(dataset.titles[column])}),
        }

    for place, name in enumerate(asked.names):
        line = {
            "user": name,
            "items": [
                {**item(column), "score": float(score)}
                for column, score in zip(columns[place], scores[place])
                if column >= 0
            ],
        }
        if reasons:
            line["because"] = [{**item(column), "contribution": given} for column, given in reasons[place]]
        yield json.dumps(line, ensure_ascii=False) + "\n"


def write(file, kind, asked, columns, scores, dataset, reasons):
    """Writes the lists to a binary file as one of FORMATS."""
    if kind == "parquet":
        to_frame(asked, columns, scores, dataset).to_parquet(file, index=False)
    elif kind == "csv":
        to_frame(asked, columns, scores, dataset).to_csv(file, index=False)
    elif kind == "jsonl":
        file.writelines(line.encode() for line in to_json_lines(asked, columns, scores, dataset, reasons))
    else:
        file.write(to_text(asked, columns, scores, dataset, reasons).encode())


def parse(arguments):
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--run", required=True, help="a finished run of distill.py: its folder, or its name in results_dir")
    add(
        "--user", action="append", help="ids of the data set's users, with commas between; may be given again"
    )
    add("--all", action="store_true", help="all users of the data set")
    add("--items", help="ids of the items that somebody new has liked, with commas between")
    add(
        "--history", help="a .csv of what people who are new have liked: columns user and item, or item alone"
    )
    add("--k", type=int, default=10, help="the length of a list (default 10)")
    add("--explain", action="store_true", help="name the items of each history that weigh most for its list")
    add("--format", choices=FORMATS, help="default: as --out ends, or a table")
    add(
        "--out",
        help="a file to write to, instead of the terminal; it ends in .csv, .jsonl, .parquet or .txt, a table, or --format says what it is",
    )
    add("--data_dir", "--data-dir", help="where the data set lies now, if not where the run found it")
    given = parser.parse_args(arguments)
    if sum((bool(given.user), given.all, given.items is not None, given.history is not None)) != 1:
        parser.error("say for whom: one of --user, --all, --items and --history")
    if given.k < 1:
        parser.error(f"--k must be at least 1, not {given.k}")
    if given.out is not None and (not given.out.strip() or Path(given.out).is_dir()):
        parser.error(
            f"--out must name a file, and '{given.out}' is {'a folder' if given.out.strip() else 'no name'}"
        )
    ending = Path(given.out or "").suffix.lower()
    if given.format is None and ending not in ENDINGS:
        parser.error(
            f"--out={given.out} ends in neither .csv, .jsonl, .parquet nor .txt, a table: then --format must say what to write"
        )
    given.format = given.format or ENDINGS[ending]
    if given.format == "parquet" and given.out is None:
        parser.error("--format=parquet needs --out=FILE")
    if given.explain and given.format in ("csv", "parquet"):
        parser.error(f"--explain has no place in {given.format}: --format=table or jsonl")
    return given


def main(arguments):
    given = parse(arguments)
    distilled = open_distilled(folder_of(given.run))
    warn_if_not_learnt(distilled)
    dataset = load_dataset(distilled, given.data_dir)
    if given.user or given.all:
        asked = known_users(
            dataset,
            None
            if given.all
            else list(dict.fromkeys(each for text in given.user for each in split_ids(text))),
        )
    elif given.items is not None:
        items = split_ids(given.items)
        asked = new_users(dataset, [""] * len(items), items)
    else:
        asked = new_users(dataset, *read_history(given.history))
    if given.k > dataset.items:
        print(
            f"recommend: {dataset.name} has {dataset.items:,} items, fewer than --k={given.k}: the lists hold what there is",
            file=sys.stderr,
        )
    recommender = Recommender(distilled)
    columns, scores = recommender.rank(asked.histories, given.k)
    complain(
        "every item has been seen by",
        [
            f"user {name}" if name != "" else "you"
            for name, column in zip(asked.names, columns[:, 0])
            if column < 0
        ],
        "nothing is left to recommend",
    )
    reasons = explain(recommender, asked, columns) if given.explain else None
    content = asked, columns, scores, dataset, reasons
    if given.out is None:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
            write(file, given.format, *content)
    else:
        with atomic(given.out) as file:
            write(file, given.format, *content)
        print(f"{given.out}: lists for {(columns[:, 0] >= 0).sum():,} users")


if __name__ == "__main__":
    run_script(main)
