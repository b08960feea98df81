"""The JSON of a run's folder, what a full disk and a refusal of the system say, and what wrong types do."""

import errno
import json
import math
import os
import subprocess

import numpy as np
import pytest

from lib.checks import read_json
from lib.errors import UserError, one_line
from lib.files import atomic, empty_folder, lock, read_npz
from runs import folder, trials
from runs.folder import Run
from runs.reading import digest_of, read_validations

PLACE = {"stage": 0, "step": 1, "validated": True, "history": [], "seconds": [0.5], "wall_seconds": 2.5}
LINE = {"step": 0, "lamda": 1, "loss": None, "validation": {"HR@100": 1.0}}


def run_in(folder):
    return Run(folder, resume=True, silent=False)


def test_json_has_no_nan_and_no_infinity_wherever_it_stands(tmp_path):
    """NaN and Infinity, which Python writes but JSON does not have, become null."""
    run = run_in(tmp_path)
    read = lambda text: json.loads(text, parse_constant=lambda name: f"{name} is no JSON")
    values = {
        "a": [1.5, math.nan, {"b": (math.inf, [-math.inf])}],
        "c": math.nan,
        "d": True,
        "e": None,
        "f": "nan",
    }
    expected = {"a": [1.5, None, {"b": [None, [None]]}], "c": None, "d": True, "e": None, "f": "nan"}
    run.save_json("result.json", values)
    run.save_metrics([values, values])
    assert read((tmp_path / "result.json").read_text()) == expected
    assert [read(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [expected] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"stage": None},
        {"step": 1.5},
        {"validated": 1},
        {"history": 5},
        {"history": [5]},
        {"history": [{"step": 0}]},
        {"history": [{**LINE, "step": "0"}]},
        {"history": [{**LINE, "lamda": [1]}]},
        {"history": [{**LINE, "validation": {"HR@100": "much"}}]},
        {"history": [{**LINE, "validation": {"AUC": -1}}]},
        {"seconds": ["0"]},
        {"wall_seconds": None},
        {"wall_seconds": -1.0},
        "[1]",
        3000 * "[",
    ],
)
def test_a_checkpoint_of_wrong_types_is_named(tmp_path, change):
    run = run_in(tmp_path)
    run.save_checkpoint({}, {**PLACE, "history": [LINE]})
    assert run.load_checkpoint()[1]["history"] == [LINE]
    state = change if isinstance(change, str) else json.dumps({**PLACE, **change})
    run.save_arrays("checkpoint.npz", {"state": np.array(state)})
    with pytest.raises(UserError, match="checkpoint.npz is not a checkpoint of this script .*--resume=false"):
        run.load_checkpoint()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"step": 0}', '{"step": "0", "validation": {}}', 3000 * "["]
)
def test_validations_that_are_none_are_named(tmp_path, text):
    with pytest.raises(UserError, match="metrics.jsonl cannot be read: No such file"):
        read_validations(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match="metrics.jsonl is damaged"):
        read_validations(tmp_path)


def test_a_choice_of_rehearsals_that_cannot_be_is_made_again(tmp_path):
    choice = trials.Choice("plain", 30, "step", "because", 2.0, 1.0)
    path = tmp_path / "choice.json"
    for change in (
        {},
        {"recipe": "auto"},
        {"recipe": []},
        {"keep_step": -1},
        {"reason": 5},
        {"quality": "1"},
    ):
        path.write_text(json.dumps({**choice._asdict(), **change}))
        assert trials._read(path) == (None if change else choice), change


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write raises it: without a name
    for path, block in ((tmp_path / "a", atomic), (tmp_path / "scratch", empty_folder)):
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"), block(path):
            raise OSError(*full.args)
    with pytest.raises(OSError, match="'/elsewhere'"), atomic(tmp_path / "a"):
        raise OSError(*full.args, "/elsewhere")
    run = run_in(tmp_path)
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/log.txt'"):
        run.say("a line")


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match=f"^{tmp_path}/a.npz cannot be read: Is a directory$"):
        read_npz(tmp_path / "a.npz", "delete it")
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="b.npz cannot be read: truncated or damaged .*; delete it$"):
        read_npz(tmp_path / "b.npz", "delete it")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_and_a_device_are_not_read(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    for read in (lambda: read_json(path, dict, ""), lambda: read_npz(path, ""), lambda: digest_of(path)):
        with pytest.raises(UserError, match=f"^{path} is no file, but a pipe or a device$"):
            read()
    with pytest.raises(UserError, match="is no file, but a pipe or a device$"), lock(path):
        pass


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log.txt")
    with pytest.raises(OSError, match="No such device or address.*log.txt"):
        run_in(tmp_path).say("a line")


def test_a_text_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(10**10)
    with pytest.raises(UserError, match="a.json cannot be read: it has 10,000,000,000 bytes; 67,108,864 are"):
        read_json(tmp_path / "a.json", dict, "")


def test_a_validation_in_a_checkpoint_that_lacks_a_key_is_named(tmp_path):
    run = run_in(tmp_path)
    run.save_checkpoint({}, {**PLACE, "history": [{"validation": None}]})
    [line] = run.load_checkpoint()[1]["history"]
    says = "checkpoint.npz is damaged: a validation has no step; the run's own command with --resume=false"
    with pytest.raises(UserError, match=says):
        line["step"]


def test_the_revision_is_asked_for_without_a_lock(tmp_path, monkeypatch):
    """Else, a killed run could leave the lock, with which git commits nothing."""
    git = lambda *words: subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a", *words], cwd=tmp_path
    )
    file, index = tmp_path / "file", tmp_path / ".git" / "index"
    file.write_text("a")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "a"]):
        git(*words).check_returncode()
    monkeypatch.setattr(folder, "ROOT", tmp_path)
    os.utime(file, (1, 1))  # as if it had changed: `git describe --dirty` would write the index anew
    before = index.stat().st_ino, index.stat().st_mtime_ns
    assert not folder._git_revision().endswith("-dirty")
    file.write_text("b")
    assert folder._git_revision().endswith("-dirty")
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == before


def test_errors_are_one_short_printable_line():
    assert str(UserError("a \x1b[31m\n b\u2028c\x9b")) == "a \ufffd[31m b c\ufffd"
    assert one_line(5000 * "x").count("x") == 250 and len(one_line(5000 * "x ")) < 800
    path = "/" + "/".join(9 * ["folder"])
    assert str(UserError(f"{path} is missing")) == f"{path} is missing"
