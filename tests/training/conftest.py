"""Trainings in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from tests.forked_workers import forkserver
from tests.training import killable

from multimix.training import Config


class Outcome(NamedTuple):
    code: int
    """Exit code; negative for a signal."""
    log: str
    """Its stderr."""


class RunTraining(Protocol):
    def __call__(self, config: Config, out: Path, **options: Any) -> Outcome: ...


@pytest.fixture(scope="session")
def run_training(tmp_path_factory: pytest.TempPathFactory) -> RunTraining:
    """Train in a process that may be killed: options as in killable.py."""
    log = tmp_path_factory.mktemp("training") / "log"

    def run(config: Config, out: Path, *, kill_after: float | None = None, **options: Any) -> Outcome:
        log.write_text("")
        process = forkserver().Process(target=killable.run, args=(config, out, log), kwargs=options)
        process.start()
        process.join(kill_after)
        process.kill()
        process.join()
        assert process.exitcode is not None
        return Outcome(process.exitcode, log.read_text())

    return run


def without_timing(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("timing", "seconds")}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock decides."""
    return [without_timing(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def contents():
    """Everything a run leaves that must not depend on interruptions."""
    import torch

    def read(run: Path) -> dict[str, Any]:
        result = json.loads((run / "result.json").read_text())
        last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
        return {
            "weights": (run / "model.safetensors").read_bytes(),
            "best weights": (run / "best.safetensors").read_bytes(),
            "metrics": read_metrics(run),
            "result": {**without_timing(result), **{k: without_timing(result[k]) for k in ("last", "best")}},
            "momentum": [v["momentum_buffer"].tolist() for v in last["optimizer"]["state"].values()],
            "config": json.loads((run / "config.json").read_text()),
        }

    return read
