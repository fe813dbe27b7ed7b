"""Results kept in files: after every piece, for every set of options, and only while they are true."""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from multimix.suite import store as store_module
from multimix.suite.store import Store


def never() -> object:
    raise AssertionError("computed although it is kept")


def test_pieces_survive_an_interrupt_and_other_options_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "part.json"

    def work(store: Store, stop: int) -> list[int]:
        def piece(k: int) -> int:
            if k == stop:
                raise KeyboardInterrupt
            return k * k

        return [store.compute(f"piece {k}", lambda k=k: piece(k)) for k in range(5)]

    with pytest.raises(KeyboardInterrupt):
        work(Store(path, identity="w", options={"limit": 1}), stop=3)
    again = Store(path, identity="w", options={"limit": 1})
    assert [again.compute(f"piece {k}", never) for k in range(3)] == [0, 1, 4]
    assert "piece 3" not in again
    assert work(again, stop=-1) == [0, 1, 4, 9, 16]
    other = Store(path, identity="w", options={"limit": 2})
    assert other.compute("piece 0", lambda: -1) == -1
    assert Store(path, identity="w", options={"limit": 1}).compute("piece 4", never) == 16


def test_a_file_that_cannot_be_read_for_a_moment_is_not_replaced(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "part.json"
    Store(path, identity="w", options={}).compute("hours", lambda: 1)
    before, read = path.read_bytes(), Path.read_bytes

    def failing(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        store = Store(path, identity="w", options={"limit": 1})
        with pytest.warns(UserWarning, match="results cannot be saved for later: .*Input/output error"):
            assert store.compute("minute", lambda: 2) == 2
    assert path.read_bytes() == before
    store.compute("another minute", lambda: 3)  # and the first, with what was there
    assert Store(path, identity="w", options={}).compute("hours", never) == 1
    assert Store(path, identity="w", options={"limit": 1}).compute("minute", never) == 2


def test_what_is_computed_here_stays_although_another_has_kept_it_meanwhile(tmp_path: Path) -> None:
    first, second = (Store(tmp_path / "part.json", identity="w", options={}) for _ in range(2))
    first.compute("a", lambda: 1)
    assert second.compute("a", lambda: 2) == 2
    assert second.compute("a", never) == 2


def test_a_piece_that_depends_on_some_options_is_kept_for_all_others(tmp_path: Path) -> None:
    def store(limit: int, identity: str = "w") -> Store:
        return Store(tmp_path / "part.json", identity=identity, options={"limit": limit, "seed": 0})

    assert store(1).compute("a", lambda: 1, depends_on={"seed": 0}) == 1
    assert store(2).compute("a", never, depends_on={"seed": 0}) == 1
    assert store(1).compute("a", lambda: 2, depends_on={"seed": 1}) == 2
    assert store(1).compute("a", lambda: 3) == 3
    assert "a" not in store(2)
    assert store(2).compute("a", never, depends_on={"seed": 0}) == 1
    assert store(2, "other").compute("a", lambda: 4, depends_on={"seed": 0}) == 4


def test_other_weights_and_damaged_files_start_anew(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    Store(path, identity="old", options={}).compute("a", lambda: 1)
    assert Store(path, identity="new", options={}).compute("a", lambda: 2) == 2
    for text in ("{half", "[]", '{"identity": "new"}', '{"identity": "new", "by_options": {"{}": 3}}'):
        path.write_text(text)
        assert Store(path, identity="new", options={}).compute("a", lambda: 3) == 3
        assert json.loads(path.read_text())["by_options"] == {"{}": {"a": 3}}


def test_values_are_the_same_before_and_after_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "part.json", identity="w", options={})
    first = store.compute("a", lambda: {"pair": (1, 2), 3: None})
    assert first == {"pair": [1, 2], "3": None}
    assert Store(tmp_path / "part.json", identity="w", options={}).compute("a", never) == first
    with pytest.raises(TypeError, match="'b' must be a plain JSON value"):
        store.compute("b", lambda: {1, 2})


def test_what_cannot_be_written_is_computed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "part.json", identity="w", options={})
    with pytest.warns(UserWarning, match="cannot be saved for later"):
        assert store.compute("a", lambda: 1) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.compute("b", lambda: 2) == 2


def test_what_a_full_disk_refused_is_written_when_it_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part.json"
    store = Store(path, identity="w", options={})

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_json", full)
        with pytest.warns(UserWarning, match="cannot be saved for later: No space left"):
            assert store.compute("a", lambda: 1) == 1
    assert store.compute("b", lambda: 2) == 2
    again = Store(path, identity="w", options={})
    assert [again.compute(key, never) for key in "ab"] == [1, 2]


def test_many_evaluations_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, workers = tmp_path / "part.json", 6
    read = store_module._read

    def slow(*args: Any) -> dict[str, dict[str, Any]]:
        found = read(*args)
        time.sleep(0.005)
        return found

    monkeypatch.setattr(store_module, "_read", slow)

    def evaluate(worker: int) -> None:
        store = Store(path, identity="w", options={"limit": worker})
        for k in range(10):
            store.compute(str(k), lambda k=k: worker * k)  # type: ignore[misc]

    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("error")
        list(pool.map(evaluate, range(workers)))
    for worker in range(workers):
        kept = Store(path, identity="w", options={"limit": worker})
        assert [kept.compute(str(k), never) for k in range(10)] == [worker * k for k in range(10)]
    assert list(tmp_path.iterdir()) == [path]


def test_two_evaluations_at_once_keep_what_the_other_found(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    first, second = (Store(path, identity="w", options={"detector": name}) for name in ("ssd", "faster-rcnn"))
    assert first.compute("whole", lambda: 1) == 1
    assert second.compute("whole", lambda: 2) == 2
    for name, value in (("ssd", 1), ("faster-rcnn", 2)):
        assert Store(path, identity="w", options={"detector": name}).compute("whole", never) == value


def test_files_beside_the_results_are_of_these_weights_and_options(tmp_path: Path) -> None:
    def path(identity: str, limit: int) -> Path:
        return Store(tmp_path / "part.json", identity=identity, options={"limit": limit}).path("model.pt")

    assert path("a", 1) == path("a", 1)
    assert len({path("a", 1), path("a", 2), path("b", 1)}) == 3
    assert path("a", 1).parent == tmp_path
