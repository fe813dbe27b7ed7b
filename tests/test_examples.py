"""The examples run as their first line says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("training_loop.py", ["--epochs", "3"], "epoch   3"),
        ("timm_model.py", [], "clean training accuracy"),
        ("metric_learning.py", ["--epochs", "1"], "Metrix  Recall@1"),
        ("contrastive.py", ["--epochs", "1"], "MMix                    accuracy"),
    ],
)
def test_example_runs(name: str, options: list[str], expected: str) -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert expected in run.stdout


def test_every_example_is_tested() -> None:
    tested = {"training_loop.py", "timm_model.py", "metric_learning.py", "contrastive.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
