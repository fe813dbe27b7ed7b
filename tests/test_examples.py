"""The examples run as their first line says."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


RUNS = [
    ("training_loop.py", ["--epochs", "3"], "epoch   3"),
    ("timm_model.py", [], "clean training accuracy"),
    ("metric_learning.py", ["--epochs", "1"], "Metrix  Recall@1"),
    ("contrastive.py", ["--epochs", "1"], "MMix                    accuracy"),
    ("lightning_module.py", ["--epochs", "1"], "test accuracy"),
    ("accelerate_loop.py", ["--epochs", "1"], "test accuracy"),
]
TEXT = "text_classification.py"


@pytest.mark.parametrize(("name", "options", "expected"), RUNS)
def test_example_runs(name: str, options: list[str], expected: str) -> None:
    assert expected in output(name, options)


def test_the_example_of_accelerate_runs_in_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    said = output("accelerate_loop.py", ["--epochs", "1"], launcher)
    assert said.count("epoch   1") == 1  # by the first process alone


def test_text_example_runs(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "who", "many", "is", "it"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **size)).save_pretrained(tmp_path)
    lines = tmp_path / "questions.txt"
    lines.write_text("NUM:count How many is it ?\nHUM:ind Who is it ?\n" * 20)
    options = [str(lines), str(lines), "--encoder", str(tmp_path), "--per-class", "12", "--epochs", "1"]
    found = output(TEXT, options)
    names = "cross entropy  ", "MultiMix       ", "Dense MultiMix "
    assert [line[:15] for line in found.splitlines() if "test accuracy" in line] == list(names)


def output(name: str, options: list[str], launcher: Sequence[str] = ()) -> str:
    """What an example prints."""
    command = [sys.executable, *launcher, str(EXAMPLES / name), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {TEXT, *(name for name, _, _ in RUNS)}
