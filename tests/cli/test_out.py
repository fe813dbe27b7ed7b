"""--out that names a file, or a folder within one: one line that says so, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimix.cli import main


@pytest.mark.parametrize("inside", ["", "runs/new"])
@pytest.mark.parametrize(
    "command",
    ["train digits", "compare", "sweep --vary n=5", "domains --data-root data", "evaluate absent", "report absent"],
)
def test_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, inside: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--out", str(Path("notes.txt", inside))])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "multimix: error: notes.txt is a file: choose a directory for --out\n"
    assert Path("notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_home_folder_is_found_where_the_shell_leaves_it_to_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    small = "--model smallnet-w4 --per-class 3 --epochs 1 --warmup-epochs 0 --no-tensorboard"
    main(["train", "digits", *small.split(), "--out=~/runs/x"])
    assert (tmp_path / "home" / "runs" / "x" / "result.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    main(["evaluate", "~/runs/x", "--parts", "accuracy", "--out=~/evaluation"])  # quoted, or from a script
    assert (tmp_path / "home" / "evaluation" / "evaluation.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
