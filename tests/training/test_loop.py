"""One run: what it computes, what it leaves, and how it fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from multimix import data, evaluation, methods, models
from multimix.errors import machine_error
from multimix.methods import erm
from multimix.methods.base import Method, MethodOutput
from multimix.random import make_generator
from multimix.training import Config, DivergenceError, Interrupted, evaluate_model, learning_rate, load_run, loop, train
from multimix.training.loop import Loop
from multimix.training.meters import Totals
from multimix.training.progress import Reporter
from multimix.training.records import TensorBoard
from multimix.training.setting import load_splits, make_loaders

CONFIG = Config(
    data="digits",
    model="smallnet-w8",
    method="erm",
    per_class=20,
    augment="none",
    batch_size=50,
    epochs=2,
    lr=0.05,
    weight_decay=1e-3,
    schedule="constant",
    accelerator="cpu",
    tensorboard=False,
)


def use(monkeypatch: pytest.MonkeyPatch, method: Method) -> None:
    """Train with `method`, whatever the configuration says."""
    monkeypatch.setattr(methods, "parse", lambda _: method)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_images(root: Path, *, height: int, width: int, **counts: int) -> None:
    """Noise, so many images of each of two classes in every split."""
    generator = torch.Generator().manual_seed(0)
    for split, count in counts.items():
        for name in ("one", "two"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_erm_equals_a_loop_written_by_hand(tmp_path):
    """Plain PyTorch, in the order of the documents: same seeds, same batches, torch's own SGD."""
    config = replace(CONFIG, nesterov=True, clip_norm=0.5, augment="crop-flip", seed=3)
    run = train(config, tmp_path / "run")

    splits = data.load("digits", per_class=20)
    batches = data.loader(splits.train, batch_size=50, train=True, augment="crop-flip", seed=3)
    net = models.build(
        "smallnet-w8",
        num_classes=10,
        image_size=8,
        mean=splits.mean,
        std=splits.std,
        generator=make_generator(3, "init"),
    )
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=False)
    for epoch in range(2):
        losses, right = [], 0
        for images, targets, _ in batches.batches(epoch):
            logits = net.train()(images)
            loss = nn.functional.cross_entropy(logits, targets)
            sgd.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            sgd.step()
            losses.append(loss.item())
            right += int((logits.argmax(1) == targets).sum())
        line = metrics(run)[epoch]
        assert line["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert line["train_accuracy"] == pytest.approx(right / 200, abs=0.011)
        assert (line["epoch"], line["step"], line["lr"]) == (epoch + 1, 4 * (epoch + 1), 0.05)
    _, trained = load_run(run)
    torch.testing.assert_close(weights_of(trained), weights_of(net), atol=1e-4, rtol=1e-3)


def test_a_run_leaves_what_is_documented(tmp_path):
    config = replace(CONFIG, val_per_class=3, tensorboard=True, epochs=3, method="cutmix", deterministic=True)
    config = replace(config, schedule="cosine")
    run = train(config, tmp_path / "run")
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}
    json_files = {"config.json", "environment.json", "metrics.jsonl", "result.json"}
    checkpoints = {"checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/best.pt"}
    assert found == {*json_files, *checkpoints, "model.safetensors", "best.safetensors", ".lock"}
    lines, result = metrics(run), json.loads((run / "result.json").read_text())
    assert result["best_by"] == "val_accuracy"
    assert result["best"] == max(lines, key=lambda line: line["val_accuracy"])
    assert (result["last"], result["epochs"], result["steps"]) == (lines[-1], 3, 12)
    assert all(line["train_accuracy"] is None for line in lines)
    assert [line["lr"] for line in lines] == [learning_rate(config, step, 4) for step in (3, 7, 11)]
    assert all(0 <= line[key] <= 1 for line in lines for key in ("val_top5", "test_ece", "test_top5", "val_ece"))
    assert all(line["timing"]["images_per_second"] > 0 for line in lines)
    assert result["seconds"] == pytest.approx(sum(line["timing"]["seconds"] for line in lines), rel=0.5)
    stored = json.loads((run / "config.json").read_text())
    info = stored.pop("data_info")
    assert Config.from_json(stored) == config
    assert (info["num_classes"], info["train_examples"], info["val_examples"]) == (10, 200, 30)
    assert not torch.are_deterministic_algorithms_enabled()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    drawn = [event.value for event in events.Scalars("val/accuracy")]
    assert drawn == pytest.approx([line["val_accuracy"] for line in lines])


def test_stored_weights_give_the_reported_metrics(tmp_path):
    run = train(replace(CONFIG, epochs=3, lr=0.3), tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    splits = data.load("digits", per_class=20)
    for which in ("last", "best"):
        _, model = load_run(run, which=which)
        logits, labels = evaluation.predict(model, data.loader(splits.test, batch_size=100, train=False))
        assert (logits.argmax(1) == labels).double().mean().item() == result[which]["test_accuracy"]
        loss = nn.functional.cross_entropy(logits.double(), labels).item()
        assert loss == pytest.approx(result[which]["test_loss"], abs=1e-5)


def test_the_best_weights_are_those_of_the_first_epoch_with_the_highest_accuracy(tmp_path, monkeypatch):
    accuracies, seen, evaluate = iter([0.5, 0.9, 0.9, 0.7]), [], Loop._evaluate

    def told(self):
        seen.append(weights_of(self.state.evaluated))
        return {**evaluate(self), "test_accuracy": next(accuracies)}

    monkeypatch.setattr(Loop, "_evaluate", told)
    run = train(replace(CONFIG, epochs=4), tmp_path / "run")
    assert json.loads((run / "result.json").read_text())["best"]["epoch"] == 2
    for which, weights in (("best", seen[1]), ("last", seen[3])):
        assert torch.equal(weights_of(load_run(run, which=which)[1]), weights)


def test_averaged_weights_are_the_ones_evaluated_and_exported(tmp_path):
    run = train(replace(CONFIG, average="ema", average_decay=0.5), tmp_path / "run")
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    exported = load_file(run / "model.safetensors")
    name = "classifier.weight"
    assert torch.equal(exported[name], checkpoint["average"]["model"][name])
    assert not torch.equal(exported[name], checkpoint["module"][f"model.{name}"])
    assert checkpoint["average"]["updates"] == checkpoint["step"] == 8
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["average"]["model"]
    assert torch.equal(load_file(run / "best.safetensors")[name], best[name])
    test = data.loader(data.load("digits").test, batch_size=100, train=False)
    assert metrics(run)[-1]["test_loss"] == pytest.approx(evaluate_model(load_run(run)[1], test)["loss"], rel=1e-5)
    (run / "model.safetensors").unlink()  # as of a run that has not finished
    assert torch.equal(load_run(run)[1].state_dict()[name], exported[name])


@pytest.mark.parametrize(
    ("changes", "accumulate", "near"),
    [
        ({}, 5, 1e-5),
        ({"clip_norm": 0.1}, 5, 1e-5),
        # Micro-batches of 17, 17 and 16 images, which count alike in the reported loss.
        ({"per_class": 5, "batch_size": 60, "lr": 0.5}, 3, 1e-3),
    ],
)
def test_micro_batches_sum_to_the_batch(changes, accumulate, near, tmp_path, monkeypatch):
    """ERM without batch normalisation sees no difference."""
    build = models.build

    def plain(*args, **kwargs):
        model = build(*args, **kwargs)
        for stage in model.stages:
            stage[1] = nn.Identity()
        return model

    monkeypatch.setattr(models, "build", plain)
    config = replace(CONFIG, **changes)
    whole = train(config, tmp_path / "whole")
    pieces = train(replace(config, accumulate=accumulate), tmp_path / "pieces")
    a, b = load_file(whole / "model.safetensors"), load_file(pieces / "model.safetensors")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-4)
    assert metrics(pieces)[1]["train_loss"] == pytest.approx(metrics(whole)[1]["train_loss"], abs=near)


class Probing(Method):
    """Notes what a method is given; the loss is ERM's, plus a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.draws: list[float] = []

    def setup(self, model):
        self.events.append("setup")
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("moved", torch.zeros(()))

    def forward(self, model, images, targets, generator=None, **extras):
        assert (generator.device.type, model.training) == ("cpu", True)
        self.seen = images
        self.draws.append(torch.rand((), generator=generator).item())
        self.events.append("forward")
        logits = model(images)
        return MethodOutput(nn.functional.cross_entropy(logits, targets) + (self.scale - 3) ** 2, None)

    def after_step(self, model):
        self.events.append("after_step")
        self.moved += 1


def test_every_micro_batch_draws_anew(tmp_path, monkeypatch):
    seeds, seed = [], loop.seed_global_state

    def noted(value, device):
        seeds.append(value)
        seed(value, device)

    monkeypatch.setattr(loop, "seed_global_state", noted)
    train(replace(CONFIG, accumulate=2), tmp_path / "run")
    assert len(set(seeds)) == len(seeds) == 2 * 4 * 2


def test_checkpoints_come_every_so_many_minutes(tmp_path, monkeypatch):
    now, saved, step, save = [0.0], [], Loop._step, Loop._save

    def slow(self, *batch):
        step(self, *batch)
        now[0] += 40

    def noted(self, **options):
        saved.append(self.state.step)
        save(self, **options)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Loop, "_step", slow)
    monkeypatch.setattr(Loop, "_save", noted)
    train(replace(CONFIG, epochs=1, batch_size=25, checkpoint_minutes=1.0), tmp_path / "run")
    assert saved == [2, 4, 6, 8, 8]


def test_a_method_with_parameters_is_set_up_trained_and_saved(tmp_path, monkeypatch):
    method = Probing()
    use(monkeypatch, method)
    run = train(replace(CONFIG, accumulate=2), tmp_path / "run")
    assert method.events == ["setup"] + ["forward", "forward", "after_step"] * 8
    assert len(set(method.draws)) == 16
    assert method.scale.item() > 1
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["module"]
    assert saved["method.scale"] == method.scale
    assert saved["method.moved"] == 8
    assert not any("method" in name for name in load_file(run / "model.safetensors"))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_images_are_not_rounded_before_they_are_mixed(precision, dtype, tmp_path, monkeypatch):
    method = Probing()
    use(monkeypatch, method)
    run = train(replace(CONFIG, epochs=1, precision=precision, channels_last=True), tmp_path / "run")
    assert method.seen.dtype == dtype
    # Half precision would move them by as much as half a grey level.
    assert ((method.seen * 255).round() - method.seen * 255).abs().max() < 1e-3
    assert load_file(run / "model.safetensors")["classifier.weight"].dtype == dtype
    assert load_run(run)[1](torch.rand(2, 1, 8, 8)).shape == (2, 10)


class Domains(methods.Erm):
    needs: ClassVar[tuple[str, ...]] = ("domain",)

    def forward(self, model, images, targets, generator=None, *, domain):
        assert domain.tolist() == (targets % 3).tolist()
        return super().forward(model, images, targets, generator)


def test_extras_reach_the_method_that_needs_them(tmp_path, monkeypatch):
    use(monkeypatch, Domains())
    with pytest.raises(ValueError, match="Domains needs domain for every example, which these data do not have"):
        train(CONFIG, tmp_path / "without")
    load = data.load

    def with_domains(*args, **kwargs):
        splits = load(*args, **kwargs)
        labels = splits.train.labels
        train = data.ArrayDataset(splits.train.images, labels, extras={"domain": labels % 3, "other": labels})
        return replace(splits, train=train)

    monkeypatch.setattr(data, "load", with_domains)
    train(replace(CONFIG, epochs=1, accumulate=2), tmp_path / "with")


class Poisoned(methods.Erm):
    """ERM whose loss is not a number at one step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, model, images, targets, generator=None, **extras):
        out = super().forward(model, images, targets, generator)
        self.calls += 1
        return MethodOutput(out.loss * float("nan") if self.calls == self.at else out.loss, out.logits)


@pytest.mark.parametrize(("at", "clip_norm"), [(6, None), (8, None), (6, 1.0)])
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(at, clip_norm, tmp_path, monkeypatch):
    use(monkeypatch, Poisoned(at))
    with pytest.raises(DivergenceError, match=rf"in epoch 2: the loss is not finite at step {at};.*last\.pt.*lower lr"):
        train(replace(CONFIG, checkpoint_minutes=0.0, clip_norm=clip_norm), tmp_path / "run")
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert kept["step"] == at - 1
    assert all(tensor.isfinite().all() for tensor in kept["module"].values())
    assert len(metrics(tmp_path / "run")) == 1
    assert load_run(tmp_path / "run")[1](torch.rand(1, 1, 8, 8)).isfinite().all()


class Ruined(methods.Erm):
    """ERM that fills a tensor of the model after the last step of the first epoch, which its losses do not show."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__()
        self.name, self.value, self.steps = name, value, 0

    def after_step(self, model):
        self.steps += 1
        if self.steps == 4:
            next(tensor for name, tensor in model.state_dict().items() if name.endswith(self.name)).fill_(self.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("classifier.bias", float("inf"), "the weights are not finite after step 4"),
     ("running_mean", float("nan"), "not finite.* on the test split")],
)  # fmt: skip
def test_a_model_that_is_not_finite_has_diverged_though_its_losses_are(name, value, said, tmp_path, monkeypatch):
    use(monkeypatch, Ruined(name, value))
    with pytest.raises(DivergenceError, match=rf"training diverged in epoch 1: .*{said}; no checkpoint had been"):
        train(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


@pytest.mark.parametrize(("examples", "count", "sizes"), [(6, 3, [2, 2, 2]), (7, 3, [3, 3, 1]), (2, 3, [1, 1])])
def test_no_more_micro_batches_than_asked_for_nor_than_examples(examples, count, sizes):
    images, targets, extra = torch.rand(examples, 1, 2, 2), torch.arange(examples), torch.rand(examples, 3)
    pieces = loop._pieces(images, targets, {"extra": extra}, count)
    assert [len(part) for part, _, _ in pieces] == sizes
    assert torch.equal(torch.cat([part for part, _, _ in pieces]), images)
    assert torch.equal(torch.cat([part for _, part, _ in pieces]), targets)
    assert torch.equal(torch.cat([part["extra"] for _, _, part in pieces]), extra)


def test_a_signal_stops_an_evaluation_which_is_done_again(tmp_path, monkeypatch):
    whole, seen, evaluate = train(CONFIG, tmp_path / "whole"), [], loop.evaluate_model

    def interrupted(model, batches, **options):
        def noted():
            for batch in batches:
                if not seen:
                    os.kill(os.getpid(), signal.SIGTERM)
                seen.append(batch)
                yield batch

        return evaluate(model, noted(), **options)

    monkeypatch.setattr(loop, "evaluate_model", interrupted)
    with pytest.raises(Interrupted):
        train(CONFIG, tmp_path / "run")
    assert len(seen) == 1
    monkeypatch.undo()
    train(CONFIG, tmp_path / "run", resume=True)
    for one, other in zip(metrics(whole), metrics(tmp_path / "run"), strict=True):
        assert {**one, "timing": None} == {**other, "timing": None}


def test_the_speed_is_of_all_training_images(tmp_path):
    for line in metrics(train(CONFIG, tmp_path / "run")):
        assert line["timing"]["images_per_second"] * line["timing"]["train_seconds"] == pytest.approx(4 * 50)


def test_progress_reports_every_epoch_and_an_estimate(tmp_path):
    reports = []
    run = train(CONFIG, tmp_path / "run", progress=reports.append)
    ends = [report for report in reports if report.metrics is not None]
    assert [end.metrics for end in ends] == metrics(run)
    assert [(end.epoch, end.batch, end.epochs, end.batches) for end in ends] == [(1, 4, 2, 4), (2, 4, 2, 4)]
    assert ends[-1].remaining == 0
    assert reports[0].batch == 1
    # Linear extrapolation: of 8 batches, one is done.
    assert reports[0].remaining == pytest.approx(7 * reports[0].seconds)


def test_a_resumed_run_estimates_from_the_batches_it_has_timed():
    reports = []
    Reporter(reports.append, epochs=10, batches=4, done=20).report(5, 2, Totals())
    assert reports[0].remaining == pytest.approx(18 * reports[0].seconds / 2)


def test_fewer_evaluations_change_nothing_else(tmp_path):
    config = replace(CONFIG, epochs=5)
    every, some = (
        train(replace(config, evaluate_every=k), tmp_path / f"{k}", progress=(reports := []).append) for k in (1, 2)
    )
    names = {"test_accuracy", "test_loss", "test_ece", "test_top5"}
    expected = metrics(every)
    assert all(names < record.keys() for record in expected)
    for record in expected:
        del record["timing"]
    for found, whole in zip(metrics(some), expected, strict=True):
        del found["timing"]
        evaluated = found["epoch"] in (2, 4, 5)
        assert found == (whole if evaluated else {k: v for k, v in whole.items() if k not in names})
    assert len([report for report in reports if report.metrics is not None]) == 5

    best = max((record for record in expected if record["epoch"] in (2, 4, 5)), key=lambda r: r["test_accuracy"])
    result = json.loads((some / "result.json").read_text())
    assert result["best"]["epoch"] == best["epoch"]
    assert (some / "model.safetensors").read_bytes() == (every / "model.safetensors").read_bytes()
    _, model = load_run(some, which="best")
    splits = data.load("digits", per_class=20)
    batches = data.loader(splits.test, batch_size=100, train=False).batches(0)
    assert evaluate_model(model, ((b.images, b.targets) for b in batches))["accuracy"] == best["test_accuracy"]


def test_the_step_never_reads_the_device(tmp_path, monkeypatch):
    """Reading a value back (`item`, `if tensor`, a copy to the host) would make a GPU wait at every step."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    seen: set = set()
    step = Loop._step

    def watched(*args):
        with Watch():
            step(*args)

    monkeypatch.setattr(Loop, "_step", watched)
    # On the CPU it looks at the values; tests/training/test_host_waits.py holds that it does nowhere else.
    monkeypatch.setattr(erm, "check_targets", lambda *_: None)
    train(replace(CONFIG, epochs=1, average="ema", accumulate=2, clip_norm=1.0), tmp_path / "run")
    assert torch.ops.aten.convolution in seen
    assert not seen & {torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero, torch.ops.aten.equal}


def test_images_from_files_resume_within_an_epoch(tmp_path):
    """Decoding workers and random crops are a function of the position too."""
    write_images(tmp_path / "data", height=20, width=24, train=12, val=4)
    config = replace(
        CONFIG, data="imagefolder", data_root=tmp_path / "data", per_class=None, image_size=16, batch_size=4, workers=1
    )
    config = replace(config, augment="random-resized-crop", method="multimix(n=8)")
    whole = train(config, tmp_path / "whole")

    def interrupt(progress):
        if progress.metrics is None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after batch 1 of 6"):
        train(config, tmp_path / "resumed", progress=interrupt)
    train(config, tmp_path / "resumed", resume=True)
    same = [(run / "model.safetensors").read_bytes() for run in (whole, tmp_path / "resumed")]
    assert same[0] == same[1]
    assert metrics(whole)[0]["test_top5"] is None


@pytest.mark.parametrize(("split", "batch"), [("train", 1), ("val", 3)])
@pytest.mark.parametrize(("damage", "error"), [("cut", data.UnreadableImageError), ("refused", IsADirectoryError)])
def test_an_image_that_cannot_be_read_costs_nothing_that_was_done(split, batch, damage, error, tmp_path):
    write_images(tmp_path / "data", height=110, width=110, train=6, val=1)
    config = replace(
        CONFIG, data="imagefolder", data_root=tmp_path / "data", per_class=None, image_size=104, batch_size=4, workers=0
    )
    files = sorted((tmp_path / "data" / split).rglob("*.png"))
    whole = [file.read_bytes() for file in files]

    def break_all(progress):
        for file in files:
            if file.is_file() and damage == "cut":
                file.write_bytes(file.read_bytes()[:1000])
            elif file.is_file():
                file.unlink()
                file.mkdir()

    run = tmp_path / "run"
    with pytest.raises(error, match=rf"{split}/.*png.*is saved in {run}; resuming it needs a readable file under that"):
        train(config, run, progress=break_all)
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert (saved["epoch"], saved["batch"], saved["step"]) == (0, batch, batch)
    for file, content in zip(files, whole, strict=True):
        if file.is_dir():
            file.rmdir()
        file.write_bytes(content)
    train(config, run, resume=True)
    expected = train(config, tmp_path / "whole")
    assert (run / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_a_loader_process_that_is_killed_costs_little(tmp_path):
    write_images(tmp_path / "data", height=110, width=110, train=20, val=1)
    config = replace(
        CONFIG, data="imagefolder", data_root=tmp_path / "data", per_class=None, image_size=104, batch_size=2, workers=1
    )

    def kill(progress):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="DataLoader worker") as error:
        train(config, run, progress=kill)
    assert "Continue with --resume" in machine_error(error.value)
    expected = train(config, tmp_path / "whole")
    train(config, run, resume=True)
    assert (run / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_curves_of_epochs_that_are_trained_again_are_hidden(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, rate in ((1, 1.0), (2, 0.5)):
        with TensorBoard(tmp_path, first) as board:
            for epoch in range(first, 4):
                board.add({"epoch": epoch, "lr": rate, "timing": {}})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("lr")] == [(1, 1.0), (2, 0.5), (3, 0.5)]


def test_curves_that_cannot_be_written_stop_nothing(tmp_path, monkeypatch):
    def refuse(writer):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.flush", refuse)
    hook = threading.excepthook
    with pytest.warns(UserWarning, match=r"no more TensorBoard curves .*No space left on device.*metrics.jsonl"):
        run = train(replace(CONFIG, tensorboard=True), tmp_path / "run")
    assert len(metrics(run)) == 2
    assert (run / "result.json").is_file()
    assert threading.excepthook is hook


def test_curves_whose_folder_cannot_be_made_leave_the_hook_of_threads_alone(tmp_path):
    (tmp_path / "taken").write_text("")
    hook = threading.excepthook
    with pytest.warns(UserWarning, match="no more TensorBoard curves"):
        board = TensorBoard(tmp_path / "taken", 1)
    board.add({"epoch": 1, "train_loss": 1.0, "timing": {}})
    assert threading.excepthook is hook
    with TensorBoard(tmp_path / "made", 1):
        assert threading.excepthook is not hook
    assert threading.excepthook is hook


def test_a_folder_of_another_program_keeps_its_configuration(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Other"]}')
    for resume, error, message in (
        (False, FileExistsError, "is not empty"),
        (True, ValueError, "config.json is damaged or of another version"),
    ):
        with pytest.raises(error, match=message):
            train(CONFIG, tmp_path, resume=resume)
        assert (tmp_path / "config.json").read_text() == '{"architectures": ["Other"]}'


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_before_the_first_step_ends_at_once(name, tmp_path, monkeypatch):
    load, handler = data.load, signal.getsignal(signal.SIGTERM)
    # Whoever runs the tests in the background may have made its children ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def decode_for_long(**options):
        os.kill(os.getpid(), getattr(signal, name))
        raise AssertionError("it goes on")

    monkeypatch.setattr(data, "load", decode_for_long)
    try:
        with pytest.raises(KeyboardInterrupt) as stop:
            train(CONFIG, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(stop.value, Interrupted)
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.setattr(data, "load", load)
    train(replace(CONFIG, epochs=1), tmp_path / "run")


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = train(replace(CONFIG, epochs=1), tmp_path, progress=lambda _: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (run / "result.json").is_file()


def test_domains_that_a_method_has_no_head_for_are_refused_before_the_run_begins(tmp_path, monkeypatch):
    """On a GPU, a step does not look at them."""
    monkeypatch.setattr(methods.Daml, "forward", None)
    load = data.load

    def with_domains(**options):
        splits = load(**options)
        labels = splits.train.labels
        return replace(splits, train=data.ArrayDataset(splits.train.images, labels, extras={"domain": labels % 3}))

    monkeypatch.setattr(data, "load", with_domains)
    with pytest.raises(ValueError, match="numbered from 0 to 1 for domains=2, got 0 to 2: set domains to the number"):
        train(replace(CONFIG, method="either(erm, daml(domains=2))"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_same_seed_same_weights_and_the_first_batch_is_the_same_for_all_methods(tmp_path, monkeypatch):
    seen = []
    for name in ("a", "b"):
        method = Probing()
        use(monkeypatch, method)
        train(replace(CONFIG, epochs=1), tmp_path / name)
        seen.append(method)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert torch.equal(seen[0].seen, seen[1].seen)


def test_the_seed_decides_the_first_weights_and_what_a_method_draws_in_its_setup(tmp_path, monkeypatch):
    class Drawing(methods.Erm):
        def setup(self, model):
            drawn.append((weights_of(model).tolist(), torch.rand(4).tolist()))

    drawn = []
    use(monkeypatch, Drawing())
    for number, seed in enumerate((0, 0, 1)):
        train(replace(CONFIG, epochs=1, per_class=5, seed=seed), tmp_path / str(number))
    first, again, other = drawn
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("classes", [5, 6])
def test_what_is_measured_of_a_model(classes):
    batches = [(torch.randn(20, classes, generator=make_generator(k)), torch.arange(20) % classes) for k in range(2)]
    found = evaluate_model(nn.Identity(), batches)
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    p = logits.double().softmax(1)
    assert found["accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    assert found["loss"] == pytest.approx(-p[torch.arange(40), labels].log().mean().item(), rel=1e-12)
    # In single precision, confidences of 1 - 1e-9 would be those of certainty.
    assert found["ece"] == pytest.approx(evaluation.expected_calibration_error(p, labels, bins=15), rel=1e-12)
    top5 = (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert found["top5"] == (top5 if classes > 5 else None)


def test_evaluate_model_refuses_what_is_not_finite():
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate_model(net, [(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))])


def test_a_batch_that_ranks_cannot_share_is_refused_early():
    splits = data.load("digits", per_class=20)
    with pytest.raises(ValueError, match=r"batch of 50 examples cannot be divided evenly over 2 processes .* of 4"):
        make_loaders(replace(CONFIG, accumulate=2), splits, device="cpu", rank=0, world_size=2)


def test_domains_are_balanced_where_the_configuration_says_so():
    splits = data.load("digits", per_class=4)
    domain = (torch.arange(40) >= 36).long()
    train = data.ArrayDataset(splits.train.images, splits.train.labels, extras={"domain": domain})
    config = Config(data="domains", batch_size=8, balance_domains=True)
    loaders = make_loaders(config, replace(splits, train=train), device="cpu", rank=0, world_size=1)
    for batch in loaders["train"].batches(0):
        assert batch.extras["domain"].bincount().tolist() == [4, 4]


def test_load_run_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run: it holds no config\.json"):
        load_run(tmp_path)
    run = train(replace(CONFIG, epochs=1), tmp_path / "run")
    (tmp_path / "several" / "erm" / "seed0").mkdir(parents=True)
    (tmp_path / "several" / "erm" / "seed0" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"is not a run: .* there are runs below it, such as \S+erm/seed0$"):
        load_run(tmp_path / "several")
    with pytest.raises(ValueError, match="'last' or 'best', got 'first'"):
        load_run(run, which="first")
    (run / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_run(run)
    (run / "best.safetensors").unlink()
    (run / "checkpoints" / "best.pt").unlink()
    with pytest.raises(FileNotFoundError, match="has no best weights yet"):
        load_run(run, which="best")
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_run(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [("manifold-mixup", 1e-3), ("comixup", 0.02)],  # the latter chooses among regions, and a last bit can decide
)
def test_compiled_network_trains_to_the_same_metrics(tmp_path, method, tolerance):
    plain = train(replace(CONFIG, method=method), tmp_path / "plain")
    compiled = train(replace(CONFIG, method=method, compile=True), tmp_path / "compiled")
    for a, b in zip(metrics(plain), metrics(compiled), strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], abs=tolerance)
        assert b["test_loss"] == pytest.approx(a["test_loss"], abs=max(tolerance, 1e-2))


def test_training_images_are_evaluated_clean_where_asked(tmp_path):
    config = replace(CONFIG, epochs=2, method="input-mixup")
    plain, asked = (train(replace(config, evaluate_train=n), tmp_path / f"{n}") for n in (0, 30))
    assert (asked / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    last = metrics(asked)[-1]
    assert last["train_accuracy"] is None  # of images that were all mixed
    assert {name for name in last if name not in metrics(plain)[-1]} == {
        f"train_clean_{name}" for name in ("accuracy", "loss", "ece", "top5")
    }
    _, model = load_run(asked)
    images = data.load("digits", per_class=20).train
    with torch.no_grad():
        right = model(images.images.float() / 255).argmax(1) == images.labels
    # 30 of 200: what is right of them is a whole number, and near the share of all.
    assert last["train_clean_accuracy"] * 30 == pytest.approx(round(last["train_clean_accuracy"] * 30))
    assert last["train_clean_accuracy"] == pytest.approx(right.double().mean().item(), abs=0.3)
    whole = metrics(train(replace(config, evaluate_train=10_000), tmp_path / "all"))[-1]
    assert whole["train_clean_accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-6)


def test_the_clean_training_images_are_the_same_for_every_seed_of_the_training():
    def images(**changes):
        config = replace(CONFIG, evaluate_train=40, **changes)
        loaders = make_loaders(config, load_splits(config), device="cpu", rank=0, world_size=1)
        batches = list(loaders["train_clean"].batches(0))
        return torch.cat([batch.images.flatten(1) for batch in batches])

    first = images(seed=0)
    assert len(first) == 40
    assert torch.equal(images(seed=1), first)
    assert not torch.equal(images(subset_seed=1), first)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "multimix", "accumulate": 4}, "a step of 32 images is mixed in parts of 8 (accumulate=4"),
        ({"method": "cutmix", "accumulate": 4}, None),  # a mixture of two does not depend on how many there are
        ({"method": "multimix"}, None),
    ],
)
def test_small_parts_that_are_mixed_are_told(changes, told, tmp_path):
    config = replace(CONFIG, epochs=1, batch_size=32, **changes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config, tmp_path / "run")
    found = [str(warning.message) for warning in caught if "mixed in parts" in str(warning.message)]
    assert [message.startswith(told) for message in found] == ([True] if told else [])
