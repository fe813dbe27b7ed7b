"""`train`: from a configuration to a run directory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import torch

from .. import data, methods
from ..files import write_json
from ..models import SplitModel
from ..random import derive_seed
from .averaging import MovingAverage
from .checkpoint import CheckpointError, load_checkpoint
from .config import Config
from .devices import Ranks, connect
from .interrupt import as_ctrl_c, listening
from .loop import Loop
from .meters import Meters
from .optimizers import make_optimizer, warn_of_unreached
from .progress import Progress, Reporter
from .records import TensorBoard, best_record, environment, selection_metric
from .repeatability import borrowed_global_state, refuse_late_determinism
from .rundir import DataInfo, RunDirectory, refuse_other_data
from .setting import build_model, data_options, make_loaders, refuse_out_in_data
from .state import TrainingState
from .step import TrainingStep, compiled_stages
from .weights import model_weights, save_weights

__all__ = ["train"]


def train(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Train, evaluate after every epoch, and leave everything in the run directory `out`.

    Args:
        config: what to do. Under torchrun, the number of devices and nodes is torchrun's.
        out: a directory that is new or empty, unless `resume`.
        resume: go on from the last checkpoint in `out`; start if there is nothing yet, and return at once if the
            run has finished. On the CPU, the result is that of a run that was never stopped, bit for bit.
        progress: called on the first rank, a few times a second and at the end of every epoch.

    Returns:
        The run directory; docs/training.md lists its files.

    Raises:
        FileExistsError: `out` holds something, and `resume` is off.
        ValueError: a value of `config` cannot be used, or is not the one the run in `out` began with, or its
            checkpoints are damaged.
        DivergenceError: the loss is not finite (a ValueError; the last good checkpoint is kept).
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived, and everything has been saved (a KeyboardInterrupt).
        KeyboardInterrupt: it arrived before the first step, and there is nothing new to save.
    """
    method = methods.parse(config.method)
    refuse_out_in_data(config, Path(out))
    run = RunDirectory(Path(out))
    if config.deterministic and config.accelerator != "cpu":
        refuse_late_determinism()
    fabric = connect(config)
    fabric.launch()
    ranks = Ranks(fabric)
    with ExitStack() as stack:
        stack.enter_context(borrowed_global_state(deterministic=config.deterministic))
        stack.enter_context(as_ctrl_c())
        if resume and _on_first(ranks, lambda: run.is_finished(config)):
            return run.path
        saved = _on_first(ranks, lambda: stack.enter_context(run.opened(config, resume=resume)))

        # One process of a node downloads and decodes; the others find the result.
        with fabric.rank_zero_first(local=True):
            splits = data.load(**data_options(config))
        loaders = make_loaders(config, splits, device=fabric.device, rank=ranks.rank, world_size=ranks.size)
        model = build_model(config, splits).to(fabric.device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        torch.manual_seed(derive_seed(config.seed, "method"))
        method.setup(model)
        method.check_extras(splits.train.extras)
        step = TrainingStep(model, method)
        optimizer = make_optimizer(step, config, device=fabric.device)
        module, fabric_optimizer = fabric.setup(step, optimizer)
        average = MovingAverage(model, config.average_decay) if config.average == "ema" else None
        state = TrainingState(step, optimizer, average, fabric.strategy.precision, Meters(fabric.device))
        if saved is not None:
            state.restore(saved, ranks)
        if config.compile:
            stack.enter_context(compiled_stages(step, config))
        # Not before: a download or decoding would go on for minutes with nothing to save at their end.
        stop = stack.enter_context(listening())
        first = ranks.rank == 0
        if first:
            warn_of_unreached(config)
            _warn_of_small_pieces(method, config, min(config.batch_size, len(splits.train)), ranks.size)
        about = environment(fabric.device, ranks.size)
        _on_first(ranks, lambda: _begin(run, config, _data_info(splits, model), state, about))
        loop = Loop(
            config=config,
            run=run,
            fabric=fabric,
            ranks=ranks,
            module=module,
            optimizer=fabric_optimizer,
            state=state,
            loaders=loaders,
            batch_images=min(config.batch_size, len(splits.train)),
            stop=stop,
            reporter=Reporter(
                progress if first else None,
                epochs=config.epochs,
                batches=len(loaders["train"]),
                done=state.epoch * len(loaders["train"]) + state.batch,
            ),
            board=stack.enter_context(
                TensorBoard(run.tensorboard if config.tensorboard and first else None, state.epoch + 1)
            ),
        )
        loop.go()
        if first:
            _finish(run, state)
        ranks.gather(None)  # nobody leaves before the results are written
    return run.path


def _warn_of_small_pieces(method: methods.Method, config: Config, batch: int, processes: int) -> None:
    """MultiMix mixes what one process has in memory, and its gradient depends on how many examples these are."""
    parts = config.accumulate * (1 if method.gathers else processes)
    mixed = -(-batch // parts)
    whole = any(isinstance(part, methods.MultiMix | methods.DenseMultiMix) for part in method.modules())
    if whole and mixed < min(batch, 128):
        gather = "" if parts == config.accumulate else ", and gather=True of the method mixes over all processes"
        warnings.warn(
            f"a step of {batch} images is mixed in parts of {mixed} (accumulate={config.accumulate}, processes: "
            f"{processes}), where the paper mixes 128 examples: batch_size={128 * parts} would do so here{gather}",
            stacklevel=2,
        )


def _on_first(ranks: Ranks, function: Callable[[], Any]) -> Any:
    """What `function` returns or raises on rank 0, on every rank."""
    outcome: tuple[Any, Exception | None] = None, None
    if ranks.rank == 0:
        try:
            outcome = function(), None
        except (ValueError, OSError) as error:
            outcome = None, error
    result, failure = ranks.first(outcome)
    if failure is not None:
        raise failure
    return result


def _data_info(splits: data.DataSplits, model: SplitModel) -> DataInfo:
    # The model may have statistics of its own (pretrained weights); what it uses is what must be kept.
    assert model.pixel_mean is not None
    assert model.pixel_std is not None
    used = {"mean": model.pixel_mean.flatten().tolist(), "std": model.pixel_std.flatten().tolist()}
    return cast(DataInfo, splits.identity() | used)


def _begin(run: RunDirectory, config: Config, data_info: DataInfo, state: TrainingState, about: dict[str, Any]) -> None:
    if run.config.is_file():
        _, before = run.read_config()
        refuse_other_data(before, data_info, run.path)
    run.checkpoints.mkdir(exist_ok=True)
    run.result.unlink(missing_ok=True)
    _give_up_exported(run)
    write_json(run.environment, about)
    run.write_metrics(state.history)
    # Last: a directory with a config.json is a run.
    run.write_config(config, data_info)


def _give_up_exported(run: RunDirectory) -> None:
    """Remove the weights of a run that had finished: they are read before the checkpoints, which will be newer."""
    for which in ("last", "best"):
        if run.weights(which).exists():
            # Whatever reads weights falls back to the checkpoint, so it must be there, and whole.
            with suppress(FileNotFoundError, CheckpointError):
                load_checkpoint(run.checkpoint(which))
                run.weights(which).unlink()


def _finish(run: RunDirectory, state: TrainingState) -> None:
    """Export the weights, then write result.json, whose presence means that the run has finished."""
    save_weights(run.weights("last"), state.evaluated.state_dict())
    best = best_record(state.history)
    try:
        checkpoint = load_checkpoint(run.checkpoint("best"))
        best = json.loads(checkpoint["history"])[-1]
        save_weights(run.weights("best"), model_weights(checkpoint))
    except (FileNotFoundError, CheckpointError) as error:
        warnings.warn(f"{error}: {run.weights('best').name} is not written", stacklevel=2)
    write_json(
        run.result,
        {
            "epochs": state.epoch,
            "steps": state.step,
            "seconds": state.seconds,
            "best_by": selection_metric(best),
            "best": best,
            "last": state.history[-1],
        },
    )
