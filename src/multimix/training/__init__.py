"""Training: a configuration, the loop, and run directories that can be resumed exactly.

>>> from multimix.training import Config
>>> Config(data="digits", model="smallnet", epochs=10).batch_size
128

`train(config, out)` leaves a run directory; `load_run(out)` gives the trained model back.
"""

from .checkpoint import CheckpointError
from .classify import class_names, classify
from .config import Config
from .evaluate import evaluate_model
from .interrupt import Interrupted
from .loop import DivergenceError
from .optimizers import learning_rate
from .progress import Progress
from .run import train
from .rundir import RunDirectory
from .step import TrainingStep
from .weights import load_run

__all__ = [
    "CheckpointError",
    "Config",
    "DivergenceError",
    "Interrupted",
    "Progress",
    "RunDirectory",
    "TrainingStep",
    "class_names",
    "classify",
    "evaluate_model",
    "learning_rate",
    "load_run",
    "train",
]
