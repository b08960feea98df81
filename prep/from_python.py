"""Interactions from Python: `load` reads any file as prep.sh does; `save` splits and writes a data set."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import UserError
from lib.files import lock, new_folder
from prep.filters import Filters, filter_interactions, moments
from prep.options import SPLITS
from prep.own_file import OPTIONS, read_own
from prep.preprocess import check_bad_rows
from prep.splits import EVERY_USER, RANDOM, TIMED, divide
from prep.tables import Interactions, encode, titles_of
from prep.write import write_dataset


def load(path, max_bad_share=0.01, **options):
    """The interactions in a file, folder or archive, as ./prep.sh --file=PATH reads and filters them.

    Args:
        path: text or Path.
        max_bad_share: the share of rows that may be unusable.
        options: those of prep.sh by their names, such as user_col="buyer", min_rating=4, titles="items.csv".
            Without min_user_count and min_item_count, users and items with few interactions stay.

    Returns:
        DataFrame, a row for each pair of user and item: user, item, rating, and title, if there are titles.

    Raises:
        UserError: it cannot be read; one line says why.
    """
    reading_options = {key: options.pop(key, None) for key in OPTIONS}
    days = moments(options.pop("since", None), options.pop("until", None))
    filters = Filters(**{"min_user_count": 1, **options, **days})
    with tempfile.TemporaryDirectory() as scratch:
        reading = read_own(path, Path(scratch), reading_options)
    check_bad_rows(reading, max_bad_share, is_own=True)
    interactions, _ = filter_interactions(reading.interactions, filters, only_likes=True)
    columns = {
        "user": interactions.user_ids[interactions.user],
        "item": interactions.item_ids[interactions.item],
        "rating": interactions.rating,
    }
    if reading.titles is not None:
        columns["title"] = titles_of(reading.titles, interactions.item_ids)[interactions.item]
    return pd.DataFrame(columns)


def save(interactions, data_dir, seed=42, split=RANDOM):
    """Writes a data set for data.load, unless the same interactions are there already; its name.

    Args:
        interactions: a sparse matrix (U, I), whose entries other than 0 are interactions; or a DataFrame with
            the columns user and item, one row an interaction, and title and time (dates, or seconds since
            1970), if there are any.
        data_dir: the folder of all data sets.
        seed: of the split.
        split: as prep.sh's: "random", "users", "time" or "last".

    Raises:
        UserError: the columns are missing, no user has three interactions, or the split needs more.
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    titles = time = None
    if sp.issparse(interactions):
        entries = interactions.tocoo()
        user, item = entries.row[entries.data != 0], entries.col[entries.data != 0]
    elif isinstance(interactions, pd.DataFrame) and {"user", "item"} <= set(interactions.columns):
        user, item = interactions["user"].to_numpy(), interactions["item"].to_numpy()
        if "title" in interactions:
            titles = interactions[["item", "title"]].astype({"item": str})
        if split in TIMED and "time" in interactions:
            time = _seconds(interactions["time"])
    else:
        raise UserError("interactions must be a sparse matrix, or a DataFrame with the columns user and item")
    (user, user_ids), (item, item_ids) = map(encode, (user, item))
    table = Interactions(user, user_ids, item, item_ids, np.ones(len(user), np.float32), time)
    table, lost = filter_interactions(table, Filters(), keep_times=split in TIMED)
    part, unknown, described = divide(table, split, seed, every_user=True)
    content = [] if split == RANDOM else [part.tobytes()]
    content += [table.user.tobytes(), table.item.tobytes()]
    content += ["\0".join(ids.astype(str)).encode() for ids in (table.user_ids, table.item_ids)]
    digest = hashlib.sha256(repr((seed, EVERY_USER)).encode() + b"".join(content))
    name = f"own-{digest.hexdigest()[:8]}"
    folder = Path(data_dir) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(f".{name}.lock")):  # another process may save the same
        if not folder.exists():
            with new_folder(folder) as partial:
                manifest = {"source": "Python", "split": split, **described, "counts": {**lost, **unknown}}
                write_dataset(partial, table, titles, part, manifest)
    return name


def _seconds(column):
    """Seconds since 1970, (N,) float64, of a column of numbers or dates; -inf where one is missing."""
    if not pd.api.types.is_numeric_dtype(column):
        column = (pd.to_datetime(column, utc=True) - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return column.astype(float).fillna(-np.inf).to_numpy()
