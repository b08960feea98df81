"""A finished run of distill.py, opened to be used: where recommend.py, export.py and report.py begin."""
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import data
from runs import NOT_SHAPING, START_AGAIN, read_finished, read_npz
from settings import UserError


class Distilled(NamedTuple):
    """What a run has left. S synthetic users, I items."""
    folder: Path
    config: dict          # config.json: settings, command, versions, ...
    settings: dict        # of the run
    result: dict          # result.json: metrics, ...
    rows: np.ndarray      # (S, I) float32 in [0, 1]: the synthetic users
    logits: np.ndarray    # (S, I) float32: what they are drawn from
    item_ids: np.ndarray  # (I,) the source's own, numbers or text
    lamda: float
    digest: str           # sha256 of distilled.npz


def open_distilled(folder):
    """Reads the folder of a finished run.

    Raises:
        UserError: it is no run, has not finished, is not one of distill.py, is damaged, or its distilled.npz is another's.
    """
    folder = Path(folder)
    config, result = read_finished(folder)
    path = folder / "distilled.npz"
    if not path.exists():
        raise UserError(f"{folder} has no distilled.npz: a run of distill.py is needed, and this one is of `{config['command']}`")
    arrays = read_npz(path, START_AGAIN)
    try:
        rows, logits, item_ids = arrays["data"], arrays["logits"], arrays["item_ids"]
        found = Distilled(folder, config, json.loads(str(arrays["settings"])), result, rows, logits, item_ids, float(arrays["lamda"]),
                          hashlib.sha256(path.read_bytes()).hexdigest())
        sound = rows.ndim == 2 and rows.shape == logits.shape == (len(rows), *item_ids.shape) and rows.size and rows.dtype.kind == logits.dtype.kind == "f"
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} does not hold what distill.py writes ({error}); {START_AGAIN}") from error
    if not sound or not (np.isfinite(rows).all() and np.isfinite(logits).all() and np.isfinite(found.lamda)):
        raise UserError(f"{path} does not hold what distill.py writes: shapes that do not fit, or numbers that are not finite; {START_AGAIN}")
    if isinstance(found.settings, dict):
        _check_is_of(found.settings, config["settings"], path)
    else:
        raise UserError(f"{path} does not hold what distill.py writes: its settings are {json.dumps(found.settings)[:40]}; {START_AGAIN}")
    return found


def _check_is_of(settings, expected, path):
    """Whether the settings in a distilled.npz are those of the run's config.json; where data lie may have changed between two calls of one run."""
    for key in sorted(settings.keys() | expected.keys(), key=lambda key: (key != "dataset", key)):
        there, here = (json.dumps(each[key]) if key in each else "missing" for each in (settings, expected))
        if there != here and (key not in NOT_SHAPING or "missing" in (there, here)):
            raise UserError(f"{path} is not of this run: its {key} is {there}, and in config.json it is {here}; put the run's own file back, "
                            f"or {START_AGAIN}")


def load_dataset(distilled, data_dir=None):
    """The data.Dataset the synthetic users were learnt from.

    Args:
        data_dir: where it lies now, if not where the run found it.

    Raises:
        UserError: it cannot be read, or its interactions or ids have changed since.
    """
    settings = distilled.settings
    dataset = data.load(settings["dataset"], data_dir or settings["data_dir"], settings["repeats"])
    if dataset.fingerprint != distilled.config["data_fingerprint"]:
        raise UserError(f"the data set {Path(data_dir or settings['data_dir']) / dataset.name} has changed since {distilled.folder} was made (its "
                        f"fingerprint was {distilled.config['data_fingerprint']} and is {dataset.fingerprint}): --data_dir points to where the "
                        "old one lies, or distill.py makes a run on the new one")
    return data.add_noise(dataset, settings.get("noise", 0), settings["seed"])


def draw(logits, draws, seed):
    """How often each item comes up in `draws` draws from softmax(L_s), (S, I) int64; the same for the same seed and NumPy.

    Args:
        logits: L, (S, I).
        draws: n, with replacement.
    """
    rng, counts = np.random.default_rng(seed), np.empty(logits.shape, np.int64)
    for user, row in enumerate(logits.astype(np.float64)):
        weights = np.exp(row - row.max())
        counts[user] = rng.multinomial(draws, weights / weights.sum())
    return counts


def to_matrix(distilled, values, seed):
    """The synthetic users as a matrix for other models, CSR (S, I) float32.

    Args:
        values: "soft", the weights as they are, or "hard", 0 and 1: as many draws from the logits as the run's num_per_user.
        seed: of the draws.
    """
    return sp.csr_matrix(distilled.rows if values == "soft"
                         else (draw(distilled.logits, distilled.settings["num_per_user"], seed) > 0).astype(np.float32))
