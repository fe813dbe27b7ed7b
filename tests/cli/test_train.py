"""`multimix train`: what a user types, sees and finds."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from multimix import cli, data
from multimix.cli import main
from multimix.cli.train import default_name
from multimix.training import Config, load_run

QUICK = ["train", "digits", "--model", "smallnet-w8", "--per-class", "10", "--epochs", "2", "--no-tensorboard"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that fails with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "which recipe?.*digits"),
        (["train", "digts"], "unknown recipe 'digts': did you mean digits"),
        (["train", "digits", "--epocs", "3"], "unknown option --epocs: did you mean --epochs"),
        (["train", "digits", "--seeed=3"], "unknown option --seeed: did you mean --seed"),
        (["train", "digits", "--learning-rate", "1"], "unknown option --learning-rate: did you mean --lr?"),
        (["train", "digits", "--resum"], "unknown option --resum: did you mean --resume"),
        (["train", "digits", "--epochs", "x"], "--epochs: expected INT, got 'x'"),
        (["train", "digits", "--epochs", "1", "--epochs", "x"], "--epochs: expected INT, got 'x'"),
        (["train", "digits", "--epochs", "-" + "9" * 400], "epochs must be at least 1 and finite, got -9"),
        (["train", "digits", "--epochs", "9" * 400], "epochs must be at least 1 and finite, got 9"),
        (["predict", "run", ""], "a path is empty: give it, or leave it out"),
        (["train", "digits", "--out", ""], "--out is empty: give a value, or leave it out"),
        (["train", "digits", "--epochs", "3", "--out", ""], "--out is empty: give a value, or leave it out"),
        (["train", "digits", "--per_class", "some"], "--per-class: expected INT, got 'some'"),
        (["train", "digits", "--out="], "--out is empty: give a value, or leave it out"),
        (["train", "digits", "--out", "caf\udce9"], r"the name caf\\xe9 is not valid UTF-8: choose another --out"),
        (["compare", "--seeds", "1" + "0" * 20], "--seeds must be at most 10000"),
        (["train", "digits", "--per-class", "some"], "--per-class: expected INT, got 'some'"),
        (["train", "digits", "--epochs"], "--epochs"),
        (["train", "digits", "--data", "cifar"], "--data.*cifar10"),
        (["train", "digits", "--lr", "-1"], "lr must be above 0, got -1"),
        (["train", "--epochs", "3", "digits"], "the recipe comes first: multimix train digits ..., then the options"),
        (["train", "digits", "--nodes", "2"], "nodes=2, but this process knows of no other node: start it by torchrun"),
        (
            ["train", "digits", "--method", f"multimix(n={10**23})"],
            f"n must be between 1 and {2**63 - 1}, got {10**23}",
        ),
        (["train", "digits", "extra"], "unexpected argument 'extra'"),
        (["train", "digits", "--method", "multimx"], "unknown method 'multimx': did you mean multimix"),
        (["train", "digits", "--model", "smalnet"], "smallnet"),
        (["train", "digits", "--accelerator", "mps"], "cannot use accelerator='mps'"),
        (["train", "imagefolder", "--data-root", "nowhere"], "nowhere"),
        (["recipes", "digts"], "did you mean digits"),
        (["recipes", "digits", "more"], "one name at most"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, fails(capsys, *arguments))


def test_a_run_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*QUICK, "--method", "multimix(n=20)", "--seed", "3"])
    out = "runs/digits-multimix-n=20-seed3"
    printed = capsys.readouterr().out
    assert re.search(r"epoch 2/2 .*train loss \d.* acc \d.*test loss", printed)
    assert re.search(rf"test accuracy .* best .*\n.*{re.escape(out)}\nNext: multimix evaluate", printed)
    config, model = load_run(out)
    assert (config.method, config.seed, model.training) == ("multimix(n=20)", 3, False)

    assert "it holds a run): add --resume" in fails(capsys, *QUICK, "--method", "multimix(n=20)", "--seed", "3")
    main([*QUICK, "--method", "multimix(n=20)", "--seed", "3", "--resume"])
    assert capsys.readouterr().out.startswith("Already finished.")


def test_a_finished_run_says_which_epochs_its_accuracies_are_of_once_for_all_processes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*QUICK, "--out", "run"])
    result = tmp_path / "run" / "result.json"
    changed = json.loads(result.read_text())
    changed |= {"best_by": "test_accuracy", "seconds": 3.2}
    changed |= {"last": {"epoch": 2, "test_accuracy": 0.5}, "best": {"epoch": 1, "test_accuracy": 0.75}}
    result.write_text(json.dumps(changed))
    capsys.readouterr()
    main([*QUICK, "--out", "run", "--resume"])
    told = "Already finished. test accuracy 50.00% after epoch 2, best 75.00% after epoch 1; 3 s\n"
    assert capsys.readouterr().out.startswith(told)
    monkeypatch.setenv("RANK", "1")
    main([*QUICK, "--out", "run", "--resume"])
    assert capsys.readouterr().out == ""


def test_a_damaged_result_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*QUICK, "--out", "run"])
    result = tmp_path / "run" / "result.json"
    before = result.read_text()
    for damage in ("{", "[]", "{}"):
        result.write_text(damage)
        capsys.readouterr()
        line = fails(capsys, *QUICK, "--out", "run", "--resume")
        assert re.search(r"run/result.json is damaged \(.*\): delete it, and the same command with --resume", line)
    result.unlink()
    main([*QUICK, "--out", "run", "--resume"])
    assert json.loads(result.read_text()) == json.loads(before)


def test_a_terminal_of_few_characters_gets_the_rest(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    monkeypatch.setattr(cli, "_run", lambda argv: print("\u22121 \u00b1 2 \u00e9"))
    main([])
    assert shown.getvalue() == b"-1 +- 2 ?\n", "a sign is not lost"


def test_help_shows_the_values_of_the_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "cifar100", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "(default: 2000)" in text
    assert "500 1000 1500" in text
    assert "81.93" in text


def test_interrupt_saves_and_says_how_to_go_on(tmp_path):
    """As a user does it: python -m multimix, Ctrl-C, then the printed command."""
    options = ["--epochs", "500", "--model", "smallnet-w8", "--per-class", "20", "--no-tensorboard"]
    arguments = ["train", "digits", *options, "--out", str(tmp_path / "my run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "multimix", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    metrics = tmp_path / "my run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaint
    [command] = re.findall(r"Continue with: (.*)", complaint)
    assert command == f"multimix {' '.join(arguments[:-1])} '{arguments[-1]}' --resume"
    done = len(metrics.read_text().splitlines())
    # A checkpoint that fits, and the number of epochs it has: the rest is tested in tests/training.
    config, _ = load_run(tmp_path / "my run")
    assert config.epochs == 500
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, done + 1))


def test_interrupt_before_the_first_step_is_no_error(tmp_path, monkeypatch, capsys):
    def decode_for_long(**options):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it goes on")

    monkeypatch.setattr(data, "load", decode_for_long)
    with pytest.raises(SystemExit) as stop:
        main([*QUICK, "--out", str(tmp_path / "run")])
    assert stop.value.code == 130
    assert capsys.readouterr().err == ""


def test_default_names_are_safe_for_a_shell():
    config = Config(data="digits", method="either(multimix-alone(alpha=(0.5, 2)), erm, p=0.5)", seed=7)
    assert re.fullmatch(r"[A-Za-z0-9.=-]+-seed7", default_name("digits", config))


def test_what_the_machine_refuses_is_one_line_and_errors_of_programs_are_not_hidden(capsys, monkeypatch):
    def fail(argv):
        raise RuntimeError(said)

    monkeypatch.setattr("multimix.cli.recipes.main", fail)
    said = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."
    assert f"{said[:-1]}: use less of it, by a smaller --batch-size" in fails(capsys, "recipes")
    for said in ("mat1 and mat2 shapes cannot be multiplied", "Caught RuntimeError in DataLoader worker process 0."):
        with pytest.raises(RuntimeError, match=said):
            main(["recipes"])
