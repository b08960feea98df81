"""A run's folder, results/<run>/: the only code that writes there.

    config.json      settings, command, versions, device, git revision
    log.txt          what was said
    metrics.jsonl    a line a validation
    checkpoint.npz   all that is needed to go on
    distilled.npz    the synthetic users, with the items' original ids
    users.npz        HR@10 and NDCG@10 of every user on the test set; there before result.json
    result.json      the final metrics: exists only when the run has finished
    sums.json        SHA-256 sums of config.json, metrics.jsonl, distilled.npz, users.npz and result.json
    curve.png        validation over steps, or over lamda
    inverse.npz      recommend.py's solution, kept so that it is calculated once
    report.html      report.py's page, and in leak.json what it says about real users' histories

Every file is written under a temporary name, flushed to the disk and renamed, so a reader, and a run
that goes on after a crash, sees a whole file or none.
"""

import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from lib.checks import parse_json
from lib.errors import UserError, printable
from lib.files import ROOT, atomic, lock, naming, read_npz
from runs.reading import START_AGAIN, SUMMED, SUMS, OwnResult, Place, digest_of, read_config, read_result

# Where files lie, whether to go on and what is printed do not shape the result; every other setting does.
FILES = ("data_dir", "results_dir", "resume", "paper", "eval_batch_size", "metrics")
NOT_SHAPING = {*FILES, "distributed", "coordinator", "num_processes", "process_id"}
PACKAGES = ("jax", "jaxlib", "neural-tangents", "optax", "numpy", "scipy")


class Run:
    """An open run, made by `open_run`. Files are written atomically, but for log.txt, which grows.

    Of several processes, the first writes and speaks; the others are silent.
    """

    def __init__(self, folder, resume, silent, started=None):
        self.folder = folder
        self.resume = resume  # whether the same command goes on from the checkpoint
        self.earlier_seconds = 0.0  # of the processes that the run goes on from
        self._started = started or _process_start()
        self._silent = silent

    def say(self, line):
        """Shows a line, above a progress bar if there is one, and keeps it in log.txt."""
        if self._silent:
            return
        line = printable(line)
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        path = self.folder / "log.txt"
        at_once = lambda path, flags: os.open(path, flags | os.O_NONBLOCK, 0o666)  # a pipe is refused
        with naming(path), open(path, "a", encoding="utf-8", opener=at_once) as file:
            file.write(line + "\n")

    def save(self, name, content):
        """Writes bytes."""
        if not self._silent:
            with atomic(self.folder / name) as file:
                file.write(content)

    def save_json(self, name, value):
        self.save(name, _to_json(value))

    def keep_config(self, about):
        """Writes config.json. A run that goes on keeps its first one, and says what has changed since."""
        if (self.folder / "config.json").exists():
            self.warn_of_differences(about, self.say)
        else:
            self.save_json("config.json", about)

    def warn_of_differences(self, about, say):
        """Says which of revision, versions and devices have changed since the run began."""
        try:
            began = read_config(self.folder)
            changed = [
                f"{key} {began[key]} then, {about[key]} now"
                for key in ("git_revision", "versions", "devices")
                if began[key] != about[key]
            ]
        except UserError:
            changed = ["config.json cannot be read"]
        if changed:
            say(f"note: the run began under other conditions: {'; '.join(changed)}")

    def save_arrays(self, name, arrays, compressed=False):
        if not self._silent:
            with atomic(self.folder / name) as file:
                (np.savez_compressed if compressed else np.savez)(file, **arrays)

    def save_metrics(self, history):
        """Writes metrics.jsonl anew: a dict a validation."""
        self.save("metrics.jsonl", b"".join(json.dumps(_finite(line)).encode() + b"\n" for line in history))

    def finish(self, result):
        """Writes result.json, with which the run has finished, and before it the sums of its files."""
        if self._silent:
            return
        content = _to_json(result)
        sums = {path.name: digest_of(path) for path in map(self.folder.joinpath, SUMMED) if path.exists()}
        self.save_json(SUMS, {**sums, "result.json": hashlib.sha256(content).hexdigest()})
        self.save("result.json", content)

    def save_checkpoint(self, arrays, state):
        """Keeps arrays (a dict) and state (a reading.Place) for `load_checkpoint`."""
        self.save_arrays("checkpoint.npz", {**arrays, "state": np.array(json.dumps(state))})

    def load_checkpoint(self):
        """(arrays, state, a reading.Place) as saved, or None if there is no checkpoint."""
        path = self.folder / "checkpoint.npz"
        if self._silent or not path.exists():
            return None
        arrays = read_npz(path, START_AGAIN)
        try:
            state = parse_json(str(arrays.pop("state")), Place)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not a checkpoint of this script ({error}); {START_AGAIN}") from error
        return arrays, {**state, "history": [Validated(line) for line in state["history"]]}

    def result(self):
        """The result of the finished run, or None."""
        if self._silent or not (self.folder / "result.json").exists():
            return None
        return read_result(self.folder, OwnResult)

    def wall_seconds(self):
        """Seconds the run has taken in all its processes, imports included."""
        return self.earlier_seconds + time.monotonic() - self._started


class Validated(dict):
    """A line of the history in a checkpoint. Reading a key that it lacks is a UserError."""

    def __missing__(self, key):
        raise UserError(f"checkpoint.npz is damaged: a validation has no {key}; {START_AGAIN}")


class Stopped(SystemExit):
    """All processes of the run stop after the same step; the exit code is the one that shells expect."""


class Stop:
    """Within the block, a first SIGINT or SIGTERM is kept in `signal`; a second one interrupts at once."""

    def __enter__(self):
        self.signal = None
        self._before = {name: signal.signal(name, self._handle) for name in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error):
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _handle(self, name, frame):
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = name


def shaping(settings):
    """The settings that shape a result, by name. Of `distilled`, which is a run, the folder's name alone."""
    return {
        key: Path(value).name if key == "distilled" else value
        for key, value in sorted(settings.items())
        if key not in NOT_SHAPING
    }


def run_name(settings, fingerprint, kind):
    """A readable name with a hash of the data and of every setting that shapes the result."""
    digest = hashlib.sha256(json.dumps([kind, shaping(settings), fingerprint]).encode()).hexdigest()[:8]
    size = "all" if settings["user_support"] == -1 else str(settings["user_support"])
    return "-".join([kind, settings["dataset"], size, f"seed{settings['seed']}", digest])


@contextmanager
def open_run(settings, fingerprint, kind, silent=False, started=None):
    """The folder of these settings on this data, made if needed, and locked while the block runs.

    With resume off, a folder that is already there is kept under another name.

    Args:
        kind: the first word of the folder's name.
        silent: for a process that is not the first of several. It neither locks nor writes.
        started: time.monotonic() when the work began; None: the start of the process, imports included.

    Raises:
        InUse: another process runs the same settings.
    """
    results = Path(settings["results_dir"])
    folder = results / run_name(settings, fingerprint, kind)
    if silent:
        yield Run(folder, settings["resume"], silent, started)
        return
    results.mkdir(parents=True, exist_ok=True)
    # The lock lies beside the folder, which may be renamed while it is held.
    with lock(results / f".{folder.name}.lock", f"another process is running these settings in {folder}"):
        if not settings["resume"] and folder.exists():
            old_names = (folder.with_name(f"{folder.name}.old{count}") for count in itertools.count(1))
            folder.rename(next(name for name in old_names if not name.exists()))
        folder.mkdir(exist_ok=True)
        yield Run(folder, settings["resume"], silent, started)


def describe(settings, reasons, fingerprint, statistics, devices):
    """What config.json holds: enough to repeat the run and to tell why another differs.

    Args:
        reasons: {key that was "auto": the reason for its value}.
        statistics: users, items and train interactions, from which the rules for "auto" choose.
    """
    return {
        "script": Path(sys.argv[0]).stem,
        "settings": settings,
        "auto": reasons,
        "data_fingerprint": fingerprint,
        "data": statistics,
        "command": shlex.join([sys.executable, *sys.argv]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sums": SUMS,
    }


def peak_rss_mb(process="self"):
    """The most memory a process has held, in MiB (of the host, not of a GPU); None if it has ended.

    macOS does not keep the peak of another process: there, it is what the process holds now. On Linux it is
    not taken from getrusage, which in a young process has the memory of its parent.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):  # it has ended, or the system is not Linux
        if process == "self":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak / 2**20 if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere
    try:
        # 0: it has ended, and nobody has waited for it
        return psutil.Process(process).memory_info().rss / 2**20 or None
    except psutil.Error:
        return None


def _to_json(value):
    """The bytes of a JSON file."""
    return json.dumps(_finite(value), indent=2).encode() + b"\n"


def _finite(value):
    """The value with None for NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _process_start():
    """time.monotonic() at which this process was started; imports count as work."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        age = uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux, where psutil is off by up to a second
        age = max(0.0, time.time() - psutil.Process().create_time())  # 0: the clock was set back since
    return time.monotonic() - age


def _git_revision():
    def git(*words):
        words, pipes = ["git", "--no-optional-locks", *words], {"capture_output": True, "text": True}
        return subprocess.run(words, cwd=ROOT, check=True, timeout=10, **pipes).stdout.strip()

    try:  # describe --dirty would lock the index: killed, it would leave the lock, and git commit nothing
        is_dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return git("describe", "--always", "--abbrev=12") + "-dirty" * is_dirty
    except (OSError, subprocess.SubprocessError):
        return None
