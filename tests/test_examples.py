"""The examples run as their first line says."""

import os
import runpy
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.forked_workers import forkserver

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
def test_example_runs(name: str, options: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in output(name, options, tmp_path)


def test_the_example_of_accelerate_runs_in_two_processes(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    everyone = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [{**everyone, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"} for rank in "01"]
    said = output("accelerate_loop.py", ["--epochs", "1"], tmp_path, ranks)  # the variables that torchrun sets
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
    found = output(TEXT, options, tmp_path)
    names = "cross entropy  ", "MultiMix       ", "Dense MultiMix "
    assert [line[:15] for line in found.splitlines() if "test accuracy" in line] == list(names)


def output(name: str, options: list[str], folder: Path, environments: Sequence[Mapping[str, str]] = ({},)) -> str:
    """What an example prints, in a process for each of `environments`, at the price of forks instead of all imports."""
    printed = [folder / f"printed{number}" for number in range(len(environments))]
    processes = [
        forkserver().Process(target=_run, args=(name, options, file, environment))
        for file, environment in zip(printed, environments, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    said = "".join(file.read_text() for file in printed)
    assert [process.exitcode for process in processes] == [0] * len(processes), said
    return said


def _run(name: str, options: list[str], printed: Path, environment: Mapping[str, str]) -> None:
    """As `python name options` in this process."""
    with printed.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    sys.argv = [name, *options]
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {TEXT, *(name for name, _, _ in RUNS)}
