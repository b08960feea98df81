"""Small generated data for all tests: none needs a network or a real data set unless it says so."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Small runs spend most of their time compiling. Without LLVM's optimisations, and with XLA's older way of
# writing its loops, that takes a quarter as long.
COMPILED_FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=1 {COMPILED_FAST}"
# All processes share one cache, which the first of them deletes at the end.
compiled = None if "PYTEST_XDIST_WORKER" in os.environ else tempfile.TemporaryDirectory(prefix="compiled-")
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": compiled.name if compiled else os.environ["JAX_COMPILATION_CACHE_DIR"],
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
os.environ |= CACHE

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from lib import plots
from lib.errors import run_script as run_script_as_main


def clustered_interactions(users, items, clusters, rng):
    """(user, item) arrays with structure to learn: a user likes one cluster of items, and popular ones."""
    popularity = 1 / np.arange(1, items + 1) ** 0.7
    liked = rng.integers(clusters, size=users)[:, None] == np.arange(items) % clusters
    taste = np.where(liked, 15.0, 1.0) * popularity
    length = rng.integers(8, 25, size=users)
    rank = np.argsort(np.argsort(-(np.log(taste) + rng.gumbel(size=taste.shape)), axis=1), axis=1)
    return np.nonzero(rank < length[:, None])


def arc_cosine_ntk(x, y, depth):
    """The NTK of x (m, I) and y (k, I), layer by layer (Cho and Saul 2009; Jacot et al. 2018): (m, k).

    W_std^2 = 2, b_std^2 = 0.01, as in section 3 of the paper.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    cross = 2 * x @ y.T / x.shape[1] + 0.01
    of_x, of_y = (2 * (rows**2).sum(axis=1) / rows.shape[1] + 0.01 for rows in (x, y))
    tangent = cross
    for _ in range(depth):
        scale = np.sqrt(np.outer(of_x, of_y))
        angle = np.arccos(np.clip(cross / scale, -1, 1))
        covariance = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        cross = 2 * covariance + 0.01
        tangent = cross + 2 * (np.pi - angle) / (2 * np.pi) * tangent
        of_x, of_y = of_x + 0.01, of_y + 0.01  # a layer halves the variance, and W_std^2 doubles it again
    return tangent


def pairs_of(interactions):
    """[(user, item, rating)] in the sources' own ids, sorted."""
    return sorted(
        zip(
            interactions.user_ids[interactions.user].tolist(),
            interactions.item_ids[interactions.item].tolist(),
            interactions.rating.tolist(),
        )
    )


def reading_of(path, read=None, **columns):
    """The prep.tables.Reading of a file; columns are roles, such as user="buyer"."""
    from prep import own_file

    with tempfile.TemporaryDirectory() as scratch:
        return read(path, Path(scratch)) if read else own_file.read(path, Path(scratch), columns)


def write(path, content):
    """Writes text or bytes to a path, which is returned."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_layout(folder, user, item, part):
    """Writes a data set of these interactions, all rated 1, into the folder."""
    from prep import write

    folder.mkdir(parents=True, exist_ok=True)
    user, item = (np.asarray(column, np.int32) for column in (user, item))
    write.write_layout(folder, user, item, np.ones(len(user), np.float32), np.asarray(part))


def shorten_rehearsals(monkeypatch):
    """For tests of something else: they would take most of the time."""
    from runs import trials

    monkeypatch.setattr(trials, "MOST_DRAWS", 1)
    monkeypatch.setattr(trials, "FREE", 0)


@pytest.fixture
def no_pictures(monkeypatch):
    """For tests of something else: the picture of a small run takes as long as its steps."""
    for draw in (plots.curve, plots.grid):
        monkeypatch.setattr(plots, draw.__name__, lambda *_: b"")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data_dir with the data set 'tiny': 150 users, 200 items; and 'tiny-users', which asks new users."""
    from prep.filters import split_interactions
    from prep.splits import split_users

    rng = np.random.default_rng(0)
    user, item = clustered_interactions(150, 200, 4, rng)
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / "tiny", user, item, split_interactions(user, rng))
    write_layout(folder / "tiny-users", user, item, split_users(user, item, seed=0)[0])
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_data):
    import data

    return data.load("tiny", tiny_data)


@pytest.fixture
def run_script(capfd, monkeypatch):
    """run_script("distill.py", "--key=value", ...) -> CompletedProcess, in the project's folder.

    A Python script is called in this process, which saves the seconds of its imports; with options, as for
    subprocess.run, it is a process of its own. largest_file, in blocks of 512 bytes, stands in for a full
    disk: the system refuses to write more.
    """

    def call(script, arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        monkeypatch.chdir(ROOT)
        capfd.readouterr()
        code = None
        try:
            run_script_as_main(importlib.import_module(Path(script).stem).main)
        except SystemExit as end:
            code = end.code
        out, errors = capfd.readouterr()
        if isinstance(code, str):  # sys.exit(message)
            code, errors = 1, f"{errors}{code}\n"
        return subprocess.CompletedProcess([script, *arguments], code or 0, out, errors)

    def run(script, *arguments, largest_file=None, **options):
        arguments = list(map(str, arguments))
        if script.endswith(".py") and largest_file is None and not options:
            return call(script, arguments)
        command = [str(ROOT / script), *arguments]
        if script.endswith(".py"):
            command.insert(0, sys.executable)
        if largest_file is not None:
            command = ["sh", "-c", 'ulimit -f "$0"; exec "$@"', str(largest_file), *command]
            # Without the cache, which could not be written either.
            options["env"] = environment_without_cache()
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, **options)

    return run


def without_sums(folder):
    """The folder of a finished run, as from before there were sums: tests may alter its files."""
    (folder / "sums.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["sums"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def environment_of(devices):
    """The environment of a process with so many virtual devices."""
    return {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=1", f"count={devices}")}


def environment_without_cache():
    return {key: value for key, value in os.environ.items() if key not in CACHE}


NASTY = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\"quoted\", 'and', with commas",
    "Амели & 七人の侍 אבג",
    "<!--<script>",
    "a\u2028b\x1b[31mred\nline",
    "{{ 7*7 }} {% raw %}",
    "=1+1",
    "",
    " \u3000",
    "İstanbul",
)


@pytest.fixture(scope="session")
def titled_data(tmp_path_factory):
    """A data_dir with the data set 'titled': 60 users u0 ..., 80 items with text ids and harmful titles."""
    import pandas as pd

    from prep.filters import split_interactions

    rng = np.random.default_rng(1)
    user, item = clustered_interactions(60, 80, 3, rng)
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / "titled", user, item, split_interactions(user, rng))
    users, items = np.unique(user), np.unique(item)
    item_ids = [f'i,{item}"' if item % 7 == 0 else f"i{item}" for item in items]
    titles = [*NASTY, *(f"Film {item}" for item in items[len(NASTY) :])]
    user_table = pd.DataFrame({"index": users, "id": [f"u{user}" for user in users]})
    item_table = pd.DataFrame({"index": items, "id": item_ids, "title": titles})
    user_table.to_csv(folder / "titled" / "users.csv", index=False)
    item_table.to_csv(folder / "titled" / "items.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def distilled_run(titled_data, tmp_path_factory):
    """The folder of a finished run of distill.py on 'titled': 6 synthetic users."""
    results = tmp_path_factory.mktemp("results")
    command = [
        sys.executable,
        str(ROOT / "distill.py"),
        "--dataset=titled",
        "--recipe=plain",
        "--keep_step=best",
        "--keep_lamda=step",
        "--user_support=6",
        "--num_per_user=10",
        "--train_steps=50",
        "--gumbel_tau=10",
        "--noise_groups=-1",
        "--loss=squared",
        "--score_scale=4",
        "--item_discount=0.25",
        "--learning_rate=0.3",
        "--normalize=true",
        f"--data_dir={titled_data}",
        f"--results_dir={results}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "NOTHING WAS LEARNT" not in done.stdout, done.stdout + done.stderr
    return next(path.parent for path in results.glob("*/result.json"))
