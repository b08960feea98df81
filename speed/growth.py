"""How time and memory grow with the data, for bench.py: steps, prep.sh, and whole runs on large data."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import scipy.sparse as sp

import distill
import model
from data import Dataset
from lib import devices
from lib.errors import UserError
from lib.files import ROOT
from runs import recipes
from runs.folder import peak_rss_mb
from speed.generate import interactions, write_data_set, write_netflix

NETFLIX_USERS, NETFLIX_ITEMS, NETFLIX_INTERACTIONS = 480_189, 17_770, 100_000_000
SHOPS = {"shop": (200_000, 100_000, 2_000_000), "large-shop": (1_000_000, 500_000, 10_000_000)}
SHOP_TESTED, SHOP_SUPPORT = 10_000, 200  # users with validation and test interactions, synthetic users
INTERACTIONS_PER_USER = NETFLIX_INTERACTIONS // NETFLIX_USERS
USERS = 6_000, 48_000, 480_000  # of the data on which a step is timed
ITEMS = 10_000, 100_000, 500_000  # of wide data on which a step is timed
WIDE_USERS, WIDE_LENGTH, WIDE_SUPPORT = 20_000, 10, 200  # users, interactions of each, synthetic users
ROWS = 1_000_000, 2_500_000, 5_000_000, 10_000_000  # of the text on which prep.sh is timed
BATCH, STEPS = 1024, 8


def train_only(rng, users, items, count):
    """A data.Dataset of generated train interactions alone, in memory."""
    user, item = interactions(rng, users, items, count)
    train = sp.csr_matrix((np.ones(len(user), np.int8), (user, item)), (users, items))
    empty = sp.csr_matrix((users, items), dtype=np.int8)
    lengths = np.stack([np.diff(train.indptr), *np.zeros((2, users), int)])
    return Dataset(
        name="generated",
        train=train,
        validation=empty,
        test=empty,
        user_ids=np.arange(users),
        item_ids=np.arange(items),
        titles=None,
        first_user=0,
        lengths=lengths,
        frequency=np.bincount(train.indices, minlength=items),
        fingerprint="",
        gather=lambda own: own,
    )


def step_seconds(settings, dataset, mesh):
    """Median seconds of a step of distill.py and its batch, after two steps that compile and warm up."""
    kernel, error = (model.Kernel(settings["depth"], settings["normalize"]), model.LOSSES[settings["loss"]])
    _, optimizer, step, batches = distill.build(settings, dataset, kernel, error, mesh)
    state = distill.initial_state(settings, distill.initial_logits(settings, dataset), optimizer)
    no_stop, seconds = devices.spread(mesh, np.zeros(len(mesh.local_devices), np.int32)), []
    for i in range(STEPS + 2):
        began = time.perf_counter()
        outcome = step(state, None, jax.random.key(i), batches(i), no_stop)
        state, _ = jax.block_until_ready(outcome)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[2:]))


def growth(settings, mesh):
    """Prints and returns three tables, lists of a dict a row.

    They are the seconds of a step by the number of users and by the number of items, and the seconds and
    memory of prep.sh by the number of rows.
    """
    return {
        "steps": _steps_by_users({**settings, "batch_size": BATCH}, mesh),
        "wide": _steps_by_items(settings, mesh),
        "preprocessing": _preprocessing(),
    }


def _steps_by_users(settings, mesh):
    def seconds_of(users):
        rng = np.random.default_rng(0)
        dataset = train_only(rng, users, NETFLIX_ITEMS, INTERACTIONS_PER_USER * users)
        return step_seconds(settings, dataset, mesh)

    title = f"B = {BATCH:,}, {NETFLIX_ITEMS:,} items, {INTERACTIONS_PER_USER} interactions a user"
    return _timed_steps(title, [{"users": users} for users in USERS], seconds_of)


def _steps_by_items(settings, mesh):
    def seconds_of(items, batch_size, sampled_items):
        dataset = train_only(np.random.default_rng(0), WIDE_USERS, items, WIDE_LENGTH * WIDE_USERS)
        sizes = {"batch_size": batch_size, "sampled_items": sampled_items}
        return step_seconds({**settings, **sizes, "user_support": WIDE_SUPPORT}, dataset, mesh)

    title = f"{WIDE_USERS:,} users, {WIDE_LENGTH} interactions a user, S = {WIDE_SUPPORT}"
    shapes = []
    for items in ITEMS:
        statistics = recipes.Statistics(WIDE_USERS, items, WIDE_LENGTH * WIDE_USERS)
        for sampled in (-1, "auto"):
            sizes = recipes.batch_sizes({"batch_size": "auto", "sampled_items": sampled}, statistics)
            if (shape := {"items": items, **sizes}) not in shapes:
                shapes.append(shape)
    return _timed_steps(title, shapes, seconds_of)


def _timed_steps(title, shapes, seconds_of):
    """Prints and returns a table, a row for each shape: its numbers, and seconds_of(**shape)."""
    names = "".join(f"{name:>13s} " for name in shapes[0])
    print(f"\na step, {title}\n{names}{'seconds':>8s} {'ratio':>6s}", flush=True)
    rows = []
    for shape in shapes:
        rows.append({**shape, "seconds": seconds_of(**shape)})
        numbers, seconds = "".join(f"{number:13,} " for number in shape.values()), rows[-1]["seconds"]
        print(f"{numbers}{seconds:8.2f} {seconds / rows[0]['seconds']:6.2f}", flush=True)
    return rows


def _preprocessing():
    head = f"{'rows':>12s} {'seconds':>8s} {'MiB':>7s} {'seconds a million rows':>23s}"
    print(f"\nprep.sh, Netflix format\n{head}", flush=True)
    rows = []
    for count in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            users = max(count * NETFLIX_USERS // NETFLIX_INTERACTIONS, 40)
            written = write_prize(Path(folder), users, count)
            seconds, peak, _ = measured(prepare(folder))
        rows.append({"rows": written, "seconds": seconds, "peak_rss_mb": peak})
        print(f"{written:12,} {seconds:8.1f} {peak:7,.0f} {1e6 * seconds / written:23.2f}", flush=True)
    return rows


def netflix():
    """Prints and returns {command: its figures} of prep.sh and distill.py on text of Netflix's size."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = write_prize(Path(folder), NETFLIX_USERS, NETFLIX_INTERACTIONS)
        print(f"\n{rows:,} rows written", flush=True)
        distil = [sys.executable, "distill.py", "--dataset=netflix", f"--data_dir={folder}/data"]
        distil += [f"--results_dir={folder}/results", f"--batch_size={BATCH}", "--train_steps=100"]
        distil += ["--recipe=squared", "--keep_lamda=step"]  # no rehearsals: the time is that of one run
        for name, command in (("prep.sh", prepare(folder)), ("distill.py", distil)):
            seconds, peak, last_line = measured(command)
            figures[name] = {"seconds": seconds, "peak_rss_mb": peak, "last_line": last_line}
            print(f"{name}: {seconds:.0f} s, {peak:,.0f} MiB; {last_line}", flush=True)
    return figures


def shop(name):
    """Prints and returns the figures of distill.py, with its rehearsals, where items are many."""
    with tempfile.TemporaryDirectory() as folder:
        write_data_set(Path(folder, name), *SHOPS[name], 0, SHOP_TESTED)
        distil = [sys.executable, "distill.py", f"--dataset={name}", f"--data_dir={folder}"]
        distil += [f"--results_dir={folder}/results", f"--user_support={SHOP_SUPPORT}"]
        seconds, peak, last_line = measured(distil)
    print(f"\n{name}: {seconds:.0f} s, {peak:,.0f} MiB; {last_line}", flush=True)
    return {"seconds": seconds, "peak_rss_mb": peak, "last_line": last_line}


def prepare(folder):
    """The words that call prep.sh on the text in a folder, and write into its folder data."""
    return ["./prep.sh", "netflix", f"--file={folder}", f"--data_dir={folder}/data"]


def write_prize(folder, users, count):
    """Writes about `count` rows as combined_data_1.txt in a folder; returns their number."""
    user, item = interactions(np.random.default_rng(0), users, NETFLIX_ITEMS, count)
    write_netflix(folder / "combined_data_1.txt", user, item, np.random.default_rng(1))
    return len(user)


def measured(command):
    """(seconds, peak MiB, last line of output) of a command in the project's folder."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, peak_rss_mb(process.pid) or 0.0)
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        output.seek(0)
        last_line = output.read().strip().split("\n")[-1]
    if process.returncode:
        raise UserError(f"{command[0]} ended with exit code {process.returncode}: {last_line}")
    return seconds, peak, last_line
