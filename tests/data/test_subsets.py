"""Subsets: balanced, nested, disjoint from what is held out, and decided by their own seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.data import ArrayDataset, load
from multimix.data.subsets import choose


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(6, 15), min_size=1, max_size=5),
    per_class=st.integers(1, 4) | st.none(),
    held_out=st.integers(0, 2),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_choice_is_balanced_disjoint_and_in_order(counts, per_class, held_out, seed, order) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    order.shuffle(labels)
    names = [str(label) for label in range(len(counts))]
    train, held = choose(torch.tensor(labels), names, per_class=per_class, held_out=held_out, seed=seed)
    assert not set(train.tolist()) & set(held.tolist())
    assert train.tolist() == sorted(set(train.tolist()))
    assert held.tolist() == sorted(set(held.tolist()))
    for label, count in enumerate(counts):
        chosen = [labels[i] for i in train.tolist()].count(label)
        assert chosen == (per_class if per_class is not None else count - held_out)
        assert [labels[i] for i in held.tolist()].count(label) == held_out


def test_larger_subsets_contain_smaller_ones_and_the_parts_do_not_move_each_other() -> None:
    labels = torch.arange(200) % 4
    names = list("abcd")

    def chosen(per_class: int | None, held_out: int, seed: int = 0) -> tuple[set[int], set[int]]:
        train, held = choose(labels, names, per_class=per_class, held_out=held_out, seed=seed)
        return set(train.tolist()), set(held.tolist())

    assert chosen(5, 0)[0] < chosen(10, 0)[0] < chosen(20, 7)[0] < chosen(None, 7)[0]
    assert chosen(5, 7) == (chosen(5, 0)[0], chosen(None, 7)[1])
    assert chosen(5, 3)[1] < chosen(5, 7)[1]
    assert chosen(5, 0, seed=1)[0] != chosen(5, 0)[0]


def test_every_class_has_a_shuffle_of_its_own() -> None:
    labels = torch.arange(200) // 100
    for chosen in choose(labels, ["a", "b"], per_class=10, held_out=10, seed=0):
        assert not torch.equal(chosen[:10] + 100, chosen[10:])


def test_every_example_is_equally_likely() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    hits = torch.zeros(10)
    for seed in range(1000):
        hits[choose(labels, ["a"], per_class=3, held_out=0, seed=seed)[0]] += 1
    # each count is binomial(1000, 0.3), with a standard deviation of 14.5
    assert (hits - 300).abs().max() < 5 * 14.5


@pytest.mark.parametrize(
    ("per_class", "held_out", "message"),
    [
        (5, 0, "class 'dog' has 4 training images, fewer than per_class=5"),
        (4, 1, "fewer than per_class=4 and 1 to hold out"),
        (None, 4, "fewer than one to train on and 4 to hold out"),
    ],
)
def test_asking_for_too_many_names_class_and_count(per_class, held_out, message) -> None:
    labels = torch.tensor([0] * 9 + [1] * 4)
    with pytest.raises(ValueError, match=message):
        choose(labels, ["cat", "dog"], per_class=per_class, held_out=held_out, seed=0)


def test_a_class_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="class 'dog' has 0 training images"):
        choose(torch.zeros(5).long(), ["cat", "dog"], per_class=None, held_out=0, seed=0)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_loaded_subset_is_that_of_its_seed(seed: int) -> None:
    whole, some = load("digits").train, load("digits", per_class=5, val_per_class=4, subset_seed=seed)
    parts = choose(whole.labels, some.class_names, per_class=5, held_out=4, seed=seed)
    assert isinstance(whole, ArrayDataset)
    for part, indices in zip((some.train, some.val), parts, strict=True):
        assert isinstance(part, ArrayDataset)
        assert torch.equal(part.images, whole.images[indices])
        assert torch.equal(part.labels, whole.labels[indices])
