"""Further arrays of an .npz file become extras of its splits."""

import numpy as np
import torch

from multimix import data


def test_further_arrays_are_extras(tmp_path) -> None:
    rng = np.random.default_rng(0)
    soft = rng.dirichlet(np.ones(3), 9).astype(np.float32)
    np.savez(
        tmp_path / "set.npz",
        train_images=rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8), train_labels=np.arange(9) % 3,
        train_soft_targets=soft, train_domain=np.arange(9), train_note=np.array("made by hand"),
        train_names=np.array(list("abcdefghi")), train_mean=np.zeros(3),
        test_images=rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), test_labels=np.arange(3),
    )  # fmt: skip
    for image_size in (None, 16):
        splits = data.load("imagefolder", root=tmp_path / "set.npz", image_size=image_size, per_class=2)
        assert set(splits.train.extras) == {"soft_targets", "domain"}
        assert splits.test.extras == {}
        chosen = splits.train.extras["domain"]
        assert len(chosen) == 6
        assert torch.equal(splits.train.extras["soft_targets"], torch.from_numpy(soft)[chosen])


def test_the_only_further_split_is_the_test_set_and_no_validation_set(tmp_path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), np.arange(6) % 3
    for name in ("val", "test"):
        np.savez(
            tmp_path / f"{name}.npz",
            train_images=pixels, train_labels=labels, **{f"{name}_images": pixels, f"{name}_labels": labels},
        )  # fmt: skip
        splits = data.load("imagefolder", root=tmp_path / f"{name}.npz")
        assert len(splits.test) == 6
        assert splits.val is None
