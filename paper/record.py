"""Finished runs: those of a results folder, and those recorded in docs/results.jsonl, a line a run.

A line holds the settings that shape the run, its data, revision, versions, devices and result. It ends with
two SHA-256 sums: of the users' NDCG@10 in docs/results-users.npz, which only the table's runs have, and of
the line itself. A record that has been altered is refused. A line holds no hash of its settings:
paper/plan.py compares the settings themselves.
"""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple, NotRequired

import numpy as np
from typing_extensions import TypedDict

from hyper_params import line
from lib.checks import parse_json
from lib.errors import UserError
from lib.files import ROOT, lock, read_npz, write_files
from runs.folder import shaping
from runs.reading import Result, Settings, Size, check_sum, read_finished, read_readable
from runs.recipes import Statistics

DOCS = ROOT / "docs"
LINES, USERS = "results.jsonl", "results-users.npz"
UNCOMMITTED = " with uncommitted changes"


class FinishedRun(NamedTuple):
    name: str
    script: str
    settings: dict  # those that shape the result
    data: dict  # fingerprint; and recipes.Statistics, which early runs lack
    revision: str | None  # of the code
    versions: dict
    devices: str
    result: dict
    auto: dict = {}  # {key that was "auto": why it has its value}
    folder: Path | None = None  # None: a run of the record
    recorded_ndcg: np.ndarray | None = None  # (U,) NDCG@10 of every user, where the record has it

    @property
    def dataset(self):
        return self.settings["dataset"]

    @property
    def statistics(self):
        """recipes.Statistics of the run's data; None for an early run."""
        known = {**Statistics._field_defaults, **self.data}
        complete = known.keys() >= set(Statistics._fields)
        return Statistics(*(known[key] for key in Statistics._fields)) if complete else None

    @property
    def clean(self):
        """Whether the code that made the run is known: a revision without uncommitted changes."""
        return self.revision is not None and not self.revision.endswith(("-dirty", UNCOMMITTED))

    def ndcg_of_users(self):
        """NDCG@10 of every user on the test set, (U,); NaN for a user without targets.

        Raises:
            UserError: the file is missing, damaged or altered, or its mean is not the result's.
        """
        if self.folder:
            source, remedy = f"{self.folder}/users.npz", f"delete {self.folder} and make the run again"
            values = read_npz(self.folder / "users.npz", remedy).get("NDCG@10")
        else:
            source, remedy, values = f"the record's {self.name}", restore(USERS), self.recorded_ndcg
        mean = self.result["test"]["NDCG@10"]
        sound = (
            values is not None
            and mean is not None
            and values.ndim == 1
            and values.dtype.kind == "f"
            and np.isfinite(values).any()
        )
        if not sound or abs(np.nanmean(values, dtype=np.float64) - mean) > 0.01:
            raise UserError(f"{source} does not have the users' NDCG@10 whose mean the result has; {remedy}")
        if self.folder:
            check_sum(self.folder, "users.npz")
        return values


RECORDED = FinishedRun._fields[:8]  # what a line of the record holds, beside its sums and `auto`


class Data(Size):
    fingerprint: line


class Line(TypedDict):
    """A line of the record."""

    name: line
    script: line
    settings: Settings
    data: Data
    revision: line | None
    versions: dict[line, line]
    devices: line
    result: Result
    auto: NotRequired[dict[line, line]]  # early lines lack it
    users: line | None


def restore(name):
    return f"`git checkout docs/{name}` brings back the committed one"


# ---- Results folders -----------------------------------------------------------------------------------


def read_run(folder):
    """The FinishedRun of a folder; UserError as runs.reading.read_finished."""
    config, result = read_finished(folder)
    return FinishedRun(
        name=folder.name,
        script=config["script"],
        settings=shaping(config["settings"]),
        data={"fingerprint": config["data_fingerprint"], **config.get("data", {})},
        revision=config["git_revision"],
        versions=config["versions"],
        devices=config["devices"],
        result=result,
        auto=config.get("auto", {}),
        folder=folder,
    )


def finished_folders(results):
    return sorted(path.parent for path in Path(results).glob("*/result.json"))


def read_folder(results):
    """([FinishedRun] of the finished runs in a results folder, [a line on each damaged run])."""
    return read_readable(finished_folders(results), read_run)


# ---- The record ----------------------------------------------------------------------------------------


def digest(content):
    return hashlib.sha256(content).hexdigest()


def read_record():
    """[FinishedRun] of the record; [] if there is none.

    Raises:
        UserError: a line, or its users' metrics, are not as they were written.
    """
    if not (DOCS / LINES).exists():
        return []
    users = read_npz(DOCS / USERS, restore(USERS)) if (DOCS / USERS).exists() else {}
    # A byte that is no UTF-8, and a last line without its end, are altered lines, too.
    text = (DOCS / LINES).read_text(encoding="utf-8", errors="backslashreplace").removesuffix("\n")
    return [_read_line(line, users, line_number) for line_number, line in enumerate(text.split("\n"), 1)]


def _read_line(text, users, line_number):
    named = re.match(r'\{"name": "([^"]+)"', text)
    name = named[1] if named else f"line {line_number}"
    altered = f"{LINES}: the record of {name} has been altered"
    body, _, line_sum = text.rpartition(', "sha256": "')
    if digest(body.encode()) + '"}' != line_sum:
        raise UserError(f"{altered}: the SHA-256 of its line is another; {restore(LINES)}")
    try:
        content = parse_json(text, Line)
        fields = {key: content[key] for key in RECORDED} | {"auto": content.get("auto", {})}
        users_sum = content["users"]
    except (ValueError, UserError) as error:
        raise UserError(
            f"{altered}: it does not describe a finished run ({error}); {restore(LINES)}"
        ) from error
    ndcg = users.get(name) if users_sum is not None else None
    if users_sum is not None and (ndcg is None or digest(ndcg.tobytes()) != users_sum):
        raise UserError(
            f"{USERS}: the users' metrics of {name} have been altered: their SHA-256 is not the record's; "
            f"{restore(USERS)}"
        )
    return FinishedRun(**fields, recorded_ndcg=ndcg)


def keep(runs, need_users):
    """Adds runs to the record, without what belongs to this machine.

    Args:
        runs: [FinishedRun] of folders.
        need_users: names of the runs whose users' metrics are recorded, too.
    """
    with lock(DOCS / f".{LINES}.lock"):  # else, what another call adds meanwhile would be lost
        _keep(runs, need_users)


def _keep(runs, need_users):
    recorded = read_record()
    users = {run.name: run.recorded_ndcg for run in recorded if run.recorded_ndcg is not None}
    for run in runs:
        if run.name in need_users:
            users[run.name] = np.ascontiguousarray(run.ndcg_of_users(), np.float32)
    by_name = {run.name: run for run in [*recorded, *runs]}
    lines = "".join(_to_line(by_name[name], users.get(name)) + "\n" for name in sorted(by_name))
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **dict(sorted(users.items())))
    # The lines last: a run counts as recorded once it has its line.
    write_files(DOCS, {USERS: arrays.getvalue(), LINES: lines.encode()})


def _to_line(run, users):
    """The text of a run's line; users: (U,) float32, or None."""
    line = {key: getattr(run, key) for key in RECORDED} | ({"auto": run.auto} if run.auto else {})
    line["users"] = None if users is None else digest(users.tobytes())
    body = json.dumps(line, ensure_ascii=False)[:-1]
    return f'{body}, "sha256": "{digest(body.encode())}"}}'
