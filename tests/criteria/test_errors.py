"""What users of the criteria get wrong: one error each, that states what was received and the fix."""

# ruff: noqa: E501 (a table: one case, one line)

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from multimix import DenseMultiMix, MultiMix

Z, TOKENS, MAPS = torch.ones(4, 3), torch.ones(4, 6, 3), torch.ones(4, 3, 2, 3)
LABELS, HEAD = torch.tensor([0, 1, 2, 3]), nn.Linear(3, 5)
MASK = torch.ones(4, 6, dtype=torch.bool)


def mlp(z: torch.Tensor) -> torch.Tensor:
    return HEAD(z).relu()


CASES = [
    # making one
    (lambda: MultiMix(n=0), ValueError, "n must be at least 1, got 0"),
    (lambda: MultiMix(n=10.0), TypeError, r"n must be an integer, got 10.0 \(float\)"),
    (lambda: MultiMix(n=math.nan), TypeError, "n must be an integer, got nan"),
    (lambda: MultiMix(n=-math.inf), TypeError, "n must be an integer, got -inf"),
    (lambda: MultiMix(m=0), ValueError, "m must be at least 1, got 0"),
    (lambda: MultiMix(m=2.0), TypeError, "m must be an integer, got 2.0"),
    (lambda: MultiMix(alpha=0.0), ValueError, "alpha must be positive and finite, .*got 0.0"),
    (lambda: MultiMix(alpha=(2, 1)), ValueError, r"low <= high, got \(2, 1\)"),
    (lambda: MultiMix(alpha="1"), TypeError, "alpha must be a number or a pair"),
    (lambda: MultiMix(alpha=torch.tensor(1.0)), TypeError, r"alpha must be a number or a pair .*got tensor\(1.\) \(Tensor\)"),
    (lambda: MultiMix(spread_weight=2.0), ValueError, r"spread_weight=2.0 needs the closed form, n=math.inf; got n=1000"),
    (lambda: DenseMultiMix(math.inf, spread_weight=-1), ValueError, "spread_weight must be at least 0 and finite, got -1"),
    (lambda: MultiMix(implementation="fast"), ValueError, "'auto', 'triton', 'reference', got 'fast'"),
    (lambda: DenseMultiMix(attention="cls"), ValueError, "attention must be one of 'gap', 'cam', 'uniform', got 'cls'"),
    (lambda: DenseMultiMix(nonlinearity="tanh"), ValueError, "nonlinearity must be one of .*got 'tanh'"),
    (lambda: DenseMultiMix(normalize="mean"), ValueError, "normalize must be one of .*got 'mean'"),
    # embeddings and features
    (lambda: MultiMix()(Z[:0], LABELS[:0], HEAD), ValueError, r"at least one example, got shape \(0, 3\)"),
    (lambda: MultiMix()(Z[:0], LABELS[:0], mlp), ValueError, r"at least one example, got shape \(0, 3\)"),
    (lambda: MultiMix()(Z[0], LABELS, HEAD), ValueError, r"embeddings must be \(b, d\) .*got shape \(3,\)"),
    (lambda: MultiMix()(MAPS, LABELS, HEAD), ValueError, r"got \(4, 3, 2, 3\): pool over the positions first, or use DenseMultiMix"),
    (lambda: MultiMix()(Z[..., None, None], LABELS, HEAD), ValueError, r"got \(4, 3, 1, 1\): embeddings.flatten\(1\)"),
    (lambda: DenseMultiMix()(torch.nested.nested_tensor([TOKENS[0], TOKENS[1, :2]], layout=torch.jagged), LABELS[:2], HEAD), TypeError, r"got a nested one: features.to_padded_tensor\(0.0\)"),
    (lambda: MultiMix()(Z.numpy(), LABELS, HEAD), TypeError, "embeddings must be a tensor, got ndarray"),
    (lambda: MultiMix(gather=True)(Z[:0], LABELS[:0], HEAD), ValueError, "no examples cannot be mixed"),
    (lambda: MultiMix(gather=True)(Z[:0], LABELS[:0], mlp), ValueError, "no examples cannot be mixed"),
    (lambda: DenseMultiMix(gather=True)(TOKENS[:0], LABELS[:0], mlp), ValueError, "no examples cannot be mixed"),
    (lambda: MultiMix()(Z.long(), LABELS, HEAD), TypeError, "embeddings must be floating point, got torch.int64"),
    (lambda: MultiMix()(Z, LABELS, (HEAD, HEAD)), TypeError, "the classifier must be a layer or a function, got tuple"),
    (lambda: DenseMultiMix()(MAPS, LABELS, None), TypeError, "the classifier must be a layer or a function, got NoneType"),
    (lambda: setattr(MultiMix(), "n", 0), ValueError, "n must be at least 1, got 0"),
    (lambda: MultiMix()(Z, LABELS[:, None], HEAD), ValueError, r"got \(4, 1\); give targets.squeeze\(1\)"),
    (lambda: MultiMix()({"logits": Z}, LABELS, HEAD), TypeError, r"got dict: pick one out, such as \.logits"),
    (lambda: MultiMix().from_logits(Z.numpy(), LABELS), TypeError, "logits must be a tensor, got ndarray"),
    (lambda: MultiMix().from_logits(Z.long(), LABELS), TypeError, "logits must be floating point, got torch.int64"),
    (lambda: DenseMultiMix().from_logits(TOKENS.numpy(), LABELS), TypeError, "logits must be a tensor, got ndarray"),
    (lambda: MultiMix().from_logits(TOKENS, LABELS), ValueError, r"logits must be \(b, c\), got \(4, 6, 3\)"),
    (lambda: MultiMix().from_logits(Z[:0], LABELS[:0]), ValueError, r"no examples cannot be mixed, got shape \(.*0, 3\)"),
    (lambda: MultiMix(math.inf).from_logits(Z[:0], LABELS[:0]), ValueError, r"no examples.*got shape \(.*0, 3\)"),
    (lambda: DenseMultiMix()(Z, LABELS, HEAD), ValueError, r"\(b, d, \*spatial\) or \(b, r, d\) .*got \(4, 3\)"),
    (lambda: DenseMultiMix()(TOKENS[:0], LABELS[:0], HEAD), ValueError, r"at least one example, got \(0, 6, 3\)"),
    (lambda: DenseMultiMix()(TOKENS[:, :0], LABELS, HEAD), ValueError, r"at least one position, got .*\(4, 0, 3\)"),
    (lambda: DenseMultiMix()(TOKENS.long(), LABELS, HEAD), TypeError, "features must be floating point, got torch.int64"),
    (lambda: DenseMultiMix().from_logits(Z, LABELS), ValueError, r"logits must be \(b, r, c\) .*got \(4, 3\)"),
    (lambda: DenseMultiMix().from_logits(TOKENS, LABELS, torch.ones(4, 9)), ValueError, r"attention must be \(4, 6\) .*got \(4, 9\)"),
    (lambda: DenseMultiMix().from_logits(TOKENS[:, :0], LABELS), ValueError, r"at least one position, got \(4, 0, 3\)"),
    (lambda: DenseMultiMix().from_logits(TOKENS, LABELS, np.ones((4, 6))), TypeError, "attention must be a tensor, got ndarray"),
    (lambda: DenseMultiMix().from_logits(TOKENS, LABELS, torch.Generator()), TypeError, "got Generator: pass generator=... by name"),
    # targets
    (lambda: MultiMix()(Z, LABELS + 2, HEAD), ValueError, r"in \[0, 4\] for 5 classes, got values in \[2, 5\]"),
    (lambda: MultiMix()(Z, LABELS + 2, mlp), ValueError, r"in \[0, 4\] for 5 classes, got values in \[2, 5\]"),
    (lambda: MultiMix()(Z, LABELS[:3], HEAD), ValueError, r"class indices of shape \(4,\), got \(3,\)"),
    (lambda: MultiMix()(Z, LABELS[:3], mlp), ValueError, r"class indices of shape \(4,\), got \(3,\)"),
    (lambda: MultiMix()(Z, LABELS.float(), HEAD), ValueError, "for class indices use an integer dtype"),
    (lambda: MultiMix(math.inf)(Z, torch.ones(4, 6), HEAD), ValueError, r"\(4, 5\), got \(4, 6\)"),
    (lambda: DenseMultiMix()(TOKENS, LABELS + 2, HEAD), ValueError, r"in \[0, 4\] for 5 classes"),
    (lambda: DenseMultiMix()(TOKENS, LABELS + 2, mlp), ValueError, r"in \[0, 4\] for 5 classes"),
    (lambda: DenseMultiMix()(TOKENS, torch.ones(4, 7, dtype=torch.long), HEAD), ValueError, r"class indices \(4, 6\) .*got torch.int64 of shape \(4, 7\)"),
    (lambda: MultiMix()(Z, LABELS - 100, HEAD), ValueError, r"got values in \[-100, -97\]; leave examples without a label out"),
    (lambda: MultiMix()(Z, [0, 1, 2, 3], HEAD), TypeError, r"tensor of class indices \(b,\) or probabilities \(b, c\), got list: torch.as_tensor"),
    (lambda: MultiMix()(Z, LABELS > 1, HEAD), TypeError, r"got torch.bool: targets.long\(\) for class indices"),
    (lambda: MultiMix()(Z, LABELS.to(torch.complex64), HEAD), TypeError, "got torch.complex64$"),
    (lambda: MultiMix()(Z, HEAD, LABELS), TypeError, "classifier must be a layer or a function, got Tensor"),
    (lambda: DenseMultiMix()(TOKENS, HEAD, LABELS), TypeError, "classifier must be a layer or a function, got Tensor"),
    *((lambda criterion=criterion, head=head: criterion(TOKENS if isinstance(criterion, DenseMultiMix) else Z, torch.eye(5)[:4] - 0.25, head),
       ValueError, "class probabilities, which are at least 0, got -0.25")
      for criterion in (MultiMix(7), DenseMultiMix(7)) for head in (HEAD, mlp)),
    (lambda: DenseMultiMix(7)(TOKENS, torch.full((4, 6, 5), -1.0), HEAD), ValueError, "at least 0, got -1"),
    # classifiers
    (lambda: MultiMix(7)(Z, LABELS, lambda z: (HEAD(z),)), TypeError, r"must return logits, got tuple: pass a function .*classifier\(z\)\[0\]$"),
    (lambda: DenseMultiMix(7)(TOKENS, LABELS, lambda z: {"logits": HEAD(z)}), TypeError, "must return logits, got dict.*logits$"),
    (lambda: MultiMix(math.inf)(Z, LABELS, mlp), ValueError, r"n=math.inf needs a linear classifier \(nn.Linear or a 1x1 convolution\), got mlp"),
    (lambda: DenseMultiMix(math.inf)(TOKENS, LABELS, nn.ReLU()), ValueError, "needs a linear classifier .*got ReLU"),
    (lambda: MultiMix(7)(Z, LABELS, lambda z: z.mean(1)), ValueError, r"must return logits \(7, classes\), got \(7,\)"),
    (lambda: MultiMix(7)(Z, LABELS, lambda z: z[:3]), ValueError, r"must return logits \(7, classes\), got \(3, 3\)"),
    (lambda: MultiMix(7)(Z, LABELS.to("meta"), HEAD), ValueError, r"targets are on meta, what they go with is on cpu: move them, targets.to\('cpu'\)"),
    (lambda: MultiMix(7)(Z, LABELS.to("meta"), mlp), ValueError, "targets are on meta"),
    (lambda: MultiMix(math.inf)(Z, LABELS.to("meta"), HEAD), ValueError, "targets are on meta"),
    (lambda: DenseMultiMix(7)(MAPS, LABELS.to("meta"), HEAD), ValueError, "targets are on meta"),
    (lambda: DenseMultiMix(7)(MAPS, LABELS.to("meta"), nn.Conv2d(3, 5, 3, padding=1)), ValueError, "targets are on meta"),
    (lambda: DenseMultiMix(7)(MAPS, LABELS.to("meta")[:, None].expand(4, 6), HEAD), ValueError, "targets are on meta"),
    (lambda: DenseMultiMix(7)(MAPS, LABELS, lambda z: z.mean((2, 3))), ValueError, r"keep the positions .*n=7, got \(7, 3\): leave out its pooling, or use MultiMix"),
    (lambda: DenseMultiMix(7)(TOKENS, LABELS, lambda z: z[:, 0]), ValueError, r"keep the positions .*\(n, 6, classes\) with n=7, got \(7, 3\)"),
    (lambda: DenseMultiMix(7)(TOKENS, LABELS, lambda z: z[:, 1:]), ValueError, r"keep the positions .*\(n, 6, classes\) with n=7, got \(7, 5, 3\)"),
    (lambda: DenseMultiMix(attention="cam")(TOKENS, LABELS, mlp), ValueError, "attention='cam' needs a classifier that is one .*got function: use attention='gap'"),
    (lambda: DenseMultiMix(attention="cam")(TOKENS, LABELS, nn.Sequential(HEAD)), ValueError, "got Sequential"),
    (lambda: MultiMix()(Z, LABELS * 0, nn.Linear(3, 1)), ValueError, "one class, .* takes two logits for two classes"),
    (lambda: MultiMix(math.inf)(Z, LABELS[:, None].float(), nn.Linear(3, 1)), ValueError, "one class"),
    (lambda: MultiMix()(Z, LABELS * 0, nn.Sequential(nn.ReLU(), nn.Linear(3, 1))), ValueError, "one class"),
    (lambda: DenseMultiMix()(TOKENS, LABELS * 0, nn.Linear(3, 1)), ValueError, "one class"),
    (lambda: DenseMultiMix()(TOKENS, LABELS * 0, lambda z: HEAD(z)[..., :1]), ValueError, "one class"),
    # generators
    (lambda: MultiMix()(Z, LABELS, HEAD, 0), TypeError, r"generator must be a torch.Generator, got 0: torch.Generator\(\).manual_seed"),
    (lambda: MultiMix()(Z, LABELS, mlp, "cpu"), TypeError, "generator must be a torch.Generator, got 'cpu'"),
    # masks
    (lambda: DenseMultiMix()(TOKENS, LABELS, HEAD, torch.Generator()), TypeError, "bool tensor, got Generator: pass generator=... by name"),
    (lambda: DenseMultiMix()(TOKENS, LABELS, HEAD, mask=MASK.float()), ValueError, r"bool of shape \(4, 6\).*got torch.float32.*: mask.bool\(\), if it is 1"),
    (lambda: DenseMultiMix()(TOKENS, LABELS, HEAD, mask=MASK[:, 1:]), ValueError, r"bool of shape \(4, 6\).*got torch.bool of shape \(4, 5\)"),
    (lambda: DenseMultiMix()(TOKENS, LABELS, HEAD, mask=MASK[0]), ValueError, r"bool of shape \(4, 6\).*\(6,\)"),
    (lambda: DenseMultiMix()(MAPS, LABELS, HEAD, mask=MASK.view(4, 3, 2)), ValueError, r"features \(4, 3, 2, 3\), got torch.bool of shape \(4, 3, 2\)"),
]  # fmt: skip


def test_numbers_of_numpy_are_numbers() -> None:
    seed, numbers = torch.Generator().manual_seed, (np.int64(7), np.int32(2), np.float32(0.5))
    criterion = MultiMix(*numbers)
    assert [type(each) for each in (criterion.n, criterion.m, *criterion.alpha)] == [int, int, float, float]
    assert torch.equal(criterion(Z, LABELS, HEAD, seed(0)), MultiMix(7, 2, 0.5)(Z, LABELS, HEAD, seed(0)))
    labels = LABELS.to(torch.uint16)
    assert torch.equal(MultiMix(7)(Z, labels, HEAD, seed(0)), MultiMix(7)(Z, LABELS, HEAD, seed(0)))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_error_states_what_was_received(case) -> None:
    call, kind, message = CASES[case]
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap_with_other_mixtures_for_each_names_the_way(randomness) -> None:
    def loss(logits: torch.Tensor) -> torch.Tensor:
        return MultiMix(7).from_logits(logits, LABELS)

    logits = Z.expand(2, 4, 3)[..., [0, 1, 2, 0, 1]]
    mapped = torch.func.vmap(loss, randomness=randomness)
    if randomness == "same":
        assert mapped(logits).shape == (2,)
        return
    with pytest.raises(ValueError, match=r"use randomness='same', or draw lam by .*sample_weights"):
        mapped(logits)
