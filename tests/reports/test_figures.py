"""The figures: what is drawn is what was computed, and the SVG can be put into a page."""

from __future__ import annotations

import base64
import io
import math
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import Delaunay

from multimix import functional as F
from multimix.reports import charts, comparison, hull, overlays, pictures, style
from multimix.reports.charts import difference_chart, reliability_panel
from multimix.reports.runs import read_run
from multimix.reports.statistics import Difference, estimate
from multimix.reports.summary import summarize
from multimix.suite import compared
from multimix.training import load_run


def test_svg_is_well_formed_takes_its_ink_from_the_page_and_shares_no_ids() -> None:
    differences = {"a < b & $c$": Difference(0.1, 0.2, 3), "one": Difference(0.1, math.nan, 1)}
    colors = {"a < b & $c$": "#123456", "one": "#654321"}
    svg = difference_chart(differences, colors, xlabel="points", description=r'what "it" <shows> of a\b\1')
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == r'what "it" <shows> of a\b\1'
    assert "width" not in root.attrib
    assert style.INK not in svg
    assert "currentColor" in svg
    texts = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert "a < b & $c$" in texts
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert all(f"#{name}" in svg for name in ids)


def test_too_few_images_for_a_reliability_diagram_are_said() -> None:
    draw = lambda count: reliability_panel([0.3], [0.5], [count], color="#000000", label="x")  # noqa: E731
    assert "no bin has 10 images" in draw(9)
    assert "no bin has" not in draw(10)


def test_figures_are_reproducible_and_touch_no_global_state() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw = lambda: reliability_panel([0.3, None, 0.9], [0.5, None, 0.8], [20, 0, 80], color="#000000", label="x")  # noqa: E731
    assert draw() == draw()
    assert dict(matplotlib.rcParams) == before


def test_curves_run_through_the_epochs_that_all_seeds_evaluated(make_run, monkeypatch) -> None:
    make_run("a", seed=0, accuracies=[None, 0.2, None, 0.4, 0.6])
    make_run("b", seed=1, accuracies=[0.1, 0.3, None, 0.8, 0.6])
    make_run("c", method="multimix", seed=0, accuracies=[0.1, 0.2, 0.3, 0.4, 0.5])
    drawn = []
    monkeypatch.setattr(charts, "to_svg", lambda figure, _: drawn.append(list(figure.axes[0].lines)) or "")
    summary = summarize([make_run("d", method="multimix", seed=1, epochs=5).parent])
    colors = style.method_colors([group.label for group in summary.groups], "erm")
    charts.learning_curves(summary, "test_accuracy", colors, percent=True)
    charts.learning_curves(summary, "train_loss", colors)
    (erm, multimix), losses = drawn
    assert list(erm.get_xdata()) == [2, 4, 5]
    assert list(erm.get_ydata()) == pytest.approx([25, 60, 60])
    assert list(multimix.get_xdata()) == [1, 2]
    assert (erm.get_marker(), multimix.get_marker()) == (".", "")
    assert [list(curve.get_xdata()) for curve in losses] == [[1, 2, 3, 4, 5], [1, 2]]


def test_bands_and_bars_are_one_standard_deviation_and_intervals_whole(make_run, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "to_svg", lambda figure, _: drawn.append(figure.axes[0]) or "")
    for seed, accuracy in enumerate((0.2, 0.3, 0.7)):
        path = make_run(f"runs/{seed}", seed=seed, accuracies=[0.5, accuracy])
    charts.learning_curves(summarize([path.parent]), "test_accuracy", {"erm": "#000000"}, percent=True)
    (band,) = drawn[0].collections
    ends = sorted({round(y, 9) for x, y in band.get_paths()[0].vertices.tolist() if x == 2})
    std = 100 * statistics.stdev([0.2, 0.3, 0.7])
    assert ends == pytest.approx([40 - std, 40 + std])

    differences = {"a": Difference(0.1, 0.02, 3), "b": Difference(-0.1, 0.3, 3)}
    charts.difference_chart(differences, dict.fromkeys("ab", "#000000"), xlabel="points", description="x")
    lines = [list(line.get_xdata()) for line in drawn[1].lines[1:]]  # after the axis of no difference
    assert lines == [pytest.approx([8, 12]), pytest.approx([10]), pytest.approx([-40, 20]), pytest.approx([-10])]

    found = [(0.0, estimate([0.2, 0.3, 0.7])), (1.5, estimate([0.5]))]
    with style.figure(2, 2) as (_, axes):
        charts.dots_and_bars(axes, found, label="a", color="#000000")
        (bars,) = axes.collections
        heights = [[y for _, y in segment.tolist()] for segment in bars.get_segments()]
    assert heights == [pytest.approx([40 - std, 40 + std]), pytest.approx([50, 50])]


def test_colours_stay_with_their_method_and_the_baseline_is_grey() -> None:
    colors = style.method_colors(["a", "erm", "b"], "erm")
    assert colors["erm"] == style.BASELINE_COLOR
    assert len(set(colors.values())) == 3
    assert len(style.method_colors([str(k) for k in range(20)], None)) == 20


def test_a_figure_that_fails_in_any_way_leaves_the_others(make_run, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(comparison, "learning_curves", fail)
    monkeypatch.setattr(comparison, "hull_panels", lambda: [])
    made = {section.title: section for section in comparison.sections(summarize([make_run("a")]), {"erm": "#000000"})}
    assert made["Learning curves"].left_out == "out of memory"
    assert made["What MultiMix samples"].left_out == ""


def test_attention_pictures_are_of_a_run_that_attends_to_the_last_features(make_run, monkeypatch) -> None:
    early = make_run("a", method="dense-multimix(n=5, layer=1)")
    with pytest.raises(ValueError, match=r"last stage, but dense-multimix\(n=5, layer=1\) attends to those of stage 1"):
        compared.attention(summarize([early]).groups)
    shown = []
    monkeypatch.setattr(compared, "run_candidate", lambda run, group: run.path)
    monkeypatch.setattr(compared, "measure", lambda path, part: shown.append((path, part.kinds)) or {"pictures": []})
    late = make_run("b", method="either(erm, dense-multimix-alone(n=5, attention='cam'), p=0.1)")
    section = compared.attention(summarize([early, late]).groups)
    assert shown == [(late, ("cam-relu",))]
    assert section is not None
    assert "(either(erm, dense-multimix-alone(n=5, attention='cam'), p=0.1), seed 0;" in section.caption
    assert compared.attention(summarize([make_run("c", method="multimix(n=5)")]).groups) is None


def test_labels_over_points_have_the_halo_of_the_style_sheet() -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    svg = charts.scatter_panel(points, [0, 1] * 10, ["a", "b"], label="erm")
    assert svg.count('class="halo"') == 2
    assert ".halo text" in (Path(charts.__file__).parent / "page.css").read_text()


class TestHull:
    def test_mixup_points_lie_on_segments_with_one_lambda(self) -> None:
        z = hull.points()
        mixed, partner = hull.mixup_points(z)
        assert sorted(partner.tolist()) == list(range(10))
        lams = (mixed - z[partner]).norm(dim=1) / (z - z[partner]).norm(dim=1)
        rest = (mixed - z).norm(dim=1) / (z - z[partner]).norm(dim=1)
        assert torch.allclose(lams, lams[0].expand(10), atol=1e-5)
        assert torch.allclose(lams + rest, torch.ones(10), atol=1e-5)

    @pytest.mark.parametrize("alpha", [(0.5, 2.0), 0.1])
    def test_multimix_points_lie_in_the_hull(self, alpha: float | tuple[float, float]) -> None:
        z = hull.points()
        mixed = hull.multimix_points(z, alpha)
        assert mixed.shape == (300, 2)
        # A hair wider than the hull, for points on its border.
        wider = z.mean(0) + (z - z.mean(0)) * (1 + 1e-5)
        assert (Delaunay(wider.numpy()).find_simplex(mixed.numpy()) >= 0).all()

    def test_a_small_concentration_spreads_the_points(self) -> None:
        z = hull.points()
        spread = {a: (hull.multimix_points(z, a) - z.mean(0)).norm(dim=1).mean() for a in ((0.5, 2.0), 0.1)}
        assert spread[0.1] > 1.8 * spread[(0.5, 2.0)]

    def test_every_panel_draws_all_its_points(self) -> None:
        for panel, count in zip(hull.hull_panels(), (10, 300, 300), strict=True):
            uses = [e for e in ElementTree.fromstring(panel.svg).iter() if e.tag.endswith("use")]
            assert len(uses) == count + 10


class TestPictures:
    """Of a real run of Dense MultiMix."""

    @pytest.fixture
    def run_dir(self, comparison: Path) -> Path:
        return comparison / "dense-multimix-n=50" / "seed0"

    def test_attention_is_brightest_where_the_loss_trusts_most(self, run_dir: Path) -> None:
        section = compared.attention(summarize([run_dir]).groups)
        assert section is not None
        config, model = load_run(run_dir)
        splits = pictures.load_splits(config)
        assert len(section.panels) == 10
        for label, panel in enumerate(section.panels):
            elements = list(ElementTree.fromstring(panel.svg).iter())
            index = int((splits.test.labels == label).nonzero()[0])
            pixels = splits.test.images[index].float() / 255  # type: ignore[union-attr]
            shown, heat = (e.get("href") for e in elements if e.tag.endswith("image"))
            assert (overlays.from_data_uri(shown) - pixels).abs().max() < 0.01
            with torch.no_grad():
                logits, features = model(pixels[None]), model.features(pixels[None])
            a = F.attention_map(features.flatten(2).mT)[0].view(features.shape[2:])
            row, column = divmod(int(a.argmax()), a.shape[1])
            cell, grey = overlays.SIDE // a.shape[0], pixels.repeat_interleave(overlays.SIDE // 8, 1)
            colored = overlays.from_data_uri(heat).sum(0) - 0.3 * 3 * grey.repeat_interleave(overlays.SIDE // 8, 2)[0]
            assert colored[row * cell + cell // 2, column * cell + cell // 2] >= 0.85 * colored.max()  # a JPEG
            predicted = int(logits.argmax())
            (text,) = (e.text for e in elements if e.tag.endswith("text"))
            assert text == (str(label) if predicted == label else f"{label} → {predicted}")

    def test_the_sample_is_balanced_and_always_the_same(self, run_dir: Path) -> None:
        run = read_run(run_dir)
        sample = pictures.choose_sample(run, classes=4, per_class=6)
        labels = pictures.load_splits(run.config).test.labels[sample.indices]
        assert [sample.names[c] for c in sample.classes] == [str(label) for label in labels.tolist()]
        assert torch.bincount(torch.tensor(sample.classes)).tolist() == [6] * 4
        assert torch.equal(sample.indices, pictures.choose_sample(run, classes=4, per_class=6).indices)

    def test_embedding_plots_are_reproducible_and_keep_classes_together(self, run_dir: Path) -> None:
        run = read_run(run_dir)
        sample = pictures.choose_sample(run, per_class=12)
        states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        first, second = (pictures.plot_embeddings(run, sample) for _ in range(2))
        assert np.array_equal(first.points, second.points)
        assert np.array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), states[1])
        distances = np.linalg.norm(first.points[:, None] - first.points[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        classes = np.array(sample.classes)
        # By chance 0.1, with a standard error of 0.03; the run is of a few epochs, so the classes still overlap.
        assert (classes[distances.argmin(1)] == classes).mean() > 0.3


def _decode(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(float)
