"""Mixtures of the examples of all devices, against one process that has them all."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed.nn  # before there are processes, or it would keep their group from ending
from tests.functional.oracles import make_targets, normal, rng, simplex
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import multimix as mm

OF_RANK = slice(0, 3), slice(3, 8)
"""The examples of either process: not as many."""


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        for k, parameter in enumerate(self.parameters()):
            parameter.data = normal(*parameter.shape, seed=k).float()
        self.plain = mm.MultiMix(n=float("inf"), alpha=10.0)
        self.dense = mm.DenseMultiMix(n=float("inf"), alpha=10.0)
        self.gathering = mm.MultiMix(n=20, gather=True)
        self.gathering_dense = mm.DenseMultiMix(n=20, detach_attention=False, gather=True)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        features = self.encoder(tokens)
        embeddings = features.mean(1)
        of_all = mm.gather(labels)
        by_logits = self.plain.from_logits(mm.gather(self.head(embeddings)), of_all)
        by_features = self.dense(mm.gather(features), of_all, self.head)
        return by_logits + by_features + sum(self.by_criteria(features, embeddings, labels))

    def by_criteria(self, features: Tensor, embeddings: Tensor, labels: Tensor) -> list[Tensor]:
        """Through all ways of either criterion, with the same draws on all processes."""
        mlp, maps = nn.Sequential(self.head), labels[:, None].expand(len(labels), 4)
        return [
            self.gathering(embeddings, labels, self.head, rng(0)),
            self.gathering(embeddings, labels, lambda z: mlp(z), rng(1)),
            self.gathering_dense(features, labels, self.head, generator=rng(2)),
            self.gathering_dense(features, labels, lambda z: mlp(z), generator=rng(3)),
            self.gathering_dense(features, maps, self.head, generator=rng(4)),
        ]


def examples() -> tuple[Tensor, Tensor]:
    return normal(8, 4, 6, seed=5).float(), make_targets("index", 8, 3)


def test_without_other_processes_the_examples_are_returned() -> None:
    tokens, _ = examples()
    assert mm.gather(tokens) is tokens


@pytest.mark.parametrize("other", [torch.ones(2, 7), torch.ones(2, 5, 1), torch.ones(2, 5).double()], ids=str)
def test_what_differs_in_more_than_its_number_is_refused(monkeypatch: pytest.MonkeyPatch, other: Tensor) -> None:
    told: list[Tensor] = []  # by the other process, of its examples

    def all_gather(found: list[Tensor], mine: Tensor) -> None:
        told.extend([mine] * (not told))
        for place, given in zip(found, (told[0] if mine.dtype == torch.long else mine, mine), strict=True):
            place.copy_(given)

    monkeypatch.setattr("multimix.distributed.process_count", lambda: 2)
    for name, value in {"get_world_size": lambda: 2, "get_rank": lambda: 1, "all_gather": all_gather}.items():
        monkeypatch.setattr(torch.distributed, name, value)
    mm.gather(other)
    with pytest.raises(
        ValueError, match=r"got torch.float32 of shape \(3, 5\) on rank 1, .*pad sequences to one length"
    ):
        mm.gather(torch.ones(3, 5))


@pytest.mark.slow
def test_gradients_are_those_of_one_process_with_all_examples(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path / "store"),), nprocs=2)


def _one_of_two(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    step, (tokens, labels) = Step(), examples()
    whole = step(tokens, labels)
    whole.backward()
    expected = [parameter.grad for parameter in step.parameters()]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        own = OF_RANK[rank]
        assert torch.equal(mm.gather(labels[own]), labels)
        assert torch.equal(mm.gather(tokens[own].mT), tokens.mT)
        assert torch.equal(mm.gather(labels[own].short()), labels.short())
        wrapped = DistributedDataParallel(Step())
        loss = wrapped(tokens[own], labels[own])
        torch.testing.assert_close(loss, whole)
        loss.backward()
        for ours, gradient in zip(wrapped.parameters(), expected, strict=True):
            torch.testing.assert_close(ours.grad, gradient)
        with pytest.raises(ValueError, match="generator with the same seed"):
            mm.methods.parse("multimix(gather=True)")(mm.models.smallnet(num_classes=3, image_size=8), tokens, labels)
        with pytest.raises(ValueError, match=r"must agree in all but their number, got torch\.float32"):
            step.gathering_dense(tokens[own, : 3 + rank, :5], labels[own], step.head, generator=rng(2))
        _exact_dense_loss(rank)
        _a_process_without_examples(rank, tokens, labels)
    finally:
        torch.distributed.destroy_process_group()


def _a_process_without_examples(rank: int, tokens: Tensor, labels: Tensor) -> None:
    """It takes part all the same, or the others would wait for it."""
    step = Step()
    features = step.encoder(tokens)
    own = slice(0, 0) if rank == 0 else slice(0, 8)
    found = step.by_criteria(features[own], features.mean(1)[own], labels[own])
    # What it gives may come from no network: the others take gradients all the same.
    given = torch.zeros(0, 5) if rank == 0 else features.mean(1).detach().requires_grad_()
    mlp = nn.Sequential(step.head)
    step.gathering(given, labels[own], lambda z: mlp(z), rng(1)).backward()
    for criterion in (step.gathering, step.gathering_dense):
        criterion.gather = False
    torch.testing.assert_close(found, step.by_criteria(features, features.mean(1), labels))
    if rank == 1:
        whole = given.detach().requires_grad_()
        step.gathering(whole, labels, lambda z: mlp(z), rng(1)).backward()
        torch.testing.assert_close(given.grad, 2 * whole.grad)


def _exact_dense_loss(rank: int) -> None:
    """docs/numerics.md: (14) over the mixtures of all devices, by `normalize="none"`."""
    logits, lam, s = normal(2, 4, 3, seed=0), simplex(2, 10, 4, seed=1), torch.rand(2, 10, generator=rng(2)).double()
    labels = make_targets("index", 4, 3)
    expected = mm.functional.mixed_cross_entropy(logits, labels, lam, s)
    own = slice(0, 4) if rank == 0 else slice(4, 10)
    total = s[:, own].sum(1, keepdim=True)
    torch.distributed.all_reduce(total)
    part = mm.functional.mixed_cross_entropy(logits, labels, lam[:, own], s[:, own] / total / 2, normalize="none")
    torch.distributed.all_reduce(part)
    torch.testing.assert_close(part, expected)
