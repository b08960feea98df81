"""speed/gpu.py: the whole command on tiny data; checks that fail or come too late."""

import json
import time

import numpy as np
import pytest

import bench
from lib.errors import UserError
from speed import gpu

WITHOUT_MEASURING = """from speed import ratios  # tests/test_bench.py runs all of them
rows = [ratios.Ratio("loading", 0.2, 0.5, "a loop"), ratios.Ratio("a step", 0.5, 2.0, "the paper's")]
ratios.measure = lambda settings, mesh, size: iter(rows) if size == (60, 90, 1200) else None
"""
METRICS = {"HR@100": 50.0, "NDCG@10": 30.0}


def finished(lamda=0.1, bits=0.0, **metrics):
    """A run as read_runs returns it."""
    arrays = [np.full((2, 3), bits), np.zeros((2, 3)), np.array(lamda)]
    return {"test": METRICS | metrics, "lamda": lamda}, arrays


@pytest.fixture
def checks(tmp_path):
    return gpu.Checks(tmp_path, tmp_path, {}, "cpu", "1 x cpu", 2**30)


@pytest.mark.large
def test_the_command(tmp_path, tiny_data, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(gpu, "LARGE", {"cpu": 20})
    monkeypatch.setattr(gpu, "TIMED", {"cpu": (60, 90, 1200)})
    monkeypatch.setattr(gpu, "RATIOS", WITHOUT_MEASURING + gpu.RATIOS)
    monkeypatch.setattr(gpu.signal, "signal", lambda *arguments: None)
    folders = f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"
    small = "--user_support=8", "--num_per_user=10", "--train_steps=6"
    bench.main(["gpu", "--dataset=tiny", *folders, *small])
    rows = json.loads((tmp_path / "bench-gpu.json").read_text())["rows"]
    printed, table = capsys.readouterr().out, (tmp_path / "bench-gpu.md").read_text()
    assert printed.startswith("no GPU: everything on the CPU") and table.strip() in printed
    assert [row["outcome"] for row in rows] == ["passed"] * len(rows)
    assert len(table.splitlines()) == len(rows) + 2
    assert [row["what"] for row in rows] == [
        "distill.py, cpu, run 1",
        "distill.py, cpu, run 2",
        "cpu: run 1 against run 2",
        "two processes on one device",
        "a batch that does not fit",
        "loading",
        "a step",
        "times beside the plain version",
        "--float64=true",
        "--learn_lamda=false --lamda_grid=[1e-05]",
        "--user_support=20",
    ]
    assert rows[6]["figures"] == {"plain_seconds": 2.0, "ratio": 4.0} and rows[6]["why"] == "the paper's"
    assert rows[0]["figures"]["steps"] == 6 and rows[8]["figures"]["steps"] == gpu.FEW_STEPS["cpu"]
    assert rows[2]["why"] == "identical to the last bit" and rows[9]["figures"]["lamda"] == 1e-5
    assert "needs" in rows[4]["why"] and "--batch_size=" in rows[4]["why"]


def test_identical_runs_pass_and_others_by_their_ndcg():
    same, bits = [finished(), finished()], [finished(), finished(bits=1e-7)]
    assert gpu.compare(same, bits=True)[1:] == (True, "identical to the last bit")
    assert not gpu.compare(bits, bits=True)[1] and gpu.compare(bits, bits=False)[1]
    runs = [finished(), finished(lamda=0.12, **{"NDCG@10": 30.4})]
    differences, passed, why = gpu.compare(runs, bits=False)
    assert not passed and "beyond 0.3 points" in why
    assert differences == pytest.approx({"HR@100": 0, "NDCG@10": 0.4, "lamda, relative": 0.2})
    assert gpu.compare([finished(), finished(**{"NDCG@10": 29.8})], bits=False)[1]
    with pytest.raises(UserError, match="one of the two runs has failed"):
        gpu.compare([finished()], bits=False)


def test_a_failed_check_stops_no_other(checks, tmp_path, capsys):
    def fail():
        raise UserError("it | broke")

    checks.check("one", fail)
    checks.check("two", lambda: ({"nDCG@10": 30.25}, True, "well"))
    checks.check("three", lambda: ({}, False, "badly"), "a card")
    rows = json.loads((tmp_path / "bench-gpu.json").read_text())["rows"]
    assert [row["outcome"] for row in rows] == ["failed", "passed", "failed"]
    assert [row["why"] for row in rows] == ["it | broke", "well", "badly"]
    lines = (tmp_path / "bench-gpu.md").read_text().splitlines()
    assert all(line.count("|") == 7 for line in lines)
    assert "it / broke" in lines[2] and "nDCG@10 30.25" in lines[3]
    assert rows[2]["device"] == "a card" and rows[0]["device"] == "1 x cpu"


def test_a_check_that_would_begin_too_late_is_skipped(checks):
    checks.began -= gpu.LAST_BEGIN + 1
    checks.check("late", lambda: pytest.fail("it began"))
    assert checks.rows[0]["outcome"] == "skipped" and "540 s had passed" in checks.rows[0]["why"]


def test_a_process_that_fails_or_takes_too_long():
    assert gpu.call(["-c", "print(5)"], "cpu", 60) == "5\n"
    with pytest.raises(UserError, match="^exit code 3: second$"):
        gpu.call(["-c", "import sys; sys.stderr.write('first\\nsecond\\n'); sys.exit(3)"], None, 60)
    began = time.monotonic()
    with pytest.raises(UserError, match="ended after 1 s"):
        gpu.call(["-c", "import time; time.sleep(60)"], None, 1)
    assert time.monotonic() - began < 30
    # With the platform named, JAX uses the GPU or fails; it never falls back to the CPU.
    assert gpu.call(["-c", "import os; print(os.environ['JAX_PLATFORMS'])"], "gpu", 60) == "cuda\n"


def test_with_a_gpu_its_runs_are_compared_with_those_of_the_cpu(checks, monkeypatch):
    def distil(platform, runs, **more):
        runs.append(finished(**{"NDCG@10": 30.0 if platform == "cpu" else 30.2 + len(runs)}))
        return {}, True, platform

    checks.platform, checks.device = "gpu", "1 x card"
    monkeypatch.setattr(checks, "distil", distil)
    for name in ("two_processes", "refused", "times"):
        monkeypatch.setattr(checks, name, lambda: ({}, True, ""))
    checks.run()
    rows = {row["what"]: row for row in checks.rows}
    for side in ("gpu", "cpu"):
        assert [rows[f"distill.py, {side}, run {number}"]["why"] for number in (1, 2)] == [side, side]
    assert rows["gpu: run 1 against run 2"]["outcome"] == "failed", "31.2 and 30.2"
    assert rows["cpu: run 1 against run 2"]["why"] == "identical to the last bit"
    across = rows["GPU against CPU"]
    assert across["figures"]["NDCG@10"] == pytest.approx(0.2) and across["outcome"] == "passed"
    assert across["device"] == "1 x card, cpu" and rows["--float64=true"]["why"] == "gpu"


def test_a_failure_is_an_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(gpu, "call", lambda *arguments: 'a warning\n["cpu", "1 x cpu", 1000]\n')
    monkeypatch.setattr(gpu, "MOVIELENS_1M", (30, 40, 300))
    fail = lambda self: self.check("this", lambda: ({}, False, "badly"))
    monkeypatch.setattr(gpu.Checks, "run", fail)
    with pytest.raises(UserError, match="^1 of 1 checks have failed: this$"):
        bench.main(["gpu", f"--data_dir={tmp_path}", f"--results_dir={tmp_path / 'results'}"])


def test_the_gpu_is_measured_alone():
    with pytest.raises(UserError, match="gpu is run alone"):
        bench.main(["gpu", "ratios"])
