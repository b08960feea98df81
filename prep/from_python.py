"""Interactions from Python → data/<name>/: a matrix or a table, split and written as prep.sh does."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import UserError
from lib.files import lock, new_folder
from prep.preprocess import FEWEST_INTERACTIONS, filter_interactions, write_dataset
from prep.tables import Interactions


def save(interactions, data_dir, seed=42):
    """Writes a data set for data.load, unless the same interactions are there already; its name.

    Args:
        interactions: a sparse matrix (U, I), whose entries other than 0 are interactions; or a DataFrame with
            the columns user and item, one row an interaction, and title, if there are titles.
        data_dir: the folder of all data sets.
        seed: of the split.

    Raises:
        UserError: the columns are missing, or no user has three interactions.
    """
    titles = None
    if sp.issparse(interactions):
        entries = interactions.tocoo()
        user, item = entries.row[entries.data != 0], entries.col[entries.data != 0]
    elif isinstance(interactions, pd.DataFrame) and {"user", "item"} <= set(interactions.columns):
        user, item = interactions["user"].to_numpy(), interactions["item"].to_numpy()
        titles = interactions[["item", "title"]] if "title" in interactions else None
    else:
        raise UserError("interactions must be a sparse matrix, or a DataFrame with the columns user and item")
    (user_ids, user), (item_ids, item) = (np.unique(ids, return_inverse=True) for ids in (user, item))
    ratings = np.ones(len(user), np.float32)
    codes = user.astype(np.int32), user_ids, item.astype(np.int32), item_ids
    table = Interactions(*codes, ratings, rows=len(user), bad=[])
    table, duplicates, filtered = filter_interactions(table, None, FEWEST_INTERACTIONS, 1)
    content = [table.user, table.item, *(ids.astype(str) for ids in (table.user_ids, table.item_ids))]
    digest = hashlib.sha256(repr(seed).encode() + b"".join(column.tobytes() for column in content))
    name = f"own-{digest.hexdigest()[:8]}"
    folder, counts = Path(data_dir) / name, {"duplicates_dropped": duplicates, "filtered": filtered}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(f".{name}.lock")):  # another process may save the same
        if not folder.exists():
            with new_folder(folder) as partial:
                write_dataset(partial, table, titles, seed, {"source": "Python", "counts": counts})
    return name
