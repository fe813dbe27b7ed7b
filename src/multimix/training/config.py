"""`Config`: one flat, typed value that says everything about a run; the command line and the recipes are made of it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ..data.augmentation import Augment
from ..data.catalogue import Name
from ..data.opening import BadImages
from ..errors import nearest

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training run. A recipe is one of these; `multimix train` overrides its fields.

    Raises:
        ValueError: a field is out of its range, or two fields contradict each other.

    >>> from dataclasses import replace
    >>> recipe = Config(data="digits", model="smallnet", epochs=60, schedule="cosine")
    >>> replace(recipe, seed=3).seed
    3
    >>> Config.from_json(recipe.to_json()) == recipe
    True
    >>> replace(recipe, epochs=0)
    Traceback (most recent call last):
    ValueError: epochs must be at least 1, got 0
    """

    data: Name
    """Data set."""
    model: str = "preactresnet18"
    """Encoder: a name of `multimix.models.build`, or torchvision:NAME, or timm:NAME."""
    pretrained: bool = False
    """Start from the published weights of the torchvision or timm model."""
    method: str = "multimix"
    """Training method, e.g. multimix or "multimix(alpha=0.1, n=500)"."""
    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Examples per optimiser step, over all devices and accumulated micro-batches."""
    seed: int = 0
    """Seed of everything random in the run: weights, order, augmentation, mixing."""

    # data
    data_root: Path | None = None
    """Folder of the data set (for imagefolder: holds train/ and val/ or test/; for domains: DOMAIN/CLASS/IMAGE)."""
    held_out: str | None = None
    """For domains: the domain that is the test set; the others are trained on."""
    balance_domains: bool = False
    """For domains: as many examples of every source domain in each batch."""
    download: bool = True
    """Download the data set when it is not in data_root and the source allows it."""
    per_class: int | None = None
    """Train on this many examples of every class, chosen by subset_seed."""
    val_per_class: int = 0
    """Hold out this many training examples of every class as a validation split."""
    subset_seed: int = 0
    """Seed of the choice of examples for per_class and val_per_class (kept apart from seed, so that runs compare)."""
    image_size: int | None = None
    """Side of the square images; default: the data set's own."""
    augment: Augment = "crop-flip"
    """Training augmentation: crops shifted by up to 4 pixels (sides of 32 and 64), flips; or ImageNet's, and colors."""
    workers: int = 2
    """Loader processes for data sets that are streamed from files."""
    bad_images: BadImages = "error"
    """What to do about an unreadable image: stop and name it, or skip and count it."""

    # optimisation
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser."""
    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay_all: bool = True
    """Decay biases and normalisation parameters too (as the paper's recipes do); off is usual with AdamW."""
    schedule: Literal["constant", "step", "multistep", "cosine"] = "cosine"
    """Learning-rate schedule."""
    milestones: tuple[int, ...] = ()
    """multistep: epochs after which the learning rate is multiplied by gamma. step: one number, the epochs between."""
    gamma: float = 0.1
    """Factor of step and multistep."""
    warmup_epochs: float = 0.0
    """Linear warm-up from zero, before the schedule."""
    clip_norm: float | None = None
    """Clip the gradient's norm to this."""
    accumulate: int = 1
    """Micro-batches per optimiser step."""
    average: Literal["none", "ema"] = "none"
    """Weight averaging; the averaged weights are the ones evaluated and exported."""
    average_decay: float = 0.999
    """Decay of the exponential moving average per step; it grows to this from 0 over the first steps."""

    # machine
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type; auto takes a usable GPU (but not Apple's), else the CPU."""
    devices: int = 1
    """Processes per node (under torchrun: set by it)."""
    nodes: int = 1
    """Number of nodes (under torchrun: set by it)."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Numeric precision of the network; mixing is always done in float32 or better."""
    compile: bool = False
    """Compile the network with torch.compile."""
    cuda_graphs: bool = False
    """Replay the compiled network as CUDA graphs, which saves the launches from Python (GPU only; with compile)."""
    channels_last: bool = False
    """Keep images and weights in channels-last layout (faster on GPUs)."""
    deterministic: bool = False
    """Use deterministic kernels only: on a GPU, exact resume needs it, and it costs some speed."""

    # output
    evaluate_every: int = 1
    """Evaluate every so many epochs, and after the last; the best epoch is one of these."""
    evaluate_train: int = 0
    """Number of training images to evaluate too, neither augmented nor mixed: train_clean_accuracy in metrics.jsonl."""
    checkpoint_minutes: float | None = None
    """Also save a checkpoint in the middle of an epoch when this long has passed since the last one."""
    tensorboard: bool = True
    """Write TensorBoard files beside metrics.jsonl."""

    def __post_init__(self) -> None:
        # As it comes back from JSON: a list here would be another configuration on resume.
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be {_either(allowed)}, got {value!r}{nearest(str(value), allowed)}")
        for name, (low, strict) in _BOUNDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            finite = abs(value) <= sys.float_info.max  # Python's integers have no end; false of NaN
            if not finite or value < low or (strict and value == low):
                bound = f"{'above' if strict else 'at least'} {low}{'' if finite else ' and finite'}"
                raise ValueError(f"{name} must be {bound}, got {value}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must lie in [0, 1), got {self.average_decay}")
        if self.nesterov and (self.momentum == 0 or self.optimizer != "sgd"):
            raise ValueError("nesterov needs optimizer='sgd' and momentum above 0: set both, or leave nesterov off")
        if self.schedule in ("step", "multistep") and not self.milestones:
            raise ValueError(
                f"schedule={self.schedule!r} needs milestones, in epochs, got none: "
                "set milestones, or choose schedule='cosine' or 'constant'"
            )
        if any(b <= a for a, b in zip((0, *self.milestones), self.milestones, strict=False)):
            raise ValueError(f"milestones must be increasing epochs from 1 on, got {self.milestones}")
        if self.data != "domains" and (self.held_out is not None or self.balance_domains):
            raise ValueError(
                f"held_out and balance_domains belong to data='domains', got data={self.data!r}: leave them out"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}: the batch is "
                "what one optimiser step sees, and it is divided into that many micro-batches"
            )
        if self.cuda_graphs and (not self.compile or self.accumulate > 1):
            # The gradients of one micro-batch would lie in the memory that the graphs of the next write to.
            raise ValueError(
                f"cuda_graphs needs compile=True and accumulate=1, got compile={self.compile} and "
                f"accumulate={self.accumulate}: change these, or leave cuda_graphs off"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as a flat dictionary that JSON can hold; None stays null, paths become strings."""
        fields = dataclasses.asdict(self)
        return {key: str(value) if isinstance(value, Path) else value for key, value in fields.items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Config:
        """The inverse of `to_json`; fields that are absent take their defaults.

        Raises:
            ValueError: a field that this version does not know, with the nearest one it does.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ValueError(f"unknown configuration field {name!r}{nearest(name, known)}")
        values = dict(fields)
        if values.get("data_root") is not None:
            values["data_root"] = Path(values["data_root"])
        return cls(**values)


def _either(allowed: tuple[str, ...]) -> str:
    return ", ".join(allowed[:-1]) + f" or {allowed[-1]}"


_CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(hint)
    for name, hint in get_type_hints(Config).items()
    if getattr(hint, "__origin__", None) is Literal
}

# (lower bound, whether the bound itself is excluded)
_BOUNDS: dict[str, tuple[float, bool]] = {
    "epochs": (1, False),
    "batch_size": (1, False),
    "seed": (0, False),
    "subset_seed": (0, False),
    "per_class": (1, False),
    "val_per_class": (0, False),
    "image_size": (1, False),
    "workers": (0, False),
    "lr": (0, True),
    "weight_decay": (0, False),
    "gamma": (0, True),
    "warmup_epochs": (0, False),
    "clip_norm": (0, True),
    "accumulate": (1, False),
    "devices": (1, False),
    "nodes": (1, False),
    "evaluate_every": (1, False),
    "evaluate_train": (0, False),
    "checkpoint_minutes": (0, False),
}
