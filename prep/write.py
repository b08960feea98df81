"""Interactions → the files of data/<name>/, in the layout that data.py reads."""

import io
import json

import h5py
import numpy as np
import pandas as pd
import pooch

from data import CONTEXT, DROPPED, INDEX, INTERACTIONS, MANIFEST, TEST, TRAIN, VALIDATION, names_digest
from lib.files import atomic
from prep.tables import titles_of


def write_layout(folder, user, item, rating, part):
    """Writes the two files that data.py needs.

    Args:
        folder: an existing folder.
        user, item, rating, part: (N,) arrays, one entry an interaction.
    """
    image = io.BytesIO()  # in memory, since the HDF5 library may crash if a write to the disk fails
    with h5py.File(image, "w") as out:
        for name, column in (("user", user), ("item", item), ("rating", rating)):
            out.create_dataset(name, data=column, compression="gzip", shuffle=True, fletcher32=True)
    with atomic(folder / INTERACTIONS) as file:
        file.write(image.getbuffer())
    with atomic(folder / INDEX) as file:
        np.savez_compressed(file, data=part)


def write_dataset(folder, interactions, titles, part, manifest):
    """Writes the folder's files, the manifest with their checksums last.

    Args:
        folder: an empty folder.
        interactions: as from `filter_interactions`.
        titles: DataFrame with the columns item (ids as text) and title, or None.
        part: (N,) int8 of TRAIN, VALIDATION, TEST, CONTEXT, DROPPED, the part of each interaction.
        manifest: dict, what the manifest says beside the checksums; counts are added to manifest["counts"].

    Returns:
        {"users", "items": those of the interactions that are not dropped; "interactions", and of these
        "train", "validation", "test", "context", "dropped"}.
    """
    write_layout(folder, interactions.user, interactions.item, interactions.rating, part)
    tables = {
        "users.csv": pd.DataFrame({"id": interactions.user_ids}),
        "items.csv": pd.DataFrame({"id": interactions.item_ids}),
    }
    if titles is not None:
        tables["items.csv"]["title"] = titles_of(titles, interactions.item_ids)
    for name, table in tables.items():
        with atomic(folder / name) as file:
            table.to_csv(file, index_label="index")
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "context": CONTEXT, "dropped": DROPPED}
    counts = {
        "users": _in_use(interactions.user[part != DROPPED]),
        "items": _in_use(interactions.item[part != DROPPED]),
        "interactions": len(part),
        **{name: int((part == code).sum()) for name, code in parts.items()},
    }
    checksums = {name: pooch.file_hash(folder / name) for name in (INTERACTIONS, INDEX)}
    checksums |= {name: names_digest(table.index, table["id"]) for name, table in tables.items()}
    manifest = {**manifest, "counts": {**manifest["counts"], **counts}, "sha256": checksums}
    with atomic(folder / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=2).encode())
    return counts


def _in_use(codes):
    """How many different codes there are."""
    return int((np.bincount(codes) > 0).sum())
