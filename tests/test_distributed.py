"""Two real processes share one run over loopback: the metrics of one process; they end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

DISTILL = [
    "distill.py",
    "--dataset=tiny",
    "--recipe=plain",
    "--keep_step=best",
    "--keep_lamda=step",
    "--user_support=8",
    "--num_per_user=10",
    "--noise_groups=2",
    "--batch_size=51",
    "--learning_rate=0.02",
    "--cosine_decay=false",
    "--train_steps=50",
    "--float64=true",
    "--log_freq=25",
]


def start(arguments, tiny_data, results):
    """Two processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [
                sys.executable,
                *arguments,
                f"--data_dir={tiny_data}",
                f"--results_dir={results}",
                "--distributed=true",
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={number}",
            ],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in (0, 1)
    ]


def finish(processes):
    """[(exit code, stdout, stderr)] of both."""
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        ended.append((process.returncode, out, err))
    return ended


def result(results):
    [folder] = [path for path in results.iterdir() if path.is_dir()]
    return json.loads((folder / "result.json").read_text()), [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [*DISTILL, "--validation_users=40", "--sampled_items=9"],
        [*DISTILL, "--objective=reconstruct", "--batch_size=-1"],
        ["infinite_ae.py", "--dataset=tiny"],
        ["infinite_ae.py", "--dataset=tiny", "--user_support=100"],  # of fewer, items tie
    ],
)
def test_two_processes_give_the_metrics_of_one(tiny_data, tmp_path, run_script, arguments):
    first, second = finish(start(arguments, tiny_data, tmp_path / "two"))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "on 2 x cpu in 2 processes" in first[1] and second[1] == "", "only the first one speaks"
    alone = run_script(*arguments, f"--data_dir={tiny_data}", f"--results_dir={tmp_path / 'one'}")
    assert alone.returncode == 0, alone.stderr
    (two, two_history), (one, one_history) = result(tmp_path / "two"), result(tmp_path / "one")
    for found, expected in ((two["test"], one["test"]), (two["val"], one["val"])):
        assert found == pytest.approx(expected, abs=1e-3, nan_ok=True)
    names = ("step", "lamda") if arguments[0] == "distill.py" else ("lamda",)
    for name in names:
        expected = [line[name] for line in one_history]
        assert [line[name] for line in two_history] == pytest.approx(expected, rel=1e-6), name
    assert [line.get("loss") or 0 for line in two_history] == pytest.approx(
        [line.get("loss") or 0 for line in one_history], rel=1e-6
    )


def wait_for(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_other_and_one_process_goes_on(tiny_data, tmp_path, run_script, killed):
    arguments = [*DISTILL, "--train_steps=2000", "--patience=2000"]
    processes = start(arguments, tiny_data, tmp_path)
    wait_for(processes[0], "step   25")
    processes[killed].send_signal(signal.SIGKILL)
    began = time.monotonic()
    survivor = finish([processes[1 - killed]])[0]
    assert survivor[0] != 0 and time.monotonic() - began < 60
    assert (
        killed == 0 or len(survivor[2].splitlines()) == 1 and "another process has failed" in survivor[2]
    ), survivor[2]
    finish([processes[killed]])
    alone = subprocess.Popen(
        [sys.executable, *arguments, f"--data_dir={tiny_data}", f"--results_dir={tmp_path}"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(alone, "going on from step")
    alone.kill()
    finish([alone])


def test_a_wish_to_stop_told_to_one_stops_both_after_the_same_step(tiny_data, tmp_path):
    processes = start([*DISTILL, "--train_steps=2000", "--patience=2000"], tiny_data, tmp_path)
    wait_for(processes[0], "step   25")
    processes[1].terminate()
    first, second = finish(processes)
    assert (first[0], second[0]) == (143, 143) and "stopped after step" in first[1], first[2] + second[2]


def test_what_one_cannot_do_ends_both(tiny_data, tmp_path):
    results = tmp_path / "a file"
    results.write_text("")
    began = time.monotonic()
    first, second = finish(start(DISTILL, tiny_data, results))
    assert (
        first[0] == 1 and len(first[2].splitlines()) == 1 and second[0] != 0 and time.monotonic() - began < 60
    )


def test_nothing_tells_who_the_others_are(tiny_data, tmp_path, run_script):
    done = run_script(
        "distill.py",
        "--dataset=tiny",
        f"--data_dir={tiny_data}",
        f"--results_dir={tmp_path}",
        "--distributed=true",
        env=os.environ,
    )
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and "--coordinator=HOST:PORT" in done.stderr
    )
