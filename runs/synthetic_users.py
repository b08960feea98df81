"""A finished run of distill.py, opened to be used: where recommend.py, export.py and report.py begin."""

import hashlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.optimize import brentq

import data
from lib.errors import UserError
from lib.files import read_npz
from lib.settings import defaults
from runs.folder import NOT_SHAPING, START_AGAIN, read_finished


class Distilled(NamedTuple):
    """What a run has left. S synthetic users, I items."""

    folder: Path
    config: dict  # config.json: settings, command, versions, ...
    settings: dict  # of the run
    result: dict  # result.json: metrics, ...
    rows: np.ndarray  # (S, I) float32 in [0, 1]: the synthetic users
    logits: np.ndarray  # (S, I) float32: what they are drawn from
    item_ids: np.ndarray  # (I,) the source's own, numbers or text
    item_weights: np.ndarray  # (I,) float32: what the kernel multiplies a row by
    lamda: float
    real_length: float  # train interactions of a real user, in the mean
    digest: str  # sha256 of distilled.npz


def folder_of(run, results_dir=None):
    """The folder of a run that is given as a path or by its name in results_dir, by default that of hyper_params.py."""
    results = Path(results_dir or defaults("distill")["results_dir"])
    if Path(run).is_dir() or (results / run).is_dir():
        return Path(run) if Path(run).is_dir() else results / run
    known = sorted(path.parent.name for path in results.glob("*/distilled.npz"))
    raise UserError(
        f"there is no run {run}, neither as a folder nor in {results}; runs of distill.py there: {', '.join(known[:20]) or 'none'}"
        + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    )


def warn_if_not_learnt(distilled):
    """Says on stderr, of a run whose best step is its start, that its rows are real users' histories."""
    if distilled.result["best_step"] == 0:
        print(
            f"warning: no step of {distilled.folder} was better than its start: its {len(distilled.rows):,} synthetic users are real users' histories",
            file=sys.stderr,
        )


def open_distilled(folder):
    """Reads the folder of a finished run.

    Raises:
        UserError: it is no run, has not finished, is not one of distill.py, is damaged, or its distilled.npz is another's.
    """
    folder = Path(folder)
    path = folder / "distilled.npz"
    if (folder / "result.json").exists() and not path.exists():
        raise UserError(
            f"{folder} has no distilled.npz: a run of distill.py is needed that was made here, and this one is another script's, or only its "
            "metrics have been kept"
        )
    config, result = read_finished(folder)
    arrays = read_npz(path, START_AGAIN)
    try:
        rows, logits, item_ids = arrays["data"], arrays["logits"], arrays["item_ids"]
        weights = arrays["item_weights"]
        found = Distilled(
            folder,
            config,
            json.loads(str(arrays["settings"])),
            result,
            rows,
            logits,
            item_ids,
            weights,
            float(arrays["lamda"]),
            float(arrays["real_length"]),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        sound = (
            rows.ndim == 2
            and rows.shape == logits.shape == (len(rows), *item_ids.shape)
            and rows.size
            and weights.shape == item_ids.shape
            and rows.dtype.kind == logits.dtype.kind == "f"
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} does not hold what distill.py writes ({error}); {START_AGAIN}") from error
    if not sound or not (
        all(np.isfinite(each).all() for each in (rows, logits, weights, found.lamda))
        and found.real_length > 0
    ):
        raise UserError(
            f"{path} does not hold what distill.py writes: shapes that do not fit, or numbers that are not finite; {START_AGAIN}"
        )
    if isinstance(found.settings, dict):
        _check_is_of(found.settings, config["settings"], path)
    else:
        raise UserError(
            f"{path} does not hold what distill.py writes: its settings are {json.dumps(found.settings)[:40]}; {START_AGAIN}"
        )
    return found


def _check_is_of(settings, expected, path):
    """Whether the settings in a distilled.npz are those of the run's config.json; where data lie may have changed between two calls of one run."""
    for key in sorted(settings.keys() | expected.keys(), key=lambda key: (key != "dataset", key)):
        there, here = (json.dumps(each[key]) if key in each else "missing" for each in (settings, expected))
        if there != here and (key not in NOT_SHAPING or "missing" in (there, here)):
            raise UserError(
                f"{path} is not of this run: its {key} is {there}, and in config.json it is {here}; put the run's own file back, "
                f"or {START_AGAIN}"
            )


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
        raise UserError(
            f"the data set {Path(data_dir or settings['data_dir']) / dataset.name} has changed since {distilled.folder} was made (its "
            f"fingerprint was {distilled.config['data_fingerprint']} and is {dataset.fingerprint}): --data_dir points to where the "
            "old one lies, or distill.py makes a run on the new one"
        )
    return data.add_noise(dataset, settings.get("noise", 0), settings["seed"])


def draw_temperature(logits, draws, length):
    """The T at which n draws from softmax(L_s / T) give a synthetic user `length` different items, in the mean; at most 1.

    Distill-CF learns L under draws that its own temperature makes soft, and through sums of all of them. L is nearly flat
    then: draws from softmax(L) are little more than chance, while those that fall on as many items as a real user has keep
    much of what has been learnt.

    Args:
        logits: L, (S, I).
        draws: n.
        length: of a real user, 1 or more.
    """
    heights = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)

    def surplus(log_temperature):
        weights = np.exp(heights / np.exp(log_temperature))
        share = np.minimum(weights / weights.sum(axis=1, keepdims=True), 1 - 1e-12)
        return -np.expm1(draws * np.log1p(-share)).sum(axis=1).mean() - length

    coldest, hottest = np.log(1e-3), 0.0
    if surplus(hottest) <= 0:
        return 1.0
    return float(np.exp(coldest if surplus(coldest) >= 0 else brentq(surplus, coldest, hottest, xtol=1e-3)))


def draw(logits, draws, temperature, seed):
    """How often each item comes up in `draws` draws from softmax(L_s / T), (S, I) int64; the same for the same seed and NumPy.

    Args:
        logits: L, (S, I).
        draws: n, with replacement.
        temperature: T.
    """
    rng, counts = np.random.default_rng(seed), np.empty(logits.shape, np.int64)
    for user, row in enumerate(logits.astype(np.float64)):
        weights = np.exp((row - row.max()) / temperature)
        counts[user] = rng.multinomial(draws, weights / weights.sum())
    return counts


def to_matrix(distilled, values, seed):
    """The synthetic users as a matrix for other models, CSR (S, I) float32.

    Args:
        values: "soft", the weights as they are, or "hard", 0 and 1: as many draws as the run's num_per_user, at `draw_temperature`.
        seed: of the draws.
    """
    if values == "soft":
        return sp.csr_matrix(distilled.rows)
    logits, draws = distilled.logits, distilled.settings["num_per_user"]
    counts = draw(logits, draws, draw_temperature(logits, draws, distilled.real_length), seed)
    return sp.csr_matrix((counts > 0).astype(np.float32))
