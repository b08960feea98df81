"""The synthetic users of a finished run of distill.py: opened, checked, and drawn from."""

import json
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import data
from lib.checks import parse_json
from lib.errors import UserError
from lib.files import read_npz
from lib.settings import defaults
from runs.folder import NOT_SHAPING
from runs.reading import START_AGAIN, Kept, check_sum, read_finished

MOST_NAMED = 10  # runs, in a message
# Settings without which nothing can be done with synthetic users.
NEEDED = "user_support", "num_per_user", "depth", "normalize", "item_discount", "float64", "seed", "repeats"
NEEDED += ("data_dir",)


class SyntheticUsers(NamedTuple):
    """S synthetic users of I items, and the run that has learnt them."""

    folder: Path
    config: dict  # config.json: settings, command, versions, ...
    settings: dict  # of the run
    result: dict  # result.json: metrics, ...
    rows: np.ndarray  # (S, I) float32 in [0, 1]: the synthetic users
    logits: np.ndarray  # (S, I) float32: what the rows are drawn from; of sparse rows, the rows
    item_ids: np.ndarray  # (I,) the source's own ids, numbers or text
    item_weights: np.ndarray  # (I,) float32: what the kernel multiplies every row by
    lamda: float
    real_length: float  # train interactions of a real user, a mean
    digest: str  # sha256 of distilled.npz


def folder_of(run, results_dir=None):
    """The folder of a run.

    Args:
        run: its path, or its name in results_dir.
        results_dir: by default that of hyper_params.py.

    Raises:
        UserError: there is no such folder.
    """
    results = Path(results_dir or defaults("distill")["results_dir"])
    for folder in (Path(run), results / run):
        if folder.is_dir():
            return folder
    raise UserError(f"there is no run {run}, neither as a folder nor in {results}. {_usable_runs(results)}")


def _usable_runs(results):
    """A sentence on the runs of distill.py in a folder that can be used."""
    usable = []
    for path in results.glob("*/distilled.npz"):
        try:
            read_finished(path.parent)
            if zipfile.is_zipfile(path):
                usable.append((path.stat().st_mtime, path.parent.name))
        except (UserError, OSError):
            pass
    if not usable:
        return f"{results} has no finished run of distill.py: `python distill.py` makes one"
    names = [name for _, name in sorted(usable, reverse=True)]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (
        f"Finished runs of distill.py in {results}, the newest first: " + ", ".join(names[:MOST_NAMED]) + more
    )


def warn_if_not_learnt(run):
    """Says on stderr, of SyntheticUsers whose kept step is the start, that they have learnt nothing."""
    if run.result["best_step"] == 0:
        print(
            f"warning: {run.folder} keeps its start, so its {len(run.rows):,} synthetic users are what they "
            "began as, interactions of real users",
            file=sys.stderr,
        )


def open_distilled(folder):
    """The SyntheticUsers in the folder of a finished run.

    Raises:
        UserError: the folder is no run, or one that has not finished, is not of distill.py or is damaged; or
            its distilled.npz belongs to another run, or was altered.
    """
    folder = Path(folder)
    path = folder / "distilled.npz"
    runs = folder if any(folder.glob("*/distilled.npz")) else folder.parent
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no run: it has no config.json. {_usable_runs(runs)}")
    if (folder / "result.json").exists() and not path.exists():
        raise UserError(
            f"{folder} has no distilled.npz: it is the run of another script, or only its metrics were kept. "
            f"Give a run of distill.py. {_usable_runs(runs)}"
        )
    config, result = read_finished(folder)
    arrays = read_npz(path, START_AGAIN)
    damaged = f"{path} does not hold what distill.py writes"
    try:
        rows = arrays["data"]
        if rows.dtype == np.uint8:  # sparse rows, which have no logits beside them
            arrays["logits"] = rows = rows.astype(np.float32) / 255
        run = SyntheticUsers(
            folder,
            config,
            parse_json(str(arrays["settings"]), Kept),
            result,
            rows,
            arrays["logits"],
            unpack_ids(arrays["item_ids"]),
            arrays["item_weights"],
            float(arrays["lamda"]),
            float(arrays["real_length"]),
            digest="",
        )
    except (KeyError, ValueError, TypeError, UserError) as error:
        raise UserError(f"{damaged} ({error}); {START_AGAIN}") from error
    _check_same_run(run.settings, config["settings"], path)
    if lost := [key for key in NEEDED if key not in run.settings]:
        raise UserError(f"{damaged} (its settings have no {lost[0]}); {START_AGAIN}")
    if not _is_sound(run):
        raise UserError(
            f"{damaged}: shapes do not fit, or numbers are not finite or not in range; {START_AGAIN}"
        )
    return run._replace(digest=check_sum(folder, path.name))


def pack_ids(ids):
    """Ids for an .npz file: numbers as they are; texts as the bytes of a JSON list.

    An array of texts would make each as long as the longest.
    """
    return ids if ids.dtype != object else np.frombuffer(json.dumps(ids.tolist()).encode(), np.uint8)


def unpack_ids(ids):
    """The ids of `pack_ids`; files of earlier versions hold texts as an array."""
    if ids.dtype == np.uint8:
        return np.array(parse_json(ids.tobytes(), list[str]), object)
    return ids.astype(object) if ids.dtype.kind == "U" else ids


def _is_sound(run):
    """Whether shapes, kinds and numbers are such as distill.py writes."""
    rows, logits, items = run.rows, run.logits, run.item_ids.shape
    fit = rows.ndim == 2 and rows.size and rows.shape == logits.shape == (len(rows), *items)
    if not fit or run.item_weights.shape != items or len(rows) != run.settings["user_support"]:
        return False
    arrays = rows, logits, run.item_weights
    finite = all(array.dtype.kind == "f" and np.isfinite(array).all() for array in arrays)
    in_range = finite and rows.min() >= 0 and rows.max() <= 1 and run.item_ids.dtype.kind in "iuO"
    return in_range and 0 <= run.lamda < np.inf and 0 < run.real_length <= items[0]


def _check_same_run(settings, expected, path):
    """Raises UserError unless the settings of a distilled.npz are the expected ones, of config.json.

    The keys of NOT_SHAPING may differ, since two calls of one run may find the data in two places.
    """
    in_words = lambda settings, key: json.dumps(settings[key]) if key in settings else "missing"
    for key in sorted(settings.keys() | expected.keys(), key=lambda key: (key != "dataset", key)):
        own, wanted = in_words(settings, key), in_words(expected, key)
        if own != wanted and (key not in NOT_SHAPING or "missing" in (own, wanted)):
            raise UserError(
                f"{path} is not of this run: its {key} is {own}, and in config.json it is {wanted}. "
                f"Put the run's own file back, or {START_AGAIN}"
            )


def load_dataset(run, data_dir=None):
    """The data.Dataset that SyntheticUsers were learnt from.

    Args:
        run: SyntheticUsers.
        data_dir: the folder that holds the data set now; by default the one that the run read.

    Raises:
        UserError: the data set cannot be read, or its interactions or ids have changed.
    """
    settings = run.settings
    data_dir = data_dir or settings["data_dir"]
    dataset = data.load(settings["dataset"], data_dir, settings["repeats"])
    if dataset.fingerprint != run.config["data_fingerprint"]:
        raise UserError(
            f"the data set {Path(data_dir) / dataset.name} has changed since {run.folder} was made: its "
            f"fingerprint was {run.config['data_fingerprint']} and is {dataset.fingerprint}. Try "
            "--data_dir=FOLDER with the folder of the old data, or run distill.py on the new data"
        )
    return data.add_noise(dataset, settings.get("noise", 0), settings["seed"])


def draw_temperature(logits, draws, length):
    """The T, at most 1, at which n draws from softmax(L_s / T) hit `length` different items, a mean over s.

    Distill-CF learns L through sums of n soft draws, after which L is nearly flat. Draws from softmax(L) are
    little more than chance. Draws that hit as many items as a real user has keep much of what was learnt.

    Args:
        logits: L, (S, I).
        draws: n.
        length: interactions of a real user, 1 or more.
    """
    from scipy.optimize import brentq  # half a second, which most scripts need not wait for

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
    """How often each item comes up in n draws from softmax(L_s / T), (S, I) int64.

    The same seed and version of NumPy give the same draws.

    Args:
        logits: L, (S, I).
        draws: n, with replacement.
        temperature: T.
        seed: a whole number from 0.
    """
    rng, counts = np.random.default_rng(seed), np.empty(logits.shape, np.int64)
    for user, row in enumerate(logits.astype(np.float64)):
        weights = np.exp((row - row.max()) / temperature)
        counts[user] = rng.multinomial(draws, weights / weights.sum())
    return counts


def to_matrix(run, values, seed):
    """Synthetic users as a matrix for other models, CSR (S, I) float32.

    Args:
        run: SyntheticUsers.
        values: "soft", the weights in [0, 1]; or "hard", 1 for every item that comes up in the run's
            `num_per_user` draws at `draw_temperature` or, of sparse rows, that has a weight.
        seed: of the draws.
    """
    if values == "soft":
        return sp.csr_matrix(run.rows)
    if run.settings.get("rows") == "sparse":
        return sp.csr_matrix((run.rows > 0).astype(np.float32))
    draws = run.settings["num_per_user"]
    counts = draw(run.logits, draws, draw_temperature(run.logits, draws, run.real_length), seed)
    return sp.csr_matrix((counts > 0).astype(np.float32))
