"""The part on training speed: what is timed, beside what, and what the page says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.benchmarking.told_clock import tell
from tests.suite.memory import Memory, quiet

from multimix import cli, published
from multimix.benchmarking import methods as timing
from multimix.data import ArrayDataset, Batch
from multimix.methods import DenseMultiMix, Erm, InputMixup, Method, MultiMix
from multimix.models import SplitModel, build
from multimix.suite import Speed
from multimix.suite.part import Legend, Subject
from multimix.suite.speed import with_n
from multimix.training import Config

COST = {Erm: 1.0, InputMixup: 2.0, MultiMix: 4.0, DenseMultiMix: 10.0}


@pytest.fixture
def subject() -> Subject:
    g = torch.Generator().manual_seed(0)
    model = build("smallnet-w4", num_classes=3, image_size=8, generator=g).eval()
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=g).byte()
    train = ArrayDataset(images, torch.arange(20) % 3)
    config = Config(data="digits", model="smallnet-w4", batch_size=8, method="multimix", accelerator="cpu")
    return Subject(
        label="mine", seed=0, model=model, train=train, test=train, class_names=("a", "b", "c"), image_size=8,
        batch_size=8, method="multimix", config=config,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A clock that is told what a step costs: n / 1000 more for each mixed example of MultiMix; the steps it saw."""
    seen: list[Any] = []

    def cost(model: SplitModel, method: Method, batch: Batch) -> float:
        seen.append((type(method), len(batch.images), model.training))
        return COST.get(type(method), 3.0) + getattr(getattr(method, "criterion", None), "n", 0) / 1000

    tell(monkeypatch, cost)
    monkeypatch.setattr(timing, "peak_memory", lambda call, *, device: 2**20)
    return seen


def test_speeds_are_those_of_the_clock(subject: Subject, clock: list[Any]) -> None:
    part = Speed(methods=("input-mixup",), n=(1000, 2000))
    found = part.evaluate(subject, Memory(), quiet)
    # Half of the batches take input mixup; MultiMix's default n is 1000.
    own = 0.5 * 2 + 0.5 * (4 + 1)
    assert found["own"] == "multimix"
    assert list(found["rows"]) == ["multimix", "input-mixup"]
    assert found["rows"]["multimix"]["relative"] == pytest.approx(1 / own)
    assert found["rows"]["multimix"]["images_per_second"] == pytest.approx(8 / own)
    assert found["rows"]["input-mixup"]["relative"] == pytest.approx(0.5)
    assert found["by_n"] == [[1000, pytest.approx(1 / own)], [2000, pytest.approx(1 / (own + 0.5))]]
    assert {size for _, size, _ in clock} == {found["batch"]} == {8}
    assert all(training for *_, training in clock)
    assert not subject.model.training
    assert part.headline(found) == {"training speed ÷ ERM's ↑": pytest.approx(1 / own)}


def test_a_run_that_was_trained_with_cuda_graphs_is_timed_on_the_cpu_too(subject: Subject, clock: list[Any]) -> None:
    assert subject.config is not None
    graphs = replace(subject, config=replace(subject.config, accelerator="cuda", compile=True, cuda_graphs=True))
    assert Speed(n=(10,)).evaluate(graphs, Memory(), quiet)["rows"]["multimix"]["relative"] is not None


def test_what_is_timed_is_kept_method_by_method(subject: Subject, clock: list[Any]) -> None:
    memory = Memory()
    first = Speed(n=(10,)).evaluate(subject, memory, quiet)
    del clock[:]
    assert Speed(n=(10,)).evaluate(subject, memory, quiet) == first
    assert clock == []


def test_a_network_trained_elsewhere_is_timed_with_the_papers_methods(subject: Subject, clock: list[Any]) -> None:
    elsewhere = replace(subject, method=None, config=None, train=None, label="torchvision:resnet18")
    part = Speed(n=(10,))
    found = part.evaluate(elsewhere, Memory(), quiet)
    assert found["own"] is None
    assert {"erm", "multimix", "dense-multimix"} <= set(found["rows"])
    assert found["rows"]["erm"]["relative"] == 1.0
    assert found["by_n"] == []
    assert part.headline(found) == {}
    table = part.sections({"torchvision:resnet18": [found]}, Legend({"torchvision:resnet18": "#000000"}))[0].table
    assert table is not None
    assert "torchvision:resnet18: dense-multimix" in [row[0].text for row in table.rows]


def test_real_steps_leave_the_model_and_the_global_generator_alone(subject: Subject) -> None:
    weights = {name: value.clone() for name, value in subject.model.state_dict().items()}
    before = torch.get_rng_state()
    found = Speed(methods=("daml",), n=(1,), rounds=3, seconds=0.01).evaluate(subject, Memory(), quiet)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in subject.model.state_dict().items())
    row = found["rows"]["multimix"]
    assert row["images_per_second"] == pytest.approx(8000 / row["milliseconds"])
    assert "Daml needs domain for every example" in found["rows"]["daml"]["why_not"]
    caption = Speed().sections({"mine": [found]}, Legend({"mine": "#000000"}))[0].caption
    assert "mine: daml could not be timed: Daml needs domain" in caption


def test_domains_are_balanced_as_in_training(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    tell(monkeypatch, lambda model, method, batch: seen.append(batch) or 1.0)
    monkeypatch.setattr(timing, "peak_memory", lambda call, *, device: 2**20)
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    domains = ArrayDataset(images, torch.arange(20) % 3, extras={"domain": (torch.arange(20) < 2).long()})
    config = Config(data="domains", model="smallnet-w4", batch_size=8, balance_domains=True, accelerator="cpu")
    Speed(n=(10,)).evaluate(replace(subject, train=domains, config=config), Memory(), quiet)
    assert {tuple(batch.extras["domain"].bincount().tolist()) for batch in seen} == {(4, 4)}


def test_the_papers_table_stands_beside(subject: Subject, clock: list[Any]) -> None:
    found = Speed(n=(10,)).evaluate(subject, Memory(), quiet)
    *_, section = Speed().sections({"mine": [found, found]}, Legend({"mine": "#000000"}))
    assert section.table is not None
    rows = {row[0].text: [cell.text for cell in row] for row in section.table.rows}
    assert section.table.columns[1:4] == [
        "measured here\n÷ ERM's", "paper, resnet50\n1000 images/s", "paper, resnet50\n÷ ERM's"
    ]  # fmt: skip
    paper = published.find("speed", data="imagenet", model="resnet50", method="multimix")
    assert paper is not None
    assert rows["multimix"][1:4] == [f"{1 / (0.5 * 2 + 0.5 * 5):.2f}", paper.text, f"{1.16 / 1.17:.2f}"]
    assert rows["erm"][1] == "not measured"
    assert rows["transmix"][2:4] == ["–", "–"]


def test_every_label_has_a_row_beside_the_papers_table() -> None:
    def run(own: str, **relative: float) -> dict[str, Any]:
        row = {"images_per_second": 1.0, "milliseconds": 1.0, "peak_mib": 1.0, "why_not": ""}
        row |= {"relative_low": 0.9, "relative_high": 1.2}
        common = {"network": "smallnet", "batch": 8, "image_size": 8, "precision": "32-true", "device": "cpu"}
        common |= {"machine": {"cpu": "x", "threads": "1", "torch": "2", "date": "today"}, "own": own, "by_n": []}
        return common | {"rows": {name: row | {"relative": value} for name, value in relative.items()}}

    results = {"multimix, lr=0.1": [run("multimix", multimix=0.5)], "multimix, lr=0.2": [run("multimix", multimix=0.7)]}
    results["erm"] = [run("erm", erm=1.0)]
    results["erm"][0]["rows"]["erm"] |= {"relative_low": 0.5, "relative_high": 1.9}
    speeds, *_, beside = Speed().sections(results, Legend(dict.fromkeys(results, "#000000")))
    assert beside.table is not None
    rows = {row[0].text: row[1].text for row in beside.table.rows}
    assert (rows["multimix, lr=0.1"], rows["multimix, lr=0.2"], rows["erm"]) == ("0.50", "0.70", "1.00")
    assert "of smallnet on one batch of 8 images" in speeds.caption
    wider = {**results, "erm": [results["erm"][0] | {"network": "resnet50", "batch": 4}]}
    mixed, *_ = Speed().sections(wider, Legend(dict.fromkeys(results, "#000000")))
    assert "of smallnet / resnet50 on one batch of 8 / 4 images" in mixed.caption
    assert "multimix" not in rows
    other = {"multimix-small-alpha": [run("multimix-small-alpha", **{"multimix-small-alpha": 0.8, "multimix": 0.6})]}
    *_, beside = Speed().sections({**results, **other}, Legend(dict.fromkeys([*results, *other], "#000000")))
    assert beside.table is not None
    rows = {row[0].text: row[1].text for row in beside.table.rows}
    assert (rows["multimix-small-alpha"], rows["multimix-small-alpha: multimix"]) == ("0.80", "0.60")
    assert (
        "known to lie between 0.50 and 1.90 (95 %; under six rounds, the extremes), that of a second copy of ERM"
        in speeds.caption
    )
    spelled_out = {"mine": [run("multimix(n=1000)", **{"multimix(n=1000)": 0.4})]}
    *_, beside = Speed().sections(spelled_out, Legend({"mine": "#000000"}))
    assert beside.table is not None
    of_paper = published.find("speed", data="imagenet", model="resnet50", method="multimix")
    assert of_paper is not None
    shown = {row[0].text: [cell.text for cell in row[1:3]] for row in beside.table.rows}
    assert shown["multimix(n=1000)"] == ["0.40", of_paper.text]


def test_n_is_replaced_where_it_is_all_that_changes() -> None:
    assert with_n("multimix", 10) == "multimix(n=10)"
    assert with_n("dense-multimix-alone(n=inf)", 5) == "dense-multimix-alone(n=5)"
    assert with_n("manifold-mixup(n=256)", 5) is None
    assert with_n("dense-multimix(layer=2, n=4)", 5) is None


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="unknown method"):
        Speed(methods=("cutmixx",))
    with pytest.raises(ValueError, match="n and rounds must be at least 1"):
        Speed(n=(0,))
    with pytest.raises(ValueError, match="seconds positive"):
        Speed(seconds=0)


def test_the_command_times_runs_and_draws_the_curve(
    digits_run: Callable[..., Path], tmp_path: Path, clock: list[Any]
) -> None:
    runs = [digits_run(f"runs/{m}", method=m) for m in ("erm", "multimix")]
    out = tmp_path / "out"
    cli.main(["evaluate", str(runs[0].parent), "--parts", "speed", "--speed.n", "10", "100", "--out", str(out)])
    models = {m["label"]: m["parts"]["speed"] for m in json.loads((out / "evaluation.json").read_text())["models"]}
    assert models["erm"]["headline"] == {"training speed ÷ ERM's ↑": 1.0}
    assert [n for n, _ in models["multimix"]["result"]["by_n"]] == [10, 100]
    plot = (out / "plots" / "last" / "training-speed-over-n-over-n-erm-s.svg").read_text()
    assert ">10<" in plot
    assert "$" not in plot
    page = (out / "evaluation.html").read_text()
    assert "Training speed beside the paper" in page
