"""runs/folder.py: the memory and the start of a process, on Linux and on systems without /proc."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from runs import folder as run_folder


@pytest.fixture
def no_proc(monkeypatch):
    """A system without /proc."""
    read_text = Path.read_text

    def read(path, *arguments, **options):
        if path.parts[:2] == ("/", "proc"):
            raise FileNotFoundError(path)
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read)


@pytest.fixture
def sleeper():
    """A process that holds a few MiB for a minute."""
    words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("platform, unit", [("darwin", 1), ("freebsd14", 1024)])
def test_own_peak_without_proc_follows_the_unit_of_the_system(no_proc, monkeypatch, platform, unit):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 * 2**20 // unit))
    assert run_folder.peak_rss_mb() == 300


def test_own_peak_is_not_below_the_present_memory():
    held = psutil.Process().memory_info().rss / 2**20
    assert 0.9 * held < run_folder.peak_rss_mb() < 100 * held


def test_memory_of_another_process_without_proc(no_proc, sleeper):
    assert 1 < run_folder.peak_rss_mb(sleeper.pid) < 1000


def test_a_process_that_has_ended_has_no_memory(sleeper):
    assert 1 < run_folder.peak_rss_mb(sleeper.pid) < 1000
    sleeper.kill()
    deadline = time.monotonic() + 30
    while run_folder.peak_rss_mb(sleeper.pid) is not None:  # a zombie, until wait() below
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sleeper.wait()
    assert run_folder.peak_rss_mb(sleeper.pid) is None


def test_start_of_the_process_is_the_same_without_proc(request):
    """/proc has the exact start by a clock that nobody sets; psutil's differs from it by less than 1.5 s."""
    exact = run_folder._process_start()
    request.getfixturevalue("no_proc")
    assert abs(run_folder._process_start() - exact) < 1.5
    assert run_folder._process_start() < time.monotonic() - 0.1, "not the moment of the call"


@pytest.mark.parametrize("shift", [-30_000, 30_000])
def test_a_clock_that_is_set_changes_no_duration(tmp_path, monkeypatch, shift):
    run, now = run_folder.Run(tmp_path, resume=True, silent=False), time.time
    before = run.wall_seconds()
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    assert 0 <= run.wall_seconds() - before < 60
    assert abs(run_folder.Run(tmp_path, resume=True, silent=False).wall_seconds() - before) < 60
