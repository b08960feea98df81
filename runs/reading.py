"""What a run's folder says in JSON: what must stand there, and the one reader of it.

Another's run, a damaged one, or one of another program's ends in a UserError that names the file. Beside the
keys that stand here others may stand, such as those of a later version.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from hyper_params import INT_MAX, count, from_zero, line
from lib.checks import read_json
from lib.errors import UserError
from lib.files import check_regular
from lib.metric_names import METRICS, OF_USERS
from lib.settings import check_kept

START_AGAIN = "the run's own command with --resume=false starts again and keeps the folder under another name"
PERCENT = *OF_USERS, "Coverage"
MOST = {**dict.fromkeys(PERCENT, 100), "AUC": 1, "Gini": 1, "Popularity": 1e15, "Novelty": 100}  # from 0
ROUNDING = 0.01
SUMS, SUMMED = "sums.json", ("config.json", "metrics.jsonl", "distilled.npz", "users.npz")  # and result.json


def _check_values(metrics):
    """Raises ValueError for a metric that cannot have its value; names of other versions may have any."""
    for name, value in metrics.items():
        most = MOST.get(name.partition("@")[0])
        if None not in (most, value) and not -ROUNDING <= value <= most + ROUNDING:
            raise ValueError(f"{name} cannot be {value:.3g}")
    return metrics


def _check_complete(metrics):
    """Raises ValueError for a lost metric of METRICS, or an empty one by which models are compared."""
    for name in METRICS:
        if name not in metrics:
            raise ValueError(f"it has no {name}")
        if metrics[name] is None and name.startswith(("HR", "NDCG")):
            raise ValueError(f"its {name} is null")
    return metrics


def _has_one_of(*keys):
    """A validator of dicts."""

    def check(values):
        if not values.keys() & {*keys}:
            raise ValueError(f"it has no {keys[0]}")
        return values

    return AfterValidator(check)


Numbers = Annotated[dict[line, float | None], AfterValidator(_check_values)]
Metrics = Annotated[Numbers, AfterValidator(_check_complete)]
Kept = Annotated[dict[str, Any], AfterValidator(check_kept)]
Settings = Annotated[Kept, _has_one_of("dataset")]
place = Annotated[int, Field(ge=0, le=INT_MAX)]
seconds = Annotated[float, Field(ge=0, le=1e9)]  # 30 years


class Size(TypedDict):
    """The data's; the earliest runs do not tell."""

    users: NotRequired[count]
    items: NotRequired[count]
    interactions: NotRequired[count]
    new_users: NotRequired[bool]


class Config(TypedDict):
    """config.json, as runs.folder.describe makes it."""

    script: line
    settings: Settings
    data_fingerprint: line
    data: NotRequired[Size]
    auto: NotRequired[dict[line, line]]
    command: str
    python: line
    devices: line
    started: line
    sums: NotRequired[line]  # the file with the sums; runs from before there were sums lack it
    versions: dict[line, line]
    git_revision: line | None


class Measured(TypedDict):
    """A model that a run is compared with."""

    val: Metrics
    test: Metrics


class Part(TypedDict):
    """A part of a stream."""

    validation: Metrics
    test: Metrics


class AnyResult(TypedDict):
    """result.json: what is read of any run."""

    val: Metrics
    test: Metrics
    lamda: NotRequired[from_zero]
    choice: NotRequired[dict[line, float]]  # what validation chose, in the place of lamda
    best_step: place | None
    steps: place | None
    learnt: NotRequired[bool]
    step_seconds: NotRequired[seconds | None]
    wall_seconds: seconds
    parts: NotRequired[list[Part]]


class OwnResult(AnyResult):
    """result.json: what a script shows of its own finished run."""

    dataset: line
    step_seconds: seconds | None
    peak_rss_mb: from_zero
    yardsticks: Annotated[dict[line, Measured], _has_one_of("popularity")]


Result = Annotated[AnyResult, _has_one_of("lamda", "choice")]


class Validation(TypedDict):
    """A line of metrics.jsonl."""

    step: place
    validation: Numbers | None


class Line(TypedDict):
    """A line of the history in a checkpoint; which keys it has depends on the script."""

    validation: Numbers | None
    step: NotRequired[place]
    setting: NotRequired[place]
    epoch: NotRequired[place]
    lamda: NotRequired[from_zero]
    loss: NotRequired[float | None]


class Place(TypedDict):
    """Where a run stands, in its checkpoint."""

    stage: place
    step: place
    validated: bool
    history: list[Line]
    seconds: list[seconds]
    wall_seconds: seconds


class Altered(UserError):
    """A file of a finished run is not the one that the run has left."""


def check_sum(folder, name):
    """The SHA-256 of a file of a finished run, in hexadecimal.

    Raises:
        Altered: the file or sums.json is missing, or sums.json has another sum. The files of a run that was
            made before there were sums, as its config.json tells, are taken as they are.
    """
    path, sums = Path(folder) / name, Path(folder) / SUMS
    try:
        digest = digest_of(path)
        is_summed = sums.exists() or "sums" in read_config(folder)
        known = read_json(sums, dict[str, str], START_AGAIN)[name] if is_summed else digest
    except (OSError, LookupError, UserError) as error:
        raise Altered(f"{path} cannot be compared with {SUMS} ({error}); {START_AGAIN}") from error
    if digest != known:
        raise Altered(
            f"{path} has been altered since the run ended: {SUMS} has another SHA-256. Put the run's own "
            f"file back, or {START_AGAIN}"
        )
    return digest


def digest_of(path):
    """The SHA-256 of a file, in hexadecimal."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_config(folder):
    """The config.json of a run's folder."""
    return read_json(Path(folder) / "config.json", Config, START_AGAIN)


def read_result(folder, kind=Result):
    """The result.json of a run's folder; UserError if it is damaged or altered."""
    result = read_json(Path(folder) / "result.json", kind, START_AGAIN)
    check_sum(folder, "result.json")
    return result


def read_validations(folder, kind=Validation):
    """The lines of metrics.jsonl in a run's folder: a list of dicts."""
    return read_json(Path(folder) / "metrics.jsonl", kind, START_AGAIN, lines=True)


def read_finished(folder):
    """(config.json, result.json) of a finished run.

    Raises:
        UserError: the folder is no run, has not finished, or its files are not as a run leaves them, or
            (Altered) not as this run has left them.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        finished = sorted(path.parent.name for path in folder.parent.glob("*/result.json"))
        names = ", ".join(finished) or "none"
        raise UserError(
            f"{folder} is no run: it has no config.json; finished runs in {folder.parent}: {names}"
        )
    config = read_config(folder)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder} has not finished; the command that began it goes on: {config['command']}")
    check_sum(folder, "config.json")
    return config, read_result(folder)


def read_readable(items, read):
    """([read(item) of the items it can read], [a line on each item left out])."""
    results, left_out = [], []
    for item in items:
        try:
            results.append(read(item))
        except UserError as error:
            left_out.append(f"left out: {error}")
    return results, left_out
