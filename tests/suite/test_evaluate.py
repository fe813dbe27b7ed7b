"""`multimix evaluate`: what it leaves, what it reads back, and what goes on when something fails."""

from __future__ import annotations

import csv
import gc
import io
import json
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from multimix import cli, data
from multimix.cli import evaluate as command
from multimix.cli.evaluation_board import EvaluationBoard
from multimix.reports.section import Section
from multimix.suite import ALL, Accuracy, Ood, results
from multimix.suite.libraries import library_candidate
from multimix.suite.page import label_colors
from multimix.suite.paper_numbers import beside_paper
from multimix.suite.part import Legend, Part, Results, Subject
from multimix.suite.running import check_inputs, measure, run_parts
from multimix.suite.store import Store
from multimix.suite.subjects import Candidate, run_candidates
from multimix.training import load_run
from multimix.training.devices import check_device


def error_of(capsys: pytest.CaptureFixture[str], arguments: Sequence[object], code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *map(str, arguments)])
    error = capsys.readouterr().err
    assert stop.value.code == code, error
    return error


def test_a_table_a_page_json_csv_and_plots(digits_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    runs = [digits_run(f"runs/{m}{s}", method=m, seed=s) for m in ("erm", "cutmix") for s in range(2)]
    out = tmp_path / "out"
    cli.main(["evaluate", str(runs[0].parent), "--parts", "accuracy", "--which", "both", "--out", str(out)])
    shown = capsys.readouterr().out
    models = json.loads((out / "evaluation.json").read_text())["models"]
    assert [(m["label"], m["seed"], m["which"]) for m in models[:3]] == [
        ("erm", 0, "last"), ("erm", 0, "best"), ("erm", 1, "last")
    ]  # fmt: skip
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    assert [row["source"] for row in rows] == [m["source"] for m in models]
    for row, model in zip(rows, models, strict=True):
        assert float(row["top-1, %"]) == 100 * model["parts"]["accuracy"]["result"]["accuracy"]
        kept = json.loads((Path(model["source"]) / "evaluation" / model["which"] / "accuracy.json").read_text())
        assert kept["by_options"]['{"bins": 15}']["whole"] == model["parts"]["accuracy"]["result"]
    erm = torch.tensor([float(row["top-1, %"]) for row in rows if row["label"] == "erm" and row["which"] == "last"])
    page = (out / "evaluation.html").read_text()
    for text in (shown, page):
        assert f"{erm.mean():.2f}" in text
        assert f"± {erm.std():.2f}" in text
        assert "erm, best epoch" in text
    assert "The same with the weights of the best epoch" in page
    assert "Beside the paper" not in page
    plot = (out / "plots" / "last" / "does-confidence-mean-accuracy-erm.svg").read_text()
    assert 'xmlns="http://www.w3.org/2000/svg"' in plot


def test_runs_of_several_settings_are_compared_with_erm_of_their_own(
    digits_run,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = [(0.1, "erm"), (0.1, "cutmix"), (0.2, "erm"), (0.2, "cutmix"), (0.3, "cutmix")]
    for number, (lr, method) in enumerate(trained):
        for seed in range(2):
            run = digits_run(f"runs/{lr}-{method}{seed}", method=method, seed=seed)
            config = json.loads((run / "config.json").read_text())
            (run / "config.json").write_text(json.dumps(config | {"lr": lr}))
            shutil.copy(digits_run(f"weights{number}{seed}", seed=10 * number + seed) / "model.safetensors", run)
    cli.main(["evaluate", str(tmp_path / "runs"), "--parts", "accuracy"])
    whole = json.loads((tmp_path / "runs" / "evaluation.json").read_text())
    nll: dict[str, list[float]] = {}
    for model in whole["models"]:
        nll.setdefault(model["label"], []).append(model["parts"]["accuracy"]["headline"]["NLL ↓"])
    found = {(d["label"], d["baseline"]): d["mean"] for d in whole["differences"] if d["number"] == "NLL ↓"}
    pairs = [(f"cutmix, lr={lr}", f"erm, lr={lr}") for lr in (0.1, 0.2)]
    assert found == {pair: pytest.approx(np.subtract(*(nll[label] for label in pair)).mean()) for pair in pairs}
    page = (tmp_path / "runs" / "evaluation.html").read_text()
    assert "2 methods on digits" in page
    assert "the mean difference from ERM with the same settings" in page
    assert "Nothing is said of cutmix, lr=0.3: no ERM run with the same settings and seed is here." in page


def test_all_parts_and_one_beyond_them() -> None:
    def chosen(parts: str) -> list[str]:
        return [part.name for part in command.chosen_parts(command.Options(parts=parts))]

    assert tuple(chosen("all")) == ALL
    assert set(chosen("detection, all,ood")) == {*ALL, "detection"}


def test_a_run_that_is_not_finished_is_shown_as_such(digits_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    finished, stopped = digits_run("runs/erm"), digits_run("runs/cutmix", method="cutmix")
    (stopped / "result.json").unlink()
    epochs = json.loads((stopped / "config.json").read_text())["epochs"]
    with pytest.warns(UserWarning, match=f"cutmix, seed 0 is evaluated before epochs 2 to {epochs}"):
        cli.main(["evaluate", str(finished.parent), "--parts", "accuracy", "--out", str(tmp_path)])
    page = (tmp_path / "evaluation.html").read_text()
    assert f"<li>cutmix, seed 0: epochs 2 to {epochs}</li>" in page
    assert "<li>erm" not in page
    config = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps(config | {"epochs": 1, "milestones": []}))
    with pytest.warns(UserWarning, match="cutmix, seed 0 is evaluated before its end, which training with --resume"):
        cli.main(["evaluate", str(stopped), "--parts", "accuracy", "--out", str(tmp_path)])


def test_nothing_is_computed_twice(digits_run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    run = digits_run("run")
    cli.main(["evaluate", str(run), "--parts", "accuracy"])
    before = json.loads((run / "evaluation.json").read_text())["models"]
    monkeypatch.setattr(Accuracy, "evaluate", lambda *_: pytest.fail("evaluated again"))
    cli.main(["evaluate", str(run), "--parts", "accuracy"])
    assert json.loads((run / "evaluation.json").read_text())["models"] == before
    monkeypatch.undo()
    shutil.copy(digits_run("other", seed=1) / "model.safetensors", run)
    cli.main(["evaluate", str(run), "--parts", "accuracy"])
    assert json.loads((run / "evaluation.json").read_text())["models"] != before


@dataclass(frozen=True, kw_only=True)
class Fragile(Part):
    """Counts its pieces, and breaks for one seed."""

    name: ClassVar[str] = "fragile"

    broken: int = -1
    """The seed."""
    said: ClassVar[str] = "no memory\nleft"

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        pieces = []
        for k in range(3):
            say(f"piece {k}")
            if k == 2 and subject.seed == self.broken:
                raise RuntimeError(self.said)
            pieces.append(store.compute(f"piece {k}", lambda k=k: k))  # type: ignore[misc]
        return {"sum": sum(pieces)}

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        return {"pieces ↑": float(result["sum"])}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        raise RuntimeError("cannot draw")


class Silent:
    def begin(self, *_: object) -> None: ...
    def say(self, *_: object) -> None: ...
    def end(self, *_: object, **__: object) -> None: ...


def with_parts(monkeypatch: pytest.MonkeyPatch, *parts: Any) -> None:
    monkeypatch.setattr(command, "chosen_parts", lambda options: list(parts))


def test_one_failure_is_named_and_the_others_go_on(
    digits_run,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [digits_run(f"runs/{seed}", seed=seed) for seed in range(3)]
    with_parts(monkeypatch, Fragile(broken=1), Accuracy())
    error = error_of(capsys, [runs[0].parent], code=1)
    assert "erm, seed 1, fragile: failed: no memory left" in error
    assert "1 of 6 evaluations failed" in error
    assert "not on the page: fragile: cannot draw" in error
    log = (tmp_path / "runs" / "evaluation-log.txt").read_text()
    assert "erm, seed 1: fragile\nTraceback" in log
    models = json.loads((tmp_path / "runs" / "evaluation.json").read_text())["models"]
    assert [sorted(m["parts"]) for m in models] == [["accuracy", "fragile"], ["accuracy"], ["accuracy", "fragile"]]
    rows = list(csv.DictReader((tmp_path / "runs" / "evaluation.csv").open()))
    assert [row["pieces"] for row in rows] == ["3.0", "", "3.0"]
    page = (tmp_path / "runs" / "evaluation.html").read_text()
    assert "erm, seed 1, fragile: no memory left" in page
    kept = json.loads((runs[1] / "evaluation" / "last" / "fragile.json").read_text())["by_options"]
    assert kept == {'{"broken": 1}': {"piece 0": 0, "piece 1": 1}}
    killed = "DataLoader worker (pid 7) is killed by signal: Killed"
    monkeypatch.setattr(Fragile, "said", f"{killed}. ")
    told = f"fragile: failed: {killed}: was the memory full? Try again with a smaller --batch-size\n"
    assert told in error_of(capsys, [runs[0].parent], code=1)


class Noting(Silent):
    def __init__(self) -> None:
        self.ends: list[tuple[str, bool, str | None]] = []

    def end(self, candidate: Candidate, part: Part, *, seconds: float | None, failure: str | None) -> None:
        self.ends.append((part.name, seconds is not None, failure))


def test_the_watch_hears_what_was_kept_and_what_failed_and_the_log_keeps_every_traceback(
    digits_run,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    candidates, parts = run_candidates([digits_run("run")], which=["last"]), [Accuracy(), Fragile(broken=0)]
    log = tmp_path / "logs" / "log.txt"
    for timed in (True, False):
        watch = Noting()
        run_parts(candidates, parts, watch, log=log)
        assert watch.ends == [("accuracy", timed, None), ("fragile", True, "no memory left")]
    assert log.read_text().count("--- erm, seed 0: fragile\nTraceback") == 2


@pytest.mark.parametrize("broken", [True, False])
def test_a_model_is_loaded_once_for_all_parts_even_if_that_fails(broken: bool, digits_run) -> None:  # type: ignore[no-untyped-def]
    (candidate,) = run_candidates([digits_run("run")], which=["last"])
    loads = []

    def load() -> Subject:
        loads.append(candidate)
        if broken:
            raise ValueError("damaged")
        return candidate.load()

    (outcome,) = run_parts([replace(candidate, load=load)], [Accuracy(), Fragile()], Silent())
    assert len(loads) == 1
    assert outcome.failures == ({"accuracy": "damaged", "fragile": "damaged"} if broken else {})


def test_files_are_checked_for_the_largest_model_that_still_lacks_results(
    digits_run,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (candidate,) = run_candidates([digits_run("run")], which=["last"])
    one, two, three = (
        replace(candidate, image_size=size, folder=candidate.folder / str(size)) for size in (16, 24, 32)
    )
    sizes: list[int | None] = []
    monkeypatch.setattr(Fragile, "check_files", lambda part, image_size: sizes.append(image_size))
    parts = [Fragile(), Accuracy()]
    assert check_inputs([one, three, two], parts) == {"fragile": 3, "accuracy": 3}
    measure(three, parts[0])
    assert check_inputs([one, three, two], parts) == {"fragile": 2, "accuracy": 3}
    assert check_inputs([replace(one, image_size=None)], parts[:1]) == {"fragile": 1}
    assert sizes == [32, 24, None]


def test_weights_of_the_best_epoch_are_measured_under_their_own_name(digits_run) -> None:  # type: ignore[no-untyped-def]
    run = digits_run("run")
    shutil.copy(digits_run("other", seed=1) / "model.safetensors", run / "best.safetensors")
    last, best = run_candidates([run], which=["last", "best"])
    for candidate, file in ((last, "model.safetensors"), (best, "best.safetensors")):
        stored = load_file(run / file)
        found = candidate.load().model.state_dict()
        assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert last.identity() != best.identity()


def test_device_and_batch_size_are_those_asked_for_or_of_the_training(
    digits_run,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, _ = load_run(digits_run("run"))
    made: list[tuple[str, int, int]] = []

    def noted(path: Path, *, which: str, device: str) -> Any:
        made.append((device, 0, 0))
        return load_run(path, which=which, device="cpu")  # type: ignore[arg-type]

    def evaluated(part: Part, subject: Subject, *_: object) -> dict[str, Any]:
        made[-1] = made[-1][0], subject.batch_size, subject.workers
        return {"sum": 0}

    monkeypatch.setattr("multimix.suite.subjects.load_run", noted)
    monkeypatch.setattr(command, "use_device", lambda device: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(Fragile, "evaluate", evaluated)
    monkeypatch.setattr(Fragile, "sections", lambda *_: [])
    for broken, given in enumerate(([], ["--device", "cuda:1", "--batch-size", "3"])):
        with_parts(monkeypatch, Fragile(broken=broken + 100))
        cli.main(["evaluate", str(tmp_path / "run"), *given])
    assert made == [("cpu", config.batch_size, config.workers), ("cuda:1", 3, config.workers)]


def test_what_is_not_on_the_page_is_told_and_is_no_success(
    digits_run,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_parts(monkeypatch, Fragile())
    error = error_of(capsys, [digits_run("run")], code=1)
    assert error == "multimix: not on the page: fragile: cannot draw\n"


def test_a_library_model_is_made_with_the_options_that_are_given(tmp_path: Path, monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}

    def noted(name: str, **options: Any) -> Candidate:
        asked.update(options, name=name)
        raise ValueError("seen enough")

    monkeypatch.setattr(command, "library_candidate", noted)
    monkeypatch.setattr(command, "use_device", lambda device: None)
    given: dict[str, Any] = {"data": "imagefolder", "weights": tmp_path / "mine.pth", "image_size": 48}
    given |= {"batch_size": 3, "device": "cuda:1"}
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "timm:resnet10t", *options, "--data-root", "images", "--out", str(tmp_path / "out")])
    expected = given | {"name": "timm:resnet10t", "root": Path("images"), "folder": tmp_path / "out" / "evaluation"}
    assert asked == expected


def test_the_folder_of_library_models_is_not_that_of_runs_beside_them(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(command, "run_candidates", lambda paths, **options: asked.append(options["data_root"]) or [])
    library = SimpleNamespace(data="imagefolder", class_names=("a", "b"))
    monkeypatch.setattr(command, "library_candidate", lambda *_, **__: library)
    both = command.Options(data="imagefolder", data_root=Path("images"))
    assert command.find_candidates([tmp_path, Path("timm:resnet10t")], both, tmp_path) == [library]
    assert command.find_candidates([tmp_path], command.Options(data_root=Path("moved")), tmp_path) == []
    assert asked == [None, Path("moved")]


def test_models_for_other_classes_are_not_compared(tmp_path: Path, monkeypatch: Any) -> None:
    run, library = (
        SimpleNamespace(data="imagefolder", class_names=names) for names in (("cat", "dog"), ("cat", "owl"))
    )
    monkeypatch.setattr(command, "run_candidates", lambda *_, **__: [run])
    monkeypatch.setattr(command, "library_candidate", lambda *_, **__: library)
    with pytest.raises(ValueError, match=r"with 2 classes, .*; class 1 is dog of the first, owl of the second\)"):
        command.find_candidates([tmp_path, Path("timm:resnet10t")], command.Options(data="imagefolder"), tmp_path)


def test_ctrl_c_keeps_everything_and_says_how_to_continue(
    digits_run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    runs = [digits_run(f"runs/{seed}", seed=seed) for seed in range(2)]
    with_parts(monkeypatch, Accuracy(), Fragile())

    def stop(board: EvaluationBoard, words: str) -> None:
        if words == "piece 1":
            raise KeyboardInterrupt

    monkeypatch.setattr(EvaluationBoard, "say", stop)
    error = error_of(capsys, [runs[0].parent], code=130)
    assert f"Continue with: multimix evaluate {runs[0].parent}" in error
    assert "whole" in (runs[0] / "evaluation" / "last" / "accuracy.json").read_text()
    assert '"piece 0": 0' in (runs[0] / "evaluation" / "last" / "fragile.json").read_text()
    assert not (runs[1] / "evaluation").exists()


def test_mistakes_are_one_line_before_anything_is_evaluated(
    digits_run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    run = digits_run("run")
    empty = digits_run("empty", seed=1, weights=False)
    for arguments, message in (
        ([], "which runs?"),
        ([tmp_path / "nothing"], "is not a folder"),
        ([run, "--wich", "best"], "unknown option --wich: did you mean --which?"),
        ([run, "--which", "worst"], "worst"),
        ([run, "--parts", "acuracy"], "unknown part 'acuracy': did you mean accuracy?"),
        ([run, "--parts", "ALL"], "unknown part 'ALL': did you mean all?"),
        ([run, "--parts", "qqq"], "unknown part 'qqq': expected one of accuracy, "),
        ([run, "--parts", ","], "--parts is empty"),
        ([run, "--accuracy.bins", "0"], "bins must be between 1 and 1000, got 0"),
        ([run, "--accuracy.bin", "3"], "did you mean --accuracy.bins?"),
        ([run, "--attacks.limit", "0"], "limit counts test images, so it must be at least 1"),
        ([run, "--corruptions.limit", "-1"], "limit counts test images, so it must be at least 1"),
        ([run, "--attacks.pgd-eps", "300"], "pgd_eps is in 1/255, so at most 255, which allows any image; got 300"),
        ([run, "--attacks.curve-eps", "1", "300"], "curve_eps is in 1/255"),
        ([run, "--intrusion.threshold", "2"], "threshold must be at least 0 and below 1, got 2"),
        ([run, "--embedding.neighbors", "1"], "neighbors must be at least 2, got 1"),
        ([run, "--ood.sets", "lsun"], "is written NAME=FOLDER"),
        ([run, "--device", "tpu"], "--device must be cpu, cuda or cuda:NUMBER, got 'tpu'"),
        ([run, "--device", "cpu:7"], "--device must be cpu, cuda or cuda:NUMBER, got 'cpu:7'"),
        ([run, "--device", "cuda:"], "--device must be cpu, cuda or cuda:NUMBER, got 'cuda:'"),
        ([run, "--device", "cuda:99"], "CUDA device"),
        ([run, "--weights", "mine.pth"], "--weights is for torchvision:NAME and timm:NAME"),
        ([run, "--image-size", "8"], "--image-size is for torchvision:NAME and timm:NAME"),
        (["resnet18", "--data", "digits"], "did you mean timm:resnet18 or torchvision:resnet18?"),
        ([run, empty], "has no last weights yet"),
        (["timm:resnet10t"], "needs data to be evaluated on"),
        (["timm:resnet10", "--data", "digits"], "timm has no model 'resnet10': did you mean"),
        (["torchvision:resnet18", "--data", "digits"], "are for 1000 classes, but the data have 10"),
        (["timm:resnet18", "--data", "imagefolder", "--data-root", tmp_path / "no"], "no does not exist"),
        (["timm:resnet18", "--data", "digits", "--weights", tmp_path / "no.pth"], "is not a file"),
    ):
        error = error_of(capsys, arguments)
        assert message in error, arguments
        assert error.count("\n") == 1
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:2", 2)])
def test_a_gpu_needs_one_more_than_its_number(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=f"--device {name}: PyTorch finds {count or 'no'} CUDA device"):
        check_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count + 1)
    check_device(name)


def test_other_data_and_damaged_models_are_refused(digits_run, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    run = digits_run("classes")
    config = json.loads((run / "config.json").read_text())
    config["data_info"]["class_names"][9] = "nine"
    (run / "config.json").write_text(json.dumps(config))
    assert "trained on 10 classes (0, 1, 2, ...), but the data now have" in error_of(
        capsys, [run, "--parts", "accuracy"]
    )
    run = digits_run("diverged")
    _, model = load_run(run)
    save_file({k: v * float("nan") for k, v in model.state_dict().items()}, run / "model.safetensors")
    assert "logits that are not finite" in error_of(capsys, [run, "--parts", "accuracy"])


def test_weights_that_do_not_fit_are_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        three, other = timm.create_model("resnet10t", num_classes=3), timm.create_model("resnet14t", num_classes=10)
    save_file(three.state_dict(), tmp_path / "three.safetensors")
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    options = ["timm:resnet10t", "--data", "digits", "--out", tmp_path / "out", "--weights"]
    told = error_of(capsys, [*options, tmp_path / "three.safetensors"])
    assert "three.safetensors holds timm:resnet10t for 3 classes, but the data have 10" in told
    assert "does not fit timm:resnet10t" in error_of(capsys, [*options, tmp_path / "other.safetensors"])
    with torch.random.fork_rng():
        fitting = timm.create_model("resnet10t", num_classes=10)
    save_file(fitting.state_dict(), tmp_path / "fitting.safetensors")
    told = error_of(capsys, [*options, tmp_path / "fitting.safetensors"])
    assert "timm:resnet10t takes images of three channels, and these have one" in told
    (tmp_path / "text.pth").write_text("no weights")
    told = error_of(capsys, [*options, tmp_path / "text.pth"])
    assert "cannot be read as weights: it must be a .safetensors file" in told
    assert "weights_only" not in told
    assert not (tmp_path / "out").exists()


def test_a_library_model_is_gone_when_it_has_been_measured(tmp_path: Path) -> None:
    images, weights = tmp_path / "images", tmp_path / "weights.safetensors"
    for label in ("cat", "dog"):
        (images / label).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(images / label / "0.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("resnet10t", num_classes=2).state_dict(), weights)
    candidate = library_candidate(
        "timm:resnet10t", data="imagefolder", root=images, weights=weights, image_size=None, batch_size=2,
        device="cpu", folder=tmp_path,
    )  # fmt: skip
    candidate.check()
    model = weakref.ref(candidate.load().model)
    gc.collect()
    assert model() is None


def test_a_library_model_with_weights_of_ones_own_on_a_folder_of_classes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for label in ("cat", "dog"):
        for k in range(3):
            (tmp_path / "images" / label).mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=generator).numpy()
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{k}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", num_classes=2)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": net.state_dict()}, tmp_path / "weights.pth")
    options = ["--parts", "accuracy", "--data", "imagefolder", "--data-root", str(tmp_path / "images")]
    accuracies = []
    for name in ("weights.safetensors", "weights.pth"):
        out = tmp_path / name.replace(".", "-")
        cli.main(
            [
                "evaluate",
                "timm:resnet10t",
                "--parts",
                "accuracy",
                *options,
                "--weights",
                str(tmp_path / name),
                "--out",
                str(out),
            ]
        )
        (found,) = json.loads((out / "evaluation.json").read_text())["models"]
        accuracies.append(found["parts"]["accuracy"]["result"])
        assert (out / "evaluation" / "timm-resnet10t" / "accuracy.json").is_file()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (net.pretrained_cfg["mean"], net.pretrained_cfg["std"]))
    files = sorted((tmp_path / "images").rglob("*.png"))
    images = torch.stack([torch.from_numpy(np.asarray(Image.open(f)).copy()).permute(2, 0, 1) / 255 for f in files])
    with torch.no_grad():
        predicted = net.eval()((images - mean) / std).argmax(1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert accuracies[0] == accuracies[1]
    assert accuracies[0]["accuracy"] == pytest.approx((predicted == labels).double().mean().item())


def test_paper_numbers_stand_beside_measured_ones() -> None:
    numbers = {}
    for method, accuracy in (("erm", 0.7), ("multimix", 0.8)):
        told = Accuracy().headline({"accuracy": accuracy, "top5": 0.9, "nll": 1.0, "ece": 0.1})
        numbers[method] = {title: {0: value} for title, value in told.items()}
    sections = beside_paper(numbers, {"erm": "erm", "multimix": "multimix"}, data="cifar100", model="preactresnet18")
    assert [section.title.partition(": ")[2] for section in sections] == [
        "accuracy", "adversarial robustness", "embedding space"
    ]  # fmt: skip
    section = sections[0]
    assert section.table is not None
    rows = {row[0].text: [cell.text for cell in row] for row in section.table.rows}
    assert section.table.columns[1:3] == [
        "top-1 accuracy, %\nmeasured here",
        "top-1 accuracy, %\npaper, preactresnet18",
    ]
    assert rows["erm"][1:3] == ["70.00", "76.69"]
    assert rows["multimix"][1:3] == ["80.00", "81.82"]
    assert rows["alignmixup"][1] == "not measured"
    robustness = sections[1].table
    assert robustness is not None
    assert robustness.columns[1] == "FGSM error, %\nmeasured here"
    assert {row[1].text for row in robustness.rows} == {"not measured"}


def test_every_label_has_a_row_beside_the_papers() -> None:
    methods = {"multimix, lr=0.1": "multimix", "multimix, lr=0.2": "multimix", "cutmix(alpha=3)": "cutmix( alpha=3 )"}
    numbers = {label: {"top-1, % ↑": {0: 60.0 + k}} for k, label in enumerate([*methods, "timm:resnet18"])}
    table = beside_paper(numbers, {**methods, "timm:resnet18": None}, data="cifar100", model="preactresnet18")[0].table
    assert table is not None
    rows = [[cell.text for cell in row[:3]] for row in table.rows]
    assert [row for row in rows if row[0].startswith("multimix")] == [
        ["multimix, lr=0.1", "60.00", "81.82"],
        ["multimix, lr=0.2", "61.00", "81.82"],
    ]
    assert rows[-1] == ["cutmix(alpha=3)", "62.00", "–"]
    assert ["erm", "not measured", "76.69"] in rows
    assert "timm:resnet18" not in [row[0] for row in rows]


def test_the_board_estimates_from_what_it_has_timed(digits_run) -> None:  # type: ignore[no-untyped-def]
    paths = [digits_run(f"{seed}", seed=seed) for seed in range(4)]
    candidates = run_candidates(paths, which=["last"])
    accuracy, ood = Accuracy(), Ood()
    board = EvaluationBoard(8, {"accuracy": 3, "ood": 2}, file=io.StringIO())
    assert board.remaining() is None
    for candidate, part, seconds in (
        (candidates[0], accuracy, None),
        (candidates[0], ood, None),
        (candidates[1], accuracy, 10.0),
        (candidates[1], ood, 4.0),
        (candidates[2], accuracy, 20.0),
    ):
        board.begin(candidate, part)
        board.end(candidate, part, seconds=seconds, failure=None)
    # One accuracy is left, of 15 s, and one ood of 4 s; what was there already took no time and counts for none.
    assert board.remaining() == 19.0
    said = board.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said == [
        "3/8  erm, seed 1: accuracy: 10s; more than 20s left",
        "4/8  erm, seed 1: ood: 4s; about 24s left",
        "5/8  erm, seed 2: accuracy: 20s; about 19s left",
    ]


def test_what_is_there_already_is_said(digits_run, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    first, _ = digits_run("runs/0"), digits_run("runs/1", seed=1)
    cli.main(["evaluate", str(first), "--parts", "accuracy"])
    assert "there already" not in capsys.readouterr().out
    cli.main(["evaluate", str(first.parent), "--parts", "accuracy"])
    shown = capsys.readouterr().out
    assert "1 of 2 evaluations are there already" in shown
    assert "2/2  erm, seed 1: accuracy: " in shown


@pytest.mark.slow
def test_all_parts_of_several_seeds(digits_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for method in ("erm", "dense-multimix"):
        for seed in range(2):
            digits_run(f"runs/{method}{seed}", method=method, seed=seed)
    cheap = (
        "--attacks.limit 20 --attacks.curve-limit 10 --attacks.pgd-steps 2 --attacks.curve-eps 1 8 "
        "--attacks.curve-steps 1 2 --corruptions.limit 20 --embedding.no-umap --intrusion.batches 1 "
        "--ood.limit 50 --speed.n 10 --speed.rounds 3 --speed.seconds 0.01"
    )
    cli.main(["evaluate", str(tmp_path / "runs"), "--parts", "all", *cheap.split(), "--out", str(tmp_path / "out")])
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {tuple(model["parts"]) for model in whole["models"]} == {ALL}
    assert {row["pairs"] for row in whole["differences"]} == {2}
    assert {row["label"] for row in whole["differences"]} == {"dense-multimix"}
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Difference from ERM" in page
    rows = list(csv.DictReader((tmp_path / "out" / "evaluation.csv").open()))
    assert all(row["top-1, %"] and row["training speed ÷ ERM's"] for row in rows)


def test_pixels_outside_the_unit_interval_are_refused(digits_run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    (candidate,) = run_candidates([digits_run("run")], which=["last"])
    original = data.Loader.batches

    def scaled(self: data.Loader, *args: int) -> Any:
        return (batch._replace(images=batch.images * 255) for batch in original(self, *args))

    monkeypatch.setattr(data.Loader, "batches", scaled)
    (outcome,) = run_parts([candidate], [Accuracy()], Silent())
    assert "they must lie in [0, 1]" in outcome.failures["accuracy"]
    assert results.overview([outcome], [Accuracy()], label_colors([outcome])).columns == ["method"]
