"""lib/files.py: files are whole or absent, whoever else writes them and whoever is killed."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.errors import UserError
from lib.files import atomic, write_files


def at_once(work, count=20):
    """Calls work(number) in so many threads, which begin at the same moment."""
    ready = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(lambda number: (ready.wait(), work(number)), n) for n in range(count)]:
            done.result()


def test_twins_do_not_tear_each_others_file(tmp_path):
    def write(number):
        with atomic(tmp_path / "a.csv") as file:
            for _ in range(5):
                file.write(bytes([number]) * 1000)
                file.flush()
                time.sleep(0.001)

    at_once(write)
    content = (tmp_path / "a.csv").read_bytes()
    assert len(content) == 5000 and len(set(content)) == 1
    assert os.listdir(tmp_path) == ["a.csv"]


def test_files_that_belong_together_are_of_one_writer(tmp_path, monkeypatch):
    replaced, replace = [], os.replace

    def slowly(source, target):
        replaced.append((threading.get_ident(), target.name))
        time.sleep(0.001)
        replace(source, target)

    monkeypatch.setattr(os, "replace", slowly)
    at_once(lambda number: write_files(tmp_path / "new", dict.fromkeys("abc", bytes([number]))))
    assert [name for _, name in replaced] == [*"abc"] * 20
    assert all(len({writer for writer, _ in replaced[place : place + 3]}) == 1 for place in range(0, 60, 3))
    assert len({(tmp_path / "new" / name).read_bytes() for name in "abc"}) == 1
    with pytest.raises(TypeError):
        write_files(tmp_path / "new", {"a": b"later", "b": "no bytes"})
    assert (tmp_path / "new" / "a").read_bytes() != b"later"
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "b", "c"]


def test_what_a_killed_writer_has_left_goes_and_nothing_else(tmp_path):
    name = "a[1]" + "x" * 240  # as long as a name may be, beside the folder's other files
    left, own = tmp_path / f".{name[:50]}.0123abcd.tmp", tmp_path / f".{name[:50]}.mine.tmp"
    for path in (left, own):
        path.write_bytes(b"?")
    with atomic(tmp_path / name) as first, atomic(tmp_path / name) as second:
        assert not left.exists() and own.exists()
        assert os.path.exists(first.name), "its writer lives"
        second.write(b"second")
    assert (tmp_path / name).read_bytes() == b"" and len(os.listdir(tmp_path)) == 2
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask, "as of any other file"


def test_no_file_takes_the_place_of_a_pipe_and_the_target_of_a_link_is_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no file, but a pipe or a device"), atomic(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    with atomic(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "file").read_bytes() == b"new"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with atomic(tmp_path / "loop"):
        pass
