"""Every command that a document shows can be typed: its recipe, options, parts and methods are there."""

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multimix import cli, methods
from multimix.cli import bench, bench_methods, evaluate, options, predict, report, request, train
from multimix.suite import PARTS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("**/*.md")])
PROGRAMS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))


def lines(path: Path) -> Iterator[str]:
    """Lines of code blocks, with those that continue them, and what stands between backticks."""
    # Splitting at a group leaves what stands around it at even places, and the group at odd ones.
    pieces = re.split(r"^```\w*\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for block in pieces[1::2]:
        yield from re.sub(r"\s*\\?\n\s+", " ", block).splitlines()
    for text in pieces[::2]:
        yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text))


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of every `multimix` with options."""
    for line in lines(path):
        if found := re.search(rf"\bmultimix ((?:{'|'.join(cli.COMMANDS)})\b.* --.*)", line):
            yield shlex.split(found[1], comments=True)


class Parsed(BaseException):
    """Instead of doing what was asked for."""


def test_commands_can_be_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(*arguments: Any, **keywords: Any) -> Any:
        raise Parsed(options.parse(*arguments, **keywords))

    for module in (bench, bench_methods, evaluate, predict, report, request, train):
        monkeypatch.setattr(module, "parse", parse)
    tried = 0
    for path in DOCUMENTS:
        for command in commands(path):
            if "--help" in command or "RECIPE" in command or command[:2] == ["train", "--model"]:
                continue
            tried += 1
            try:
                cli.main(command)
            except Parsed as parsed:
                check_names(parsed.args[0])
            except SystemExit:
                pytest.fail(f"{path.name}, multimix {shlex.join(command)}: {capsys.readouterr().err}")
    assert tried > 30


def check_names(value: Any) -> None:
    """Names that `parse` takes as any text."""
    if isinstance(chosen := getattr(value, "parts", None), str) and chosen != "all":
        assert set(chosen.split(",")) <= {part.name for part in PARTS}, chosen
    if isinstance(chosen := getattr(value, "methods", None), str):
        for name in methods.split_list(chosen):
            if name not in ("all", "...", "METHODS"):
                methods.parse(name)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_are_listed_and_have_the_options_that_are_shown(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    for path in DOCUMENTS:
        shown += [line for line in lines(path) if re.search(rf"python benchmarks/{program}", line)]
    assert any(f"`python benchmarks/{program}`" in (ROOT / "benchmarks/README.md").read_text() for _ in shown)
    options = {option for line in shown for option in re.findall(r" (--[a-z-]+)", line.split(program)[1])}
    if options:
        monkeypatch.setattr(sys, "argv", [program, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / "benchmarks" / program), run_name="__main__")
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert options <= known, f"{program} has no {' '.join(options - known)}: {shown}"
