"""What users get wrong: one error each, that states what was received and the fix."""

# ruff: noqa: E501 (a table: one case, one line)

import re

import pytest
import torch

from multimix.functional import (
    attend,
    attention_map,
    expected_mixed_cross_entropy,
    interpolate,
    mixed_cross_entropy,
    sample_weights,
)

LABELS = torch.tensor([0, 1, 2, 3])
Z, LOGITS, LAM = torch.ones(4, 2), torch.ones(4, 5), torch.full((3, 4), 0.25)
TOKENS, ATTENTION = torch.ones(4, 6, 2), torch.ones(4, 6)

CASES = [
    # sample_weights
    (lambda: sample_weights(-1, 4), ValueError, "n must be at least 0, got -1"),
    (lambda: sample_weights(2.0, 4), TypeError, "n must be an integer, got 2.0"),
    (lambda: sample_weights(True, 4), TypeError, "n must be an integer, got True"),
    (lambda: sample_weights(3, 4, dtype="float32"), TypeError, "dtype must be floating point, such as torch.float32, got 'float32'"),
    (lambda: sample_weights(3, 4, generator=5), TypeError, "generator must be a torch.Generator, got 5"),
    (lambda: sample_weights(3, 0), ValueError, "b must be at least 1, got 0"),
    (lambda: sample_weights(3, 4, m=5), ValueError, "m must be between 1 and 4, got 5"),
    (lambda: sample_weights(3, 4, m=0), ValueError, "m must be between 1 and 4, got 0"),
    (lambda: sample_weights(3, 4, m=1.5), TypeError, "m must be an integer, got 1.5"),
    (lambda: sample_weights(3, 4, positions=-1), ValueError, "positions must be at least 0, got -1"),
    (lambda: sample_weights(3, 4, alpha=0), ValueError, "alpha must be positive and finite, .*got 0"),
    (lambda: sample_weights(3, 4, alpha=-1.0), ValueError, "alpha must be positive .*got -1.0"),
    (lambda: sample_weights(3, 4, alpha=float("nan")), ValueError, "alpha must be positive .*got nan"),
    (lambda: sample_weights(3, 4, alpha=float("inf")), ValueError, "alpha must be positive and finite.*got inf"),
    (lambda: sample_weights(3, 4, alpha=(2.0, 0.5)), ValueError, r"low <= high, got \(2.0, 0.5\)"),
    (lambda: sample_weights(3, 4, alpha=(1, 2, 3)), TypeError, r"pair \(low, high\), got \(1, 2, 3\)"),
    (lambda: sample_weights(3, 4, alpha="1"), TypeError, "alpha must be a number or a pair .*got '1'"),
    (lambda: sample_weights(3, 4, alpha=None), TypeError, "alpha must be a number or a pair .*got None"),
    (lambda: sample_weights(3, 4, dtype=torch.int64), TypeError, "dtype must be floating point, such as torch.float32, got torch.int64"),
    # interpolate
    (lambda: interpolate(Z, LABELS, LAM), ValueError, r"class indices \(4,\): give num_classes"),
    (lambda: interpolate(Z[:3], LOGITS, LAM), ValueError, r"got lam \(3, 4\) and embeddings \(3, 2\)"),
    (lambda: interpolate(Z, LOGITS, LAM[0]), ValueError, r"got lam \(4,\)"),
    (lambda: interpolate(TOKENS, LOGITS, LAM.expand(6, 3, 4)), ValueError, r"embeddings \(r, b, d\); got lam \(6, 3, 4\)"),
    (lambda: interpolate(Z, LOGITS[:2], LAM), ValueError, r"targets must be \(4, ...\), one for each example, got \(2, 5\)"),
    (lambda: interpolate(Z.numpy(), LOGITS, LAM), TypeError, "embeddings must be a tensor, got ndarray"),
    (lambda: attend(LAM.tolist(), Z), TypeError, "lam must be a tensor, got list"),
    (lambda: attention_map(Z[None].numpy()), TypeError, "features must be a tensor, got ndarray"),
    (lambda: mixed_cross_entropy(LOGITS.numpy(), LABELS, LAM), TypeError, "logits must be a tensor, got ndarray"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM, [1.0]), TypeError, "weight must be a tensor, got list"),
    (lambda: expected_mixed_cross_entropy(LOGITS.numpy(), LABELS), TypeError, "logits must be a tensor, got ndarray"),
    (lambda: expected_mixed_cross_entropy(LOGITS[None], LABELS, [[1.0]] * 4), TypeError, "attention must be a tensor, got list"),
    (lambda: attention_map(TOKENS, mask=[True]), TypeError, "mask must be a tensor, got list"),
    (lambda: attention_map(TOKENS, "cam", targets=LABELS, weight=[[1.0]]), TypeError, "weight must be a tensor, got list"),
    (lambda: interpolate(Z.long(), LOGITS, LAM), TypeError, "must be floating point, got torch.int64"),
    # attention_map
    (lambda: attention_map(torch.ones(4, 2, 3, 3)), ValueError, r"\(b, r, d\), got \(4, 2, 3, 3\); .*flatten\(2\).mT"),
    (lambda: attention_map(Z), ValueError, r"features must be \(b, r, d\), got \(4, 2\)"),
    (lambda: attention_map(TOKENS[:, :0]), ValueError, r"at least one position, got shape \(4, 0, 2\)"),
    (lambda: attention_map(TOKENS, by="cls"), ValueError, "by must be one of 'gap', 'cam', 'uniform', got 'cls'"),
    (lambda: attention_map(TOKENS, nonlinearity="tanh"), ValueError, "one of 'relu', 'softmax', got 'tanh'"),
    (lambda: attention_map(TOKENS, by="cam"), ValueError, "by='cam' needs targets and .*weight"),
    (lambda: attention_map(TOKENS, "cam", targets=LABELS, weight=torch.ones(5, 3)), ValueError, r"\(c, 2\).*got \(5, 3\)"),
    (lambda: attention_map(TOKENS, "cam", targets=LABELS, weight=torch.ones(3, 2)), ValueError, r"in \[0, 2\] for 3 classes"),
    (lambda: attention_map(TOKENS, mask=ATTENTION), ValueError, r"bool of shape \(4, 6\), got torch.float32"),
    (lambda: attention_map(TOKENS, mask=ATTENTION[:, 1:].bool()), ValueError, r"bool of shape \(4, 6\), got .*\(4, 5\)"),
    # attend
    (lambda: attend(LAM, ATTENTION), ValueError, r"lam must be \(r, n, b\) and a \(b, r\), got \(3, 4\) and \(4, 6\)"),
    (lambda: attend(LAM.expand(5, 3, 4), ATTENTION), ValueError, r"got \(5, 3, 4\) and \(4, 6\)"),
    # mixed_cross_entropy
    (lambda: mixed_cross_entropy(LOGITS[0], LABELS, LAM), ValueError, r"got logits \(5,\) and lam \(3, 4\)"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM[:, :3]), ValueError, r"lam must be \(n, 4\) .*got \(3, 3\)"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM[None]), ValueError, r"got logits \(4, 5\) and lam \(1, 3, 4\)"),
    (lambda: mixed_cross_entropy(LOGITS[None], LABELS, LAM.expand(2, 3, 4)), ValueError, r"got \(2, 3, 4\)"),
    (lambda: mixed_cross_entropy(LOGITS[:0], LABELS[:0], LAM[:, :0]), ValueError, r"got shape \(0, 5\)"),
    (lambda: mixed_cross_entropy(LOGITS[:, :0], LABELS, LAM), ValueError, r"got shape \(4, 0\)"),
    (lambda: mixed_cross_entropy(LOGITS.long(), LABELS, LAM), TypeError, "floating point, got torch.int64"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM.long()), TypeError, "floating point, got .*torch.int64"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM, torch.ones(4)), ValueError, r"weight must be \(3,\).*got \(4,\)"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM, None, "mean"), ValueError, "one of 'position', 'global', 'none', got 'mean'"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS, LAM, implementation="fast"), ValueError, "'reference', got 'fast'"),
    (
        lambda: mixed_cross_entropy(LOGITS, LOGITS.clone().requires_grad_(), LAM, implementation="fused"),
        ValueError,
        "no gradient in the targets: detach them, or use 'auto'",
    ),
    # targets, which every loss checks alike
    (lambda: mixed_cross_entropy(LOGITS, LABELS[:3], LAM), ValueError, r"indices of shape \(4,\), got \(3,\)"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS + 2, LAM), ValueError, r"in \[0, 4\] for 5 classes, got values in \[2, 5\]"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS - 1, LAM), ValueError, r"got values in \[-1, 2\]"),
    (lambda: mixed_cross_entropy(LOGITS, LOGITS.long(), LAM), ValueError, "for one-hot targets use a floating-point dtype"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS.float(), LAM), ValueError, "for class indices use an integer dtype"),
    (lambda: mixed_cross_entropy(LOGITS, LOGITS[:, 1:], LAM), ValueError, r"shape \(4, 5\), got \(4, 4\)"),
    (lambda: mixed_cross_entropy(LOGITS, LABELS.bool(), LAM), TypeError, "got torch.bool"),
    (lambda: mixed_cross_entropy(LOGITS, LOGITS - 1.5, LAM), ValueError, r"probabilities, which are at least 0, got -0.5: .*teacher.* give .softmax\(-1\)"),
    (lambda: expected_mixed_cross_entropy(LOGITS, LOGITS - 1.5), ValueError, "at least 0, got -0.5"),
    # expected_mixed_cross_entropy
    (lambda: expected_mixed_cross_entropy(LOGITS[0], LABELS), ValueError, r"\(b, c\) or \(r, b, c\), got \(5,\)"),
    (lambda: expected_mixed_cross_entropy(LOGITS, LABELS, ATTENTION), ValueError, r"\(4, 1\) for logits .*got \(4, 6\)"),
    (lambda: expected_mixed_cross_entropy(LOGITS, LABELS, alpha=0), ValueError, "alpha must be positive"),
    (lambda: expected_mixed_cross_entropy(LOGITS, LABELS, normalize="sum"), ValueError, "got 'sum'"),
    (lambda: expected_mixed_cross_entropy(LOGITS[:0], LABELS[:0]), ValueError, r"got shape \(0, 5\)"),
    (lambda: expected_mixed_cross_entropy(LOGITS, LABELS + 2), ValueError, "5 classes"),
    (lambda: expected_mixed_cross_entropy(LOGITS.long(), LABELS), TypeError, "floating point, got torch.int64"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_error_states_what_was_received(case) -> None:
    call, kind, message = CASES[case]
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_rounding_leaves_below_0_is_taken_for_0() -> None:
    thirds = torch.full((4, 3), 1 / 3, dtype=torch.bfloat16)  # 0.333984375
    rest = 1 - thirds.float().sum(1, keepdim=True)
    assert (rest < 0).all()
    targets = torch.cat([thirds.float(), rest, torch.zeros(4, 1)], 1)
    assert mixed_cross_entropy(LOGITS, targets, LAM).isfinite()
