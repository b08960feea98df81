"""Figures of the paper and of the README on the paper's released splits; `make test-paper` runs them.

PAPER_DATA is the data_dir whose folders ml-1m and magazine have the released total_data.hdf5 and index.npz;
by default data.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import data
from runs import published

pytestmark = pytest.mark.paper


def released(name):
    """(data_dir, Dataset) of a released split; skips the test where there is none."""
    folder = Path(os.environ.get("PAPER_DATA", ROOT / "data")).absolute()
    remedy = f"set PAPER_DATA to the folder whose {name}/ has the paper's total_data.hdf5 and index.npz"
    if not (folder / name / data.INTERACTIONS).is_file():
        pytest.skip(f"there is no {folder}/{name}/{data.INTERACTIONS}; {remedy}")
    dataset = data.load(name, folder)
    if published.RELEASED.get(dataset.fingerprint) != name:
        pytest.skip(f"{folder}/{name} is another split than the released one; {remedy}")
    return folder, dataset


def metrics_of_run(script, name, results, *arguments):
    """The test metrics of a run on a released split."""
    words = f"--dataset={name}", f"--data_dir={released(name)[0]}", f"--results_dir={results}", *arguments
    run = subprocess.run(
        [sys.executable, script, *words], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert run.returncode == 0, run.stdout + run.stderr
    [path] = results.glob("*/result.json")
    return json.loads(path.read_text())["test"]


@pytest.mark.parametrize(
    "name, shape, train, validation, test",
    [("ml-1m", (6040, 3706), 791_718, 99_692, 108_799), ("magazine", (3092, 1305), 5_934, 436, 6_145)],
)
def test_the_released_files_as_they_are(name, shape, train, validation, test):
    _, dataset = released(name)
    counts = dataset.train.nnz, dataset.validation.nnz, dataset.test.nnz
    assert dataset.train.shape == shape and counts == (train, validation, test)


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "ml-1m",
            {
                "HR@10": 31.906,
                "HR@100": 60.913,
                "NDCG@10": 33.394,
                "NDCG@100": 43.326,
                "PSP@10": 3.295,
                "PSP@100": 6.676,
            },
        ),
        ("magazine", {"NDCG@10": 23.0}),
    ],
)
def test_infinite_ae_on_all_users(tmp_path, name, expected):
    test = metrics_of_run("infinite_ae.py", name, tmp_path, "--lamda_grid=[5]")
    assert {metric: test[metric] for metric in expected} == pytest.approx(expected, abs=0.02)


def test_500_synthetic_users_reach_the_headline(tmp_path):
    """The record has a test nDCG@10 of 34.70 ± 0.05 over seeds."""
    assert metrics_of_run("distill.py", "ml-1m", tmp_path, "--seed=1")["NDCG@10"] >= 34.4
