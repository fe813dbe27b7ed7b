"""The whole way: `multimix compare` on digits, its files, and the commands that read them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, recall_score

from multimix import cli
from multimix.reports.evaluated import evaluate_run, load_splits
from multimix.training import load_run

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


def test_evaluation_equals_scikit_learns(comparison: Path) -> None:
    path = comparison / "multimix" / "seed1"
    config, model = load_run(path)
    test = load_splits(config).test
    with torch.no_grad():
        p = model(test.images.float() / 255).double().softmax(1).numpy()  # type: ignore[union-attr]
    y = test.labels.numpy()
    found = evaluate_run(path)
    assert found.accuracy == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found.nll == pytest.approx(log_loss(y, p), rel=1e-5)
    assert found.per_class_accuracy == pytest.approx(list(recall_score(y, p.argmax(1), average=None)))
    assert sum(found.bin_counts) == found.examples == len(y)
    metrics = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.accuracy == metrics["test_accuracy"]
    assert found.ece == pytest.approx(metrics["test_ece"], abs=1e-9)


def test_an_evaluation_is_kept_until_the_weights_change(comparison: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(comparison / "erm" / "seed0", path)
    first = evaluate_run(path)
    kept = path / "evaluation-last.json"
    forged = json.loads(kept.read_text()) | {"accuracy": 0.123}
    kept.write_text(json.dumps(forged))
    assert evaluate_run(path).accuracy == 0.123
    shutil.copy(comparison / "erm" / "seed1" / "model.safetensors", path)
    assert evaluate_run(path) == evaluate_run(comparison / "erm" / "seed1")
    kept.write_text("{half")
    assert evaluate_run(path) == evaluate_run(comparison / "erm" / "seed1") != first


def test_other_data_than_trained_on_are_refused(comparison: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(comparison / "erm" / "seed0", path, ignore=shutil.ignore_patterns("evaluation-*"))
    config = json.loads((path / "config.json").read_text())
    config["data_info"]["class_names"][9] = "nine"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"trained on 10 classes \(0, 1, 2, ...\), but the data now have"):
        evaluate_run(path)


class TestEvaluateCommand:
    def test_runs_side_by_side(self, comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [str(comparison / folder / "seed0") for folder in FOLDERS]
        cli.main(["evaluate", "--which", "best", *runs, "--out", str(tmp_path)])
        shown = capsys.readouterr().out
        assert all(run in shown for run in runs)
        rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
        assert [row["run"] for row in rows] == runs
        values = json.loads((tmp_path / "evaluation.json").read_text())
        for row, run in zip(rows, runs, strict=True):
            best = max(
                json.loads(line)["test_accuracy"] for line in (Path(run) / "metrics.jsonl").read_text().splitlines()
            )
            assert values[run]["accuracy"] == float(row["top1"]) == best
            assert float(row["class 3"]) == values[run]["per_class_accuracy"][3]
            assert f"{100 * best:.2f}" in shown

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "which runs?"),
            (["{tmp}"], "holds no run"),
            (["{tmp}/nothing"], "is not a folder"),
            (["{run}", "--wich", "best"], "unknown option --wich: did you mean --which?"),
            (["{run}", "--which", "worst"], "worst"),
        ],
    )
    def test_mistakes_are_one_line(
        self,
        comparison: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        message: str,
    ) -> None:
        run = comparison / "erm" / "seed0"
        with pytest.raises(SystemExit) as stop:
            cli.main(["evaluate", *(a.format(tmp=tmp_path, run=run) for a in arguments)])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_no_weights(self, comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "run"
        shutil.copytree(
            comparison / "erm" / "seed0", run, ignore=shutil.ignore_patterns("*.safetensors", "checkpoints", "eval*")
        )
        with pytest.raises(SystemExit):
            cli.main(["evaluate", str(run)])
        assert "has no last weights yet" in capsys.readouterr().err


class TestReportCommand:
    def test_any_runs(self, comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [str(comparison / "erm" / "seed0"), str(comparison / "multimix" / "seed0")]
        cli.main(["report", *runs, "--out", str(tmp_path / "new")])
        page = (tmp_path / "new" / "report.html").read_text()
        assert "Two training methods on digits" in page
        assert "One seed cannot tell a difference from noise" in page
        assert "Where Dense MultiMix attends" not in page
        assert "One seed cannot tell" in capsys.readouterr().out

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
    monkeypatch.setattr("multimix.cli.compare.run_jobs", None)  # training anything would fail
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
