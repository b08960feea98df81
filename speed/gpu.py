"""`python bench.py gpu`: checks a machine with an NVIDIA GPU; writes results/bench-gpu.md and .json.

Every check is a process of its own, so that it leaves no memory, and no broken driver, to the next one. No
network is needed. Without a GPU the same checks run on the CPU, at a smaller size. The whole ends within ten
minutes: no check begins after LAST_BEGIN, and a check that still runs at LIMIT fails.
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
from lib.files import ROOT, write_files
from lib.settings import resolve, to_arguments
from runs.folder import shaping
from speed.generate import MOVIELENS_1M, write_data_set

LAST_BEGIN, LIMIT = 540, 570  # seconds since the first check
TOLERANCE = 0.3  # points by which the test nDCG@10 of GPU and CPU may differ
TIMED = {"gpu": MOVIELENS_1M, "cpu": (1500, 1000, 150_000)}  # users, items, interactions of the ratios
# Without rehearsals, whose choice could differ between the runs that are compared.
CHOSEN = {"recipe": "plain", "keep_step": "best", "keep_lamda": "step"}
STEPS = {"gpu": {}, "cpu": {"train_steps": 20}}  # settings of the runs that are compared
FEW_STEPS = {"gpu": 25, "cpu": 3}  # steps of the runs that only have to finish
LARGE, SMALL_LAMDA = {"gpu": 5000, "cpu": 1500}, 1e-5  # user_support and lamda of the last checks
WIDE_ITEMS = 200_000  # items of the data set whose batch does not fit
PROBE = """from lib import devices; import json; mesh = devices.start(False)
print(json.dumps([mesh.devices.flat[0].platform, devices.describe(mesh), devices.free_bytes(mesh)]))"""
RATIOS = """import bench, sys; from lib.errors import run_script
size = tuple(map(int, sys.argv.pop(1).split(",")))
run_script(lambda arguments: bench.main(arguments, size), "bench")"""
HEAD = "| what | device | seconds | figures | outcome | why |\n|---|---|---|---|---|---|"


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
    """The standard output of a Python process, which never outlives this one.

    Args:
        words: after "python".
        platform: "gpu" or "cpu"; None leaves it to JAX.
        seconds: the time it may take.

    Raises:
        UserError: it failed (the last line of its stderr), or took longer.
    """
    # JAX fails if a platform that is named is missing. Without a name it would fall back to the CPU.
    variables = {} if platform is None else {"JAX_PLATFORMS": {"gpu": "cuda"}.get(platform, platform)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([sys.executable, *words], env=os.environ | variables, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"ended after {seconds:.0f} s: {LIMIT} s of checks had passed") from error
        finally:
            process.terminate()  # no effect on a process that has ended; it ends its own processes
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    if code := process.returncode:
        raise UserError(f"exit code {code}: {(errors.strip().splitlines() or ['no reason given'])[-1]}")
    return output


def read_runs(results):
    """[(result, [data, logits, lamda])] of the finished runs of distill.py in a results folder."""
    runs = []
    for path in sorted(results.glob("*/result.json")):
        with np.load(path.parent / "distilled.npz") as saved:
            arrays = [saved[key] for key in ("data", "logits", "lamda")]
        runs.append((json.loads(path.read_text()), arrays))
    return runs


def compare(runs, bits):
    """Compares two runs: (differences of their test metrics and lamda, whether they pass, the reason).

    Args:
        runs: from read_runs.
        bits: whether only identical runs pass; otherwise their nDCG@10 may differ by TOLERANCE.
    """
    if len(runs) < 2:
        raise UserError("one of the two runs has failed, or was skipped")
    (first, arrays), (second, other_arrays) = runs
    differences = {name: abs(value - second["test"][name]) for name, value in first["test"].items()}
    differences["lamda, relative"] = abs(1 - second["lamda"] / first["lamda"])
    identical = all(a.tobytes() == b.tobytes() for a, b in zip(arrays, other_arrays))
    if identical and not any(differences.values()):
        return differences, True, "identical to the last bit"
    near = differences["NDCG@10"] <= TOLERANCE
    reason = f"bits differ; nDCG@10 {'within' if near else 'beyond'} {TOLERANCE} points"
    return differences, near and not bits, reason


class Checks:
    """The checks and their rows. Both files are rewritten with every row, so that a crash loses none.

    Args:
        out: the folder of both files.
        temporary: a folder for data and runs.
        base: {key: value} of settings for every run.
        platform: "gpu" or "cpu".
        device: its name for the table.
        free: bytes of its free memory.
    """

    def __init__(self, out, temporary, base, platform, device, free):
        self.out, self.temporary, self.base = out, temporary, base
        self.platform, self.device, self.free = platform, device, free
        self.rows, self.began = [], time.monotonic()

    def seconds_left(self):
        return LIMIT - (time.monotonic() - self.began)

    def add(self, what, device, seconds, figures, outcome, why):
        row = dict(what=what, device=device, seconds=seconds, figures=figures, outcome=outcome, why=why)
        self.rows.append(row)
        print(to_line(row), flush=True)
        report = {"cores": os.cpu_count(), "tolerance": TOLERANCE, "rows": self.rows}
        texts = {"json": json.dumps(report, indent=2), "md": "\n".join([HEAD, *map(to_line, self.rows)])}
        files = {f"bench-gpu.{ending}": text.encode() + b"\n" for ending, text in texts.items()}
        write_files(self.out, files)

    def check(self, what, measure, device=None):
        """Adds the row of a check, or, if it is too late to begin it, of its omission.

        Args:
            what: the check's name.
            measure: () -> (figures, passed, reason); an error that it raises is a failure.
            device: the name for the table, if it is not self.device.
        """
        began, device = time.monotonic(), device or self.device
        if self.seconds_left() < LIMIT - LAST_BEGIN:
            return self.add(what, device, 0.0, {}, "skipped", f"{LAST_BEGIN} s had passed")
        try:
            figures, passed, why = measure()
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:  # a run's file may be damaged
            figures, passed, why = {}, False, " ".join(str(error).split())
        self.add(what, device, time.monotonic() - began, figures, "passed" if passed else "failed", why)

    def distil(self, platform, runs, **more):
        """A check: runs distill.py, and appends (result, arrays) to the list runs."""
        results = Path(tempfile.mkdtemp(dir=self.temporary))
        settings = {**CHOSEN, **self.base, **more, "results_dir": str(results)}
        call(["distill.py", *to_arguments(settings)], platform, self.seconds_left())
        [(result, arrays)] = read_runs(results)
        runs.append((result, arrays))
        figures = {key: result[key] for key in ("steps", "step_seconds", "lamda")}
        figures["nDCG@10"] = result["test"]["NDCG@10"]
        finite = figures["nDCG@10"] is not None and all(np.isfinite(array).all() for array in arrays)
        return figures, finite, "" if finite else "NaN or infinity among its metrics, users or logits"

    def two_processes(self):
        """A check: grid_search_distill.py finishes two runs by two workers on one device."""
        results = self.temporary / "search"
        settings = {**self.base, "train_steps": FEW_STEPS[self.platform], "results_dir": str(results)}
        # All settings, so that the lists at the top of grid_search_distill.py have no effect.
        settings = {**shaping(resolve(to_arguments(settings), "")[0]), **settings, "seed": [1, 2]}
        words = ["--workers-per-device=2", f"--gpu_ids={[0] if self.platform == 'gpu' else []}"]
        call(["grid_search_distill.py", *words, *to_arguments(settings)], self.platform, self.seconds_left())
        runs = read_runs(results)
        figures = {f"run {number} in seconds": run["wall_seconds"] for number, (run, _) in enumerate(runs, 1)}
        return figures, len(runs) == 2, f"{len(runs)} of 2 runs have finished"

    def refused(self):
        """A check: distill.py refuses, in one line, a batch whose float32 rows alone fill the memory."""
        users, results = self.free // (4 * WIDE_ITEMS) + 1, self.temporary / "refused"
        write_data_set(self.temporary / "wide", users, WIDE_ITEMS, 20 * users, 0)
        more = {"dataset": "wide", "user_support": 2, "num_per_user": 2, "batch_size": -1}
        settings = {**self.base, **more, "data_dir": str(self.temporary), "results_dir": str(results)}
        try:
            answer = call(["distill.py", *to_arguments(settings)], self.platform, self.seconds_left())
        except UserError as error:
            answer = str(error)
        refused = answer.startswith("exit code 1: distill: a step with") and not results.exists()
        return {"users": users}, refused, answer

    def times(self):
        """A check: `bench.py ratios` finishes. Adds a row for each of its figures."""
        results, size = self.temporary / "ratios", ",".join(map(str, TIMED[self.platform]))
        settings = {**self.base, "results_dir": str(results)}
        call(["-c", RATIOS, size, "ratios", *to_arguments(settings)], self.platform, self.seconds_left())
        report = json.loads((results / "bench.json").read_text())
        for line in report["figures"]:
            figures = {key: line[key] for key in ("plain_seconds", "ratio")}
            self.add(line["what"], report["device"], line["seconds"], figures, "passed", line["plain_is"])
        return {}, True, f"bench.py ratios; users, items, interactions: {size}"

    def run(self):
        """Runs every check."""
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
    """Prints the table of all checks.

    Args:
        settings, changed: from lib.settings.resolve.

    Raises:
        UserError: a check has failed.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    platform, device, free = json.loads(call(["-c", PROBE], None, LIMIT).splitlines()[-1])
    folder, out = Path(settings["data_dir"]).absolute() / settings["dataset"], Path(settings["results_dir"])
    out.mkdir(parents=True, exist_ok=True)
    if platform != "gpu":
        platform = "cpu"
        install = "pip install -r requirements-gpu.txt"
        hint = f"; nvidia-smi is installed: {install}" if shutil.which("nvidia-smi") else ""
        print(f"no GPU: everything on the CPU{hint}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as temporary:
        if "dataset" not in changed and not folder.is_dir():
            print(f"there is no {folder}: the metrics are those of generated data of its size", flush=True)
            folder = Path(temporary) / "generated"
            write_data_set(folder, *MOVIELENS_1M, settings["seed"])
        print(f"{device}, {os.cpu_count()} cores, {folder.name}\n\n{HEAD}", flush=True)
        base = {**STEPS[platform], **changed, "dataset": folder.name, "data_dir": str(folder.parent)}
        checks = Checks(out, Path(temporary), base, platform, device, free)
        checks.run()
    print(f"\nwritten to {out}/bench-gpu.json and {out}/bench-gpu.md")
    if failed := [row["what"] for row in checks.rows if row["outcome"] == "failed"]:
        raise UserError(f"{len(failed)} of {len(checks.rows)} checks have failed: {'; '.join(failed)}")
