"""The parts on attacks and corruptions: against loops over images, interrupted and continued, and what they show."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.suite.memory import COLORS, LEGEND, Memory, quiet
from torch import Tensor
from torch.nn import functional as F

from multimix import evaluation
from multimix.data import ArrayDataset
from multimix.evaluation import corrupt
from multimix.models import SplitModel, build
from multimix.random import make_generator
from multimix.suite import attacks
from multimix.suite.attacks import Attacks
from multimix.suite.batches import Batches, balanced_order, choose
from multimix.suite.corruptions import Corruptions
from multimix.suite.part import Legend, Subject


@pytest.fixture(scope="module", autouse=True)
def hasty_surrogate() -> Iterator[None]:
    """A few steps of training will do here; how well a surrogate learns is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "distil", functools.partial(evaluation.distil, steps=3))
        yield


@pytest.fixture(scope="module")
def subject() -> Subject:
    """An untrained network whose own answers, most of them, are the labels: its clean error is about a fifth."""
    g = torch.Generator().manual_seed(0)
    model = build("smallnet", num_classes=3, image_size=8, channels=1, generator=g).eval()
    # A larger gain, so that attacks find something.
    model.classifier.weight.data.mul_(20)
    images = torch.randint(0, 256, (110, 1, 8, 8), generator=g).byte()
    with torch.no_grad():
        logits = model(images.float() / 255)
    model.classifier.bias.data -= logits.mean(dim=0)
    with torch.no_grad():
        labels = model(images.float() / 255).argmax(dim=1)
    wrong = torch.rand(110, generator=g) < 0.2
    labels = torch.where(wrong, (labels + 1) % 3, labels)
    test, train = ArrayDataset(images[:50], labels[:50]), ArrayDataset(images[50:], labels[50:])
    return Subject(
        label="erm", seed=0, model=model, train=train, test=test, class_names=("a", "b", "c"), image_size=8,
        batch_size=16, method="erm",
    )  # fmt: skip


ATTACKS = Attacks(
    limit=40, curve_limit=40, random_start=False, curve_eps=(2, 4, 8), curve_steps=(1, 5, 20), pgd_steps=20
)


@pytest.fixture(scope="module")
def attacked(subject: Subject) -> dict[str, Any]:
    state = torch.get_rng_state()
    result = ATTACKS.evaluate(subject, Memory(), quiet)
    assert torch.equal(torch.get_rng_state(), state)
    return result


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_beginning_of_the_order_is_balanced(labels: list[int], seed: int) -> None:
    order = balanced_order(torch.tensor(labels), seed=seed).tolist()
    assert sorted(order) == list(range(len(labels)))
    for n in range(len(labels) + 1):
        taken = [[labels[k] for k in order[:n]].count(c) for c in range(5)]
        for c in range(5):
            # A class may lag behind the fullest by one, or because it has no more.
            assert taken[c] >= max(taken) - 1 or taken[c] == labels.count(c)


def test_chosen_images_differ_with_the_seed_and_are_nested() -> None:
    labels = torch.arange(100) % 7
    small, large = (set(choose(labels, n, seed=0).tolist()) for n in (10, 40))
    assert small < large
    assert len(small) == 10
    assert small != set(choose(labels, 10, seed=1).tolist())
    assert torch.equal(choose(labels, None, seed=0), torch.arange(100))


@pytest.mark.parametrize("part", [Attacks, Corruptions])
def test_a_limit_of_no_images_is_refused(part: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="at least 1, or None for all; got 0"):
        part(limit=0)


def test_batches_in_any_order_are_those_of_the_loader(subject: Subject) -> None:
    indices = torch.arange(0, 50, 2)
    expected = list(subject.loader(subset=indices).batches(0))
    batches = Batches(subject, indices)
    assert len(batches) == len(expected) == 2
    for number in (1, 0, 1, 1, 0, 0):
        assert torch.equal(batches[number].images, expected[number].images)
        assert torch.equal(batches[number].targets, expected[number].targets)


def test_error_rates_are_those_of_a_loop(subject: Subject, attacked: dict[str, Any]) -> None:
    chosen = choose(subject.test.labels, 40, seed=0)
    assert isinstance(subject.test, ArrayDataset)
    images, labels = subject.test.images[chosen].float() / 255, subject.test.labels[chosen]

    def error(x: Tensor) -> float:
        with torch.no_grad():
            return (subject.model(x).argmax(1) != labels).double().mean().item()

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(subject.model(x), labels, reduction="sum"), x)
        return slope

    fgsm = (images + 8 / 255 * gradient(images).sign()).clamp(0, 1)
    by_steps, x = [[0, error(images)]], images
    for step in range(1, 21):
        moved = x + 2 / 255 * gradient(x).sign()
        x = (images + (moved - images).clamp(-4 / 255, 4 / 255)).clamp(0, 1)
        if step in (1, 5, 20):
            by_steps.append([step, error(x)])
    assert attacked["examples"] == attacked["curve_examples"] == 40
    assert attacked["test_examples"] == 50
    assert attacked["error"]["clean"] == error(images)
    assert attacked["error"]["FGSM 8/255"] == error(fgsm) > error(images)
    assert attacked["error"]["PGD 4/255"] == by_steps[-1][1]
    assert attacked["pgd_by_steps"] == by_steps
    assert attacked["pgd_by_eps"][2] == [4, by_steps[-1][1]]
    assert attacked["fgsm_by_eps"][3] == [8, error(fgsm)]
    assert attacked["fgsm_by_eps"][0] == [0, error(images)]
    assert ATTACKS.headline(attacked) == {
        f"{name} error, % ↓": 100 * attacked["error"][name] for name in ("FGSM 8/255", "PGD 4/255", "PGD l2 0.5")
    }


def test_every_attack_has_its_options_and_random_starts_of_its_own(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    pgd, table, curves, streams = evaluation.pgd, set(), set(), set()

    def noted(model, x, y, eps, step, steps, start, generator, **options):  # type: ignore[no-untyped-def]
        strength = (round(255 * eps, 3), round(255 * step, 3), steps)
        (table if options else curves).add((*strength, *options.values()))
        streams.add(generator.initial_seed())
        return pgd(model, x, y, eps, step, steps, start, generator, **options)

    monkeypatch.setattr(evaluation, "pgd", noted)
    part = Attacks(limit=20, curve_limit=20, pgd_eps=6, pgd_step=3, pgd_steps=2, restarts=3)
    replace(part, curve_eps=(1, 8), curve_steps=(1,)).evaluate(subject, Memory(), quiet)
    assert table == {(6, 3, 2, 3, "linf"), (127.5, 25.5, 2, 3, "l2")}
    assert curves == {(1, 0.5, 2), (8, 4, 2)}
    # Either norm and the curve over eps, in two batches.
    assert len(streams) == 6


@pytest.mark.parametrize("start", [True, False])
def test_curves_start_at_random_points_only_where_the_table_does(
    start: bool, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def noted(attack: Callable[..., Any], *given: Any, **options: Any) -> Any:
        starts.append(given[6])
        return attack(*given, **options)

    for name in ("pgd", "pgd_iterates"):
        monkeypatch.setattr(evaluation, name, functools.partial(noted, getattr(evaluation, name)))
    part = Attacks(limit=8, curve_limit=8, pgd_steps=1, random_start=start, curve_eps=(1,), curve_steps=(1,))
    part.evaluate(subject, Memory(), quiet)
    # Either norm, and either curve.
    assert starts == [start] * 4


def test_the_seed_decides_on_the_images_and_on_the_random_starts(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    pgd, streams = evaluation.pgd, set()
    attacked: list[Tensor] = []

    def noted(model: Any, x: Tensor, *given: Any, **options: Any) -> Tensor:
        attacked.append(x)
        streams.add(given[-1].initial_seed())
        return pgd(model, x, *given, **options)

    monkeypatch.setattr(evaluation, "pgd", noted)
    assert isinstance(subject.test, ArrayDataset)
    for seed in range(2):
        attacked.clear()
        part = Attacks(limit=15, curve_limit=9, pgd_steps=1, curve_eps=(1,), curve_steps=(1,), seed=seed)
        part.evaluate(subject, Memory(), quiet)
        for images, count in zip(attacked, (15, 15, 9), strict=True):  # either norm, and the curve over eps
            chosen = choose(subject.test.labels, count, seed=seed)
            assert torch.equal(images, subject.test.images[chosen].float() / 255)
    assert len(streams) == 2 * 3


def test_checks_are_of_the_attack_that_is_measured(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def noted(model: Any, images: Tensor, labels: Tensor, **options: Any) -> list[Any]:
        asked.update(options, model=model)
        return []

    monkeypatch.setattr(evaluation, "check_attack", noted)
    part = Attacks(limit=4, curve_limit=4, pgd_eps=6, pgd_step=3, pgd_steps=2, curve_eps=(1,), curve_steps=(1,))
    replace(part, mixed_precision=True).evaluate(subject, Memory(), quiet)
    assert [round(255 * asked[name], 3) for name in ("eps", "step_size")] == [6, 3]
    assert (asked["steps"], asked["batch_size"]) == (2, 16)
    x = torch.rand(2, 1, 8, 8)
    assert not torch.equal(asked["model"](x), subject.model(x))


def test_a_surrogate_learns_from_training_images_where_there_are_some(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []
    distil = evaluation.distil

    def noted(model: Any, images: Tensor, **options: Any) -> Any:
        shown.append(images)
        return distil(model, images, **options)

    monkeypatch.setattr(evaluation, "distil", noted)
    quick = Attacks(limit=4, curve_limit=4, pgd_steps=1, curve_eps=(1,), curve_steps=(1,))
    quick.evaluate(subject, Memory(), quiet)
    assert isinstance(subject.train, ArrayDataset)
    key = lambda images: sorted(image.tobytes() for image in images.mul(255).round().byte().numpy())  # noqa: E731
    assert key(shown[0]) == key(subject.train.images / 255)


def test_mixed_precision_attacks_are_counted_in_full_precision(subject: Subject, attacked: dict[str, Any]) -> None:
    seen = []
    hook = subject.model.classifier.register_forward_hook(lambda module, given, logits: seen.append(logits.dtype))
    part = replace(ATTACKS, mixed_precision=True, curve_limit=8)  # bfloat16 is slow on a CPU
    found = part.evaluate(subject, Memory(), quiet)
    hook.remove()
    assert {torch.bfloat16, torch.float32} == set(seen)
    assert found["error"]["clean"] == attacked["error"]["clean"]
    # On a network this small, bfloat16 finds nearly the same images.
    assert found["error"]["PGD 4/255"] == pytest.approx(attacked["error"]["PGD 4/255"], abs=0.1)
    assert {check["name"]: check["passed"] for check in found["checks"]}["evaluation mode"]
    assert "in mixed precision" in part.sections({"erm": [found]}, LEGEND)[0].caption
    assert not any(module.training for module in subject.model.modules())


def test_checks_transfer_from_a_surrogate_where_there_are_other_images(
    subject: Subject, attacked: dict[str, Any]
) -> None:
    assert [check["name"] for check in attacked["checks"]][-1] == "transfer"
    quick = Attacks(limit=4, curve_limit=50, pgd_steps=1, curve_eps=(1,), curve_steps=(1,))
    alone = quick.evaluate(replace(subject, train=None), Memory(), quiet)
    assert "transfer" not in [check["name"] for check in alone["checks"]]
    fewer = replace(quick, curve_limit=20).evaluate(replace(subject, train=None), Memory(), quiet)
    assert "transfer" in [check["name"] for check in fewer["checks"]]


def test_a_failed_check_is_a_warning_that_names_the_model(subject: Subject) -> None:
    net = subject.model
    model = SplitModel(net.stages, net.pool, torch.nn.Sequential(net.classifier, torch.nn.Softmax(dim=1))).eval()
    part = Attacks(limit=4, curve_limit=10, pgd_steps=1, curve_eps=(1,), curve_steps=(1,))
    with pytest.warns(UserWarning, match="erm, seed 0: The outputs are non-negative and sum to 1"):
        part.evaluate(replace(subject, model=model), Memory(), quiet)


def test_autoattack_is_refused_before_anything_is_attacked(subject: Subject) -> None:
    store = Memory()
    with pytest.raises(ValueError, match="at least 4 classes, the model has 3"):
        Attacks(autoattack=True).evaluate(subject, store, quiet)
    assert store.kept == {}


def test_autoattack_is_one_more_column(subject: Subject) -> None:
    pytest.importorskip("torchattacks")
    g = torch.Generator().manual_seed(0)
    model = build("smallnet", num_classes=5, image_size=8, channels=1, generator=g).eval()
    part = Attacks(limit=3, curve_limit=3, pgd_steps=1, curve_eps=(1,), curve_steps=(1,), autoattack=True)
    five = replace(subject, model=model, class_names=tuple("abcde"))
    error = part.evaluate(five, Memory(), quiet)["error"]
    assert list(error) == ["clean", "FGSM 8/255", "PGD 4/255", "PGD l2 0.5", "AutoAttack 4/255"]
    assert error["AutoAttack 4/255"] >= error["PGD 4/255"]


def test_autoattack_has_the_radius_of_pgd(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    radii = []

    def noted(model: Any, x: Tensor, y: Tensor, eps: float, **options: Any) -> Tensor:
        radii.append(round(255 * eps, 3))
        return x

    monkeypatch.setattr(evaluation, "autoattack", noted)
    monkeypatch.setattr(attacks, "load_torchattacks", lambda classes: None)
    part = Attacks(limit=4, curve_limit=4, pgd_eps=6, pgd_steps=1, curve_eps=(1,), curve_steps=(1,), autoattack=True)
    assert "AutoAttack 6/255" in part.evaluate(subject, Memory(), quiet)["error"]
    assert radii == [6]


@pytest.mark.parametrize(
    "part", [Attacks(limit=40, curve_limit=20, pgd_steps=3, curve_eps=(1,), curve_steps=(2,)), Corruptions(limit=40)]
)
def test_an_interrupted_evaluation_continues_to_the_same_result(subject: Subject, part: Attacks | Corruptions) -> None:
    whole = Memory()
    expected = part.evaluate(subject, whole, quiet)
    assert len(whole.kept) >= 3
    broken = Memory()
    rounds = 0
    while True:
        broken.left = 1
        rounds += 1
        try:
            result = part.evaluate(subject, broken, quiet)
            break
        except KeyboardInterrupt:
            continue
    assert rounds == len(whole.kept)
    assert result == expected
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(expected))


def test_pieces_of_another_batch_size_are_not_mixed_in(subject: Subject) -> None:
    part, store = Corruptions(limit=40, types=("contrast",)), Memory()
    store.left = 2
    with pytest.raises(KeyboardInterrupt):
        part.evaluate(subject, store, quiet)
    store.left = math.inf
    assert part.evaluate(replace(subject, batch_size=15), store, quiet) == part.evaluate(subject, Memory(), quiet)


@pytest.mark.parametrize(("seed", "asked", "constants"), [(0, None, "cifar"), (3, "imagenet", "imagenet")])
def test_corruption_errors_are_those_of_a_loop(seed: int, asked: Any, constants: Any, subject: Subject) -> None:
    part = Corruptions(limit=10, types=("contrast", "fog"), seed=seed, constants=asked)
    result = part.evaluate(subject, Memory(), quiet)
    chosen = choose(subject.test.labels, 10, seed=seed)
    assert isinstance(subject.test, ArrayDataset)
    images, labels = subject.test.images[chosen].float() / 255, subject.test.labels[chosen]
    for name in ("contrast", "fog"):
        for severity in range(1, 6):
            x = corrupt(images, name, severity, generator=make_generator(seed, name, 0), constants=constants)
            with torch.no_grad():
                error = (subject.model(x).argmax(1) != labels).double().mean().item()
            assert result["error"][name][severity - 1] == error
    assert list(result["error"]) == ["contrast", "fog"]
    assert result["mean"] == pytest.approx(fmean(result["error"]["contrast"] + result["error"]["fog"]))
    assert result["constants"] == constants
    assert Corruptions().headline(result) == {"corruption error, % ↓": 100 * result["mean"]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attacks(pgd_eps=0), "pgd_eps must be positive, got 0"),
        (lambda: Attacks(restarts=0), "restarts must be positive, got 0"),
        (lambda: Attacks(curve_eps=(4, 2)), r"increasing order, got \(4, 2\)"),
        (lambda: Attacks(curve_steps=(0, 2)), "curve_steps must be positive"),
        (lambda: Attacks(restarts=2, random_start=False), "restarts=2 need random_start=True"),
        (lambda: Corruptions(types=("fogg",)), "types must be some of gaussian_noise, .*, got fogg"),
        (lambda: Corruptions(types=()), "got none"),
        (lambda: Corruptions(constants="svhn"), "cifar, tinyimagenet, imagenet, got 'svhn'"),  # type: ignore[arg-type]
    ],
)
def test_options_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_page_on_attacks(attacked: dict[str, Any]) -> None:
    low, high = json.loads(json.dumps(attacked)), json.loads(json.dumps(attacked))
    low["error"]["PGD 4/255"], high["error"]["PGD 4/255"] = 0.5, 0.6
    bad = json.loads(json.dumps(attacked))
    bad["error"]["PGD 4/255"] = 0.7
    for run, passed in ((low, True), (high, True), (bad, False)):
        for check in run["checks"]:
            check["passed"] = passed or check["name"] != "gradients"
    errors, trust = Attacks().sections({"erm": [low, high], "cutmix": [bad]}, LEGEND)
    assert errors.table is not None
    assert trust.table is not None
    column = list(errors.table.columns).index("PGD 4/255\nerror, % ↓")
    cells = [row[column] for row in errors.table.rows]
    assert [(cell.text, cell.spread, cell.top) for cell in cells] == [("55.00", "± 7.07", True), ("70.00", "", False)]
    assert "40 of 50 test images, equally many of each class" in errors.caption
    assert "15.5 points" in errors.caption  # 196 * 0.5 / sqrt(40)
    assert len(errors.panels) == 3
    for panel in errors.panels:
        assert panel.svg.startswith("<svg")
        assert all(COLORS[label] in panel.svg for label in ("erm", "cutmix"))
    verdicts = {str(row[0].value): [cell.text for cell in row[1:]] for row in trust.table.rows}
    assert verdicts["gradients"] == ["passed", "1 of 1 fail"]
    assert verdicts["logits"] == ["passed", "passed"]
    assert "cutmix, gradients: The gradient of the loss is exactly zero" in trust.caption
    clean = Attacks().sections({"erm": [low]}, LEGEND)[1]
    assert clean.caption.startswith("Every check that was made passed")


def test_a_check_that_was_not_made_did_not_pass(attacked: dict[str, Any]) -> None:
    def run(*, surrogate: bool, passed: bool = True) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(json.dumps(attacked))
        copy["checks"] = [c | {"passed": passed} for c in copy["checks"] if surrogate or c["name"] != "transfer"]
        return copy

    def transfers(**runs: list[dict[str, Any]]) -> tuple[list[list[str]], str]:
        trust = Attacks().sections(runs, LEGEND)[1]
        assert trust.table is not None
        return [[cell.text for cell in row[1:]] for row in trust.table.rows if row[0].text == "transfer"], trust.caption

    without, failing = run(surrogate=False), run(surrogate=True, passed=False)
    shown, caption = transfers(erm=[without], cutmix=[without, failing])
    assert shown == [["–", "1 of 1 fail"]]
    assert "small surrogate" in caption
    assert caption.endswith("–: not made, as no images were left to teach a surrogate.")
    shown, caption = transfers(erm=[without])
    assert shown == []
    assert "random noise does no more harm than the attack" in caption
    assert "surrogate" not in caption


def test_the_page_on_corruptions_and_the_mean_corruption_error() -> None:
    def run(clean: float, fog: float, snow: float) -> dict[str, Any]:
        error = {"fog": [fog] * 5, "snow": [snow] * 5}
        return {
            "examples": 20, "test_examples": 20, "constants": "cifar", "clean": clean, "error": error,
            "mean": (fog + snow) / 2,
        }  # fmt: skip

    results = {"erm": [run(0.1, 0.4, 0.2)], "cutmix": [run(0.1, 0.2, 0.3), run(0.1, 0.2, 0.2)]}
    overview, by_type, heat = Corruptions().sections(results, LEGEND)
    assert overview.table is not None
    assert by_type.table is not None
    rows = {str(row[0].value): [cell.text for cell in row[1:]] for row in overview.table.rows}
    # mCE: the mean of 0.2/0.4 and 0.3/0.2, and of 0.2/0.4 and 0.2/0.2.
    assert rows == {"erm": ["10.00", "30.00", "100.00"], "cutmix": ["10.00", "22.50", "87.50"]}
    assert [[cell.text for cell in row] for row in by_type.table.rows] == [
        ["fog", "40.0", "20.0"],
        ["snow", "20.0", "25.0"],
    ]
    assert "all 20 test images" in overview.caption
    texts = re.findall(r">([^<>]+)</text>", heat.panels[0].svg)
    assert [text for text in texts if text in ("40", "20")] == ["40"] * 5 + ["20"] * 5
    alone = Corruptions().sections({"cutmix": results["cutmix"]}, LEGEND)[0]
    assert alone.table is not None
    assert list(alone.table.columns) == ["method", "clean\nerror, % ↓", "corruption\nerror, % ↓"]
    assert "mCE" not in alone.caption
    faultless = Corruptions().sections({"erm": [run(0.0, 0.0, 0.2)]}, LEGEND)[0]
    assert "mCE" not in faultless.caption
    larger = Corruptions().sections({**results, "large": [run(0.1, 0.4, 0.2) | {"constants": "imagenet"}]}, LEGEND)[0]
    assert "with the constants of CIFAR-10-C / ImageNet-C;" in larger.caption


def test_the_mean_corruption_error_is_relative_to_erm_with_the_same_settings() -> None:
    def run(error: float) -> dict[str, Any]:
        about = {"examples": 20, "test_examples": 20, "constants": "cifar", "clean": 0.1, "mean": error}
        return {**about, "error": {"fog": [error] * 5}}

    errors = {"erm, epochs=1": 0.4, "erm, epochs=2": 0.2, "cutmix, epochs=1": 0.3, "cutmix, epochs=2": 0.3, "a": 0.1}
    legend = Legend(dict.fromkeys(errors, "#000000"), {f"cutmix, epochs={k}": f"erm, epochs={k}" for k in (1, 2)})
    table = Corruptions().sections({label: [run(error)] for label, error in errors.items()}, legend)[0].table
    assert table is not None
    assert [row[-1].text for row in table.rows] == ["100.00", "100.00", "75.00", "150.00", "–"]
