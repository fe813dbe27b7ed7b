"""How runs were trained, in one line, for the conditions of a page and the labels of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..training import Config


def of_plan(config: Config, seeds: Sequence[int], *, command: str, made: str, **more: str) -> dict[str, str]:
    """What decides the numbers of a page whose runs all have the options of `config`, by name.

    >>> of_plan(Config(data="digits"), [0, 1], command="multimix sweep", made="today", Split="test")["Seeds"]
    '0, 1'
    """
    return {
        "Data": data_name(config.data, config.data_root),
        "Network": config.model,
        "Training": training([config]),
        **more,
        "Seeds": ", ".join(map(str, seeds)),
        "Command": command,
        "Page made": made,
    }


def several(values: Iterable[Any]) -> str:
    """Every value once, where runs may differ.

    >>> several([0.1, 0.1, 0.2])
    '0.1 / 0.2'
    """
    return " / ".join(dict.fromkeys(str(value) for value in values))


def training(configs: Sequence[Config]) -> str:
    """Everything that decides how the weights were found, but for the data, the network and the method.

    >>> config = Config(data="digits", epochs=60, schedule="multistep", milestones=(20, 40))
    >>> print(training([config]).partition(", weight decay")[0])
    60 epochs, batches of 128, sgd with momentum 0.9, learning rate 0.1 (times 0.1 from epochs 20 and 40)
    """

    def of(describe: Callable[[Config], object]) -> str:
        return several(describe(config) for config in configs)

    said = [
        f"{of(lambda c: c.epochs)} epoch{'s' if any(c.epochs > 1 for c in configs) else ''}",
        f"batches of {of(_batch)}",
        of(_optimizer),
        f"learning rate {of(_learning_rate)}",
        f"weight decay {of(_weight_decay)}",
        f"augmentation {of(lambda c: c.augment)}",
        f"precision {of(lambda c: c.precision)}",
    ]
    unusual = [d for d in (_start, _clipping, _average) if any(d(config) != d(_USUAL) for config in configs)]
    return ", ".join(said + [of(describe) for describe in unusual])


def data_name(data: str, root: Path | None) -> str:
    """The name of the data set, or of the folder where it is one's own.

    >>> data_name("digits", None), data_name("imagefolder", Path("photos/birds"))
    ('digits', 'birds')
    """
    return root.resolve().name if root is not None and data in ("imagefolder", "domains") else data


def _optimizer(config: Config) -> str:
    if config.optimizer != "sgd":
        return config.optimizer
    return f"sgd with {'Nesterov ' if config.nesterov else ''}momentum {config.momentum:g}"


def _learning_rate(config: Config) -> str:
    schedule: str = config.schedule
    if config.schedule == "step":
        schedule = f"times {config.gamma:g} every {config.milestones[0]} epochs"
    elif config.schedule == "multistep":
        *first, last = map(str, config.milestones)
        schedule = f"times {config.gamma:g} from epochs {', '.join(first)}{' and ' if first else ''}{last}"
    warmup = f", {config.warmup_epochs:g} epochs of warm-up" if config.warmup_epochs else ""
    return f"{config.lr:g} ({schedule}{warmup})"


def _weight_decay(config: Config) -> str:
    return f"{config.weight_decay:g}" + ("" if config.decay_all else " (not of biases and normalisation)")


def _batch(config: Config) -> str:
    pieces = f" in {config.accumulate} micro-batches" if config.accumulate > 1 else ""
    return f"{config.batch_size}{pieces}{', balanced over domains' if config.balance_domains else ''}"


def _start(config: Config) -> str:
    return "from published weights" if config.pretrained else "from random weights"


def _clipping(config: Config) -> str:
    return (
        "gradients not clipped" if config.clip_norm is None else f"gradients clipped to a norm of {config.clip_norm:g}"
    )


def _average(config: Config) -> str:
    return "weights not averaged" if config.average == "none" else f"weights averaged (decay {config.average_decay:g})"


_USUAL = Config(data="digits")
"""What it has of these is said only where a run differs."""
