"""The whole way: `multimix compare` on digits, its files, and the commands that read them."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from multimix import cli

LABELS = ["erm", "multimix", "dense-multimix(n=50)"]
FOLDERS = ["erm", "multimix", "dense-multimix-n=50"]


def last_accuracies(comparison: Path, folder: str) -> list[float]:
    lines = [(comparison / folder / f"seed{seed}" / "metrics.jsonl").read_text().splitlines() for seed in range(2)]
    assert [len(line) for line in lines] == [3, 3]
    return [json.loads(line[-1])["test_accuracy"] for line in lines]


def test_summary_holds_what_the_runs_measured(comparison: Path) -> None:
    summary = json.loads((comparison / "summary.json").read_text())
    assert [row["label"] for row in summary["methods"]] == LABELS
    for row, folder in zip(summary["methods"], FOLDERS, strict=True):
        values = last_accuracies(comparison, folder)
        assert row["last_accuracy"]["mean"] == pytest.approx(np.mean(values))
        assert row["last_accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))
        assert row["speed"]["images_per_second"] > 0
        if folder != "erm":
            erm = last_accuracies(comparison, "erm")
            assert row["accuracy_difference"]["mean"] == pytest.approx(np.mean(np.subtract(values, erm)))
    assert summary["methods"][0]["speed"]["relative"] == 1.0
    assert summary["missing"] == []
    rows = list(csv.DictReader((comparison / "results.csv").open()))
    assert [(row["label"], row["seed"]) for row in rows] == [(label, str(s)) for label in LABELS for s in range(2)]


def test_the_page_shows_every_part_and_needs_nothing_else(comparison: Path) -> None:
    page = (comparison / "report.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Results",
        "Difference from ERM",
        "Learning curves",
        "Does confidence mean accuracy?",
        "What MultiMix samples",
        "Where Dense MultiMix attends",
        "Embedding space",
        "Accuracy by class",
        "Conditions",
    ]
    assert "Left out" not in page
    links = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value or "" for name, value in attrs if name in ("src", "href", "xlink:href"))

    Links().feed(page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page
    mean = 100 * np.mean(last_accuracies(comparison, "multimix"))
    assert f"{mean:.2f}" in page


class TestReportCommand:
    def test_any_runs(self, comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [str(comparison / "erm" / "seed0"), str(comparison / "multimix" / "seed0")]
        cli.main(["report", *runs, "--out", str(tmp_path / "new")])
        page = (tmp_path / "new" / "report.html").read_text()
        assert "Two training methods on digits" in page
        assert "One seed cannot tell a difference from noise" in page
        assert "Where Dense MultiMix attends" not in page
        assert "One seed cannot tell" in capsys.readouterr().out

    def test_the_page_on_several_folders_is_in_the_first(self, make_run) -> None:  # type: ignore[no-untyped-def]
        first, second = (make_run(f"run{seed}", seed=seed) for seed in range(2))
        cli.main(["report", str(first), str(second)])
        assert (first / "report.html").is_file()
        assert not (second / "report.html").exists()

    def test_what_cannot_be_made_is_named(self, make_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        runs = [make_run(f"x/{k}", seed=k, accuracies=[0.5, 0.6 + 0.01 * k], classes=["<b>", "$a$"]) for k in range(2)]
        make_run("x/late", seed=5, finished=False)
        cli.main(["report", str(runs[0].parent)])
        page = (tmp_path / "x" / "report.html").read_text()
        left_out = page[page.index("Left out") :]
        for title in ("Does confidence mean accuracy?", "Embedding space", "Accuracy by class"):
            assert re.search(rf"<li>{re.escape(title)}: .*(no last weights|nowhere)", left_out), title
        assert "erm, seed 5: 2 of 2 epochs" in page
        assert "60.50" in page
        assert "<b>" not in page


def test_the_same_command_changes_nothing_when_all_is_done(
    comparison: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multimix.cli.planned.run_jobs", None)  # training anything would fail
    before = {path: path.stat().st_mtime_ns for path in comparison.glob("*/seed*/*") if "evaluation" not in path.name}
    command = json.loads((comparison / "compare.json").read_text())["command"].split()
    cli.main(
        ["compare", "digits", "--methods", ",".join(LABELS), "--seeds", "2", "--epochs", "3", "--out", command[-1]]
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "erm" in capsys.readouterr().out


def test_another_configuration_in_the_same_folder_is_refused(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"--lr": ("0.5", "another configuration"), "--epochs": ("2", "3 epochs, not 2")}
    for option, (value, message) in changes.items():
        with pytest.raises(SystemExit) as stop:
            cli.main(
                ["compare", "digits", "--methods", "erm", "--epochs", "3", "--out", str(comparison), option, value]
            )
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
