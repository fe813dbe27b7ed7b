"""Runs in worker processes: one that fails, or whose process is killed, costs only itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.forked_workers import fork_workers, forkserver

from multimix import recipes
from multimix.cli import workers
from multimix.cli.workers import Job, run_jobs
from multimix.data.pictures import SMALL_SIDE
from multimix.training import Config, Progress, RunDirectory


def test_failed_and_killed_runs_do_not_keep_the_others_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    before = signal.getsignal(signal.SIGTERM)
    config = replace(recipes.get("digits"), method="erm", epochs=2, per_class=20, tensorboard=False)
    diverging = Job(replace(config, lr=1e30), tmp_path / "diverging")
    killed = Job(replace(config, epochs=100_000), tmp_path / "killed")
    good = Job(config, tmp_path / "good")
    ended: dict[Job, str | None] = {}
    reports: dict[Job, list[int]] = {diverging: [], killed: [], good: []}

    def follow(job: Job, progress: Progress) -> None:
        reports[job].append(progress.epoch)
        if job is killed:
            multiprocessing.active_children()[0].kill()

    failures = run_jobs(
        [diverging, killed, good],
        workers=1,
        threads=1,
        log=tmp_path / "log.txt",
        on_progress=follow,
        on_end=lambda job, failure: ended.update({job: failure}),
    )
    assert list(ended) == [diverging, killed, good]
    assert {job: reason for job, reason in ended.items() if reason} == failures
    assert set(failures) == {diverging, killed}
    assert "training diverged in epoch 1" in failures[diverging]
    assert "its process ended by signal 9" in failures[killed]
    assert reports[good][-1] == 2
    assert RunDirectory(good.out).is_finished(good.config)
    log = (tmp_path / "log.txt").read_text()
    assert "erm, seed 0:" in log
    assert "DivergenceError" in log
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is before


def started(target: Callable[..., None], *further: object) -> tuple[Any, Connection]:
    """A new process that runs `target` on the other end of the pipe."""
    context = forkserver()
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *further))
    process.start()
    theirs.close()
    return process, ours


def _ends_in_time(connection: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    connection.send(("end", None))
    with contextlib.suppress(EOFError):
        connection.recv()


def test_a_worker_past_its_last_look_at_the_signal_is_let_go() -> None:
    process, ours = started(_ends_in_time)
    assert ours.poll(60)
    workers._stop([workers._Worker(process, ours, Job(recipes.get("digits"), Path()))])
    assert process.exitcode == 0, "it ended by itself, and was not killed after two minutes"


def _followed(connection: Connection) -> None:
    threading.Thread(target=workers._follow_parent, daemon=True).start()
    connection.send("here")
    while True:
        signal.pause()


def _parent_of_one(connection: Connection) -> None:
    multiprocessing.get_context("spawn").Process(target=_followed, args=(connection,)).start()
    connection.close()
    signal.pause()


def test_a_worker_whose_parent_is_killed_stops() -> None:
    parent, ours = started(_parent_of_one)
    assert ours.recv() == "here"
    parent.kill()
    parent.join()
    assert ours.poll(60)
    with pytest.raises(EOFError):
        ours.recv()


def _start_method(config: Config, out: Path, **_: object) -> None:
    raise ValueError(multiprocessing.get_start_method())


def test_a_worker_starts_processes_as_its_parent_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned process would spawn its own, each of which would import everything again."""
    process, ours = started(_work_with, tmp_path / "log.txt", multiprocessing.get_start_method())
    ours.send((recipes.get("digits"), tmp_path / "run"))
    assert ours.recv() == ("end", multiprocessing.get_start_method())
    ours.close()
    process.join()


def _killed_loader(config: Config, out: Path, **_: object) -> None:
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_a_run_whose_images_were_no_longer_loaded_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    monkeypatch.setattr(workers, "_work", partial(_work_by, _killed_loader))
    job, log = Job(recipes.get("digits"), tmp_path / "run"), tmp_path / "log.txt"
    failures = run_jobs([job], workers=1, threads=1, log=log, on_progress=lambda *_: None, on_end=lambda *_: None)
    (failure,) = failures.values()
    assert failure.endswith("Killed: was the memory full? Try again with fewer --workers or --jobs")


def _note_gpu(config: Config, out: Path, **_: object) -> None:
    out.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


def _work_by(train: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    workers.train = train  # type: ignore[assignment]
    workers._work(connection, *arguments)


@pytest.mark.parametrize(("visible", "expected"), [("3,GPU-7", {"3", "GPU-7"}), (None, {"0", "1"})])
def test_every_worker_has_a_gpu_of_its_own(
    visible: str | None, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    monkeypatch.setattr(workers, "_work", partial(_work_by, _note_gpu))
    monkeypatch.setattr(workers, "default_device", lambda config: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    jobs = [Job(recipes.get("digits"), tmp_path / str(k)) for k in range(2)]
    run_jobs(jobs, workers=2, threads=1, log=tmp_path / "log.txt", on_progress=lambda *_: None, on_end=lambda *_: None)
    assert {job.out.read_text() for job in jobs} == expected
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def _note_conditions(config: Config, out: Path, *, resume: bool, **_: object) -> None:
    leads = os.getsid(0) == os.getpid()
    out.write_text(f"{torch.get_num_threads()} threads, resume={resume}, leads its session={leads}")


def test_a_worker_resumes_runs_with_its_threads_out_of_reach_of_the_terminal_and_adds_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    monkeypatch.setattr(workers, "_work", partial(_work_by, _note_conditions))
    job, log = Job(recipes.get("digits"), tmp_path / "run"), tmp_path / "log.txt"
    log.write_text("before\n")
    run_jobs([job], workers=1, threads=3, log=log, on_progress=lambda *_: None, on_end=lambda *_: None)
    assert job.out.read_text() == "3 threads, resume=True, leads its session=True"
    assert log.read_text().startswith("before\n")


def _work_with(connection: Connection, log: Path, start_method: str) -> None:
    _work_by(_start_method, connection, 1, log, start_method, None)


def _note_process(config: Config, out: Path, **_: object) -> None:
    out.write_text(str(os.getpid()))
    if out.name == "bad":
        raise RuntimeError("CUDA error: device-side assert triggered")


def _work_on_a_gpu(connection: Connection, *arguments: Any) -> None:
    torch.cuda.is_initialized = lambda: True
    _work_by(_note_process, connection, *arguments)


def test_a_process_whose_gpu_may_be_unusable_takes_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    monkeypatch.setattr(workers, "_work", _work_on_a_gpu)
    jobs = [Job(recipes.get("digits"), tmp_path / name) for name in ("first", "bad", "next", "last")]
    failures = run_jobs(
        jobs, workers=1, threads=1, log=tmp_path / "log.txt", on_progress=lambda *_: None, on_end=lambda *_: None
    )
    assert failures == {jobs[1]: "CUDA error: device-side assert triggered"}
    first, bad, following, last = (job.out.read_text() for job in jobs)
    assert first == bad != following == last
    assert not multiprocessing.active_children()


def test_runs_may_read_images_with_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)
    for k in range(16):
        file = tmp_path / "images" / ("train", "val")[k % 2] / ("ant", "bee")[k // 2 % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), 15 * k, dtype=np.uint8)).save(file)
    config = replace(
        recipes.get("imagefolder"), data_root=str(tmp_path / "images"), method="erm", model="smallnet",
        image_size=SMALL_SIDE + 8,  # smaller ones are held in memory
        epochs=2, batch_size=4, workers=1,
    )  # fmt: skip
    jobs = [Job(replace(config, seed=seed), tmp_path / f"seed{seed}") for seed in (0, 1)]
    failures = run_jobs(
        jobs, workers=1, threads=1, log=tmp_path / "log.txt", on_progress=lambda *_: None, on_end=lambda *_: None
    )
    assert failures == {}
    assert all(RunDirectory(job.out).is_finished(job.config) for job in jobs)
    assert not multiprocessing.active_children()


def test_a_signal_while_a_worker_is_started_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes once the worker is known: what stops all workers then stops it too."""
    fork_workers(monkeypatch)
    start = multiprocessing.process.BaseProcess.start

    def interrupted(process: multiprocessing.process.BaseProcess) -> None:
        start(process)
        os.kill(os.getpid(), signal.SIGTERM)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", interrupted)
    jobs, ignore = [Job(recipes.get("digits"), tmp_path / "run")], lambda *_: None
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, workers=1, threads=1, log=tmp_path / "log.txt", on_progress=ignore, on_end=ignore)
    assert not multiprocessing.active_children()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [("0,1", 1, []), ("0,1,-1", 2, ["0", "1"]), (" 2 , 3", 2, ["2", "3"]), ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"])],
)
def test_gpus_that_are_not_there_are_given_to_nobody(
    visible: str, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "default_device", lambda config: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert workers._gpus(recipes.get("digits")) == expected
