"""A report whose folder cannot be written shows its table all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from multimix import cli
from multimix.reports import comparison


def test_the_table_is_shown_and_the_error_names_the_fix(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("a")

    def refuse(path: Path, *_: object) -> None:
        raise OSError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr(comparison, "write_json", refuse)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(run)])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "75.00" in shown.out
    refused = run / "summary.json"
    assert shown.err == (
        f"multimix: error: cannot write {refused}: Read-only file system: choose another folder with --out\n"
    )
