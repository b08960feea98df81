"""The README's headline on the paper's released split of MovieLens-1M; `make test-paper` runs it.

PAPER_DATA is the data_dir whose folder ml-1m has the released total_data.hdf5 and index.npz, by default data.
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


@pytest.fixture
def released_data():
    """The data_dir with the released split; skips the test where there is none."""
    folder = Path(os.environ.get("PAPER_DATA", ROOT / "data")).absolute()
    remedy = "set PAPER_DATA to the folder whose ml-1m/ has the paper's total_data.hdf5 and index.npz"
    if not (folder / "ml-1m" / data.INTERACTIONS).is_file():
        pytest.skip(f"there is no {folder}/ml-1m/{data.INTERACTIONS}; {remedy}")
    if published.RELEASED.get(data.load("ml-1m", folder).fingerprint) != "ml-1m":
        pytest.skip(f"{folder}/ml-1m is another split than the released one; {remedy}")
    return folder


def test_500_synthetic_users_reach_the_headline(released_data, tmp_path):
    """The record has a test nDCG@10 of 34.70 ± 0.05 over seeds."""
    arguments = "--dataset=ml-1m", "--seed=1", f"--data_dir={released_data}", f"--results_dir={tmp_path}"
    command = [sys.executable, "distill.py", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stdout + run.stderr
    [path] = tmp_path.glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["test"]["NDCG@10"] >= 34.4, run.stdout
