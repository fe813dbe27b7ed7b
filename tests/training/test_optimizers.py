"""Learning rates against torch's schedulers, and which parameters decay."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from multimix.training import Config, learning_rate
from multimix.training.optimizers import make_optimizer, parameter_groups, warn_of_unreached

BASE = Config(data="digits", lr=0.4, epochs=12)


def torch_rates(make, steps):
    """The rates a torch scheduler gives when it is stepped once for every optimiser step."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=BASE.lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("batches", [1, 7])
@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine"])
def test_schedules_match_torch(schedule, batches):
    steps = BASE.epochs * batches
    config = replace(BASE, schedule=schedule, milestones=(4, 9), gamma=0.3)
    expected = {
        "constant": lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
        "step": lambda o: lr_scheduler.StepLR(o, 4 * batches, gamma=0.3),
        "multistep": lambda o: lr_scheduler.MultiStepLR(o, [4 * batches, 9 * batches], gamma=0.3),
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=steps),
    }[schedule]
    ours = [learning_rate(config, step, batches) for step in range(steps)]
    assert ours == pytest.approx(torch_rates(expected, steps), abs=1e-12)


def test_warm_up_is_linear_and_the_cosine_starts_after_it():
    config = replace(BASE, schedule="cosine", warmup_epochs=2.5)
    rates = [learning_rate(config, step, 4) for step in range(48)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    # Half way between the end of the warm-up (10) and of the run (48), the cosine is at half its height.
    assert learning_rate(config, 29, 4) == pytest.approx(0.2)


@pytest.mark.parametrize(("epochs", "batches", "warmup"), [(0.29, 100, 29), (0.7, 4, 3), (1.4, 1, 1)])
def test_parts_of_an_epoch_are_warmed_up_over_the_nearest_number_of_steps(epochs, batches, warmup):
    config = replace(BASE, schedule="constant", warmup_epochs=epochs)  # 0.29 * 100 < 29 as floating point has it
    expected = [0.4 * min(1, (step + 1) / warmup) for step in range(2 * warmup)]
    assert [learning_rate(config, step, batches) for step in range(2 * warmup)] == pytest.approx(expected)


def test_biases_norms_and_tokens_are_spared_unless_all_decay():
    net = nn.Module()
    net.linear = nn.Linear(3, 2)
    net.norm = nn.BatchNorm2d(4)
    net.conv = nn.Conv2d(3, 4, 1, bias=False)
    net.body = nn.Module()
    for token in ("pos_embed", "cls_token", "reg_token", "dist_token"):  # as timm calls them
        setattr(net.body, token, nn.Parameter(torch.zeros(1, 5, 3)))
    net.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    decayed, spared = parameter_groups(net, weight_decay=0.1, decay_all=False)
    assert {id(p) for p in decayed["params"]} == {id(net.linear.weight), id(net.conv.weight)}
    assert len(spared["params"]) == 7
    assert spared["weight_decay"] == 0
    [everything] = parameter_groups(net, weight_decay=0.1, decay_all=True)
    assert len(everything["params"]) == 9


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(nn.ReLU(), weight_decay=0.1, decay_all=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizer_takes_the_configured_step(optimizer):
    config = replace(BASE, optimizer=optimizer, weight_decay=0.5, momentum=0.9, nesterov=optimizer == "sgd")
    net = nn.Linear(2, 1, bias=False)
    weight, gradient = net.weight.detach().clone().double(), torch.tensor([[0.3, -0.2]])
    made = make_optimizer(net, config, device=torch.device("cpu"))
    net.weight.grad = gradient.clone()
    made.step()
    if optimizer == "sgd":  # the first nesterov step is g + momentum g, with g the decayed gradient
        expected = weight - config.lr * 1.9 * (gradient + 0.5 * weight)
    else:  # bias-corrected moments of the first step are g and g squared
        expected = weight * (1 - config.lr * 0.5) - config.lr * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(net.weight.detach().double(), expected.double(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_fused_step_is_the_plain_one_and_resumes_as_it(optimizer):
    config = replace(BASE, optimizer=optimizer, lr=0.05, weight_decay=0.1, nesterov=optimizer == "sgd")
    generator = torch.Generator().manual_seed(0)
    fused_net, plain_net = nn.Linear(7, 5), nn.Linear(7, 5)
    plain_net.load_state_dict(fused_net.state_dict())
    fused = make_optimizer(fused_net, config, device=torch.device("cpu"))
    assert fused.defaults["fused"]
    plain_config = replace(config, precision="16-mixed", clip_norm=1.0)  # for which there is no fused kernel
    plain = make_optimizer(plain_net, plain_config, device=torch.device("cpu"))
    assert not plain.defaults["fused"]
    for step in range(20):
        if step == 10:  # each goes on from the other's state
            states = fused.state_dict()["state"], plain.state_dict()["state"]
            for made, state in ((fused, states[1]), (plain, states[0])):
                made.load_state_dict({**made.state_dict(), "state": state})
        for a, b in zip(fused_net.parameters(), plain_net.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        fused.step()
        plain.step()
    for a, b in zip(fused_net.parameters(), plain_net.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_first_step_that_overflows_leaves_no_momentum() -> None:
    """Fused SGD of PyTorch begins with uninitialised momenta, and a step that overflows writes none."""
    net = nn.Linear(300, 300)
    made = make_optimizer(net, replace(BASE, momentum=0.9), device=torch.device("cpu"))
    junk = [torch.full_like(p, 1e30) for p in net.parameters()]
    del junk  # what memory is made of next
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.full_like(p, math.inf)
    made.grad_scale, made.found_inf = torch.tensor(2.0**16), torch.tensor(1.0)
    made.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert all(not made.state[p]["momentum_buffer"].any() for p in net.parameters())


def test_parameters_that_join_later() -> None:
    nets = nn.Linear(3, 2), nn.Linear(3, 2)
    late, reference = nets[0], nets[1]
    made = make_optimizer(
        nn.ModuleList(nets), replace(BASE, momentum=0.9, weight_decay=0.0), device=torch.device("cpu")
    )
    for step in range(3):
        for net in nets:
            for p in net.parameters():
                p.grad = torch.ones_like(p) if step or net is reference else None
        made.step()
    assert not any(torch.equal(made.state[a]["momentum_buffer"], made.state[b]["momentum_buffer"])
                   for a, b in zip(late.parameters(), reference.parameters(), strict=True))  # fmt: skip
    assert torch.allclose(made.state[late.bias]["momentum_buffer"], torch.tensor([1.9, 1.9]))
    assert torch.allclose(made.state[reference.bias]["momentum_buffer"], torch.tensor([2.71, 2.71]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_state_in_another_memory_layout_is_laid_out_anew(optimizer) -> None:
    config = replace(BASE, optimizer=optimizer, weight_decay=0.0, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(2, 4, 3, 3, 3, generator=generator)
    rows = nn.Conv2d(3, 4, 3, bias=False)
    columns = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    ours = make_optimizer(rows, config, device=torch.device("cpu"))
    rows.weight.grad = gradients[0].clone()
    ours.step()
    other = make_optimizer(columns, config, device=torch.device("cpu"))
    columns.load_state_dict(rows.state_dict())
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    for net, made in ((rows, ours), (columns, other)):
        net.weight.grad = torch.empty_like(net.weight).copy_(gradients[1])
        made.step()
    assert columns.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(rows.weight, columns.weight, atol=1e-6)


def test_state_is_laid_out_anew_whenever_it_is_loaded() -> None:
    """Also after the first step."""
    net = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    made = make_optimizer(net, replace(BASE, weight_decay=0.0, momentum=0.9), device=torch.device("cpu"))
    net.weight.grad = torch.ones_like(net.weight)
    made.step()
    kept = made.state_dict()
    momentum = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    kept["state"][0]["momentum_buffer"] = momentum.clone()
    made.load_state_dict(kept)
    expected = net.weight.detach() - 0.4 * (0.9 * momentum + 1)
    made.step()
    torch.testing.assert_close(net.weight.detach(), expected, check_stride=False)


def test_the_count_of_steps_of_a_scalar_stays_as_it_is() -> None:
    net = nn.ParameterList([nn.Parameter(torch.tensor(0.5, dtype=torch.float64)), nn.Parameter(torch.ones(2).double())])
    made = make_optimizer(net, replace(BASE, optimizer="adamw"), device=torch.device("cpu"))
    for _ in range(2):
        for p in net:
            p.grad = torch.ones_like(p)
        made.step()
        made.load_state_dict(copy.deepcopy(made.state_dict()))
    assert {made.state[p]["step"].dtype for p in net} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"warmup_epochs": 5}, "the learning rate only rises, to 0.06 of 0.1: warmup_epochs=5 is more than epochs=3"),
        ({"schedule": "multistep", "milestones": (3, 4)}, r"never falls: the first of the milestones \(3, 4\) is not"),
        ({"schedule": "step", "milestones": (30,)}, "never falls"),
        ({"schedule": "cosine", "milestones": (1, 2)}, r"milestones \(1, 2\) do nothing under schedule='cosine': set"),
    ],
)
def test_a_schedule_that_does_other_than_asked_is_warned_of(changes: dict[str, object], told: str) -> None:
    with pytest.warns(UserWarning, match=told):
        warn_of_unreached(Config(data="digits", epochs=3, lr=0.1, **changes))


@pytest.mark.parametrize("changes", [{"warmup_epochs": 3}, {"schedule": "multistep", "milestones": (2, 30)}])
def test_a_schedule_that_is_reached_is_not(changes: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unreached(Config(data="digits", epochs=3, **changes))
