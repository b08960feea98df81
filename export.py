"""Hands a run's synthetic users to other libraries, as interactions with the items' own ids.

    python export.py --run=results/<run> --format=recbole                a RecBole data set, and a config that loads it
    python export.py --run=results/<run> --format=lenskit                a Parquet file of user, item, weight
    python export.py --run=results/<run> --format=implicit               a CSR matrix for scipy.sparse.load_npz, and its items
    python export.py --run=results/<run> --format=csv --values=hard --seed=1 --out=folder

Soft values are the synthetic users as they are: every weight x_si above 0, without loss. Where the temperature tau is high that
is nearly every item. Hard values are interactions of weight 1: n items drawn from softmax(L_s / T), with replacement, L the logits and
n the run's num_per_user; those drawn more than once count once. T is such that a synthetic user gets as many different items as a
real one has train interactions, in the mean (distilled.draw_temperature).

Synthetic users are numbered from 0, like the rows of distilled.npz.
"""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import Parser, UserError, run_script
from lib.files import atomic
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
    """An entry a row: user, item, weight."""
    entries = matrix.tocoo()
    return pd.DataFrame({"user": entries.row, "item": item_ids[entries.col], "weight": entries.data})


def check_tokens(item_ids):
    """RecBole reads its files with pandas, to which an id such as NA is a missing value."""
    text = pd.DataFrame({"item": item_ids.astype(str)}).to_csv(index=False)
    lost = pd.read_csv(io.StringIO(text), dtype=str)["item"].isna().to_numpy()
    if lost.any():
        raise UserError(
            f"RecBole would take the item ids {', '.join(item_ids[lost][:5])} for missing values; --format=csv does not mind them"
        )


def write(matrix, item_ids, kind, out, name):
    """Writes the files of one format to the folder out, which is made if need be; their paths.

    Args:
        matrix: CSR (S, I).
        kind: one of FORMATS.
        name: of the data set, for RecBole.
    """
    frame = to_frame(matrix, item_ids)
    if kind == "recbole":
        check_tokens(item_ids)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / f"{name}.inter") as file:
            frame.set_axis(["user_id:token", "item_id:token", "rating:float"], axis=1).to_csv(
                file, sep="\t", index=False
            )
        with atomic(out / f"{name}.yaml") as file:
            file.write(
                RECBOLE_CONFIG.format(name=json.dumps(name), folder=json.dumps(str(out.resolve()))).encode()
            )
        return [folder / f"{name}.inter", out / f"{name}.yaml"]
    out.mkdir(parents=True, exist_ok=True)
    if kind == "implicit":
        with atomic(out / "user_items.npz") as file:
            sp.save_npz(file, matrix)
        with atomic(out / "items.csv") as file:
            pd.DataFrame({"column": np.arange(len(item_ids)), "item": item_ids}).to_csv(file, index=False)
        return [out / "user_items.npz", out / "items.csv"]
    path = out / ("interactions.parquet" if kind == "lenskit" else "interactions.csv")
    with atomic(path) as file:
        frame.to_parquet(file, index=False) if kind == "lenskit" else frame.to_csv(file, index=False)
    return [path]


def parse(arguments):
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--run", required=True, help="a finished run of distill.py: its folder, or its name in results_dir")
    add("--format", required=True, choices=FORMATS)
    add(
        "--values",
        choices=("soft", "hard"),
        default="soft",
        help="the weights as they are (default), or interactions drawn from the logits",
    )
    add("--seed", type=int, default=0, help="of the hard draws (default 0)")
    add(
        "--out",
        help="the folder to write to; default: export-FORMAT-soft or export-FORMAT-hard-seedSEED in the run's",
    )
    given = parser.parse_args(arguments)
    if given.seed < 0:
        parser.error(f"--seed must be at least 0, not {given.seed}")
    if given.out is not None and not given.out.strip():
        parser.error("--out must name a folder, and is empty")
    return given


def main(arguments):
    given = parse(arguments)
    distilled = open_distilled(folder_of(given.run))
    warn_if_not_learnt(distilled)
    matrix = to_matrix(distilled, given.values, given.seed)
    values = given.values if given.values == "soft" else f"hard-seed{given.seed}"
    out = Path(given.out or distilled.folder / f"export-{given.format}-{values}")
    paths = write(matrix, distilled.item_ids, given.format, out, f"{distilled.settings['dataset']}-distilled")
    print(
        f"{matrix.shape[0]:,} synthetic users, {matrix.shape[1]:,} items, {matrix.nnz:,} interactions ({given.values}): {', '.join(map(str, paths))}"
    )


if __name__ == "__main__":
    run_script(main)
