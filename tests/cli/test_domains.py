"""`multimix domains`: mistakes before anything is trained, every domain held out, and going on after a loss."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.forked_workers import fork_workers, train_here

from multimix.cli import main
from multimix.evaluation import accuracy, predict
from multimix.files import locked
from multimix.training import load_run, setting

NAMES = ["art", "clip art", "photo"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, bright on the left or on the right, in three domains of different colours."""
    draws = np.random.default_rng(0)
    for k, domain in enumerate(NAMES):
        for label in ("left", "right"):
            folder = tmp_path / "data" / domain / label
            folder.mkdir(parents=True)
            for i in range(8 + k):
                pixels = draws.integers(0, 80, (16, 16, 3))
                pixels[:, : 8 if label == "left" else None, k] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def small(root: Path) -> list[str]:
    options = "--model smallnet-w4 --no-pretrained --epochs 1 --batch-size 8 --image-size 16 --schedule constant"
    return ["--data-root", str(root), *options.split(), "--milestones", "--lr", "0.05", "--val-per-class", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "give --data domains --data-root DIR"),
        (["office-home"], "give --data domains --data-root DIR"),
        (["office-home", "--data-root", "nowhere"], "nowhere does not exist: expected nowhere/DOMAIN/CLASS/IMAGE"),
        (["office-home", "--data-root", ".", "--method", "erm"], "--methods erm instead of --method"),
        (["office-home", "--data-root", ".", "--held-out", "photo"], "leave out --held-out"),
        (["office-home", "--data-root", ".", "--held-out", "Art"], "leave out --held-out"),
        (["office-home", "--data-root", ".", "--held_out=Art"], "leave out --held-out"),
        (["office-home", "--data-root", ".", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["office-home", "--data-root", ".", "--methods", ","], "--methods is empty"),
        (["digits", "--held-out", "art"], "belong to data='domains', got data='digits'"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["domains", *arguments, "--out", str(tmp_path / "made")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("old", "new"), [("art", "Clip-art"), ("art", "!?")])
def test_domains_that_would_share_a_folder_are_refused(root, tmp_path, capsys, old: str, new: str) -> None:
    (root / old).rename(root / new)
    with pytest.raises(SystemExit) as stop:
        main(["domains", "office-home", *small(root), "--methods", "erm", "--out", str(tmp_path / "made")])
    assert stop.value.code == 2
    assert "would be kept in one folder" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_every_domain_is_held_out_and_a_lost_run_is_made_again(root, tmp_path, monkeypatch, capsys) -> None:
    fork_workers(monkeypatch)
    out = tmp_path / "runs"
    command = [
        "domains",
        "office-home",
        *small(root),
        "--methods",
        "erm,daml(domains=2)",
        "--seeds",
        "2",
        "--jobs",
        "1",
    ]
    main([*command, "--out", str(out)])
    printed = capsys.readouterr().out
    assert all(f"Held out: {name}" in printed for name in NAMES)
    result = json.loads((out / "domains.json").read_text())
    page = (out / "domains.html").read_text()
    assert all(text in page for text in (*NAMES, "Highest average over the held-out domains:", "daml(domains=2)"))
    with (out / "domains.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 3
    averages = {}
    for row in result["methods"]:
        mine = [line for line in lines if line["method"] == row["method"]]
        for name in NAMES:
            of_domain = [float(line["test_accuracy"]) for line in mine if line["held_out"] == name]
            assert row["domains"][name]["mean"] == pytest.approx(statistics.fmean(of_domain))
        by_seed = [statistics.fmean(float(x["test_accuracy"]) for x in mine if x["seed"] == k) for k in "01"]
        assert row["average"]["mean"] == pytest.approx(statistics.fmean(by_seed))
        assert row["average"]["std"] == pytest.approx(statistics.stdev(by_seed))
        averages[row["method"]] = by_seed
    gains = [daml - erm for erm, daml in zip(averages["erm"], averages["daml(domains=2)"], strict=True)]
    erm, daml = (row["difference_from_erm"] for row in result["methods"])
    assert erm is None
    assert daml["mean"] == pytest.approx(statistics.fmean(gains))
    # Student's quantile for one degree of freedom; of equal gains there is no spread.
    assert daml["half_width_95"] == pytest.approx(12.7062 * statistics.stdev(gains) / 2**0.5, rel=1e-5)
    assert "Of that average: " in page

    run = out / "clip-art" / "daml-domains=2" / "seed1"
    config, model = load_run(run)
    assert config.held_out == "clip art"
    splits = setting.load_splits(config)
    assert len(splits.test) == 18
    logits, labels = predict(model, setting.evaluation_loader(config, splits, splits.test, device="cpu"))
    assert accuracy(logits, labels) == json.loads((run / "result.json").read_text())["last"]["test_accuracy"]

    weights = model.state_dict()
    shutil.rmtree(run)
    kept = (out / "art" / "erm" / "seed0" / "result.json").stat().st_mtime_ns
    main([*command, "--out", str(out)])
    assert (out / "art" / "erm" / "seed0" / "result.json").stat().st_mtime_ns == kept
    again = load_run(run)[1].state_dict()
    assert all(again[name].equal(weights[name]) for name in weights)
    assert json.loads((out / "domains.json").read_text()) == result
    # Asking for less takes nothing away.
    main([*command[:-6], "--methods", "erm", "--seeds", "1", "--jobs", "1", "--out", str(out)])
    assert json.loads((out / "domains.json").read_text()) == result

    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(out)])
    assert stop.value.code == 2
    assert "are on different data: make one report for each" in capsys.readouterr().err


def test_a_signal_while_a_later_domain_is_read_leaves_the_page_of_what_is_finished(
    root, tmp_path, monkeypatch, capsys
) -> None:
    read: list[object] = []

    def ended_in_the_second(config: object, *_: object) -> None:
        read.append(config)
        if len(read) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("multimix.cli.planned._check_setting", ended_in_the_second)
    monkeypatch.setattr("multimix.cli.planned.run_jobs", train_here)
    command = ["domains", "office-home", *small(root), "--methods", "erm", "--seeds", "1"]
    command += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 130
    assert "Continue with: multimix domains office-home" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "domains.json").read_text())["methods"]


def test_what_another_process_is_at_is_left_to_it(root, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("multimix.cli.planned.run_jobs", train_here)
    command = ["domains", "office-home", *small(root), "--methods", "erm", "--seeds", "1"]
    command += ["--out", str(tmp_path / "out")]
    main(command)
    before = (tmp_path / "out" / "domains.json").read_bytes()
    (tmp_path / "out" / "domains.json").write_bytes(before + b" ")
    with locked(tmp_path / "out" / "clip-art"), pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "another process" in capsys.readouterr().err
    assert (tmp_path / "out" / "domains.json").read_bytes() == before + b" "
