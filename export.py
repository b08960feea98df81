"""Writes a run's synthetic users as interactions that other libraries read, with the items' own ids.

    python export.py --run=results/<run> --format=recbole      a RecBole data set, and a config that loads it
    python export.py --run=results/<run> --format=lenskit      a Parquet file of user, item, weight
    python export.py --run=results/<run> --format=implicit     a CSR matrix for scipy.sparse, and its items
    python export.py --run=results/<run> --format=csv --values=hard --seed=1 --out=folder

Soft values are the weights of the synthetic users: every weight above 0, without loss. At a high gumbel_tau
nearly every item has one. Hard values are interactions of weight 1: the different items among n draws from
softmax(L_s / T), L being the logits and n the run's num_per_user. T is the temperature at which a synthetic
user gets as many items as a real user has train interactions, a mean (synthetic_users.draw_temperature).

Synthetic users are numbered from 0, as the rows of distilled.npz.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import Parser, UserError, run_script
from lib.files import atomic, atomic_files, write_parquet
from runs.synthetic_users import folder_of, open_distilled, to_matrix, warn_if_not_learnt

FORMATS = ("recbole", "lenskit", "implicit", "csv")
RECBOLE_CONFIG = """\
# Loads the synthetic users in RecBole: run_recbole(model="EASE", config_file_list=["this file"])
data_path: {folder}  # the folder this file was written to
dataset: {name}
field_separator: "\\t"
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
RATING_FIELD: rating
load_col:
  inter: [user_id, item_id, rating]
"""


def to_frame(matrix, item_ids):
    """A DataFrame with the columns user, item and weight, a row an entry of the CSR matrix (S, I)."""
    entries = matrix.tocoo()
    return pd.DataFrame({"user": entries.row, "item": item_ids[entries.col], "weight": entries.data})


def check_tokens(item_ids):
    """Raises UserError for item ids, such as NA, that pandas, with which RecBole reads, takes for missing."""
    text = pd.DataFrame({"item": item_ids.astype(str)}).to_csv(index=False)
    lost = pd.read_csv(io.StringIO(text), dtype=str)["item"].isna().to_numpy()
    if lost.any():
        raise UserError(
            f"RecBole would take the item ids {', '.join(item_ids[lost][:5])} for missing values. "
            "Try --format=csv, which keeps them"
        )


def write(matrix, item_ids, kind, out, name):
    """Writes the files of one format; their paths.

    Args:
        matrix: CSR (S, I).
        item_ids: (I,).
        kind: one of FORMATS.
        out: Path of a folder, which is made if it does not exist.
        name: of the data set, for RecBole.
    """
    frame = to_frame(matrix, item_ids)
    if kind == "recbole":
        check_tokens(item_ids)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        frame.columns = ["user_id:token", "item_id:token", "rating:float"]
        config = RECBOLE_CONFIG.format(name=json.dumps(name), folder=json.dumps(str(out.resolve())))
        paths = [folder / f"{name}.inter", out / f"{name}.yaml"]
        with atomic_files(*paths) as (interactions, settings):
            frame.to_csv(interactions, sep="\t", index=False)
            settings.write(config.encode())
        return paths
    out.mkdir(parents=True, exist_ok=True)
    if kind == "implicit":
        paths = [out / "user_items.npz", out / "items.csv"]
        with atomic_files(*paths) as (users, items):
            sp.save_npz(users, matrix)
            pd.DataFrame({"column": np.arange(len(item_ids)), "item": item_ids}).to_csv(items, index=False)
        return paths
    path = out / ("interactions.parquet" if kind == "lenskit" else "interactions.csv")
    with atomic(path) as file:
        write_parquet(file, frame) if kind == "lenskit" else frame.to_csv(file, index=False)
    return [path]


def parse(arguments):
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--run", required=True, help="a finished run of distill.py: its folder, or its name in results_dir")
    add("--format", required=True, choices=FORMATS)
    values_help = (
        "weights (soft, the default), or interactions (hard): drawn by the logits, all of sparse rows"
    )
    add("--values", choices=("soft", "hard"), default="soft", help=values_help)
    add("--seed", type=int, default=0, help="of the hard draws (default 0)")
    add("--out", help="a folder; default: export-FORMAT-soft or export-FORMAT-hard-seedSEED in the run's own")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"--seed must be at least 0, not {options.seed}")
    if options.out is not None and not options.out.strip():
        parser.error("--out must name a folder, and is empty")
    return options


def main(arguments):
    options = parse(arguments)
    run = open_distilled(folder_of(options.run))
    warn_if_not_learnt(run)
    matrix = to_matrix(run, options.values, options.seed)
    values = options.values if options.values == "soft" else f"hard-seed{options.seed}"
    out = Path(options.out or run.folder / f"export-{options.format}-{values}")
    paths = write(matrix, run.item_ids, options.format, out, f"{run.settings['dataset']}-distilled")
    users, items = matrix.shape
    size = f"{users:,} synthetic users, {items:,} items, {matrix.nnz:,} interactions ({options.values})"
    print(f"{size}: {', '.join(map(str, paths))}")


if __name__ == "__main__":
    run_script(main)
