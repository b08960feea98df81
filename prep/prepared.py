"""A folder in the layout that data.py reads → Reading, so that a prepared data set can be split anew."""

from pathlib import Path

import numpy as np
import pandas as pd

import data
from lib.errors import UserError
from prep.tables import Interactions, Reading, encode


def is_prepared(path):
    """Whether a path is such a folder."""
    folder = Path(path).expanduser()
    return all((folder / name).is_file() for name in (data.INTERACTIONS, data.INDEX))


def read_prepared(path, options):
    """The Reading of all interactions that the folder's own split does not drop; times and ratings are lost.

    Args:
        options: {key of own_file.OPTIONS: value or None}; none applies.
    """
    if chosen := [key for key, value in options.items() if value is not None]:
        raise UserError(f"{path} is a prepared data set. Leave out --{chosen[0].replace('_', '-')}.")
    folder = Path(path).expanduser().resolve()
    dataset = data.load(folder.name, folder.parent)
    rows = dataset.all_interactions(np.arange(len(dataset.all_user_ids))).tocoo()
    user, user_ids = encode(dataset.all_user_ids[rows.row])
    item, item_ids = encode(dataset.item_ids[rows.col])
    titles = None
    if dataset.titles is not None:
        titles = pd.DataFrame({"item": dataset.item_ids.astype(str), "title": dataset.titles})
        titles = titles[titles.title != ""]
    ratings = np.ones(len(user), np.float32)
    return Reading(
        Interactions(user, user_ids, item, item_ids, ratings),
        titles,
        rows=len(user),
        notes=[f"{path} is a prepared data set: its interactions are split anew"],
    )
