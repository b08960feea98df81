"""How a script begins and ends: output that cannot be written, and Ctrl-C at any moment."""

import io
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from lib.errors import FULL_DISK, Output

HERE = "import lib.start, os, signal; from lib.errors import run_script; "
CTRL_C = "os.kill(os.getpid(), signal.SIGINT)"


def run(code, redirections="", ignored=False, **environment):
    """Runs code in a process that ignores SIGINT, as the shell's background does, or does not."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, HERE + code]
    environment = {**os.environ, **environment}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("work", ["Parser('').parse_args", "lambda words: print('lost')"])
def test_an_output_that_is_lost_is_no_success(work, unbuffered):
    done = run(
        f"from lib.errors import Parser; run_script({work})", "--help >/dev/full", PYTHONUNBUFFERED=unbuffered
    )
    message = "-c: [Errno 28] No space left on device: 'standard output'\n"
    assert (done.returncode, done.stderr) == (FULL_DISK, message)


def test_what_the_output_cannot_show_is_replaced():
    done = run("run_script(lambda words: print('∞-AE'))", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "?-AE\n", "")


def test_nothing_that_is_printed_steers_the_terminal():
    work = "print('a\\x1b[2J\\u202eb\\nc'); raise UserError('d\\x9b')"
    done = run(f"from lib.errors import UserError\ndef work(words): {work}\nrun_script(work)")
    assert (done.stdout, done.stderr) == ("a\ufffd[2J\ufffdb\nc\n", "-c: d\ufffd\n")


def test_the_backend_of_a_notebook_is_not_asked_for():
    done = run("run_script(lambda words: __import__('matplotlib'))", MPLBACKEND="that of a notebook")
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_bars_still_move():
    moves, written = ["\r  0%|", "\n", "\x1b[A", "\n\n\x1b[A\x1b[A", "\r"], io.BytesIO()
    output = Output(written, "utf-8", write_through=True)
    output.writelines(moves)
    assert written.getvalue() == "".join(moves).encode()


@pytest.mark.parametrize(
    "redirections, code, words",
    [
        ("<&- >&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        pytest.param(
            ">/dev/full",
            FULL_DISK,
            "-c: [Errno 28] No space left on device: 'standard output'",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only"),
        ),
    ],
)
def test_a_closed_or_full_output(tmp_path, redirections, code, words):
    """What is printed is lost, and goes into no file that the script opens."""
    work = f"file = open({str(tmp_path / 'file')!r}, 'w'); run_script(lambda words: print('lost'))"
    done = run(work, redirections)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, "", words)
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    "code, words",
    [
        (CTRL_C, "interrupted"),  # while it imports
        (f"run_script(lambda words: {CTRL_C})", "-c: interrupted"),
        (f"run_script(lambda words: None); {CTRL_C}", "interrupted"),
    ],
)
def test_an_interruption_is_one_line(code, words):
    done = run(code)
    assert (done.returncode, done.stderr) == (130, f"{words}\n")


def test_an_interruption_that_was_to_be_ignored_is():
    done = run(f"{CTRL_C}; run_script(lambda words: {CTRL_C})", ignored=True)
    assert (done.returncode, done.stderr) == (0, "")
