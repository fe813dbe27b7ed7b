"""Files written by several processes at once, and what a killed one leaves."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from multimix import files
from multimix.files import exclusive, refuse_file, refuse_unwritable, write_atomically, write_text


def test_two_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "part.json"

    def outer(file: BinaryIO) -> None:
        file.write(b"out")
        write_text(path, "inner")
        assert path.read_text() == "inner"
        file.write(b"er")

    write_atomically(path, outer)
    assert path.read_text() == "outer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError, OSError, RuntimeError])
def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "part.json"
    write_text(path, "before")

    def fail(file: BinaryIO) -> None:
        raise error("no")

    with pytest.raises(error):
        write_atomically(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "whole")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "whole"
    with pytest.raises(OSError, match=r"cannot write .*x: File name too long"):
        write_text(tmp_path / ("x" * 300), "whole")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: it is not a file that could be replaced"):
        write_text(tmp_path / "pipe", "whole")
    assert (tmp_path / "pipe").is_fifo()


def test_what_is_no_utf8_does_not_keep_a_page_from_being_written(tmp_path: Path) -> None:
    write_text(tmp_path / "page", "runs/caf\udce9")
    assert (tmp_path / "page").read_text() == "runs/caf?"


def test_what_a_killed_process_left_goes_once_it_is_old(tmp_path: Path) -> None:
    old = time.time() - 2 * files.ABANDONED
    kept = ["a.json.0123abcd.tmp", "b.json.0123abcd.tmp", "xa.json.0123abcd.tmp", "a.json.mine.tmp", "a.json.tmp"]
    for name in (*kept, "a.json.89abcdef.tmp"):
        (tmp_path / name).write_text("half")
        if name != kept[0]:  # which may be being written
            os.utime(tmp_path / name, (old, old))
    write_text(tmp_path / "a.json", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a.json"])


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write in .*file/new \(Not a directory\): choose another .* --out"):
        refuse_unwritable(tmp_path / "file" / "new")


def test_a_full_disk_and_a_link_that_leads_nowhere_are_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    with pytest.raises(NotADirectoryError, match="link is a link that leads nowhere: choose a directory for --out"):
        refuse_file(tmp_path / "link" / "runs")

    def on_a_full_disk(path: Path, mode: str) -> io.FileIO:
        Path(path).touch()  # an empty file takes no room
        return io.FileIO("/dev/full", "w")

    monkeypatch.setattr(files, "open", on_a_full_disk, raising=False)
    with pytest.raises(OSError, match=r"cannot write in .* \(No space left on device\): choose another folder"):
        refuse_unwritable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.skipif(files.fcntl is None, reason="needs locks")
def test_others_wait_for_their_turn(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with exclusive(tmp_path):
            order.append("second")

    other = threading.Thread(target=second)
    with exclusive(tmp_path):
        other.start()
        other.join(timeout=0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())
