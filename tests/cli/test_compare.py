"""`multimix compare`: mistakes before anything is trained, and stopping in the middle."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.forked_workers import fork_workers, train_here

from multimix import cli, recipes
from multimix.cli import planned
from multimix.cli.compare import METHODS, Options
from multimix.cli.request import read_request
from multimix.cli.workers import Job
from multimix.files import locked
from multimix.reports import speed
from multimix.reports.plan import Plan, Speed
from multimix.training import Config, train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digitz"], "unknown recipe 'digitz': did you mean digits?"),
        (["--methods", "erm,cutmx"], "unknown method 'cutmx': did you mean cutmix?"),
        (["--methods", "multimix(alpa=1)"], "no option 'alpa': did you mean alpha?"),
        (["--methods", "erm,cutmix,erm"], "names erm twice"),
        (["--methods", "multimix(n=5),multimix(n = 5)"], "names multimix(n=5) twice"),
        (["--methods", "multimix(alpha=(1, 2)),multimix(alpha=[1, 2])"], "would be stored in one folder"),
        (["--method", "cutmix"], "--methods erm,cutmix instead of --method"),
        (["--methods", ","], "--methods is empty"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--resume"], "leave out --resume: compare resumes by itself"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--devices", "2"], "compare trains each run in one process, got --devices 2 --nodes 1: leave that out"),
        (["--nodes", "2"], "compare trains each run in one process, got --devices 1 --nodes 2: leave that out"),
        (["--epohcs", "3"], "unknown option --epohcs: did you mean --epochs?"),
        (["--model", "smalnet"], "smalnet"),
        (["imagefolder", "--data-root", "nowhere"], "nowhere"),
        (["--methods", "erm,manifold-mixup(layers=9)"], "manifold-mixup(layers=9) cannot be trained here: layers must"),
        (["--methods", "either(erm, multimix-alone(layer=9))"], "cannot be trained here: layers must"),
        (["--methods", "either(multimix-alone(layer=9), erm)"], "cannot be trained here: layers must"),
        (["--methods", "erm,transmix"], "transmix cannot be trained here"),
        (["--methods", 'erm,supermix(teacher="absent")'], "absent"),
        (
            ["--methods", "soft-targets(erm)"],
            "soft-targets(erm) cannot be trained here: SoftTargets needs soft_",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *arguments, "--out", "made"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "command", ["compare digits", "sweep digits --vary n=10", "domains office-home --data-root nowhere"]
)
def test_several_processes_for_a_run_are_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # as torchrun does
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--out", str(tmp_path / "made")])
    assert stop.value.code == 2
    name = command.split()[0]
    assert f"{name} trains each run in one process, got torchrun: leave that out" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_check_with_few_images_does_not_warn_of_them() -> None:
    config = dataclasses.replace(recipes.get("digits"), accelerator="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned._check_setting(config, ["multimix-alone(n=inf)"])


def test_a_finished_run_that_is_longer_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--schedule", "constant", "--warmup-epochs", "0", "--per-class", "5", "--model", "smallnet-w8"]
    run = tmp_path / "erm" / "seed0"
    cli.main(["train", "digits", "--method", "erm", *options, "--epochs", "2", "--out", str(run)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", "--methods", "erm", "--seeds", "1", *options, "--epochs", "1", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert f"the run in {run} has done 2 epochs, more than the 1 asked for: ask for as many" in capsys.readouterr().err
    assert not (tmp_path / "compare.json").exists()


def test_other_data_than_those_of_finished_runs_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 4), ("test", 3)):
        for label in ("cat", "dog"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / "data" / split / label / f"{k}.png")
    small = [
        "--model",
        "smallnet-w4",
        "--image-size",
        "8",
        "--epochs",
        "1",
        "--warmup-epochs",
        "0",
        "--batch-size",
        "4",
    ]
    small += ["--milestones", "--augment", "none", "--no-tensorboard"]
    out = tmp_path / "out"
    command = ["imagefolder", "--data-root", str(tmp_path / "data"), *small]
    cli.main(["train", *command, "--method", "erm", "--out", str(out / "erm" / "seed0")])
    (tmp_path / "data" / "test" / "cat" / "0.png").unlink()
    monkeypatch.setattr("multimix.cli.planned.run_jobs", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *command, "--methods", "erm,cutmix", "--seeds", "1", "--out", str(out)])
    assert stop.value.code == 2
    message = f"the data are not those that the run in {out / 'erm' / 'seed0'} was made with: test_examples differ"
    assert message in capsys.readouterr().err
    assert not (out / "cutmix").exists()


def test_another_process_in_the_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path), pytest.raises(SystemExit) as stop:
        cli.main(["compare", "digits", "--methods", "erm", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert f"another process is training in {tmp_path}" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_run_of_train_is_no_folder_for_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(Config(data="digits", model="smallnet-w8", per_class=5, epochs=1, tensorboard=False), tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    for command in ("compare digits --methods erm", "sweep digits --methods multimix --vary n=10"):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command.split(), "--seeds", "1", "--epochs", "1", "--out", str(run)])
        assert stop.value.code == 2
        assert f"{run} is a run of `multimix train`, and several cannot be made in it" in capsys.readouterr().err
    assert {path.name for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("variable", "jobs", "expected"),
    [(None, 1, (1, 4)), (None, 2, (2, 2)), (None, None, (3, 1)), ("1", 2, (2, 1)), ("3", 1, (1, 3)), ("64", 2, (2, 2))],
)
def test_threads_are_shared_by_the_runs_and_never_more_than_asked_for(
    variable: str | None, jobs: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    config = dataclasses.replace(recipes.get("digits"), accelerator="cpu")
    assert planned.workers_and_threads(config, jobs, 3) == expected


def test_the_plan_is_methods_by_seeds_from_the_first_seed_on() -> None:
    def planned(*argv: str) -> Plan:
        return read_request(argv, Options, command="compare", recipe="digits", description="").plan()

    plan = planned("--methods", "erm, multimix(alpha=0.1,n=5)", "--seeds", "2")
    assert plan.folder == Path("runs/compare-digits")
    assert plan.command == "multimix compare --methods 'erm, multimix(alpha=0.1,n=5)' --seeds 2"
    assert [(method, seed, path.name) for method, seed, path in plan.jobs()] == [
        ("erm", 0, "seed0"),
        ("multimix(alpha=0.1, n=5)", 0, "seed0"),
        ("erm", 1, "seed1"),
        ("multimix(alpha=0.1, n=5)", 1, "seed1"),
    ]
    assert len({path for _, _, path in plan.jobs()}) == 4
    assert len(planned().methods) == 7
    assert planned("cifar10", "--seed", "7").seeds == [7, 8, 9]
    assert planned("cifar10").folder == Path("runs/compare-cifar10")
    assert METHODS.startswith("erm,")


def test_ctrl_c_saves_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--methods", "erm", "--seeds", "2", "--schedule", "constant", "--warmup-epochs", "0", "--out", str(out)]
    options += ["--per-class", "20", "--no-tensorboard"]
    metrics = [out / "erm" / f"seed{seed}" / "metrics.jsonl" for seed in range(2)]
    main_thread, over = threading.main_thread().ident, threading.Event()
    assert main_thread is not None

    def press() -> None:
        while not all(path.is_file() and path.read_text().count("\n") >= 2 for path in metrics):
            if over.wait(0.05):
                return
        signal.pthread_kill(main_thread, signal.SIGINT)  # which waits for the workers, as any other would not

    fork_workers(monkeypatch)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(SystemExit) as stop:  # far more epochs than the test waits for
            cli.main(["compare", *options, "--jobs", "2", "--epochs", "100000"])
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, usual)
    assert stop.value.code == 130
    error = capsys.readouterr().err
    assert "everything is saved" in error
    assert "Continue with: multimix compare --methods erm --seeds 2" in error
    assert not (out / "log.txt").exists()  # nothing was printed
    before = [path.read_text() for path in metrics]
    epochs = max(text.count("\n") for text in before) + 1
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    # The schedule is constant, so the runs may go on to another number of epochs than they were begun with.
    cli.main(["compare", *options, "--jobs", "1", "--epochs", str(epochs)])
    for path, text in zip(metrics, before, strict=True):
        assert path.read_text().startswith(text)
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, epochs + 1))
    assert (out / "report.html").is_file()


def test_failed_runs_are_named_after_the_table_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_some(jobs: list[Job], **_: object) -> dict[Job, str]:
        for job in jobs:
            if job.config.method != "cutmix":
                train(job.config, job.out)
        return {job: "the loss is not finite" for job in jobs if job.config.method == "cutmix"}

    monkeypatch.setattr("multimix.cli.planned.run_jobs", train_some)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["compare", "--methods", "erm,cutmix", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path / "out")]
        )
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert "multimix: cutmix, seed 0 failed: the loss is not finite\n" in shown.err
    assert "1 of 2 runs failed" in shown.err
    assert "missing: cutmix, seed 0: not started" in shown.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "cutmix, seed 0: not started" in page
    assert "One training method on digits" in page


def test_a_speed_that_cannot_be_measured_takes_no_table_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr("multimix.cli.planned.run_jobs", train_here)
    monkeypatch.setattr("multimix.cli.compare.measure_speed", out_of_memory)
    with pytest.warns(UserWarning, match="the training speed is not measured: CUDA out of memory. Tried"):
        cli.main(["compare", "--methods", "erm", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path / "out")])
    assert "erm" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())


SMALL = ["--epochs", "1", "--warmup-epochs", "0", "--per-class", "5", "--model", "smallnet-w4", "--no-tensorboard"]


class Stopwatch:
    """In place of `measure_speed`: what it was asked for, some methods that it cannot time, one that stops it.

    There is no page, which would take most of the time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[list[str], str, int]] = []
        self.untimeable: set[str] = set()
        self.stops: tuple[str, BaseException] | None = None
        self.ratio = 1.0
        monkeypatch.setattr("multimix.cli.compare.measure_speed", self.measure)
        monkeypatch.setattr("multimix.cli.planned.run_jobs", train_here)
        monkeypatch.setattr("multimix.cli.compare.write_page", lambda *_: None)

    def measure(
        self, config: Config, chosen: list[str], *, device: str, tell: Callable[[str, float | None], object]
    ) -> Iterator[tuple[str, Speed]]:
        self.asked.append((chosen, device, torch.get_num_threads()))
        for name in chosen:
            tell(name, None)
            if self.stops and self.stops[0] == name:
                raise self.stops[1]
            if name not in self.untimeable:
                yield name, Speed(100.0, self.ratio, 9)


def compare(out: Path, methods: str) -> dict[str, Any]:
    """What the comparison leaves in its plan."""
    cli.main(["compare", "--methods", methods, "--seeds", "1", "--out", str(out), *SMALL])
    plan: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return plan


def test_only_speeds_that_are_not_known_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    watch = Stopwatch(monkeypatch)
    monkeypatch.setattr("multimix.cli.compare.default_device", lambda config: "cuda")
    monkeypatch.setattr("multimix.cli.compare.workers_and_threads", lambda *_: (1, before + 1))
    compare(tmp_path / "out", "erm")
    watch.ratio = 0.5
    plan = compare(tmp_path / "out", "erm,cutmix")
    compare(tmp_path / "out", "erm,cutmix")
    assert watch.asked == [(["erm"], "cuda", before + 1), (["cutmix"], "cuda", before + 1)]
    assert torch.get_num_threads() == before
    assert {name: value["images_per_second"] for name, value in plan["speed"].items()} == {"erm": 100.0, "cutmix": 50.0}
    assert "1/1  cutmix: 0.50 of ERM's speed in 9 rounds" in capsys.readouterr().out


def test_all_speeds_are_measured_again_where_the_conditions_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(monkeypatch)
    compare(tmp_path / "out", "erm")
    threads = 1 + torch.get_num_threads()
    monkeypatch.setattr("multimix.cli.compare.workers_and_threads", lambda *_: (1, threads))
    compare(tmp_path / "out", "erm")  # nothing is missing
    compare(tmp_path / "out", "erm,cutmix")
    assert [chosen for chosen, *_ in watch.asked] == [["erm"], ["erm", "cutmix"]]


def test_a_method_that_cannot_be_timed_costs_the_others_no_second_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(monkeypatch)
    watch.untimeable = {"cutmix"}
    plan = compare(tmp_path / "out", "erm,cutmix,input-mixup")
    assert list(plan["speed"]) == ["erm", "input-mixup"]
    watch.untimeable = set()
    plan = compare(tmp_path / "out", "erm,cutmix,input-mixup")
    assert [chosen for chosen, *_ in watch.asked] == [["erm", "cutmix", "input-mixup"], ["cutmix"]]
    assert set(plan["speed"]) == {"erm", "cutmix", "input-mixup"}
    assert "medians of 9 rounds" in plan["speed_conditions"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no kernel")])
def test_what_stops_the_measurement_costs_nothing_that_was_measured(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(monkeypatch)
    watch.stops = ("input-mixup", error)
    stopped = pytest.raises(SystemExit) if isinstance(error, KeyboardInterrupt) else pytest.warns(match="no kernel")
    with stopped:
        compare(tmp_path / "out", "erm,cutmix,input-mixup")
    watch.stops = None
    plan = compare(tmp_path / "out", "erm,cutmix,input-mixup")
    assert [chosen for chosen, *_ in watch.asked] == [["erm", "cutmix", "input-mixup"], ["input-mixup"]]
    assert set(plan["speed"]) == {"erm", "cutmix", "input-mixup"}


def test_a_signal_while_the_speed_is_measured_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    fork_workers(monkeypatch)

    def ended(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("multimix.cli.compare.measure_speed", ended)
    small = ["--per-class", "10", "--epochs", "1", "--no-tensorboard", "--seeds", "1", "--jobs", "1"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", "digits", "--methods", "erm", *small, "--out", str(tmp_path / "out")])
    assert stop.value.code == 130
    assert "Stopped; everything is saved. Continue with: multimix compare digits" in capsys.readouterr().err
