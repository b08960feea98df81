"""Recommends to real users, known or new, with the ∞-AE trained on a run's synthetic users alone.

    python recommend.py --run=results/<run> --user=1 --user=2,3         users of the data set, by its own ids
    python recommend.py --run=results/<run> --all --k=100 --out=top.parquet
    python recommend.py --run=results/<run> --items='1,50,"a, b"'       a new user, by the items they liked
    python recommend.py --run=results/<run> --history=new.csv           many new users: columns user and item
    python recommend.py --run=results/<run> --user=1 --explain          with the items that speak most for it

A list leaves out every item that the user has seen. A known user has seen the items of all their interactions
in the data set, validation and test included. A --history without the column user is that of one new user.
For use from Python see Recommender in runs/recommender.py.
"""

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import Parser, UserError, run_script
from lib.files import atomic
from runs.recommender import Recommender
from runs.synthetic_users import folder_of, load_dataset, open_distilled, warn_if_not_learnt

REASONS_NAMED = 3  # items of the history, in an explanation
MOST_NAMED = 20  # ids, in a warning
FORMATS = ("table", "csv", "jsonl", "parquet")
ENDINGS = {"": "table", ".txt": "table", ".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


class Users(NamedTuple):
    """The B users who get a list."""

    ids: list  # "" for the one user without an id
    histories: sp.csr_matrix  # (B, I)


def positions(ids, texts):
    """The place of each text in `ids` (numbers or text), an array; -1 for a text that is not among them."""
    return pd.Index(ids.astype(str)).get_indexer(pd.Index(texts, dtype=object))


def known_users(dataset, ids):
    """Users of the data set with all of their interactions.

    Args:
        dataset: data.Dataset.
        ids: a list of texts, or None for all users.
    """
    rows = np.arange(dataset.users)
    if ids is not None:
        rows = positions(dataset.user_ids, ids)
        unknown = [user for user, row in zip(ids, rows) if row < 0]
        warn(f"{dataset.name} has no user", unknown, "left out")
        rows = rows[rows >= 0]
    if not len(rows):
        raise UserError("there is nobody left to recommend to. Users are given by their ids in the data set")
    interactions = sum(part[rows] for part in (dataset.train, dataset.validation, dataset.test))
    return Users(dataset.user_ids[rows].tolist(), sp.csr_matrix(interactions))


def new_users(dataset, users, items):
    """Users who are not in the data set.

    Args:
        dataset: data.Dataset.
        users, items: lists of texts, one entry an interaction.
    """
    columns = positions(dataset.item_ids, items)
    is_known = columns >= 0
    unknown = [item for item, known in zip(items, is_known) if not known]
    warn(f"{dataset.name} has no item", list(dict.fromkeys(unknown)), "left out")
    ids = list(dict.fromkeys(user for user, known in zip(users, is_known) if known))
    lost = [user for user in dict.fromkeys(users) if user not in {"", *ids}]
    warn("nothing is left of the history of user", lost, "left out")
    if not ids:
        raise UserError("the history is empty. Items are given by their ids in the data set")
    rows = pd.Index(ids).get_indexer(pd.Index(users)[is_known])
    ones = np.ones(len(rows), np.int32)
    return Users(ids, sp.csr_matrix((ones, (rows, columns[is_known])), (len(ids), dataset.items)))


def warn(problem, ids, consequence):
    """Says on stderr which ids have a problem; nothing, if the list is empty."""
    if ids:
        more = f" and {len(ids) - MOST_NAMED:,} more" if len(ids) > MOST_NAMED else ""
        names = ", ".join(map(printable, ids[:MOST_NAMED]))
        print(f"recommend: {problem} {names}{more}: {consequence}", file=sys.stderr)


def read_history(path):
    """(users, items) of a CSV file: two lists of texts, an entry a row.

    Its columns are user and item, or item alone: then every user is "".
    """
    try:
        # The header is read as a row: else pandas renames columns, takes one for an index, or cuts long rows.
        table = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False
        )
    except (OSError, ValueError) as error:  # ValueError: pandas' parser, and text that is not UTF-8
        reason = str(error).strip().splitlines()[0].rpartition("C error: ")[2]
        raise UserError(f"--history={path} cannot be read: {reason}") from error
    table = table.apply(lambda column: column.str.strip())
    names = list(table.loc[0])
    if "item" not in names or len(set(names)) != len(names):
        raise UserError(
            f"--history={path} must begin with a line of column names, 'user,item' or 'item', "
            f"not '{','.join(names)}'"
        )
    table = table[1:].set_axis(names, axis=1)
    table = table[(table != "").any(axis=1)]  # without blank lines
    for name in ("user", "item"):
        if name in names:
            empty = table[name] == ""
            warn(f"--history={path} has no {name} in row", list(table.index[empty] + 1), "left out")
            table = table[~empty]
    return list(table["user"]) if "user" in table else [""] * len(table), list(table["item"])


def split_ids(text):
    """The ids in a text, with commas or line ends between; an id with a comma is quoted, as in CSV."""
    rows = csv.reader(io.StringIO(text, newline=None), skipinitialspace=True)
    return [field.strip() for row in rows for field in row if field.strip()]


def explain(recommender, users, columns):
    """The items of each user's history that add most to the list.

    Args:
        recommender: Recommender.
        users: Users.
        columns: the lists, (B, k) from Recommender.rank.

    Returns:
        For each user a list of (column, contribution), the largest first; empty for an empty list.
    """
    contributions, reasons = recommender.contributions(users.histories, columns), []
    for user in range(len(users.ids)):
        row = contributions[user]
        best = np.argsort(-row.data, kind="stable")[:REASONS_NAMED] if columns[user, 0] >= 0 else []
        reasons.append([(int(row.indices[place]), float(row.data[place])) for place in best])
    return reasons


def printable(text):
    """The text with a visible mark for every character that would steer a terminal, such as an escape."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def to_frame(users, columns, scores, dataset):
    """A DataFrame, a row a recommendation: user, rank, item, title (if the data set has titles), score."""
    user, place = np.nonzero(columns >= 0)
    column = columns[user, place]
    ids = pd.Series(users.ids, dtype=object if isinstance(users.ids[0], str) else None)
    titles = {} if dataset.titles is None else {"title": dataset.titles[column]}
    return pd.DataFrame(
        {
            "user": ids.to_numpy()[user],
            "rank": place + 1,
            "item": dataset.item_ids[column],
            **titles,
            "score": scores[user, place],
        }
    )


def to_text(users, columns, scores, dataset, reasons):
    """The lists as text for a terminal, each followed by its reasons."""
    title = lambda column: "" if dataset.titles is None else printable(dataset.titles[column])
    item_id = lambda column: printable(dataset.item_ids[column])
    item = lambda column: item_id(column) + (f": {title(column)}" if title(column).strip() else "")
    lines = []
    for user, name in enumerate(users.ids):
        lines.append("you" if name == "" else f"user {printable(name)}")
        listed = columns[user][columns[user] >= 0]
        width = max((len(item_id(column)) for column in listed), default=0)
        for rank, (column, score) in enumerate(zip(listed, scores[user]), 1):
            line = f"{rank:5d}  {score:8.4f}  {item_id(column):>{width}}  {title(column)}"
            lines.append(line.rstrip())
        total = scores[user][: len(listed)].sum()
        for column, contribution in reasons[user] if reasons else []:
            lines.append(f"       {contribution:+.3g} of {total:.3f} because of {item(column)}")
    return "".join(line + "\n" for line in lines)


def to_json_lines(users, columns, scores, dataset, reasons):
    """Lines of JSON, a user each: {"user", "items": [{"item", "title", "score"}]}.

    With reasons an object also has "because": [{"item", "title", "contribution"}].
    """

    def item(column):
        title = {} if dataset.titles is None else {"title": str(dataset.titles[column])}
        return {"item": dataset.item_ids[column].item(), **title}

    for user, name in enumerate(users.ids):
        pairs = zip(columns[user], scores[user])
        items = [{**item(column), "score": float(score)} for column, score in pairs if column >= 0]
        line = {"user": name, "items": items}
        if reasons:
            line["because"] = [{**item(column), "contribution": value} for column, value in reasons[user]]
        yield json.dumps(line, ensure_ascii=False) + "\n"


def write(file, kind, users, columns, scores, dataset, reasons):
    """Writes the lists to a binary file; kind is one of FORMATS."""
    if kind == "parquet":
        to_frame(users, columns, scores, dataset).to_parquet(file, index=False)
    elif kind == "csv":
        to_frame(users, columns, scores, dataset).to_csv(file, index=False)
    elif kind == "jsonl":
        file.writelines(line.encode() for line in to_json_lines(users, columns, scores, dataset, reasons))
    else:
        file.write(to_text(users, columns, scores, dataset, reasons).encode())


def parse(arguments):
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--run", required=True, help="a finished run of distill.py: its folder, or its name in results_dir")
    add("--user", action="append", help="ids of users of the data set, with commas between; may be repeated")
    add("--all", action="store_true", help="all users of the data set")
    add("--items", help="ids of the items that one new user has liked, with commas between")
    add("--history", help="a .csv of the items that new users have liked: columns user and item, or item")
    add("--k", type=int, default=10, help="the length of a list (default 10)")
    add("--explain", action="store_true", help="name the items of each history that add most to its list")
    add("--format", choices=FORMATS, help="default: by the ending of --out, or a table")
    add("--out", help="a file to write to: .csv, .jsonl, .parquet or .txt (a table); default: the terminal")
    add("--data_dir", "--data-dir", help="the folder of the data set, if it has moved since the run")
    options = parser.parse_args(arguments)
    out = options.out
    if sum((bool(options.user), options.all, options.items is not None, options.history is not None)) != 1:
        parser.error("give one of --user, --all, --items and --history")
    if options.k < 1:
        parser.error(f"--k must be at least 1, not {options.k}")
    if out is not None and not out.strip():
        parser.error("--out must name a file, and is empty")
    if out is not None and Path(out).is_dir():
        parser.error(f"--out must name a file, and {out} is a folder")
    ending = Path(out or "").suffix.lower()
    if options.format is None and ending not in ENDINGS:
        parser.error(f"--out={out} must end in .csv, .jsonl, .parquet or .txt, or --format must be given")
    options.format = options.format or ENDINGS[ending]
    if options.format == "parquet" and out is None:
        parser.error("--format=parquet needs --out=FILE")
    if options.explain and options.format in ("csv", "parquet"):
        parser.error(f"--explain has no column in {options.format}. Try --format=table or --format=jsonl")
    return options


def find_users(options, dataset):
    """The Users that the command line names."""
    if options.all:
        return known_users(dataset, None)
    if options.user:
        ids = [user for text in options.user for user in split_ids(text)]
        return known_users(dataset, list(dict.fromkeys(ids)))
    if options.history is not None:
        return new_users(dataset, *read_history(options.history))
    items = split_ids(options.items)
    return new_users(dataset, [""] * len(items), items)


def main(arguments):
    options = parse(arguments)
    run = open_distilled(folder_of(options.run))
    warn_if_not_learnt(run)
    dataset = load_dataset(run, options.data_dir)
    users = find_users(options, dataset)
    if options.k > dataset.items:
        fewer = f"{dataset.items:,} items, fewer than --k={options.k}"
        print(f"recommend: {dataset.name} has {fewer}: the lists are shorter", file=sys.stderr)
    recommender = Recommender(run)
    columns, scores = recommender.rank(users.histories, options.k)
    ended = columns[:, 0] < 0
    names = ["you" if user == "" else f"user {user}" for user, nothing in zip(users.ids, ended) if nothing]
    warn("every item has been seen by", names, "nothing is left to recommend")
    reasons = explain(recommender, users, columns) if options.explain else None
    content = users, columns, scores, dataset, reasons
    if options.out is None:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
            write(file, options.format, *content)
    else:
        with atomic(options.out) as file:
            write(file, options.format, *content)
        print(f"{options.out}: lists for {(~ended).sum():,} users")


if __name__ == "__main__":
    run_script(main)
