"""`Config`: one flat, typed value that says everything about a run; the command line and the recipes are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training run. A recipe is one of these; `multimix train` overrides its fields."""

    data: Literal["digits", "cifar10", "cifar100", "tinyimagenet", "imagenet", "imagefolder"]
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
    """Folder of the data set (for imagefolder: holds train/ and val/ or test/)."""
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
    augment: Literal["none", "crop", "crop-flip", "random-resized-crop"] = "crop-flip"
    """Training augmentation: shifted crops (4 pixels of black padding per 32), with flips, or ImageNet's."""
    workers: int = 2
    """Loader processes for data sets that are streamed from files."""
    bad_images: Literal["error", "skip"] = "error"
    """What an unreadable image does: stop with its name, or be skipped and counted."""

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
    schedule: Literal["constant", "step", "multistep", "cosine"] = "multistep"
    """Learning-rate schedule."""
    milestones: tuple[int, ...] = ()
    """Epochs at which multistep multiplies the learning rate by gamma; step repeats the first as its period."""
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
    """Decay of the exponential moving average per step."""

    # machine
    accelerator: str = "auto"
    """Device type: auto, cpu, cuda or mps."""
    devices: int = 1
    """Processes per node (under torchrun: set by it)."""
    nodes: int = 1
    """Number of nodes (under torchrun: set by it)."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Numeric precision of the network; mixing is always done in float32 or better."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = False
    """Keep images and weights in channels-last layout (faster on GPUs)."""

    # output
    checkpoint_minutes: float | None = None
    """Also save a checkpoint in the middle of an epoch when this long has passed since the last."""
    tensorboard: bool = True
    """Write TensorBoard files beside metrics.jsonl."""
