"""How the network is compiled, and what CUDA graphs are told."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._functorch.config as functorch
from torch import nn

from multimix import methods, models
from multimix.benchmarking import epoch, own_loop
from multimix.training import Config, run, train
from multimix.training.devices import connect
from multimix.training.step import TrainingStep, compiled_stages

CONFIG = Config(
    data="digits",
    model="smallnet-w8",
    method="erm",
    per_class=20,
    augment="none",
    batch_size=50,
    epochs=2,
    lr=0.01,
    schedule="constant",
    accelerator="cpu",
    tensorboard=False,
)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order, in a run that takes the CPU for a device with graphs and compiles nothing."""
    notes: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode=None: notes.append(f"compile {mode}"))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: notes.append("mark"))
    monkeypatch.setattr(run, "connect", lambda config: connect(replace(config, cuda_graphs=False)))
    return notes


def passes(notes: list[str]) -> list[str]:
    return [note for note in notes if not note.startswith("compile")]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_pass_is_marked_before_it_begins(tmp_path: Path, noted: list[str], monkeypatch) -> None:
    def build(*arguments):
        model = real(*arguments)
        model.stages[0].register_forward_pre_hook(lambda *_: noted.append("pass"))
        return model

    real = run.build_model
    monkeypatch.setattr(run, "build_model", build)
    train(replace(CONFIG, compile=True, cuda_graphs=True), tmp_path / "run")
    compiled = [note for note in noted if note.startswith("compile")]
    assert compiled
    assert set(compiled) == {"compile reduce-overhead"}
    # two epochs of four steps and the evaluation of the test images
    assert passes(noted).count("pass") > 2 * 4
    assert passes(noted) == ["mark", "pass"] * passes(noted).count("pass")


def test_no_pass_is_marked_without_graphs(tmp_path: Path, noted: list[str]) -> None:
    train(replace(CONFIG, epochs=1, compile=True), tmp_path / "run")
    assert noted
    assert set(noted) == {"compile None"}


def test_the_network_alone_is_marked_too(noted: list[str]) -> None:
    config = replace(CONFIG, data="cifar10", compile=True, cuda_graphs=True)
    with ExitStack() as stack:
        fabric = connect(replace(config, cuda_graphs=False))
        own_loop.network_alone(fabric, config, epoch.made_up(100, 10), stack)(3)
    assert passes(noted) == ["mark"] * 3


@pytest.mark.parametrize(
    ("method", "twice"),
    [("erm", False), ("puzzlemix", False), ("puzzlemix(clean_lam=1.0)", True), ("either(erm, comixup, p=0.5)", True)],
)
def test_a_network_whose_passes_are_differentiated_twice_keeps_what_that_reads(method: str, twice: bool) -> None:
    model = models.build("smallnet-w4", num_classes=10, image_size=8)
    before = functorch.donated_buffer
    with compiled_stages(TrainingStep(model, methods.parse(method)), CONFIG):
        assert functorch.donated_buffer == (before and not twice)
    assert functorch.donated_buffer == before


def test_a_cpu_has_no_graphs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, got accelerator='cpu'"):
        train(replace(CONFIG, compile=True, cuda_graphs=True), tmp_path / "run")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "method",
    [
        # one pass in a step
        "erm", "manifold-mixup", "cutmix", "multimix(n=20)", "dense-multimix(n=20)", "multimix-alone(n=inf)",
        # several
        "augmix", "alignmixup", "puzzlemix", "comixup", "automix",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "changes",
    [{}, {"average": "ema", "clip_norm": 1.0}, {"precision": "bf16-mixed", "channels_last": True}],
    ids=["plain", "averaged and clipped", "bfloat16"],
)
def test_graphs_train_to_the_metrics_of_the_network_without(tmp_path: Path, method: str, changes: dict) -> None:
    from torch._dynamo.utils import counters

    config = replace(CONFIG, method=method, accelerator="cuda", compile=True, deterministic=True, epochs=3, **changes)
    torch.compiler.reset()
    plain = metrics(train(config, tmp_path / "plain"))
    torch.compiler.reset()
    counters.clear()
    graphs = metrics(train(replace(config, cuda_graphs=True), tmp_path / "graphs"))
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert counters["inductor"]["cudagraph_recorded_non_static_inputs"] > 0
    for a, b in zip(plain, graphs, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], abs=1e-3)
        assert b["test_loss"] == pytest.approx(a["test_loss"], abs=1e-2)
