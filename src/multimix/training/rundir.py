"""The run directory: what lies where, and when a run may start or go on in it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast, get_origin, get_type_hints

from ..files import append_line, locked, refuse_file, write_json, write_lines
from .checkpoint import CheckpointError, load_latest
from .config import Config

__all__ = ["DataInfo", "RunDirectory", "refuse_changes", "refuse_other_data"]

# Changing these on resume gives the run that would have been made with the new values from the start, or, for the
# devices, one as good: whatever else differs would make a run that no configuration describes.
_MAY_CHANGE = frozenset(
    {"epochs", "data_root", "download", "workers", "accelerator", "devices", "nodes", "compile", "cuda_graphs",
     "channels_last", "deterministic", "evaluate_every", "evaluate_train",
     "checkpoint_minutes", "tensorboard"}
)  # fmt: skip


class _AlwaysKnown(TypedDict):
    num_classes: int
    class_names: list[str]
    image_size: int
    mean: list[float]
    std: list[float]
    train_examples: int
    test_examples: int


class DataInfo(_AlwaysKnown, total=False):
    """What a run knows about its data, as config.json has it. Without a split its digest is lacking, and in runs of
    earlier versions all of these."""

    val_examples: int
    train_digest: str
    val_digest: str
    test_digest: str


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, which: str) -> Path:
        """The checkpoint of the "last" or "best" epoch."""
        return self.checkpoints / f"{which}.pt"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def weights(self, which: str) -> Path:
        """The exported weights, "last" or "best"."""
        return self.path / ("model.safetensors" if which == "last" else "best.safetensors")

    def weights_or_checkpoint(self, which: str) -> Path:
        """The file with the weights: those exported at the end, or for a run that has not finished a checkpoint.

        Raises:
            FileNotFoundError: there is neither.
        """
        exported, checkpoint = self.weights(which), self.checkpoint(which)
        for file in (exported, checkpoint):
            if file.is_file():
                return file
        raise FileNotFoundError(
            f"{self.path} has no {which} weights yet: neither {exported.name} nor checkpoints/{checkpoint.name}. "
            "Train it to the end of an epoch that is evaluated, or leave it out"
        )

    def is_finished(self, config: Config) -> bool:
        """Whether a run of this configuration has ended here.

        Raises:
            ValueError: the run here is of another configuration or longer, or its files are damaged.
        """
        if not self.result.is_file():
            return False
        stored, _ = self.read_config()
        refuse_changes(stored, config, self.path)
        self._refuse_longer(stored.epochs, config)
        return stored.epochs == config.epochs

    @property
    def begun(self) -> bool:
        """Whether something of a run is here that is worth keeping: a checkpoint, an epoch, a result or weights."""
        kept = (self.result, self.weights("last"), self.weights("best"))
        return bool(self._epochs()) or any(self.checkpoints.glob("*.pt")) or any(path.exists() for path in kept)

    def _epochs(self) -> int:
        """Lines of the metrics: as many epochs are done, the last of them perhaps after the last checkpoint."""
        return self.metrics.read_bytes().count(b"\n") if self.metrics.is_file() else 0

    def read_config(self) -> tuple[Config, DataInfo]:
        """The configuration of the run, and what it knows about its data.

        Raises:
            FileNotFoundError: this is not a run directory.
            ValueError: config.json is damaged, or of another version.
        """
        if not self.config.is_file():
            below = sorted(self.path.glob("*/seed*/config.json"))
            raise FileNotFoundError(
                f"{self.path} is not a run: it holds no config.json, as `multimix train --out` writes it"
                + (f"; there are runs below it, such as {below[0].parent}" if below else "")
            )
        try:
            fields = json.loads(self.config.read_text(encoding="utf-8"))
            data_info = fields.pop("data_info")
            config = Config.from_json(fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.config} is damaged or of another version ({error}): restore the file, or train the run anew"
            ) from error
        info = data_info if isinstance(data_info, dict) else {}
        needed = get_type_hints(_AlwaysKnown)
        wrong = [name for name, kind in needed.items() if not isinstance(info.get(name), get_origin(kind) or kind)]
        if wrong:
            raise ValueError(
                f"{self.config} does not say {', '.join(wrong)} in data_info, as training writes them: restore the "
                "file, or train the run anew"
            )
        return config, cast(DataInfo, info)

    def write_config(self, config: Config, data_info: DataInfo) -> None:
        write_json(self.config, {**config.to_json(), "data_info": data_info})

    def write_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Make metrics.jsonl hold exactly `records`: what a killed run wrote after its checkpoint goes."""
        write_lines(self.metrics, records)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        append_line(self.metrics, record)

    @contextmanager
    def opened(self, config: Config, *, resume: bool) -> Iterator[dict[str, Any] | None]:
        """Hold the directory for a run of `config`, and yield the checkpoint to go on from (None: from the start).

        Raises:
            FileExistsError: there is something in it, and `resume` is off.
            NotADirectoryError: the path, or a folder above it, is a file.
            BlockingIOError: another process is training in it.
            ValueError: `resume` with a configuration that differs, or with no usable checkpoint.
        """
        refuse_file(self.path)
        found = self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(f"cannot make the folder {self.path} ({error}): choose another with --out") from None
        with locked(self.path):
            if not resume:
                self._refuse_contents()
            try:
                yield self._resume(config) if resume else None
            except BaseException:
                if not found:
                    self._give_up_unused()
                raise

    def _give_up_unused(self) -> None:
        """Remove the folder that was made for a run of which nothing has come: a mistyped one, or one whose options
        fail at the first step."""
        with suppress(OSError):
            found = {entry.name for entry in self.path.iterdir()} - {".lock"}
            if not found <= self._first_files() or self.begun:
                return
            for name in found - {self.config.name}:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
                else:
                    (self.path / name).unlink()
            self.config.unlink(missing_ok=True)  # last: what an error leaves is a run still, to be begun anew
            (self.path / ".lock").unlink()
            self.path.rmdir()

    def _first_files(self) -> set[str]:
        """What a run has made before its first step has ended."""
        files = (self.config, self.environment, self.metrics, self.checkpoints, self.tensorboard)
        return {path.name for path in files}

    def _refuse_contents(self) -> None:
        found = sorted(entry.name for entry in self.path.iterdir() if entry.name != ".lock")
        if found and not self._give_up_empty_run(found):
            what = "a run" if self.config.name in found else ", ".join(found[:3])
            raise FileExistsError(
                f"{self.path} is not empty (it holds {what}): add --resume to continue a run, "
                "or choose another directory with --out"
            )

    def _give_up_empty_run(self, found: Sequence[str]) -> bool:
        """Whether there is only a run that failed at its first step, which may then be begun with other options."""
        others = {name for name in found if not name.endswith(".tmp")} - self._first_files()
        if self.config.name not in found or others or self.begun:
            return False
        try:
            self.read_config()
        except ValueError:
            return False  # another program's
        self.config.unlink()
        return True

    def _resume(self, config: Config) -> dict[str, Any] | None:
        if not self.config.is_file():
            if any(self.checkpoints.glob("*.pt")):
                raise CheckpointError(
                    f"{self.path} holds checkpoints but no config.json: put it back, or train in another directory"
                )
            # Killed before it had written anything, or never begun: the same command serves both.
            return None
        if self._give_up_empty_run([self.config.name]):
            return None
        stored, _ = self.read_config()
        refuse_changes(stored, config, self.path)

        def check(state: dict[str, Any]) -> None:
            refuse_changes(Config.from_json(json.loads(state["config"])), stored, self.checkpoints)

        state = load_latest(self.checkpoints, check)
        # One epoch may have been written without a checkpoint, by a run that was killed in between.
        if state is None and (self.result.exists() or self._epochs() > 1):
            raise CheckpointError(
                f"{self.path} holds results of {self._epochs()} epochs but no checkpoint to go on from: put its "
                f"{self.checkpoints.name} folder back, or start a new run in another directory with --out"
            )
        if state is not None:
            self._refuse_longer(state["epoch"], config)
        return state

    def _refuse_longer(self, done: int, config: Config) -> None:
        if done > config.epochs:
            raise ValueError(
                f"the run in {self.path} has done {done} epochs, more than the {config.epochs} asked for: "
                "ask for as many, or choose another directory with --out"
            )


def refuse_changes(stored: Config, config: Config, where: Path) -> None:
    """Raise ValueError, naming the fields, when `config` would not continue what `stored` began."""
    changed = [
        f"{field.name} ({_shown(stored, field.name)} there, {_shown(config, field.name)} now)"
        for field in dataclasses.fields(Config)
        if field.name not in _MAY_CHANGE and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if changed:
        raise ValueError(
            f"the run in {where} was made with another configuration: {', '.join(changed)}. "
            "Resume with the same values, or choose another directory with --out"
        )
    if stored.schedule == "cosine" and stored.epochs != config.epochs:
        raise ValueError(
            f"the run in {where} was planned for {stored.epochs} epochs, not {config.epochs}: its cosine schedule "
            "depends on the end, so the epochs so far would have been different. Resume with the same number, "
            "or start a new run"
        )


def refuse_other_data(before: DataInfo, now: Mapping[str, object], where: Path) -> None:
    """Raise ValueError, saying what differs, when a run knew other data.

    Args:
        before: `data_info` of the run; what one of an earlier version does not say is not compared.
        now: what is known of the data now.
    """
    changed = [name for name, value in now.items() if before.get(name, value) != value]
    told = []
    for name in changed:
        split = name.removesuffix("_digest")
        if split == name:
            told.append(name)
        elif f"{split}_examples" not in changed:
            told.append(f"images or labels of {split}")
    if told:
        raise ValueError(
            f"the data are not those that the run in {where} was made with: {', '.join(told)} differ. Restore the "
            "data, or choose another directory with --out"
        )


def _shown(config: Config, name: str) -> str:
    value = getattr(config, name)
    return "none" if value is None else str(value)
