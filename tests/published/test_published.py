"""The published numbers, against sums and relations that the paper's own text states."""

import pytest

from multimix import published


def value(quantity: str, data: str, model: str, method: str) -> float:
    found = published.find(quantity, data=data, model=model, method=method)
    assert found is not None
    return found.value


def test_gains_that_the_text_states() -> None:
    # Section 4.2: "On TI, Dense MultiMix improves over MultiMix by 1.33% and SoTA by 1.59%."
    tiny = ("accuracy", "tinyimagenet", "preactresnet18")
    assert value(*tiny, "dense-multimix") - value(*tiny, "multimix") == pytest.approx(1.33)
    assert value(*tiny, "dense-multimix") - value(*tiny, "alignmixup") == pytest.approx(1.59)
    # "vanilla MultiMix ... an accuracy gain of 2.49% with R-50 ... Dense MultiMix ... to 3.10%"
    imagenet = ("accuracy", "imagenet", "resnet50")
    assert value(*imagenet, "multimix") - value(*imagenet, "erm") == pytest.approx(2.49)
    assert value(*imagenet, "dense-multimix") - value(*imagenet, "erm") == pytest.approx(3.10)
    # "on CIFAR-10 with W16-8, the SoTA Co-Mixup improves the baseline by 3.8% while Dense MultiMix improves it by 7.3%"
    pgd = ("pgd_error", "cifar10", "wrn16-8")
    assert value(*pgd, "erm") - value(*pgd, "comixup") == pytest.approx(3.8)
    assert value(*pgd, "erm") - value(*pgd, "dense-multimix") == pytest.approx(7.3)
    # Section 4.3: "a gain of 0.8 mAP on Pascal VOC07+12 and 0.35 mAP on MS-COCO"
    for data, model, gain in (("voc07+12", "ssd-resnet50", 0.8), ("coco", "faster-rcnn-resnet50", 0.35)):
        best = value("map", data, model, "alignmixup")
        assert value("map", data, model, "dense-multimix") - best == pytest.approx(gain)


def test_counts_of_the_tables() -> None:
    count = lambda where: sum(n.where == where for n in published.numbers())  # noqa: E731
    assert count("Table 2") == 8 * 5
    assert count("Table 3") == 9 * 4 - 2 * 3 - 1
    assert count("Table 4") == 8 * 9 - 1
    assert count("Table 5") == 6 * 4
    assert count("section 4.4") == 4 * 2
    assert count("section 4.5") == 5


def test_every_number_is_of_a_known_quantity_and_stands_once() -> None:
    keys = [(n.quantity, n.data, n.model, n.method) for n in published.numbers()]
    assert len(set(keys)) == len(keys)
    assert {n.quantity for n in published.numbers()} == set(published.QUANTITIES)
    assert {n.origin for n in published.numbers()} == {
        "reported by AlignMixup",
        "reproduced by the paper",
        "the paper's own",
    }


def test_what_was_not_published_is_none_and_what_does_not_exist_is_an_error() -> None:
    assert published.find("accuracy", data="imagenet", model="resnet50", method="comixup") is None
    with pytest.raises(ValueError, match=r"quantity must be one of accuracy, .* got 'acuracy'"):
        published.find("acuracy", data="imagenet", model="resnet50", method="erm")
