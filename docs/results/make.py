"""Draw the learning curves of the results document from the metrics kept here: `python docs/results/make.py`."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from multimix.reports.style import figure, line, method_colors, standalone, to_svg

HERE = Path(__file__).parent

names = {
    folder: {file.name.rpartition("-seed")[0] for file in folder.glob("*-seed*.jsonl")}
    for folder in sorted({file.parent for file in HERE.glob("*/*-seed*.jsonl")})
}
# A method has one colour in all figures; those that most figures have come first, where colours differ most.
often = Counter(name for found in names.values() for name in found)
colors = method_colors(sorted(often, key=lambda name: (-often[name], name)), "erm")

for folder, found in names.items():
    methods = sorted(found, key=lambda name: (name != "erm", name))
    with figure(9, 3.2, ncols=2) as (drawn, (accuracy, loss)):
        for method in methods:
            runs = [
                [json.loads(line) for line in file.read_text().splitlines()]
                for file in sorted(folder.glob(f"{method}-seed*.jsonl"))
            ]
            for axes, key, scale in ((accuracy, "test_accuracy", 100), (loss, "train_loss", 1)):
                epochs = [epoch["epoch"] for epoch in runs[0] if key in epoch]
                curves = scale * np.array([[epoch[key] for epoch in run if key in epoch] for run in runs])
                mean = curves.mean(0)
                axes.plot(epochs, mean, label=method, **line(colors[method]) | {"marker": ""})
                if len(curves) > 1:
                    std = curves.std(0, ddof=1)
                    axes.fill_between(epochs, mean - std, mean + std, color=colors[method], alpha=0.15, linewidth=0)
        accuracy.set(xlabel="epoch", title="test accuracy, %", ylim=(93, 100) if folder.name == "digits" else None)
        loss.set(xlabel="epoch", title="training loss, each method its own", ylim=(0, None))
        # What diverged is far above; the figure is about the others.
        starts = [line.get_ydata()[0] for line in loss.lines]
        loss.set_ylim(0, min(loss.get_ylim()[1], 2.5 * float(np.median(starts))))
        if len(methods) > 6:
            drawn.set_figheight(4.4)
            drawn.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        else:
            accuracy.legend(frameon=False)
        svg = to_svg(drawn, f"learning curves on {folder.name}: mean over seeds, band of one standard deviation")
    (HERE / f"{folder.name}.svg").write_text(standalone(svg))
