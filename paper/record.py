"""Finished runs: those in a results folder, and those kept with the code, a line of docs/results.jsonl a run.

A line has the settings that shaped the run, its data, revision, versions, devices and result, and two SHA-256
sums: of the rest of the line, and of its users' NDCG@10 in docs/results-users.npz, which is kept for the runs
that the table's tests need. A record that has been altered is refused. Nothing in it is a hash of settings:
paper/plan.py finds a run by the settings themselves.
"""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.errors import UserError
from lib.files import ROOT, atomic, read_npz
from runs.folder import check_result, read_finished, shaping
from runs.recipes import Statistics

DOCS = ROOT / "docs"
LINES, USERS = "results.jsonl", "results-users.npz"
UNCOMMITTED = " with uncommitted changes"
FIELDS = {
    "name": str,
    "script": str,
    "settings": dict,
    "data": dict,
    "revision": str | None,
    "versions": dict,
    "devices": str,
    "result": dict,
    "users": str | None,
}


class Found(NamedTuple):
    """A finished run."""

    name: str
    script: str
    settings: dict  # those that shape the result
    data: dict  # fingerprint; and users, items, interactions, which runs of old do not know
    revision: str | None  # of the code
    versions: dict
    devices: str
    result: dict
    auto: dict = {}  # {key that was "auto": why it is what it is}
    folder: Path | None = None  # None of a run of the record
    kept: np.ndarray | None = None  # of a run of the record, every user's NDCG@10, where it has them

    @property
    def dataset(self):
        return self.settings["dataset"]

    @property
    def statistics(self):
        """recipes.Statistics of its data; None of a run of old."""
        known = self.data.keys() >= set(Statistics._fields)
        return Statistics(*(self.data[key] for key in Statistics._fields)) if known else None

    @property
    def clean(self):
        """Whether the code that made it is known: a revision without uncommitted changes."""
        return self.revision is not None and not self.revision.endswith(("-dirty", UNCOMMITTED))

    def users(self):
        """NDCG@10 of every user on the test set, (U,), NaN of one without targets.

        Raises:
            UserError: they are missing, cannot be read, or are not those of which the result has the mean.
        """
        where = f"{self.folder}/users.npz" if self.folder else f"the record's {self.name}"
        remedy = f"delete {self.folder}, and make the run again" if self.folder else restore(USERS)
        values, mean = self.kept, self.result["test"]["NDCG@10"]
        if self.folder:
            values = read_npz(self.folder / "users.npz", remedy).get("NDCG@10")
        sound = (
            values is not None
            and mean is not None
            and values.ndim == 1
            and values.dtype.kind == "f"
            and np.isfinite(values).any()
        )
        if not sound or abs(np.nanmean(values, dtype=np.float64) - mean) > 0.01:
            raise UserError(f"{where} does not have the users' NDCG@10 whose mean the result has; {remedy}")
        return values


def restore(name):
    return f"`git checkout docs/{name}` brings back the committed one"


def read_run(folder):
    """The Found run of a folder; UserError as runs.read_finished."""
    config, result = read_finished(folder)
    data = {"fingerprint": config["data_fingerprint"], **config.get("data", {})}
    return Found(
        folder.name,
        config["script"],
        shaping(config["settings"]),
        data,
        config["git_revision"],
        config["versions"],
        config["devices"],
        result,
        config.get("auto", {}),
        folder,
    )


def read_folder(results):
    """([Found] of the finished runs in a results folder, [a line for each that is damaged])."""
    found, damaged = [], []
    for path in sorted(Path(results).glob("*/result.json")):
        try:
            found.append(read_run(path.parent))
        except UserError as error:
            damaged.append(f"left out: {error}")
    return found, damaged


def digest(content):
    return hashlib.sha256(content).hexdigest()


def read_record(folder=None):
    """[Found] of the runs that are kept with the code, in `folder` (docs/ without one); [] if none are.

    Raises:
        UserError: a line, or its users' metrics, are not as they were written.
    """
    folder = folder or DOCS
    if not (folder / LINES).exists():
        return []
    users = read_npz(folder / USERS, restore(USERS)) if (folder / USERS).exists() else {}
    lines = (folder / LINES).read_text(encoding="utf-8").split("\n")[:-1]
    return [_read_line(text, users, number) for number, text in enumerate(lines, 1)]


def _read_line(text, users, number):
    named = re.match(r'\{"name": "([^"]+)"', text)
    name = named[1] if named else f"line {number}"
    altered = f"{LINES}: the record of {name} has been altered"
    rest, _, own = text.rpartition(', "sha256": "')
    if digest(rest.encode()) + '"}' != own:
        raise UserError(f"{altered}: its SHA-256 is not that of its line; {restore(LINES)}")
    try:
        line = json.loads(text)
        for key, kind in FIELDS.items():
            if not isinstance(line[key], kind):
                raise ValueError(f"its {key} is {json.dumps(line[key])[:40]}")
        check_result(line["result"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{altered}: it is not what a run has ({error}); {restore(LINES)}") from error
    values = users.get(name)
    if line["users"] is not None and (values is None or digest(values.tobytes()) != line["users"]):
        raise UserError(
            f"{USERS}: the users' metrics of {name} have been altered: their SHA-256 is not "
            f"that of the record; {restore(USERS)}"
        )
    kept = values if line["users"] else None
    return Found(**{key: line[key] for key in FIELDS if key != "users"}, kept=kept)


def keep(runs, need_users, folder=None):
    """Writes the record anew with these runs beside those that it has; without what belongs to this machine.

    Args:
        runs: [Found] of folders.
        need_users: names of those whose users' metrics are kept, too.
    """
    folder = folder or DOCS
    before = read_record(folder)
    users = {run.name: run.kept for run in before if run.kept is not None}
    users |= {
        run.name: np.ascontiguousarray(run.users(), np.float32) for run in runs if run.name in need_users
    }
    by_name = {run.name: run for run in [*before, *runs]}
    lines = "".join(to_line(by_name[name], users.get(name)) + "\n" for name in sorted(by_name))
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **dict(sorted(users.items())))
    # The lines last: with its line a run is there.
    for name, content in ((USERS, arrays.getvalue()), (LINES, lines.encode())):
        with atomic(folder / name) as file:
            file.write(content)


def to_line(run, users):
    """The text of a run's line; users: (U,) float32, or None."""
    line = {key: getattr(run, key) for key in FIELDS if key != "users"}
    line["users"] = None if users is None else digest(users.tobytes())
    rest = json.dumps(line, ensure_ascii=False)[:-1]
    return f'{rest}, "sha256": "{digest(rest.encode())}"}}'
