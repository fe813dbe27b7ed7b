"""Resume is exact: a run that is killed anywhere and resumed leaves the same bits as one that is not."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tests.training.conftest import read_metrics

from multimix.training import Config, RunDirectory, load_run, train
from multimix.training.rundir import refuse_changes

# Half-and-half regime (host and device draws), augmentation, a validation split, an average, micro-batches; a
# checkpoint after every step.
CONFIG = Config(
    data="digits",
    model="smallnet-w8",
    method="multimix(n=50)",
    per_class=20,
    val_per_class=5,
    augment="crop",
    batch_size=64,
    accumulate=2,
    epochs=3,
    lr=0.05,
    schedule="multistep",
    milestones=(2,),
    average="ema",
    average_decay=0.8,
    accelerator="cpu",
    checkpoint_minutes=0.0,
    tensorboard=False,
)


@pytest.fixture(scope="module")
def reference(run_training, tmp_path_factory):
    """The run directory of CONFIG, never stopped."""
    out = tmp_path_factory.mktemp("reference") / "run"
    assert run_training(CONFIG, out).code == 0
    return out


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_file_operations(seed, reference, run_training, contents, tmp_path):
    """SIGKILL in front of randomly chosen fsyncs and renames, again and again, until the run gets to its end."""
    draw, kills = random.Random(seed), 0
    while (outcome := run_training(CONFIG, tmp_path, resume=True, kill_at_call=draw.randint(1, 24))).code == -9:
        kills += 1
        assert kills < 100
    assert outcome.code == 0, outcome.log
    assert kills >= 2
    assert contents(tmp_path) == contents(reference)


def test_killed_at_random_times(reference, run_training, contents, tmp_path):
    draw, kills = random.Random(0), 0
    # Ever later: at first before the end on a fast machine, and in time for the end on a slow one.
    while (
        outcome := run_training(CONFIG, tmp_path, resume=True, kill_after=draw.uniform(0.01, 0.05 * (1 + kills)))
    ).code == -9:
        kills += 1
        assert kills < 100
    assert outcome.code == 0, outcome.log
    assert kills >= 1
    assert contents(tmp_path) == contents(reference)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_in_the_middle_of_an_epoch(name, reference, run_training, contents, tmp_path):
    config = replace(CONFIG, checkpoint_minutes=None)
    outcome = run_training(config, tmp_path, signal_at_report=1, signal_name=name)
    assert outcome.code == 130
    assert "stopped in epoch 1 of 3 after batch 1 of 3; everything is saved" in outcome.log
    assert not (tmp_path / "result.json").exists()
    assert run_training(config, tmp_path, resume=True).code == 0
    found, expected = contents(tmp_path), contents(reference)
    found["config"]["checkpoint_minutes"] = 0.0
    assert found == expected


def interrupted(out: Path, after: int, config: Config = CONFIG) -> Path:
    """A run that stopped without notice in front of epoch `after` + 1."""

    class CrashError(Exception):
        pass

    def crash(progress):
        if progress.metrics is not None and progress.epoch == after:
            raise CrashError

    with pytest.raises(CrashError):
        train(config, out, progress=crash)
    return out


def same_weights(a: Path, b: Path) -> bool:
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """CONFIG in this process, with its number of threads."""
    return train(CONFIG, tmp_path_factory.mktemp("here") / "run")


@pytest.mark.parametrize("forgotten", [None, "momentum", "average", "step"])
def test_what_a_checkpoint_must_hold(forgotten, uninterrupted, tmp_path):
    """The negative control: with any part of the state forgotten, the resumed run ends elsewhere."""
    run = interrupted(tmp_path / "run", after=2)
    path = run / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    if forgotten == "momentum":
        state["optimizer"]["state"] = {}
    elif forgotten == "average":
        state["average"]["updates"] = 0
    elif forgotten == "step":
        state["step"] = 0
    torch.save(state, path)
    train(CONFIG, run, resume=True)
    assert same_weights(run, uninterrupted) == (forgotten is None)


def test_another_seed_is_another_run(uninterrupted, tmp_path):
    assert not same_weights(train(replace(CONFIG, seed=1), tmp_path / "run"), uninterrupted)


def test_dropout_resumes_exactly_and_the_global_rng_is_untouched(tmp_path, monkeypatch):
    from multimix import models

    build = models.build

    def build_with_dropout(*args, **kwargs):
        model = build(*args, **kwargs)
        model.pool = torch.nn.Sequential(model.pool, torch.nn.Dropout(0.5))
        return model

    config = replace(CONFIG, average="none", method="erm", epochs=2)
    plain = train(config, tmp_path / "plain")
    monkeypatch.setattr(models, "build", build_with_dropout)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = train(config, tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    resumed = train(config, interrupted(tmp_path / "resumed", after=1, config=config), resume=True)
    assert same_weights(resumed, whole)
    assert not same_weights(whole, plain)


# Momentum and its schedule are fast, so that the encoder and its position matter within the nine steps of the run.
AUTOMIX = replace(
    CONFIG, method="automix(momentum=0.3, final_momentum=0.9, momentum_steps=9)", average="none", accumulate=1
)


@pytest.fixture(scope="module")
def whole_automix(tmp_path_factory):
    return train(AUTOMIX, tmp_path_factory.mktemp("automix") / "run")


@pytest.mark.parametrize("forgotten", [None, "block", "encoder", "position"])
def test_a_method_with_parameters_of_its_own_resumes_exactly(forgotten, whole_automix, tmp_path):
    run = interrupted(tmp_path / "run", after=1, config=AUTOMIX)
    path = run / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    module = state["module"]
    for name, value in module.items():
        if forgotten == "position" and name.endswith("_extra_state"):
            value["step"] = 0
        elif forgotten == "encoder" and name.startswith("method.encoder.model."):
            value.copy_(module[name.removeprefix("method.encoder.")])
        elif forgotten == "block" and name.startswith("method.block."):
            value.zero_()
    torch.save(state, path)
    train(AUTOMIX, run, resume=True)
    assert same_weights(run, whole_automix) == (forgotten is None)
    assert (read_metrics(run) == read_metrics(whole_automix)) == (forgotten is None)


def test_the_method_is_not_exported_with_the_model(whole_automix):
    from safetensors import safe_open

    with safe_open(whole_automix / "model.safetensors", "pt") as file:
        exported = set(file.keys())
    saved = torch.load(whole_automix / "checkpoints" / "last.pt", weights_only=True)["module"]
    assert exported == {name.removeprefix("model.") for name in saved if name.startswith("model.")}
    assert {f"method.encoder.model.{name}" for name in exported} < set(saved)


def test_damaged_last_checkpoint_falls_back_exactly(uninterrupted, tmp_path):
    run = interrupted(tmp_path / "run", after=2)
    last = run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"last\.pt is truncated.*previous\.pt instead"):
        train(CONFIG, run, resume=True)
    assert same_weights(run, uninterrupted)


def test_checkpoint_of_another_run_is_not_used(uninterrupted, tmp_path):
    run = interrupted(tmp_path / "run", after=1)
    foreign = interrupted(tmp_path / "foreign", after=1, config=replace(CONFIG, lr=0.01))
    (run / "checkpoints" / "last.pt").write_bytes((foreign / "checkpoints" / "last.pt").read_bytes())
    with pytest.warns(UserWarning, match=r"another configuration: lr .*previous\.pt instead"):
        train(CONFIG, run, resume=True)
    assert same_weights(run, uninterrupted)


def test_torn_and_surplus_lines_of_metrics_go(uninterrupted, contents, tmp_path):
    run = interrupted(tmp_path / "run", after=2)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "surplus": true}\n{"epoch": 4, "tor')
    train(CONFIG, run, resume=True)
    assert contents(run) == contents(uninterrupted)


def test_resume_of_nothing_starts_and_of_a_finished_run_returns(uninterrupted, contents, tmp_path):
    run = train(CONFIG, tmp_path / "new", resume=True)
    assert same_weights(run, uninterrupted)
    stamp = (run / "result.json").stat().st_mtime_ns
    assert RunDirectory(run).is_finished(CONFIG)
    with pytest.raises(ValueError, match=r"another configuration: lr \(0\.05 there, 0\.5 now\)"):
        RunDirectory(run).is_finished(replace(CONFIG, lr=0.5))
    assert train(CONFIG, run, resume=True) == run
    assert (run / "result.json").stat().st_mtime_ns == stamp


def test_changed_configuration_names_the_fields(tmp_path):
    run = interrupted(tmp_path / "run", after=1)
    changed = replace(CONFIG, lr=0.5, method="erm", workers=0)
    with pytest.raises(
        ValueError, match=r"method \(multimix\(n=50\) there, erm now\), lr \(0\.05 there, 0\.5 now\)"
    ) as e:
        train(changed, run, resume=True)
    assert "workers" not in str(e.value)


def test_the_fields_that_may_change_are_those_of_the_documents():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    free = re.findall(r"`(\w+)`", text.partition("These fields may change on resume:")[2].partition("unless")[0])
    assert "epochs" in free
    for field in fields(Config):
        changed = copy.copy(CONFIG)
        object.__setattr__(changed, field.name, "another")  # whether it could be is checked elsewhere
        if field.name in free:
            refuse_changes(CONFIG, changed, Path("run"))
        else:
            with pytest.raises(ValueError, match=rf"another configuration: {field.name} \(.* there, another now\)"):
                refuse_changes(CONFIG, changed, Path("run"))


def test_more_epochs_continue_a_finished_run_as_if_planned(uninterrupted, tmp_path):
    run = train(replace(CONFIG, epochs=2), tmp_path / "run")
    train(CONFIG, run, resume=True)
    assert same_weights(run, uninterrupted)
    assert json.loads((run / "config.json").read_text())["epochs"] == 3
    for longer in (run, replaced_result(run)):
        with pytest.raises(ValueError, match="has done 3 epochs, more than the 2 asked for"):
            train(replace(CONFIG, epochs=2), longer, resume=True)


def has_weights_of_its_checkpoints(run: Path) -> bool:
    """Whether what is loaded is what the checkpoints hold, and its epoch as far as the metrics go."""
    for which in ("last", "best"):
        held = torch.load(run / "checkpoints" / f"{which}.pt", weights_only=True)["average"]["model"]
        _, model = load_run(run, which=which)
        if not all(torch.equal(held[name], value) for name, value in model.state_dict().items()):
            return False
    return True


def test_a_run_that_is_extended_gives_its_newest_weights(tmp_path):
    run = train(replace(CONFIG, epochs=2), tmp_path / "run")

    def stop(progress):
        if progress.metrics is not None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(replace(CONFIG, epochs=4), run, resume=True, progress=stop)
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["epoch"] == 3
    assert has_weights_of_its_checkpoints(run)


def test_a_run_that_is_extended_has_weights_at_every_moment(run_training, tmp_path):
    run = train(replace(CONFIG, epochs=2), tmp_path / "run")
    for number in range(1, 9):
        copy = shutil.copytree(run, tmp_path / f"{number}")
        assert run_training(CONFIG, copy, resume=True, kill_at_call=number).code == -9
        assert not (copy / "result.json").exists()
        assert has_weights_of_its_checkpoints(copy)


@pytest.mark.parametrize("which", ["last", "best"])
def test_weights_without_a_whole_checkpoint_are_kept_until_the_end(which, tmp_path):
    run = train(replace(CONFIG, epochs=2), tmp_path / "run")
    checkpoint, weights = run / "checkpoints" / f"{which}.pt", RunDirectory(run).weights(which)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    before = weights.read_bytes()
    seen = []

    def look(progress):
        if progress.metrics is None and not seen:
            seen.append(weights.read_bytes())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(CONFIG, run, resume=True, progress=look)
    assert seen == [before]


def replaced_result(run: Path) -> Path:
    (run / "result.json").unlink()
    return run


def test_more_epochs_are_refused_under_a_cosine(tmp_path):
    config = replace(CONFIG, schedule="cosine", milestones=(), epochs=1)
    run = train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="planned for 1 epochs, not 2: its cosine"):
        train(replace(config, epochs=2), run, resume=True)


def test_changed_data_are_refused(tmp_path):
    run = interrupted(tmp_path / "run", after=1)
    stored = json.loads((run / "config.json").read_text())
    stored["data_info"]["train_examples"] -= 1
    (run / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"data are not those .* made with: train_examples differ"):
        train(CONFIG, run, resume=True)


@pytest.mark.parametrize("what", ["images", "labels"])
def test_exchanged_data_are_refused(tmp_path, what):
    np = pytest.importorskip("numpy")
    generator = np.random.default_rng(0)
    arrays = {
        f"{split}_{kind}": made
        for split in ("train", "test")
        for kind, made in (
            ("images", generator.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)),
            ("labels", np.arange(20) % 10),
        )
    }
    np.savez(tmp_path / "some.npz", **arrays)
    config = replace(CONFIG, data="imagefolder", data_root=tmp_path / "some.npz", per_class=None, val_per_class=0)
    train(replace(config, epochs=1), tmp_path / "run")
    arrays[f"train_{what}"] = arrays[f"train_{what}"][::-1]
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(ValueError, match="made with: images or labels of train differ"):
        train(config, tmp_path / "run", resume=True)


def test_a_run_of_a_version_that_knew_less_of_its_data_is_continued(tmp_path):
    run = interrupted(tmp_path / "run", after=1)
    stored = json.loads((run / "config.json").read_text())
    for split in ("train", "test"):
        del stored["data_info"][f"{split}_digest"]
    (run / "config.json").write_text(json.dumps(stored))
    train(CONFIG, run, resume=True)
    assert (run / "result.json").is_file()


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty \(it holds notes\.txt\): add --resume .* --out"):
        train(CONFIG, tmp_path)
    run = interrupted(tmp_path / "run", after=1)
    with pytest.raises(FileExistsError, match="it holds a run"):
        train(CONFIG, run)
    file = tmp_path / "notes.txt"
    with pytest.raises(NotADirectoryError, match="is a file"):
        train(CONFIG, file)


def test_results_without_a_checkpoint_are_not_overwritten(tmp_path):
    run = train(CONFIG, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    kept = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="holds results of 3 epochs but no checkpoint to go on from: put its checkp"):
        train(replace(CONFIG, epochs=4), run, resume=True)
    with pytest.raises(ValueError, match="holds results of 3 epochs but no checkpoint"):
        train(CONFIG, replaced_result(run), resume=True)
    kept.pop("result.json")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == kept


def test_checkpoints_without_a_configuration_are_not_overwritten(tmp_path):
    run = interrupted(tmp_path / "run", after=1)
    (run / "config.json").unlink()
    kept = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json: put it back"):
        train(CONFIG, run, resume=True)
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == kept
    assert "last.pt" in kept


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_at_its_first_step_is_begun_with_other_options(resume, uninterrupted, contents, tmp_path):
    wrong = replace(CONFIG, method="multimix(layer=99)", augment="none", lr=1.0)
    (tmp_path / "run").mkdir()  # or it would be gone with the run
    with pytest.raises(ValueError, match="layers must satisfy"):
        train(wrong, tmp_path / "run")
    assert contents(train(CONFIG, tmp_path / "run", resume=resume)) == contents(uninterrupted)


@pytest.mark.parametrize("there", [False, True])
def test_a_refused_run_leaves_no_folder_that_was_not_there(there, tmp_path):
    out = tmp_path / "run"
    if there:
        out.mkdir()
    with pytest.raises(ValueError, match="did you mean smallnet"):
        train(replace(CONFIG, model="smalnet"), out)
    assert out.exists() == there


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_failed_at_its_first_step_leaves_no_folder_that_was_not_there(there, tmp_path):
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="layers must satisfy"):
        train(replace(CONFIG, method="multimix(layer=99)", tensorboard=True), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").exists() == (tmp_path / "run").exists() == there


def test_what_others_put_into_the_folder_of_a_failed_run_stays(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        (tmp_path / "run" / "notes.txt").write_text("mine")
        raise ValueError("a bad step")

    monkeypatch.setattr("multimix.training.loop.Loop._step", failing)
    with pytest.raises(ValueError, match="a bad step"):
        train(CONFIG, tmp_path / "run")
    assert {"notes.txt", "config.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_two_processes_do_not_share_a_directory(run_training, tmp_path):
    from multimix.files import locked

    with locked(tmp_path):
        outcome = run_training(CONFIG, tmp_path, resume=True)
    assert outcome.code == 1
    assert "another process is training" in outcome.log
