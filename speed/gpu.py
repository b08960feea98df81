"""bench.py's check of a machine with an NVIDIA GPU: does what is promised of one hold on this one?

Every check is a process of its own: none leaves memory, or a broken driver, to the next. No network is
needed. Without a GPU the same checks run on the CPU, at a smaller size. All end within ten minutes: no check
begins after nine, and what runs half a minute later has failed. The table is also in results/bench-gpu.md.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lib.errors import UserError
from lib.files import ROOT, atomic
from lib.settings import resolve, to_argument
from runs.folder import shaping
from speed.generate import write_data_set

LAST_BEGIN, LIMIT = 540, 570  # seconds after which no check begins, and after which one is told to end
TOLERANCE = 0.3  # points of test nDCG@10 that a GPU may be off
MOVIELENS = 6040, 3706, 1_000_000  # users, items, interactions of ML-1M
TIMED = {"gpu": MOVIELENS, "cpu": (1500, 1000, 150_000)}  # the size at which the plain versions are timed
STEPS = {"gpu": {}, "cpu": {"train_steps": 20}}  # of the runs that are compared
FEW_STEPS = {"gpu": 25, "cpu": 3}  # of those that only have to run
LARGE, SMALL_LAMDA = {"gpu": 5000, "cpu": 1500}, 1e-5
WIDE_ITEMS = 200_000  # of the data set whose batch does not fit
PROBE = """from lib import devices; import json; mesh = devices.start(False)
print(json.dumps([mesh.devices.flat[0].platform, devices.describe(mesh), devices.free_bytes(mesh)]))"""
RATIOS = """import bench, sys; from lib import errors
bench.USERS, bench.ITEMS, bench.INTERACTIONS = map(int, sys.argv.pop(1).split(","))
errors.run_script(bench.main, "bench")"""
HEAD = "| what | device | seconds | figures | outcome | why |\n|---|---|---|---|---|---|"


def to_arguments(settings):
    return [to_argument(key, value) for key, value in settings.items()]


def to_line(row):
    """A row of the Markdown table."""
    figures = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row["figures"].items()
    )
    seconds, figures = f"{row['seconds']:.3g}", ", ".join(figures)
    cells = row["what"], row["device"], seconds, figures, row["outcome"], row["why"]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def call(words, platform, seconds):
    """stdout of python with these words, which ends before this process does, whatever ends that.

    UserError: it failed, with the last line of its stderr; or it took longer than so many seconds.
    """
    # A platform that is named is used or complained of; otherwise JAX may turn to the CPU.
    named = {} if platform is None else {"JAX_PLATFORMS": {"gpu": "cuda"}.get(platform, platform)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([sys.executable, *words], env=os.environ | named, **pipes) as process:
        try:
            output, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"ended after {seconds:.0f} s: {LIMIT} s of checks had passed") from error
        finally:
            process.terminate()  # if it still runs; it ends its own processes
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    if code := process.returncode:
        raise UserError(f"exit code {code}: {(complaint.strip().splitlines() or ['no reason given'])[-1]}")
    return output


def read_runs(results):
    """[(result, arrays that a model is made from)] of the finished runs in a results folder."""
    found = []
    for path in sorted(results.glob("*/result.json")):
        with np.load(path.parent / "distilled.npz") as saved:
            arrays = [saved[key] for key in ("data", "logits", "lamda")]
        found.append((json.loads(path.read_text()), arrays))
    return found


def compare(runs, bits):
    """(differences in test metrics and lamda, whether they pass, why); with bits, only identical runs do."""
    if len(runs) < 2:
        raise UserError("one of the two runs has failed, or was skipped")
    (one, arrays), (other, others) = runs
    far = {name: abs(value - other["test"][name]) for name, value in one["test"].items()}
    far["lamda, relative"] = abs(1 - other["lamda"] / one["lamda"])
    if not any(far.values()) and all(a.tobytes() == b.tobytes() for a, b in zip(arrays, others)):
        return far, True, "identical to the last bit"
    near = far["NDCG@10"] <= TOLERANCE
    return far, near and not bits, f"bits differ; nDCG@10 {'within' if near else 'beyond'} {TOLERANCE} points"


class Checks:
    """The checks and their rows; both files are written anew with every row, so that a crash loses none."""

    def __init__(self, out, temporary, base, platform, device, free):
        self.out, self.temporary, self.base = out, temporary, base
        self.platform, self.device, self.free = platform, device, free
        self.rows, self.began = [], time.monotonic()

    def left(self):
        return LIMIT - (time.monotonic() - self.began)

    def add(self, what, device, seconds, figures, outcome, why):
        row = dict(what=what, device=device, seconds=seconds, figures=figures, outcome=outcome, why=why)
        self.rows.append(row)
        print(to_line(row), flush=True)
        about = {"cores": os.cpu_count(), "tolerance": TOLERANCE, "rows": self.rows}
        texts = {"json": json.dumps(about, indent=2), "md": "\n".join([HEAD, *map(to_line, self.rows)])}
        for ending, text in texts.items():
            with atomic(self.out / f"bench-gpu.{ending}") as file:
                file.write(text.encode() + b"\n")

    def check(self, what, measure, device=None):
        """Adds a row by measure() -> (figures, passed, why), which may raise; or one that it was too late."""
        began, device = time.monotonic(), device or self.device
        if self.left() < LIMIT - LAST_BEGIN:
            return self.add(what, device, 0.0, {}, "skipped", f"{LAST_BEGIN} s had passed")
        try:
            figures, passed, why = measure()
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:  # or a file is not as expected
            figures, passed, why = {}, False, " ".join(str(error).split())
        self.add(what, device, time.monotonic() - began, figures, "passed" if passed else "failed", why)

    def distil(self, platform, runs, **more):
        """Runs distill.py, and appends what it has left to the runs."""
        results = Path(tempfile.mkdtemp(dir=self.temporary))
        settings = {**self.base, **more, "results_dir": str(results)}
        call(["distill.py", *to_arguments(settings)], platform, self.left())
        [(result, arrays)] = read_runs(results)
        runs.append((result, arrays))
        figures = {key: result[key] for key in ("steps", "step_seconds", "lamda")} | {
            "nDCG@10": result["test"]["NDCG@10"]
        }
        finite = figures["nDCG@10"] is not None and all(np.isfinite(array).all() for array in arrays)
        return figures, finite, "" if finite else "not all that it has learnt are numbers"

    def two_processes(self):
        """grid_search_distill.py with two workers on one device: a run of each must finish."""
        results = self.temporary / "search"
        settings = {**self.base, "train_steps": FEW_STEPS[self.platform], "results_dir": str(results)}
        # Every setting, so that none is left to the lists of values in grid_search_distill.py.
        settings = {**shaping(resolve(to_arguments(settings), "")[0]), **settings, "seed": [1, 2]}
        words = ["--workers-per-device=2", f"--gpu_ids={[0] if self.platform == 'gpu' else []}"]
        call(["grid_search_distill.py", *words, *to_arguments(settings)], self.platform, self.left())
        runs = read_runs(results)
        figures = {f"run {number} in seconds": run["wall_seconds"] for number, (run, _) in enumerate(runs, 1)}
        return figures, len(runs) == 2, f"{len(runs)} of 2 runs have finished"

    def refused(self):
        """A batch whose rows alone, in float32, take all free memory: refused in one line, no run begun."""
        users, results = self.free // (4 * WIDE_ITEMS) + 1, self.temporary / "refused"
        write_data_set(self.temporary / "wide", users, WIDE_ITEMS, 20 * users, 0)
        more = {"dataset": "wide", "user_support": 2, "num_per_user": 2, "batch_size": -1}
        settings = {**self.base, **more, "data_dir": str(self.temporary), "results_dir": str(results)}
        try:
            said = call(["distill.py", *to_arguments(settings)], self.platform, self.left())
        except UserError as error:
            said = str(error)
        well = said.startswith("exit code 1: distill: a step with") and not results.exists()
        return {"users": users}, well, said

    def times(self):
        """A row for each figure of `bench.py ratios`."""
        results, size = self.temporary / "ratios", ",".join(map(str, TIMED[self.platform]))
        settings = {**self.base, "results_dir": str(results)}
        call(["-c", RATIOS, size, "ratios", *to_arguments(settings)], self.platform, self.left())
        found = json.loads((results / "bench.json").read_text())
        for line in found["figures"]:
            figures = {key: line[key] for key in ("plain_seconds", "ratio")}
            self.add(line["what"], found["device"], line["seconds"], figures, "passed", line["plain_is"])
        return {}, True, f"bench.py ratios; users, items, interactions: {size}"

    def run(self):
        sides = ["gpu", "cpu"] if self.platform == "gpu" else ["cpu"]
        runs, few = {side: [] for side in sides}, {"train_steps": FEW_STEPS[self.platform]}
        for side in sides:
            name = self.device if side == self.platform else "cpu"
            for number in (1, 2):
                self.check(f"distill.py, {side}, run {number}", lambda: self.distil(side, runs[side]), name)
            self.check(f"{side}: run 1 against run 2", lambda: compare(runs[side], bits=side == "cpu"), name)
        if self.platform == "gpu":
            both = [run for side in sides for run in runs[side][:1]]
            self.check("GPU against CPU", lambda: compare(both, bits=False), f"{self.device}, cpu")
        self.check("two processes on one device", self.two_processes)
        self.check("a batch that does not fit", self.refused)
        self.check("times beside the plain version", self.times)
        small = {"learn_lamda": False, "lamda_grid": [SMALL_LAMDA]}
        for more in ({"float64": True}, small, {"user_support": LARGE[self.platform]}):
            self.check(" ".join(to_arguments(more)), lambda: self.distil(self.platform, [], **few, **more))


def gpu(settings, changed):
    """Runs all checks with settings as from settings.resolve; UserError if one has failed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    platform, device, free = json.loads(call(["-c", PROBE], None, LIMIT).splitlines()[-1])
    folder, out = Path(settings["data_dir"]).absolute() / settings["dataset"], Path(settings["results_dir"])
    out.mkdir(parents=True, exist_ok=True)
    if platform != "gpu":
        platform, hint = "cpu", "; nvidia-smi finds one: see requirements-gpu.txt"
        print(f"no GPU: everything on the CPU{hint if shutil.which('nvidia-smi') else ''}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as temporary:
        if "dataset" not in changed and not folder.is_dir():
            print(f"there is no {folder}: the metrics are of data generated at its size", flush=True)
            folder = Path(temporary) / "generated"
            write_data_set(folder, *MOVIELENS, settings["seed"])
        print(f"{device}, {os.cpu_count()} cores, {folder.name}\n\n{HEAD}", flush=True)
        base = {**STEPS[platform], **changed, "dataset": folder.name, "data_dir": str(folder.parent)}
        checks = Checks(out, Path(temporary), base, platform, device, free)
        checks.run()
    print(f"\nwritten to {out}/bench-gpu.json and {out}/bench-gpu.md")
    if failed := [row["what"] for row in checks.rows if row["outcome"] == "failed"]:
        raise UserError(f"{len(failed)} of {len(checks.rows)} checks have failed: {'; '.join(failed)}")
