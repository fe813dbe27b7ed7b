"""The fused operators: valid custom operators, equal to the functional layer, whatever the size of their blocks."""

import itertools
import math
import shutil

import pytest
import torch
import torch.distributed.nn  # before there are processes, or it would keep their group from ending
from tests.functional.oracles import loss_loop, make_targets, normal, rng, simplex
from torch import Tensor

from multimix.functional import attend, expected_mixed_cross_entropy, mixed_cross_entropy, sample_weights, sampling
from multimix.kernels import closed_form, logits_space, ops
from multimix.kernels.closed_form import _expected
from multimix.kernels.ops import _mixed, _sampled, _sampled_forward, refuse_capture, sampled_cross_entropy
from multimix.kernels.targets import Targets

KINDS = ["index", "soft", "any sum"]
ALPHA = {"low": torch.tensor(0.5, dtype=torch.float64), "high": torch.tensor(2.0, dtype=torch.float64)}

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile on the CPU needs a C++ compiler"
)


@pytest.mark.parametrize(("b", "depth"), [(4, 1.0), (4, 100.0), (64, 100.0), (4, 300.0), (4, 1e4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_deep_below_the_first_do_not_underflow(b, depth, dtype) -> None:
    # Every class is first for one example: a uniform mixture lies (b - 1) / b of the depth below all first ones.
    logits = -depth * (1 - torch.eye(b, dtype=dtype)[None])
    sums = logits_space.Accumulator(logits, torch.arange(b), gradient=True)
    sums.add(slice(0, 1), torch.full((1, 3, b), 1 / b, dtype=dtype), torch.ones(1, 3, dtype=dtype))
    loss, gradient = sums.finish()
    torch.testing.assert_close(loss, torch.tensor([3 * math.log(b)], dtype=dtype), rtol=1e-5, atol=1e-7 * depth)
    torch.testing.assert_close(gradient, torch.zeros_like(logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("b", "c"), [(9, 3), (4, 3), (4, 8), (4, 9)])  # mixed targets, by sums or not; a Gram matrix
def test_class_indices_are_one_hot_targets_whatever_the_sizes(b, c) -> None:
    logits, lam, w = normal(2, b, c, seed=0, scale=3), simplex(2, 7, b, seed=1), simplex(2, 7, seed=2)
    labels = torch.randint(c, (b,), generator=rng(3))
    found = []
    for targets in (labels, torch.nn.functional.one_hot(labels, c).double()):
        sums = logits_space.Accumulator(logits, targets, gradient=True)
        for part in (slice(0, 3), slice(3, 7)):
            sums.add(slice(0, 2), lam[:, part], w[:, part])
        found.append(sums.finish())
    wanted = [loss_loop(logits[p : p + 1], labels, lam[p : p + 1], w[p : p + 1], "position") for p in range(2)]
    for loss, gradient in found:
        torch.testing.assert_close(loss, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "dtype", "gradient", "details"), [
    ("index", torch.float32, True, False), ("index", torch.float64, True, True), ("soft", torch.float32, True, True),
    ("index", torch.float32, False, False), ("soft", torch.bfloat16, True, False),
    ("any sum", torch.float64, False, True),
])  # fmt: skip
def test_mixed_is_a_valid_operator(kind, dtype, gradient, details) -> None:
    r, n, b, c = 2, 5, 4, 3
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    logits = normal(r, b, c, seed=0).to(dtype).requires_grad_(gradient)
    lam = simplex(r, n, b, seed=1).to(compute).requires_grad_(details)
    w = simplex(r, n, seed=2).to(compute).requires_grad_(details)
    torch.library.opcheck(_mixed, (logits, make_targets(kind, b, c), lam, w, gradient, details))


def test_a_cuda_graph_would_repeat_what_comes_from_the_host(monkeypatch) -> None:
    # torch.compile leaves operators of this tag out of the graphs of "reduce-overhead".
    for operator in (_sampled, _expected):
        assert torch.Tag.cudagraph_unsafe in operator.tags
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    refuse_capture(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="compute the loss outside"):
        refuse_capture(torch.device("cuda"))


@pytest.mark.parametrize("limit", [False, True])
def test_operators_that_take_from_the_host_ask_whether_they_are_captured(limit, monkeypatch) -> None:
    asked: list[torch.device] = []
    for module in (ops, closed_form):
        monkeypatch.setattr(module, "refuse_capture", asked.append)
    logits, labels = normal(1, 4, 3, seed=0), torch.arange(4) % 3
    if limit:
        expected_mixed_cross_entropy(logits, labels, implementation="fused")
    else:
        sampled_cross_entropy(logits, labels, None, torch.tensor(1), n=5, m=None, **ALPHA, normalize="position")
    assert asked == [logits.device]


def test_negative_classes_do_not_count_from_the_end() -> None:
    targets, values = Targets(torch.tensor([0, -1]), 3, torch.float64), normal(2, 2, 3, seed=0)
    for look_up in (targets.of, targets.of_classes, lambda values: targets.subtract(values, values[:, :, 0])):
        with pytest.raises((IndexError, RuntimeError)):
            look_up(values)


@pytest.mark.parametrize("c", [3, 8, 10, 30])
def test_a_masked_class_changes_nothing(c) -> None:
    logits, lam, w = normal(1, 8, c, seed=0), simplex(1, 5, 8, seed=1), simplex(1, 5, seed=2)
    labels, found = torch.randint(c, (8,), generator=rng(3)), []
    for given in (logits, torch.cat([logits, torch.full((1, 8, 1), -math.inf, dtype=torch.float64)], 2)):
        sums = logits_space.Accumulator(given, labels, gradient=True)
        sums.add(slice(0, 1), lam, w)
        found.append(sums.finish())
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1][..., :c], found[0][1])
    assert not found[1][1][..., c:].any()


@pytest.mark.parametrize(("kind", "dtype", "attended", "pooled", "m"), [
    ("index", torch.float32, True, False, 4), ("soft", torch.float64, True, True, 2),
    ("index", torch.bfloat16, False, True, 4), ("any sum", torch.float16, False, False, 1),
])  # fmt: skip
@pytest.mark.parametrize("gradient", [True, False])
def test_sampled_is_a_valid_operator(kind, dtype, attended, pooled, m, gradient) -> None:
    r, n, b, c = 2, 5, 4, 3
    logits = normal(r, b, c, seed=0).to(dtype).requires_grad_(gradient)
    a = torch.rand(b, r, generator=rng(1)) if attended else None
    options = torch.tensor(7), *ALPHA.values(), n, m, pooled, logits.requires_grad
    torch.library.opcheck(_sampled, (logits, make_targets(kind, b, c), a, *options))


def drawn_and_kept(
    logits: Tensor, targets: Tensor, a: Tensor | None, seed: Tensor, n: int, m: int | None, alpha, normalize: str
) -> Tensor:
    """What `sampled_cross_entropy` says it computes, with every tensor in memory."""
    r, b, _ = logits.shape
    lam, s = sample_weights(n, b, m, alpha, r, rng(int(seed)), dtype=logits.dtype), None
    if a is not None:
        lam, s = attend(lam, a)
    return mixed_cross_entropy(logits, targets, lam, s, normalize, "reference")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("m", [None, 2])
@pytest.mark.parametrize("blocks", [(2**17, 2**19), (1, 1), (13, 50), (40, 7)])
def test_sampled_equals_sampling_and_mixing(monkeypatch, kind, normalize, attended, m, blocks) -> None:
    monkeypatch.setattr(sampling, "_BLOCK_CPU", blocks[0])
    monkeypatch.setattr(logits_space, "_BLOCK_CPU", blocks[1])
    r, n, b, c = 3, 11, 5, 4
    logits, targets = normal(r, b, c, seed=0, scale=3).requires_grad_(), make_targets(kind, b, c)
    a, seed = None, torch.tensor(5)
    if attended:
        a = torch.rand(b, r, generator=rng(1), dtype=torch.float64) + 0.1
        a[:, 1] = 0
    loss = sampled_cross_entropy(logits, targets, a, seed, n=n, m=m, **ALPHA, normalize=normalize)
    expected = drawn_and_kept(logits, targets, a, seed, n, m, (0.5, 2.0), normalize)
    assert torch.allclose(loss, expected, rtol=1e-11)
    ours, theirs = (torch.autograd.grad(2 * value, logits)[0] for value in (loss, expected))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-14)


def test_sampled_can_be_differentiated_twice() -> None:
    logits, labels = normal(2, 4, 3, seed=0).requires_grad_(), torch.tensor([0, 2, 1, 1])
    for attention, normalize in itertools.product([None, simplex(4, 2, seed=1)], ["position", "global"]):

        def function(logits: Tensor, a: Tensor | None = attention, normalize: str = normalize) -> Tensor:
            seed = torch.tensor(3)
            return sampled_cross_entropy(logits, labels, a, seed, n=6, m=None, **ALPHA, normalize=normalize)

        assert torch.autograd.gradcheck(function, logits)
        assert torch.autograd.gradgradcheck(function, logits)


def test_a_gradient_scaler_saves_small_float16_gradients() -> None:
    # 49 positions and 64 examples share a gradient of order 1: most entries are below float16's smallest number.
    half, labels = normal(49, 64, 100, seed=0, scale=3).half(), make_targets("index", 64, 100)
    options = {"n": 20, "m": None, **ALPHA, "normalize": "position"}
    gradients = []
    for logits, scale in ((half.float(), 1.0), (half, 2.0**16)):
        logits.requires_grad_()
        loss = sampled_cross_entropy(logits, labels, None, torch.tensor(5), **options)
        gradients.append(torch.autograd.grad(scale * loss, logits)[0].double() / scale)
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


@pytest.mark.parametrize("block", [1, 3, 17, 64, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_size_of_blocks_is_irrelevant(monkeypatch, block, kind) -> None:
    r, n, b, c = 3, 7, 4, 5
    targets = make_targets(kind, b, c)
    weight = torch.rand(r, n, generator=rng(2), dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (normal(r, b, c, seed=0, scale=3), simplex(r, n, b, seed=1), weight)]

    def both() -> tuple[Tensor, ...]:
        logits, lam, weight = inputs
        loss = mixed_cross_entropy(logits, targets, lam, weight)
        return loss, *torch.autograd.grad(loss, inputs)

    whole = both()
    monkeypatch.setattr(logits_space, "_BLOCK_CPU", block)
    for ours, theirs in zip(both(), whole, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-15)
    assert float(whole[0].detach()) == pytest.approx(
        loss_loop(*(t.detach() for t in (inputs[0], targets, *inputs[1:])), "position"), rel=1e-11
    )


def test_memory_does_not_grow_with_the_number_of_mixtures(monkeypatch) -> None:
    # The largest tensor any operation makes is a block, not n x c or n x b.
    limit = 4096
    monkeypatch.setattr(sampling, "_BLOCK_CPU", limit)
    monkeypatch.setattr(logits_space, "_BLOCK_CPU", limit)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    logits, labels = normal(1, 16, 64, seed=0).float(), make_targets("index", 16, 64)
    with Largest() as largest:  # 16 examples make the largest block of weights, 64 classes that of logits
        _sampled_forward(logits, labels, None, torch.tensor(1), *ALPHA.values(), 10_000, 16, False, True)
    assert limit / 2 < largest.elements <= limit


@needs_compiler
def test_compiled_equals_eager() -> None:
    logits, lam, labels = normal(4, 3, seed=0).float(), simplex(6, 4, seed=1).float(), torch.tensor([0, 2, 1, 1])
    weight = torch.rand(6, generator=rng(2))

    def step(logits: Tensor, lam: Tensor, weight: Tensor) -> Tensor:
        # Operations around the loss, so that there is something to compile.
        return 2 * mixed_cross_entropy(3 * logits, labels, lam.softmax(-1), weight.exp())

    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        inputs = [t.clone().requires_grad_() for t in (logits, lam, weight)]
        loss = function(*inputs)
        results.append((loss, *torch.autograd.grad(loss, inputs)))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-7)


def scaled_sampled(logits: Tensor, labels: Tensor, a: Tensor, seed: Tensor) -> Tensor:
    options = {"n": 6, "m": 3, **ALPHA, "normalize": "global"}
    return 2 * sampled_cross_entropy(3 * logits, labels, a, seed, **options)


def test_sampled_is_one_graph_whatever_the_seed() -> None:
    labels, a = torch.tensor([0, 2, 1, 1]), simplex(4, 2, seed=1).float()
    whole = torch.compile(scaled_sampled, fullgraph=True, backend="aot_eager")
    for seed in (5, 6):
        gradients = []
        for function in (scaled_sampled, whole):
            logits = normal(2, 4, 3, seed=0).float().requires_grad_()
            loss = function(logits, labels, a, torch.tensor(seed))
            gradients.append((loss, *torch.autograd.grad(loss, logits)))
        for eager, compiled in zip(*gradients, strict=True):
            assert torch.allclose(eager, compiled, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_loss_nor_gradient(dtype) -> None:
    logits = normal(2, 4, 3, seed=0).float().requires_grad_()
    inputs = torch.tensor([0, 2, 1, 1]), simplex(4, 2, seed=1).float(), torch.tensor(5)
    plain = scaled_sampled(logits, *inputs)
    with torch.autocast("cpu", dtype):
        cast = scaled_sampled(logits, *inputs)
    assert torch.equal(cast, plain)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (cast, plain)))


@pytest.mark.slow
def test_in_distributed_training_gradients_are_the_mean_over_devices(tmp_path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path / "store"),), nprocs=2)


def _one_of_two(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    head = torch.nn.Linear(5, 3)
    head.weight.data, head.bias.data = normal(3, 5, seed=0).float(), normal(3, seed=1).float()
    copies = [torch.nn.Linear(5, 3) for _ in range(2)]
    labels, a = torch.tensor([0, 2, 1, 1]), simplex(4, 2, seed=1).float()

    def loss(module: torch.nn.Module, device: int) -> Tensor:
        features = normal(2, 4, 5, seed=10 + device).float()
        return scaled_sampled(module(features), labels, a, torch.tensor(20 + device))

    wrapped = torch.nn.parallel.DistributedDataParallel(head)
    loss(wrapped, rank).backward()
    for device, copy in enumerate(copies):
        copy.load_state_dict(head.state_dict())
        loss(copy, device).backward()
    for ours, *theirs in zip(head.parameters(), *(copy.parameters() for copy in copies), strict=True):
        mean = (theirs[0].grad + theirs[1].grad) / 2
        assert (ours.grad - mean).norm() < 1e-5 * mean.norm()
    torch.distributed.destroy_process_group()
