"""What the page shows of the transfer to detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from .. import published
from ..reports.cells import Cell, Table, number_cell
from ..reports.section import Panel, Section
from ..reports.style import CLASS_COLORS
from ..reports.tables import estimates_table
from .detection_pictures import MOST, SURE, grid
from .paper_numbers import published_cell
from .part import Results, first_result

NAMES = {"ssd": "SSD", "faster-rcnn": "Faster R-CNN"}
AUGMENTED = {"flip": "mirrored at random", "ssd": "SSD's augmentation"}


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """Precision, precision by class, detections to look at, what was left out if it is much, and the paper's table."""
    left_out = [_left_out(skipped)] if len(skipped := first_result(results)["skipped"]) > 3 else []
    return [_precision(results, colors), _by_class(results), _pictures(results), *left_out, _paper()]


def _precision(results: Results, colors: Mapping[str, str]) -> Section:
    first = first_result(results)
    settings = first["settings"]
    values = {
        label: {
            title: [100 * run[key] for run in runs]
            for title, key in (("mAP, % ↑", "map"), ("AP at 0.5, % ↑", "map_50"), ("AP at 0.75, % ↑", "map_75"))
        }
        for label, runs in results.items()
    }
    side = "squares of" if first["detector"] == "ssd" else "a shorter side of"
    frozen = settings["frozen_stages"]
    mixed = ", bfloat16" if settings["mixed_precision"] else ""
    kept = f", the first {frozen} stages of the encoder frozen" if frozen else ""
    skipped = first["skipped"]
    left_out = (
        f" Left out as damaged: {'; '.join(skipped[:3])}"
        f"{f', and {len(skipped) - 3} more, listed below' if len(skipped) > 3 else ''}."
        if skipped
        else ""
    )
    return Section(
        "Transfer to object detection",
        f"{NAMES[first['detector']]} whose backbone is the encoder, fine-tuned on {first['train_images']:,} images of "
        f"{first['set']} and tested on {first['test_images']:,}: {settings['epochs']} epochs, batches of "
        f"{settings['batch_size']}, learning rate {settings['lr']:g}, weight decay {settings['weight_decay']:g}, "
        f"{side} {settings['image_size']} pixels, {AUGMENTED[settings['augment']]}{mixed}{kept}. "
        "Mean average precision over classes and over the overlaps 0.50, 0.55, ..., 0.95 of boxes (COCO's), at 0.5 "
        "(Pascal VOC's, up to the levels of recall), and at 0.75; mean ± standard deviation over seeds of the "
        "classifier, which also seed the fine-tuning. All detectors are the same network, so that none is faster than "
        f"another.{left_out}",
        table=estimates_table(values, colors),
    )


def _left_out(skipped: Sequence[str]) -> Section:
    return Section(
        "Left out of the detection set",
        "Images and boxes that are damaged or missing; neither trained nor tested on.",
        table=Table(["what, and why"], [[Cell(line, line)] for line in skipped]),
        folded=True,
    )


def _by_class(results: Results) -> Section:
    names = sorted({name for runs in results.values() for run in runs for name in run["per_class"]})
    rows = []
    for name in names:
        cells = [Cell(name, name)]
        for runs in results.values():
            cells += [_mean([run[key][name] for run in runs]) for key in ("per_class", "per_class_50")]
        rows.append(cells)
    titles = [f"{label}\n{what}" for label in results for what in ("AP, %", "at 0.5, %")]
    return Section(
        "Average precision by class",
        "Mean over seeds of the average precision of each class, over the overlaps 0.50, ..., 0.95 and at 0.5.",
        table=Table(["class", *titles], rows),
        folded=len(rows) > 10,
    )


def _mean(values: Sequence[float]) -> Cell:
    return number_cell(100 * fmean(values), digits=1)


def _pictures(results: Results) -> Section:
    runs = {label: runs[0] for label, runs in results.items()}
    names = sorted({name for run in runs.values() for name in run["per_class"]})
    colors = {name: CLASS_COLORS[k % len(CLASS_COLORS)] for k, name in enumerate(names)}
    seeds = "" if max(map(len, results.values())) == 1 else " The first seed of each."
    return Section(
        "What the detectors find",
        "Some test images: dashed white boxes are the annotated ones, coloured boxes what is found with a score of at "
        f"least {SURE:g}, the {MOST} surest. Look for dashed boxes without a coloured one and the other way round."
        f"{seeds}",
        [Panel(label, grid(run["pictures"], colors, label=label)) for label, run in runs.items()],
        legend=colors if len(colors) <= len(CLASS_COLORS) else {},
    )


def _paper() -> Section:
    paper = [number for number in published.numbers() if number.quantity == "map"]
    places = list(dict.fromkeys((number.data, number.model) for number in paper))
    names = {"voc07+12": "SSD on VOC07+12", "coco": "Faster R-CNN on COCO"}
    titles = [f"{names[data]}\n{what}" for data, _ in places for what in ("mAP, %", "images/s")]
    rows = []
    for method in dict.fromkeys(number.method for number in paper):
        found = [
            published.find(quantity, data=data, model=model, method=method)
            for data, model in places
            for quantity in ("map", "detection_speed")
        ]
        rows.append([Cell(method, method), *map(published_cell, found)])
    return Section(
        "Beside the paper's numbers: object detection",
        "The paper's Table 5: mean average precision with ResNet-50 pre-trained on ImageNet. Hyperparameters and "
        "overlaps are not stated; 0.5 is usual for Pascal VOC, and 0.50, ..., 0.95 for COCO. Compare the order of "
        "methods rather than numbers. No speed stands beside the paper's: the detectors here are the same network "
        "whatever the encoder was trained with, so a difference would be the machine's.",
        table=Table(["method", *titles], rows),
    )
