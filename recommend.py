"""Recommends to real users, known or new, with the ∞-AE trained on a run's synthetic users alone.

    python recommend.py --run=results/<run> --user=1 --user=2,3         users of the data set, by its own ids
    python recommend.py --run=results/<run> --all --k=100 --out=top.parquet
    python recommend.py --run=results/<run> --items='1,50,"a, b"'       a new user, by the items they liked
    python recommend.py --run=results/<run> --history=new.csv           many new users, in a file for prep.sh
    python recommend.py --run=results/<run> --user=1 --explain          with the items that speak most for it
    python recommend.py --run=results/<run> --similar-to=1,50           the items most similar to an item

A list leaves out every item that the user has seen, unless --include-seen is given. A known user has seen the
items of all their interactions in the data set, validation and test included. A --history without a column
of users is that of one new user. --only and --without name files with the id of an item a line.

Two items are similar whose weights go together from synthetic user to synthetic user: the score is their
correlation. Files of similar items have the column, or key, similar_to in the place of user. For use from
Python see Recommender in runs/recommender.py.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from lib.errors import Parser, UserError, printable, run_script
from lib.files import atomic, write_parquet
from prep.own_file import read
from runs.histories import Ids, split_ids, warn
from runs.recommender import Recommender
from runs.synthetic_users import folder_of, load_dataset, open_distilled, warn_if_not_learnt

FORMATS = ("table", "csv", "jsonl", "parquet")
ENDINGS = {"": "table", ".txt": "table", ".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


def read_history(path):
    """(users, items) of a file that prep.sh can read: two lists of texts, an entry a row.

    A file without a column of users has the history of one user, whose id is "".
    """
    try:
        with tempfile.TemporaryDirectory() as scratch:
            reading = read(path, Path(scratch), needed=("item",))
    except UserError as error:  # its advice may be on options of prep.sh
        reason = str(error).partition(". ")[0]
        raise UserError(f"--history={path} cannot be read: {reason}. Make columns user and item") from error
    if reading.bad:
        faults = "; ".join(f"{file}, line {line}: {fault}" for file, line, fault in reading.examples)
        print(f"recommend: {reading.bad:,} rows of {path} are left out ({faults})", file=sys.stderr)
    table = reading.interactions
    liked = table.rating > 0 if (table.rating > 0).any() else np.ones(len(table.rating), bool)
    columns = (table.user_ids, table.user), (table.item_ids, table.item)
    return tuple(ids.astype(str)[codes[liked]].tolist() for ids, codes in columns)


def to_frame(users, columns, scores, dataset):
    """A DataFrame, a row a recommendation: user, rank, item, title (if the data set has titles), score.

    For similar items the first column is similar_to.
    """
    user, place = np.nonzero(columns >= 0)
    column = columns[user, place]
    ids = pd.Series(users.ids, dtype=object if isinstance(users.ids[0], str) else None)
    titles = {} if dataset.titles is None else {"title": dataset.titles[column]}
    return pd.DataFrame(
        {
            users.kind: ids.to_numpy()[user],
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
    for user in range(len(users.ids)):
        alike = users.kind == "similar_to"
        lines.append(f"similar to {item(users.histories.indices[user])}" if alike else users.name(user))
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

    For similar items the first key is similar_to. With reasons an object also has
    "because": [{"item", "title", "contribution"}].
    """

    item_ids = dataset.item_ids.tolist()

    def item(column):
        title = {} if dataset.titles is None else {"title": str(dataset.titles[column])}
        return {"item": item_ids[column], **title}

    for user, name in enumerate(users.ids):
        pairs = zip(columns[user], scores[user])
        items = [{**item(column), "score": float(score)} for column, score in pairs if column >= 0]
        line = {users.kind: name, "items": items}
        if reasons:
            line["because"] = [{**item(column), "contribution": value} for column, value in reasons[user]]
        yield json.dumps(line, ensure_ascii=False) + "\n"


def write(file, kind, users, columns, scores, dataset, reasons):
    """Writes the lists to a binary file; kind is one of FORMATS."""
    if kind == "parquet":
        write_parquet(file, to_frame(users, columns, scores, dataset))
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
    add(
        "--history",
        help="a file of the items that new users have liked, as prep.sh reads: users and items, or items",
    )
    add("--similar-to", "--similar_to", action="append", help="ids of items; otherwise like --user")
    add("--only", help="a file of the items that may be recommended: an id a line")
    add("--without", help="a file of items that may not be recommended: an id a line")
    add("--include-seen", "--include_seen", action="store_true", help="lists may hold items of the history")
    add("--k", type=int, default=10, help="the length of a list (default 10)")
    add("--explain", action="store_true", help="name the items of each history that add most to its list")
    add("--format", choices=FORMATS, help="default: by the ending of --out, or a table")
    add("--out", help="a file to write to: .csv, .jsonl, .parquet or .txt (a table); default: the terminal")
    add("--data_dir", "--data-dir", help="the folder of the data set, if it has moved since the run")
    options = parser.parse_args(arguments)
    out = options.out
    asked = options.user, options.all or None, options.items, options.history, options.similar_to
    if len(asked) - asked.count(None) != 1:
        parser.error("give one of --user, --all, --items, --history and --similar-to")
    if options.similar_to and (options.include_seen or options.explain):
        option = "--include-seen" if options.include_seen else "--explain"
        parser.error(f"{option} is about a user's history, and --similar-to has none")
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


def find_users(options, ids):
    """The Users that the command line names; ids is histories.Ids."""
    if options.all:
        return ids.users(None)
    if texts := options.user or options.similar_to:
        named = list(dict.fromkeys(name for text in texts for name in split_ids(text)))
        return ids.users(named) if options.user else ids.items(named)
    if options.history is not None:
        return ids.new_users(*read_history(options.history))
    items = split_ids(options.items)
    return ids.new_users([""] * len(items), items)


def main(arguments):
    options = parse(arguments)
    run = open_distilled(folder_of(options.run))._replace(logits=None)  # as large as the rows
    warn_if_not_learnt(run)
    dataset = load_dataset(run, options.data_dir)
    ids = Ids(dataset, Path(options.data_dir or run.settings["data_dir"]) / dataset.name)
    candidates = ids.candidates(options.only, options.without)
    users = find_users(options, ids)
    recommender = Recommender(run)
    del run  # the recommender has its own copy of the rows
    if options.similar_to:
        columns, scores = recommender.similar(users.histories.indices, options.k, candidates)
    else:
        columns, scores = recommender.rank(users.histories, options.k, candidates, options.include_seen)
    lengths = (columns >= 0).sum(axis=1)
    ended = np.flatnonzero(lengths == 0)
    warn("no item is left for", [users.name(place) for place in ended], "the list is empty")
    if len(short := lengths[(lengths > 0) & (lengths < options.k)]):
        print(
            f"recommend: too few items are left: {len(short):,} of {len(lengths):,} lists are shorter than "
            f"--k={options.k}, the shortest has {short.min():,}",
            file=sys.stderr,
        )
    reasons = recommender.reasons(users.histories, columns) if options.explain else None
    content = users, columns, scores, dataset, reasons
    if options.out is None:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
            write(file, options.format, *content)
    else:
        with atomic(options.out) as file:
            write(file, options.format, *content)
        kind = "items" if options.similar_to else "users"
        print(f"{options.out}: lists for {len(lengths) - len(ended):,} {kind}")


if __name__ == "__main__":
    run_script(main)
