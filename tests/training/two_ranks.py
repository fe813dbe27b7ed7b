"""What each of two processes under torchrun does for test_distributed.py: python two_ranks.py OUT."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from multimix import methods, models
from multimix.training import Config, Interrupted, RunDirectory, train
from multimix.training.devices import leave_process_group

CONFIG = Config(
    data="digits",
    model="smallnet-w8",
    method="erm",
    per_class=20,
    val_per_class=5,
    augment="crop",
    batch_size=30,
    epochs=2,
    lr=0.05,
    momentum=0.9,
    schedule="constant",
    clip_norm=1.0,
    accelerator="cpu",
    tensorboard=False,
)

GATHERING = "either(multimix-alone(n=20, gather=True), dense-multimix-alone(n=20, detach_attention=False, gather=True))"


def without_batch_norm(build):
    """Models whose examples do not see each other, so that the number of processes cannot matter."""

    def plain(*args, **kwargs):
        model = build(*args, **kwargs)
        for stage in model.stages:
            stage[1] = torch.nn.Identity()
        return model

    return plain


class Recording(methods.Erm):
    """ERM that notes what its generator would draw, and what dropout would."""

    def forward(self, model, images, targets, generator=None, **extras):
        self.draws += [torch.rand(4, generator=source).tolist() for source in (generator, None)]
        return super().forward(model, images, targets, generator, **extras)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    with_batch_norm = models.build
    models.build = without_batch_norm(with_batch_norm)
    train(CONFIG, out / "erm")
    train(replace(CONFIG, accumulate=3), out / "accumulated")
    train(replace(CONFIG, method=GATHERING), out / "gathered")

    models.build = with_batch_norm
    mixed = replace(CONFIG, method="multimix(n=20)", average="ema")
    train(mixed, out / "whole")

    def interrupt(progress):
        if progress.batch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        train(mixed, out / "resumed", progress=interrupt)
    except Interrupted as stop:
        (out / f"interrupted{rank}").write_text(str(stop))
    train(mixed, out / "resumed", resume=True)

    Recording.draws = []
    parse, methods.parse = methods.parse, lambda _: Recording()
    train(CONFIG, out / "recorded")
    methods.parse = parse
    (out / f"draws{rank}.json").write_text(json.dumps(Recording.draws))

    try:
        train(CONFIG, out / "recorded")
    except FileExistsError as error:
        (out / f"error{rank}").write_text(str(error))

    if rank == 0:
        run = RunDirectory(out / "recorded")
        config, data_info = run.read_config()
        run.write_config(config, {**data_info, "train_examples": 1})
    try:
        train(replace(CONFIG, epochs=3), out / "recorded", resume=True)
    except ValueError as error:
        (out / f"changed{rank}").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_process_group()
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    (Path(sys.argv[1]) / f"threads{os.environ['RANK']}.json").write_text(json.dumps(threads))
