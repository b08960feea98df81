"""baselines.py: closed forms in NumPy, every model against popularity on planted data; faults."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import ROOT, write_layout

from prep.filters import split_interactions
from rivals import closed_forms

QUICK = {
    "mf": {"dimensions": 8, "l2": 0.001, "learning_rate": 0.02, "batch_size": 256},
    "neumf": {"dimensions": 8, "l2": 1e-5, "learning_rate": 0.01, "batch_size": 256},
    "mvae": {"hidden": 32, "dimensions": 8, "learning_rate": 0.01, "batch_size": 64},
    "lightgcn": {"dimensions": 16, "layers": 2, "l2": 1e-4, "learning_rate": 0.05, "batch_size": 1024},
    "ease": {"l2": 30},
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """300 users of 8 tastes, whose items are the likelier the better two vectors of 8 numbers agree."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 120))
    user = np.repeat(np.arange(300), 20)
    item = np.argsort(-taste - rng.gumbel(size=taste.shape), axis=1)[:, :20].ravel()
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / "planted", user, item, split_interactions(user, rng))
    return folder


def command(data_dir, results, model, *arguments):
    return [
        "--dataset=planted",
        f"--data_dir={data_dir}",
        f"--results_dir={results}",
        f"--model={model}",
        *arguments,
    ]


def result_of(results, model):
    [folder] = results.glob(f"{model}-planted-*")
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def popularity(planted, tmp_path_factory):
    """The test NDCG@10 of PopRec on it."""
    results = tmp_path_factory.mktemp("results")
    subprocess.run(
        [sys.executable, str(ROOT / "baselines.py"), *command(planted, results, "pop")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return result_of(results, "pop")["test"]["NDCG@10"]


@pytest.mark.parametrize("model", QUICK)
def test_each_model_learns_a_planted_pattern_better_than_popularity(
    planted, popularity, tmp_path, run_script, model
):
    done = run_script(
        "baselines.py",
        *command(
            planted, tmp_path, model, f"--grid={json.dumps([QUICK[model]])}", "--epochs=30", "--patience=10"
        ),
    )
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path, model)["test"]["NDCG@10"] > 2 * popularity
    assert done.stdout.splitlines()[-1].startswith("test  HR@10")


def test_a_finished_run_is_shown_again(planted, tmp_path, run_script):
    first, second = (run_script("baselines.py", *command(planted, tmp_path, "ease")) for _ in range(2))
    assert (
        "finished before" in second.stdout
        and first.stdout.splitlines()[-2:] == second.stdout.splitlines()[-2:]
    ), second.stderr
    [path] = tmp_path.glob("*/result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "val": 1}))
    done = run_script("baselines.py", *command(planted, tmp_path, "ease"))
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and "result.json is damaged" in done.stderr
    )


@pytest.mark.parametrize("density", [0.3, 0.04])
def test_ease_solves_its_problem(density):
    """Column j of B is ridge regression of item j on all others, B_jj = 0 (Steck, WWW 2019)."""
    rng = np.random.default_rng(0)
    rows = (rng.random((50, 12)) < density).astype(float)
    found = closed_forms.ease(sp.csr_matrix(rows), 7.0)
    for item in range(12):
        others = np.delete(np.arange(12), item)
        x = rows[:, others]
        assert found[others, item] == pytest.approx(
            np.linalg.solve(x.T @ x + 7 * np.eye(11), x.T @ rows[:, item]), abs=1e-6
        )
    assert not found.diagonal().any()
    assert np.isnan(closed_forms.ease(sp.csr_matrix(np.ones((3, 4))), 0.0)).all(), "not positive definite"


def test_a_strength_that_ease_cannot_use_is_left_out(planted, tmp_path, run_script):
    done = run_script(
        "baselines.py",
        *command(
            planted,
            tmp_path,
            "ease",
            '--grid=[{"l2": 1e-30}, {"l2": 30}]',
            "--sampler=head",
            "--user_support=5",
        ),
    )
    assert done.returncode == 0 and re.search("l2 1e-30 +left out: its scores are not finite", done.stdout), (
        done.stderr
    )
    assert result_of(tmp_path, "ease")["choice"] == {"l2": 30}


def test_popularity_counts():
    assert list(closed_forms.popularity(sp.csr_matrix(np.array([[1, 0, 1], [1, 0, 0]], np.int8)))[0]) == [
        2,
        0,
        1,
    ]


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(planted, tmp_path, run_script):
    grid = [{**QUICK["mf"], "l2": l2} for l2 in (0.001, 0.01)]
    arguments = [f"--grid={json.dumps(grid)}", "--epochs=60", "--patience=60"]
    whole = run_script("baselines.py", *command(planted, tmp_path / "whole", "mf", *arguments))
    assert whole.returncode == 0, whole.stderr
    cut = [sys.executable, str(ROOT / "baselines.py"), *command(planted, tmp_path / "cut", "mf", *arguments)]
    process = subprocess.Popen(
        cut, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    next(line for line in process.stdout if "epoch 20" in line)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on from there" in rest
    again = run_script("baselines.py", *command(planted, tmp_path / "cut", "mf", *arguments))
    assert again.returncode == 0 and "going on from setting 1 of 2, epoch" in again.stdout, again.stderr
    first, second = result_of(tmp_path / "whole", "mf"), result_of(tmp_path / "cut", "mf")
    assert (first["test"], first["val"], first["choice"]) == (second["test"], second["val"], second["choice"])


def test_a_setting_that_diverges_is_left_and_the_best_kept(planted, tmp_path, run_script):
    grid = [{**QUICK["mf"]}, {**QUICK["mf"], "learning_rate": 1e30}]
    done = run_script(
        "baselines.py", *command(planted, tmp_path, "mf", f"--grid={json.dumps(grid)}", "--epochs=5")
    )
    assert done.returncode == 0 and "diverged in epoch" in done.stdout, done.stderr
    assert result_of(tmp_path, "mf")["choice"] == grid[0]
    failed = run_script(
        "baselines.py", *command(planted, tmp_path, "mf", f"--grid={json.dumps(grid[1:])}", "--epochs=5")
    )
    assert (
        failed.returncode == 1
        and len(failed.stderr.splitlines()) == 1
        and "mf diverged with every setting" in failed.stderr
    )


def test_eight_devices_give_the_same_metrics(planted, tmp_path, run_script):
    for count in (1, 8):
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        done = run_script(
            "baselines.py",
            *command(planted, tmp_path / str(count), "ease", '--grid=[{"l2": 30}]'),
            env=environment,
        )
        assert done.returncode == 0, done.stderr
    assert result_of(tmp_path / "1", "ease")["test"] == pytest.approx(
        result_of(tmp_path / "8", "ease")["test"], abs=1e-3
    )


@pytest.mark.parametrize(
    "model, arguments, words",
    [
        ("als", [], "model must be one of pop"),
        ("mf", ["--user_support=100"], "recommends only to users it was trained on"),
        ("ease", ["--user_support=301"], "301, but planted has 300 users"),
        ("ease", ['--grid=[{"l2": 0}]'], "needs a positive l2"),
        ("mf", ['--grid=[{"l3": 0}]'], "mf has no 'l3'; it has"),
        ("mf", ['--grid=[{"dimensions": 8}]'], "needs a positive learning_rate"),
        ("ease", ['--grid=[{"l2": "many"}]'], "l2 must be a number"),
        ("mf", ['--grid=[{"dimensions": 2.5}]'], "dimensions must be a whole number from 2"),
        ("mf", ['--grid=[{"batch_size": 2.5}]'], "batch_size must be a whole number"),
        ("mf", ['--grid=[{"negatives": 0}]'], "negatives must be a whole number from 1"),
        ("mvae", ['--grid=[{"dropout": 1}]'], "dropout must be a number from 0 below 1"),
        ("ease", ['--grid=[{"l2": NaN}]'], "l2 must be a number"),
        ("ease", ["--grid=5"], "grid must be a list"),
        ("ease", ["--gumbel_tau=1"], "has no use for gumbel_tau"),
    ],
)
def test_wrong_settings(planted, tmp_path, run_script, model, arguments, words):
    done = run_script("baselines.py", *command(planted, tmp_path, model, *arguments))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr
