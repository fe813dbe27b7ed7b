"""A server that runs trainings in processes of their own, started once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from multimix.training import Config


class Outcome(NamedTuple):
    code: int
    """Exit code; negative for a signal."""
    log: str
    """Its stderr."""


class RunTraining(Protocol):
    def __call__(self, config: Config, out: Path, **options: Any) -> Outcome: ...


@pytest.fixture(scope="session")
def run_training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunTraining]:
    """Train in a process that may be killed: options as in run_server.py."""
    log = tmp_path_factory.mktemp("server") / "log"
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(config: Config, out: Path, **options: Any) -> Outcome:
        job = {"config": config.to_json(), "out": str(out), "log": str(log), **options}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        return Outcome(int(server.stdout.readline()), log.read_text())

    yield run
    server.stdin.close()
    server.wait(timeout=30)


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
