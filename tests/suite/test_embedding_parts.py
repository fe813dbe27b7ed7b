"""The parts on out-of-distribution detection, the embedding space and intrusion, on an untrained network."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.forked_workers import forkserver
from tests.suite.memory import LEGEND, Memory, quiet

import multimix.evaluation as ev
from multimix.data import ArrayDataset
from multimix.evaluation import projection
from multimix.evaluation.projection import umap
from multimix.models import SplitModel, build
from multimix.random import make_generator
from multimix.reports.sampling import sample_classes
from multimix.suite import intrusion
from multimix.suite.embedding import Embedding
from multimix.suite.intrusion import Intrusion
from multimix.suite.ood import Ood, _histogram, _roc
from multimix.suite.part import Subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randint(0, 256, (300, 1, 8, 8), generator=g).byte(), torch.arange(300) % 4
    return Subject(
        label="multimix", seed=0, model=build("smallnet", num_classes=4, image_size=8, channels=1, generator=g).eval(),
        train=ArrayDataset(images[100:], labels[100:]), test=ArrayDataset(images[:100], labels[:100]),
        class_names=("a", "b", "c", "d"), image_size=8, batch_size=32, method="multimix(n=60)",
    )  # fmt: skip


def test_ood_equals_its_definition_for_every_detector(subject: Subject, tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(np.full((10, 10, 3), 20 * k, np.uint8)).save(tmp_path / f"{k}.png")
    names = ("energy", "max-softmax", "odin", "mahalanobis", "knn", "vim", "react")
    part = Ood(sets=("uniform-noise", f"plain={tmp_path}"), detectors=names, limit=50)
    store, state = Memory(), torch.get_rng_state()
    result = part.evaluate(subject, store, quiet)
    assert torch.equal(state, torch.get_rng_state())
    assert {name: one["images"] for name, one in result["sets"].items()} == {"uniform-noise": 50, "plain": 12}
    inside = ev.energy(ev.predict(subject.model, subject.loader())[0])
    plain = torch.stack([torch.full((1, 8, 8), 20 * k) for k in range(12)]).byte()
    outside = ev.energy(ev.predict(subject.model, subject.loader(ArrayDataset(plain, torch.zeros(12).long())))[0])
    assert result["sets"]["plain"]["metrics"]["energy"] == pytest.approx(ev.ood_metrics(inside, outside), abs=1e-6)
    mean = np.mean([one["metrics"]["knn"]["auroc"] for one in result["sets"].values()])
    assert result["mean"]["knn"]["auroc"] == pytest.approx(mean)
    assert part.headline(result)["OOD AuROC, % ↑"] == pytest.approx(100 * result["mean"]["energy"]["auroc"])
    assert part.headline(result)["OOD FPR95, % ↓"] == pytest.approx(100 * result["mean"]["energy"]["fpr95"])
    # Sections: mean, detectors, one for each set with ROC curves and a histogram for each label.
    made = part.sections({"multimix": [result]}, LEGEND)
    assert [section.title for section in made][2:] == ["Test images against uniform-noise", "Test images against plain"]
    assert [len(section.panels) for section in made] == [0, 0, 2, 2]


def test_detectors_are_fitted_to_as_many_training_images_as_asked_for_drawn_by_the_seed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, fit = [], ev.fit_detector

    def noted(name: str, model: SplitModel, z: torch.Tensor, labels: torch.Tensor) -> Callable[..., torch.Tensor]:
        fitted.append({tuple(row) for row in z.tolist()})
        return fit(name, model, z, labels)

    monkeypatch.setattr(ev, "fit_detector", noted)
    for seed in range(2):
        part = Ood(sets=("uniform-noise",), detectors=("mahalanobis",), limit=5, fit_limit=60, seed=seed)
        part.evaluate(subject, Memory(), quiet)
    whole = {tuple(row) for row in ev.embeddings(subject.model, subject.loader(subject.train))[0].tolist()}
    assert [len(some) for some in fitted] == [60, 60]
    assert len(whole) == 200
    assert fitted[0] != fitted[1]


def test_another_seed_is_other_noise(subject: Subject) -> None:
    first, same, other = (
        Ood(sets=("uniform-noise",), limit=20, seed=seed).evaluate(subject, Memory(), quiet)["sets"]
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first["uniform-noise"]["histogram"]["outside"] != other["uniform-noise"]["histogram"]["outside"]


def test_a_missing_set_does_not_cost_the_ones_before_it(subject: Subject, tmp_path: Path) -> None:
    store = Memory()
    part = Ood(sets=("gaussian-noise", f"lost={tmp_path / 'lost'}"), limit=20)
    with pytest.raises(FileNotFoundError, match="lost does not exist"):
        part.evaluate(subject, store, quiet)
    assert list(store.kept) == ["gaussian-noise"]


def test_options_of_ood_that_make_no_sense(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"detectors must be some of max-softmax, .*, got svm"):
        Ood(detectors=("svm",))
    with pytest.raises(ValueError, match="different names, got x, x"):
        Ood(sets=("x=a", "x=b"))
    with pytest.raises(ValueError, match="limits must be at least 1, got limit=0"):
        Ood(limit=0)
    with pytest.raises(ValueError, match="fitted to training images, and those of multimix are not at hand"):
        Ood(detectors=("knn",)).evaluate(replace(subject, train=None), Memory(), quiet)


def test_histograms_hold_everything_and_roc_curves_pass_through_their_points() -> None:
    g = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(500, generator=g) + 1, torch.randn(400, generator=g)
    histogram = _histogram(inside, outside)
    assert sum(histogram["inside"]) == pytest.approx(1)
    assert sum(histogram["outside"]) == pytest.approx(1)
    assert sum(_histogram(torch.ones(5), torch.ones(5))["inside"]) == pytest.approx(1)
    curve = _roc(inside, outside)
    assert sum(curve) / len(curve) == pytest.approx(ev.ood_metrics(inside, outside)["auroc"], abs=0.01)
    for k in (5, 50, 80):  # with 400 outliers every per cent of FPR is a threshold
        threshold = outside.sort(descending=True).values[4 * k]
        assert (inside > threshold).float().mean() <= curve[k] + 1e-6
    lowest_inside = _roc(torch.tensor([5.0, 4, 3, 0, 0, 0]), torch.tensor([2.0, 1, 1]))
    assert (lowest_inside[0], lowest_inside[99], lowest_inside[100]) == (0.5, 0.5, 1)


def test_the_sample_is_balanced_and_the_same_for_all() -> None:
    labels = torch.arange(200) % 20
    indices, groups = sample_classes(labels, 5, 4, make_generator(0))
    assert groups.bincount().tolist() == [4] * 5
    assert len(labels[indices].unique()) == 5
    assert all((labels[indices][groups == k] == labels[indices][groups == k][0]).all() for k in range(5))
    assert torch.equal(indices, sample_classes(labels, 5, 4, make_generator(0))[0])
    assert not torch.equal(indices, sample_classes(labels, 5, 4, make_generator(1))[0])


def test_embedding_space_of_the_test_images(subject: Subject) -> None:
    part = Embedding(t=(2.0, 0.5), umap=False)
    result = part.evaluate(subject, Memory(), quiet)
    z, labels = ev.embeddings(subject.model, subject.loader())
    raw, normalized = result["spaces"]["raw"], result["spaces"]["normalized"]
    assert raw["alignment"] == pytest.approx(ev.alignment(z, labels))
    assert normalized["uniformity"] == pytest.approx([ev.uniformity(z, True, 2.0), ev.uniformity(z, True, 0.5)])
    assert normalized["effective_rank"] == pytest.approx(ev.effective_rank(z, normalize=True))
    assert len(part.sections({"multimix": [result]}, LEGEND)) == 2


@pytest.mark.slow
def test_umap_separates_clusters_and_leaves_global_randomness_alone(subject: Subject) -> None:
    labels = torch.arange(90) % 3
    z = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)) + 20 * torch.eye(5)[labels]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    first, again = (umap(z, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert torch.equal(first, again)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()
    nearest = torch.cdist(first, first).fill_diagonal_(float("inf")).argmin(1)
    assert (labels[nearest] == labels).all()
    part = Embedding(classes=3, per_class=20)
    result = part.evaluate(subject, Memory(), quiet)
    assert np.shape(result["umap"]["points"]) == (60, 2)
    assert part.sections({"multimix": [result]}, LEGEND)[-1].panels[0].title == "multimix"


def evaluate_uncompiled(subject: Subject, out: Path) -> None:
    """What is measured, in a process whose UMAP is interpreted: compiling it takes longer than any of it for this."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    out.write_text(json.dumps(Embedding().evaluate(subject, Memory(), quiet)))


@pytest.mark.parametrize(("count", "drawn"), [(8, True), (3, False)])
def test_a_few_test_images_are_measured_too(subject: Subject, count: int, drawn: bool, tmp_path: Path) -> None:
    few = replace(subject, test=subject.test.subset(torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])[:count]))
    process = forkserver().Process(target=evaluate_uncompiled, args=(few, tmp_path / "found.json"))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["spaces"]["normalized"]["alignment"] > 0
    assert ("umap" in found) == drawn
    assert len(Embedding().sections({"multimix": [found]}, LEGEND)) == 2 + drawn


def test_umap_is_asked_for_the_neighbours_and_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class Fake:
        def __init__(self, **options: object) -> None:
            asked.append(options)

        def fit_transform(self, z: np.ndarray) -> np.ndarray:
            torch.set_num_threads(threads + 1)
            return z[:, :2].astype(np.float64)

    threads = torch.get_num_threads()
    monkeypatch.setattr(projection, "_umap_learn", lambda: SimpleNamespace(UMAP=Fake))
    z = torch.rand(10, 3, dtype=torch.float64)
    for seed in (1, 1, 2):
        points = umap(z, neighbors=4, generator=torch.Generator().manual_seed(seed))
    assert torch.get_num_threads() == threads
    assert torch.equal(points, z[:, :2].float())
    assert [options["n_neighbors"] for options in asked] == [4, 4, 4]
    seeds = [options["random_state"] for options in asked]
    assert seeds[0] == seeds[1] != seeds[2]


def test_what_needs_two_images_of_a_class_is_left_out_and_said(subject: Subject) -> None:
    part, single = Embedding(umap=False), replace(subject, test=subject.test.subset(torch.arange(4)))
    found = part.evaluate(single, Memory(), quiet)
    z, labels = ev.embeddings(single.model, single.loader())
    for space in ("normalized", "raw"):
        measured = found["spaces"][space]
        assert [name for name, value in measured.items() if value is None] == ["alignment", "within", "ratio"]
        assert measured["uniformity"] == [ev.uniformity(z, space == "normalized")]
        assert measured["effective_rank"] == ev.effective_rank(z, space == "normalized")
        assert measured["between"] == ev.class_spread(z, labels, space == "normalized").between
    assert set(part.headline(found)) == {"uniformity ↓", "effective rank"}
    whole = part.evaluate(subject, Memory(), quiet)
    section = part.sections({"cutmix": [found], "multimix": [whole]}, LEGEND)[0]
    assert section.caption.endswith(
        "Not measured where there is a dash: alignment compares examples of the same class: none of the 4 classes "
        "among 4 examples has two; the distance within classes needs two as well."
    )
    titles = [title.replace("\n", " ") for title in section.table.columns]
    dashes = [[t for t, cell in zip(titles, row, strict=True) if cell.text == "–"] for row in section.table.rows]
    assert dashes == [["alignment ↓", "within classes", "within ÷ between ↓"], []]
    assert "Not measured" not in part.sections({"multimix": [whole]}, LEGEND)[0].caption


def test_embeddings_that_are_all_equal_have_no_rank_and_no_ratio(subject: Subject) -> None:
    part, model = Embedding(umap=False), copy.deepcopy(subject.model)
    for parameter in model.parameters():
        parameter.data.zero_()
    found = part.evaluate(replace(subject, model=model), Memory(), quiet)
    measured = found["spaces"]["raw"]
    assert [name for name, value in measured.items() if value is None] == ["ratio", "effective_rank"]
    assert (measured["alignment"], measured["uniformity"], measured["between"]) == (0, [0], 0)
    section = part.sections({"multimix": [found]}, LEGEND)[1]
    assert "effective rank needs at least 2 different embeddings, got 100 that are all equal" in section.caption
    assert "the means of all classes are equal" in section.caption


def test_a_single_test_image_is_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match="none of the 1 classes among 1 examples has two"):
        Embedding().evaluate(replace(subject, test=subject.test.subset(torch.arange(1))), Memory(), quiet)


def test_umap_needs_more_points_than_neighbours() -> None:
    with pytest.raises(ValueError, match=r"2 <= neighbors < N, got \(10, 3\) and 15"):
        umap(torch.rand(10, 3))


def test_intrusion_of_a_runs_own_mixing_and_others(subject: Subject) -> None:
    part = Intrusion(batches=2, batch_size=16, bank=1000, mixers=("cutmix",))
    result = part.evaluate(subject, Memory(), quiet)
    assert result["own"] == ["MultiMix", "InputMixup"]
    assert list(result["mixings"]) == ["clean images", "MultiMix", "InputMixup", "cutmix: CutMix"]
    assert [one["raw"]["count"] for one in result["mixings"].values()] == [32, 120, 32, 32]
    assert (result["bank"], result["source"], result["threshold"]) == (200, "training", 0.25)
    assert result["mixed"] == 32
    # Clean images against the whole bank, by brute force.
    z, y = ev.embeddings(subject.model, subject.loader(subject.train))
    distances = torch.cdist(z.double(), z.double()).masked_fill(y[:, None] == y, torch.inf).amin(1).square().cpu()
    every = Intrusion(batches=1, batch_size=200).evaluate(subject, Memory(), quiet)["mixings"]["clean images"]["raw"]
    assert every["mean"] == pytest.approx(distances.mean().item(), rel=1e-4)
    assert sum(every["shares"]) == pytest.approx(1)
    assert every["median"] == pytest.approx(distances.sort().values[99].item(), rel=1e-4)  # of 200, the lower one
    assert every["high"] == pytest.approx(distances.sort().values[197].item(), rel=1e-4)  # of 200, the 198th
    again = Intrusion(batches=2, batch_size=16, bank=1000, mixers=("cutmix",)).evaluate(subject, Memory(), quiet)
    assert again == result
    assert part.headline(result)["intrusion distance ↑"] == result["mixings"]["MultiMix"]["normalized"]["mean"]


def test_a_class_may_intrude_until_its_weight_is_above_the_threshold(subject: Subject) -> None:
    part = Intrusion(batches=1, batch_size=16)
    low, high = (replace(part, threshold=t).evaluate(subject, Memory(), quiet)["mixings"] for t in (0.25, 0.9))
    assert high["MultiMix"]["raw"]["mean"] < low["MultiMix"]["raw"]["mean"]


def test_the_bank_what_is_mixed_and_the_mixing_are_drawn_independently(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = {}

    def noted(*parts: object) -> torch.Generator:
        generator = make_generator(*parts)
        streams[parts] = generator.initial_seed()
        return generator

    monkeypatch.setattr(intrusion, "make_generator", noted)
    for seed in (0, 1):
        Intrusion(batches=1, batch_size=16, seed=seed).evaluate(subject, Memory(), quiet)
    assert len(streams) == len(set(streams.values())) == 2 * 3


def test_a_method_without_mixing_says_so(subject: Subject) -> None:
    part = Intrusion(batches=1, batch_size=16)
    result = part.evaluate(replace(subject, method="erm"), Memory(), quiet)
    assert part.headline(result) == {}
    (table,) = part.sections({"erm": [result]}, LEGEND)
    assert "Mixing none of what it could be asked for, erm has clean images alone." in table.caption
    with pytest.raises(ValueError, match="mixers must be methods that mix images or embeddings, got 'erm'"):
        Intrusion(mixers=("erm",))


def test_nothing_is_divided_by_a_distance_of_clean_images_that_is_0(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, model = Intrusion(batches=1, batch_size=16), copy.deepcopy(subject.model)
    # Equal embeddings, but with rounding between them, as a network that has collapsed gives them.
    first = model.embed(torch.zeros(1, 1, 8, 8)).detach() + 0.1
    monkeypatch.setattr(model, "embed", lambda x: first * (1 + 1e-7 * torch.rand(len(x), 1)))
    collapsed = part.evaluate(replace(subject, model=model), Memory(), quiet)
    assert [collapsed["mixings"]["clean images"][space]["mean"] for space in ("raw", "normalized")] == [0, 0]
    whole = part.evaluate(subject, Memory(), quiet)
    table = part.sections({"erm": [collapsed, whole], "cutmix": [collapsed], "multimix": [whole]}, LEGEND)[0]
    titles, rows = table.table.columns, {row[0].text: row for row in table.table.rows}
    ratios = [k for k, title in enumerate(titles) if "÷ clean" in title]
    assert [rows["cutmix: MultiMix"][k].text for k in ratios] == ["–", "–"]
    assert [rows["erm: MultiMix"][k] for k in ratios] == [rows["multimix: MultiMix"][k] for k in ratios]
    assert table.caption.endswith(
        "Of erm, cutmix, the clean images have embeddings equal to those of other classes: the mean distance is 0, and "
        "nothing is divided by it."
    )
    assert "divided" not in part.sections({"multimix": [whole]}, LEGEND)[0].caption
