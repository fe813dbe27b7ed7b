"""Every multimix command that the README shows works as shown, in the order shown."""

import os
import re
import shlex
from pathlib import Path

import pytest

from multimix.cli import main
from multimix.reports import speed

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith("multimix ")
]


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) >= 5
    monkeypatch.chdir(tmp_path)
    # One worker is as real as one for each core, and every one imports everything.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    for command in COMMANDS:
        code: object = 0
        try:
            main(shlex.split(command)[1:])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert code == 0, f"{command}: {captured.err}"
    assert (tmp_path / "runs/first/model.safetensors").exists()
    assert (tmp_path / "runs/three/report.html").exists()
