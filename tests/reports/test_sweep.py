"""Sweeps: the methods that are made, the numbers that are shown, and the paper's beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from multimix import recipes
from multimix.reports.sweep import Axis, as_csv, headline, metric, page, panel, points, table, with_option
from multimix.training import Config


@dataclass
class FakeRun:
    last: dict[str, float]
    seed: int = 0

    @property
    def config(self) -> Config:
        return replace(recipes.get("digits"), seed=self.seed)


def runs(*accuracies: float) -> list[FakeRun]:
    return [FakeRun({"test_accuracy": a}, seed) for seed, a in enumerate(accuracies)]


AXES = [Axis("alpha", ["1", "(0.1,2)"]), Axis("n", ["10"])]


def test_an_option_is_added_once() -> None:
    assert with_option("multimix", "alpha", "(0.1,2)") == "multimix(alpha=(0.1, 2))"
    assert with_option("multimix(m=2, layer=1)", "n", "9") == "multimix(m=2, layer=1, n=9)"
    # The name of one option may end in another's.
    assert with_option("multimix(m=2)", "n", "9") == "multimix(m=2, n=9)"
    with pytest.raises(ValueError, match=r"multimix\(n=3\) has n already"):
        with_option("multimix(n=3)", "n", "9")


def test_points_are_means_over_seeds_and_gaps_stay_gaps() -> None:
    found = points(
        ["multimix"],
        AXES,
        {"multimix": runs(0.5), "multimix(alpha=1)": runs(0.25, 0.75), "multimix(n=10)": []},
        recipes.get("digits"),
        "test_accuracy",
    )
    assert [(p.option, p.value) for p in found] == [("", "as it is"), ("alpha", "1"), ("alpha", "(0.1,2)"), ("n", "10")]
    assert found[1].accuracy.mean == 0.5
    assert found[1].accuracy.std == pytest.approx(0.125**0.5)
    assert found[2].accuracy is None
    shown = [[cell.text for cell in row] for row in table(found, split="test").rows]
    assert shown[1] == ["multimix", "alpha", "1", "50.00", "−25.00", "2"]
    assert shown[3] == ["multimix", "n", "10", "not measured", "–", "0"]
    assert as_csv(found).splitlines()[3] == 'alpha,"(0.1,2)",multimix,"multimix(alpha=(0.1, 2))",,,,,0,'
    assert "<svg" in panel(AXES[0], found, split="test")


def test_differences_are_paired_by_seed_and_nothing_is_trained_twice() -> None:
    trained = {"multimix": runs(0.5, 0.6, 0.9), "multimix(n=10)": runs(0.6, 0.72, 0.98)[::-1]}
    found = points(["multimix"], [Axis("n", ["10", "1000"])], trained, recipes.get("digits"), "test_accuracy")
    (_, less, default) = found
    assert less.difference.mean == pytest.approx(0.1)
    assert less.difference.half_width == pytest.approx(4.30265 * 0.02 / 3**0.5, rel=1e-5)  # Student's, 2 degrees
    assert (default.method, default.accuracy, default.difference) == ("multimix", found[0].accuracy, None)
    said = "Best test accuracy: 76.67 % with multimix(n=10), +10.00 ± 4.97 points over multimix as it is"
    assert headline(found, split="test") == f"{said}."
    assert said.replace(" ± ", "\u00a0±\u00a0") in page(found, {}, split="test", conditions={})


@pytest.mark.parametrize(
    ("accuracies", "judged"),
    [((0.6, 0.9), "is, which is within the noise."), ((0.9,), "is, which so few runs cannot tell from noise.")],
)
def test_the_headline_does_not_call_noise_an_improvement(accuracies: tuple[float, ...], judged: str) -> None:
    trained = {"multimix": runs(0.5, 0.7), "multimix(n=10)": runs(*accuracies)}
    found = points(["multimix"], [Axis("n", ["10"])], trained, recipes.get("digits"), "test_accuracy")
    assert headline(found, split="test").endswith(judged)


def test_the_best_of_one_point_is_not_marked() -> None:
    single = points(["multimix"], [], {"multimix": runs(0.5)}, recipes.get("digits"), "test_accuracy")
    assert not any(cell.top for row in table(single, split="test").rows for cell in row)


def test_what_a_method_of_a_later_sweep_does_not_take_is_left_out() -> None:
    axes = [Axis("n", ["10"]), Axis("attention", ["'cam'"]), Axis("layer", ["1"])]
    found = points(["dense-multimix", "multimix(n=5)"], axes, {}, recipes.get("digits"), "test_accuracy")
    assert [point.method for point in found[2:]] == [
        "dense-multimix(n=10)", "dense-multimix(attention='cam')", "dense-multimix(layer=1)", "multimix(n=5, layer=1)"
    ]  # fmt: skip


def test_the_papers_number_stands_beside_the_same_setting_only() -> None:
    found = points(["dense-multimix"], AXES, {}, recipes.get("cifar100"), "test_accuracy")
    assert [p.paper for p in found] == [81.93, 81.59, None, None]
    assert table(found, split="test").columns[-1] == "the paper's, %"
    other = replace(recipes.get("cifar100"), model="wrn16-8")
    assert points(["dense-multimix"], AXES, {}, other, "test_accuracy")[1].paper is None


def test_a_default_spelled_out_is_the_same_setting() -> None:
    axes = [Axis("n", ["1000", "10"]), Axis("alpha", ["1.0", "(0.5,2)", "(0.5, 2.0)"]), Axis("layer", ["4"])]
    found = points(["dense-multimix"], axes, {}, recipes.get("cifar100"), "test_accuracy")
    assert [p.paper for p in found] == [81.93, 81.93, None, 81.59, 81.93, 81.93, None]


def test_the_validation_split_is_shown_where_every_run_has_one() -> None:
    both = FakeRun({"test_accuracy": 0.1, "val_accuracy": 0.2})
    assert metric([both, both]) == "val_accuracy"
    assert metric([both, *runs(0.3)]) == "test_accuracy"
