"""How time and memory grow with the data, for bench.py: steps, preprocessing, and a whole run at Netflix's size."""

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
from runs.batches import make_batches
from runs.folder import peak_rss_mb
from speed.generate import interactions, write_netflix

NETFLIX_USERS, NETFLIX_ITEMS, NETFLIX_INTERACTIONS = 480_189, 17_770, 100_000_000
USERS, ROWS = (6_000, 48_000, 480_000), (1_000_000, 2_500_000, 5_000_000, 10_000_000)
BATCH, STEPS = 1024, 8


def train_only(rng, users, items, count):
    """A Dataset of generated train interactions, in memory."""
    user, item = interactions(rng, users, items, count)
    train = sp.csr_matrix((np.ones(len(user), np.int8), (user, item)), (users, items))
    none = sp.csr_matrix((users, items), dtype=np.int8)
    lengths = np.stack([np.diff(train.indptr), *np.zeros((2, users), int)])
    return Dataset(
        "generated",
        train,
        none,
        none,
        np.arange(users),
        np.arange(items),
        None,
        0,
        lengths,
        np.bincount(train.indices, minlength=items),
        "",
        lambda own: own,
    )


def step_seconds(settings, dataset, mesh):
    """Median seconds of a step, its batch included, after two that compile and warm up."""
    optimizer = distill.make_optimizer(settings)
    state = distill.initial_state(settings, distill.initial_logits(settings, dataset), optimizer)
    loss = distill.make_loss(settings, model.make_kernel(settings["depth"], settings["normalize"]), dataset)
    step, batches = distill.make_step(settings, loss, optimizer, mesh), make_batches(settings, dataset, mesh)
    wish, spent = devices.spread(mesh, np.zeros(len(mesh.local_devices), np.int32)), []
    for number in range(STEPS + 2):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(
            step(state, settings["lamda"], jax.random.key(number), batches(number), wish)
        )
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[2:]))


def growth(settings, mesh):
    """Tables: seconds of a step over the number of users, seconds and memory of prep.sh over the number of rows."""
    settings = {**settings, "batch_size": BATCH}
    print(
        f"\na step, B = {BATCH:,}, {NETFLIX_ITEMS:,} items, 208 interactions a user\n{'users':>10s} {'seconds':>8s} {'ratio':>6s}",
        flush=True,
    )
    steps = []
    for users in USERS:
        dataset = train_only(np.random.default_rng(0), users, NETFLIX_ITEMS, 208 * users)
        steps.append({"users": users, "seconds": step_seconds(settings, dataset, mesh)})
        print(
            f"{users:10,} {steps[-1]['seconds']:8.2f} {steps[-1]['seconds'] / steps[0]['seconds']:6.2f}",
            flush=True,
        )
    print(
        f"\nprep.sh, Netflix format\n{'rows':>12s} {'seconds':>8s} {'MiB':>7s} {'seconds a million rows':>23s}",
        flush=True,
    )
    rows = []
    for count in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            found = write_prize(Path(folder), max(count * NETFLIX_USERS // NETFLIX_INTERACTIONS, 40), count)
            seconds, peak, _ = measured(
                ["./prep.sh", "netflix", f"--file={folder}", f"--data_dir={folder}/data"]
            )
        rows.append({"rows": found, "seconds": seconds, "peak_rss_mb": peak})
        print(f"{found:12,} {seconds:8.1f} {peak:7,.0f} {1e6 * seconds / found:23.2f}", flush=True)
    return {"steps": steps, "preprocessing": rows}


def netflix():
    """From text of Netflix's size to test metrics: prep.sh, then distill.py, 500 users, 100 steps."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = write_prize(Path(folder), NETFLIX_USERS, NETFLIX_INTERACTIONS)
        print(f"\n{rows:,} rows written", flush=True)
        for name, command in (
            ("prep.sh", ["./prep.sh", "netflix", f"--file={folder}", f"--data_dir={folder}/data"]),
            (
                "distill.py",
                [
                    sys.executable,
                    "distill.py",
                    "--dataset=netflix",
                    f"--data_dir={folder}/data",
                    f"--results_dir={folder}/results",
                    f"--batch_size={BATCH}",
                    "--train_steps=100",
                ],
            ),
        ):
            seconds, peak, last = measured(command)
            results[name] = {"seconds": seconds, "peak_rss_mb": peak, "last_line": last}
            print(f"{name}: {seconds:.0f} s, {peak:,.0f} MiB; {last}", flush=True)
    return results


def write_prize(folder, users, count):
    """combined_data_1.txt of about so many rows in the folder; how many there are."""
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
        last = output.read().strip().split("\n")[-1]
    if process.returncode:
        raise UserError(f"{command[0]} ended with {process.returncode}: {last}")
    return seconds, peak, last
