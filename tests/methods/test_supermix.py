"""SuperMix: one step in float64 with finite differences, teachers whose answer is known, and sets made in advance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from tests.methods.conftest import numbered, seeded
from torch import Tensor, nn

from multimix import data, models
from multimix.data import ArrayDataset, DataSplits, FileDataset
from multimix.methods import Erm, SoftTargets, SuperMix, parse
from multimix.methods.supermix import build_set, optimise_masks
from multimix.methods.supermix.method import Supermixed


class Quadrants(nn.Module):
    """The score of class k is the mean brightness of quadrant k."""

    def forward(self, images: Tensor) -> Tensor:
        return 12 * nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


class Constant(nn.Module):
    """Prefers class 0 whatever it sees, so that no mixture of other classes is ever confirmed."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c = c

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(self.c, dtype=images.dtype)[0] + 0 * images.mean((1, 2, 3))[:, None]


def lit(labels: Tensor, size: int = 16) -> Tensor:
    """Image i is bright in the quadrant of its class and dim noise elsewhere."""
    images = 0.2 * torch.rand(len(labels), 3, size, size, generator=seeded(5))
    for image, k in zip(images, labels.tolist(), strict=True):
        half = size // 2
        image[:, k // 2 * half :][:, :half, k % 2 * half :][..., :half] += 0.8
    return images


@pytest.mark.parametrize("sigma", [0.0, 1.0, 1.5])
def test_one_step_written_out(sigma: float) -> None:
    b, K, C, size, width, c, lambda_s = 2, 3, 1, 6, 3, 4, 25.0
    images = torch.rand(b, K, C, size, size, generator=seeded(0), dtype=torch.double)
    W = torch.randn(C * size * size, c, generator=seeded(1), dtype=torch.double)
    goal = torch.tensor([[0.2, 0.3, 0.5, 0.0], [0.0, 0.25, 0.25, 0.5]], dtype=torch.double)

    def masks_of(v: np.ndarray) -> np.ndarray:
        up = nn.functional.interpolate(torch.from_numpy(v)[None], (size, size), mode="bilinear")[0].numpy()
        s = 1 / (1 + np.exp(-up))
        return s / s.sum(0)

    def loss_of(v: np.ndarray, i: int) -> float:
        p = masks_of(v)
        logits = (p[:, None] * images[i].numpy()).sum(0).reshape(-1) @ W.numpy()
        log_q = logits - np.log(np.exp(logits).sum())
        t = goal[i].numpy()
        kl = sum(t[k] * (np.log(t[k]) - log_q[k]) for k in range(c) if t[k] > 0)
        return kl + lambda_s * np.abs(p * (p - 1)).mean()

    masks, _ = optimise_masks(
        lambda x: x.flatten(1) @ W, images, goal, width=width, lambda_s=lambda_s, sigma=sigma, max_iter=1
    )
    for i in range(b):
        v, g = np.zeros((K, width, width)), np.zeros((K, width, width))
        for at in np.ndindex(*v.shape):
            e = np.zeros_like(v)
            e[at] = 1e-5
            g[at] = (loss_of(v + e, i) - loss_of(v - e, i)) / 2e-5
        G = g.copy()
        if sigma:
            radius = int(np.ceil(2 * sigma))
            G = np.stack([ndimage.gaussian_filter(x, sigma, mode="constant", radius=radius) for x in g])
        step = np.clip(loss_of(v, i) / ((g * G).sum() + 1e-10), 1e-4, 2000)
        assert np.allclose(masks[i].numpy(), masks_of(-step * G), atol=1e-4)


def test_masks_keep_what_the_teacher_recognises() -> None:
    pairs = torch.tensor([[0, 1], [0, 2], [3, 1], [2, 3]])
    images = lit(pairs.flatten()).unflatten(0, (4, 2))
    goal = 0.5 * nn.functional.one_hot(pairs, 5).float().sum(1)

    def teacher(x: Tensor) -> Tensor:
        """Nothing, class 4, unless a quadrant is almost as bright as in one of the images."""
        return torch.cat([Quadrants()(x), torch.full((len(x), 1), 8.0)], 1)

    assert (teacher(images.mean(1)).argmax(1) == 4).all()
    masks, reached = optimise_masks(teacher, images, goal, width=8)
    assert reached.all()
    assert torch.allclose(masks.sum(1), torch.ones(4, 16, 16), atol=1e-5)
    assert masks.min() >= 0
    quadrant_means = nn.functional.adaptive_avg_pool2d(masks, 2).flatten(2)
    for i, pair in enumerate(pairs.tolist()):
        for j, k in enumerate(pair):
            assert quadrant_means[i, j, k] > 0.65
            assert quadrant_means[i, 1 - j, k] < 0.35
    q = Quadrants()((masks[:, :, None] * images).sum(1)).topk(2).indices.sort(1).values
    assert torch.equal(q, pairs.sort(1).values)


def test_at_least_one_step_is_taken() -> None:
    """As in the authors' code, also where the teacher recognises the even mixture at once."""
    images = lit(torch.tensor([0, 1])).unflatten(0, (1, 2))
    goal = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert Quadrants()(images.mean(1)).topk(2).indices.sort().values.tolist() == [[0, 1]]
    masks, reached = optimise_masks(Quadrants(), images, goal, width=4)
    assert reached.all()
    assert (masks - 0.5).abs().max() > 0.05


def test_a_mixture_does_not_depend_on_its_batch() -> None:
    pairs = torch.tensor([[0, 1], [2, 3], [1, 0], [3, 0]])
    images, of_class = lit(pairs.flatten()).unflatten(0, (4, 2)), torch.eye(5)[pairs]
    goal = torch.lerp(of_class[:, 0], of_class[:, 1], torch.tensor([[0.5], [0.7], [0.3], [0.6]]))

    def teacher(x: Tensor) -> Tensor:
        return torch.cat([Quadrants()(x), torch.full((len(x), 1), 7.0)], 1)

    together = optimise_masks(teacher, images, goal, width=4, max_iter=2)
    assert together.reached.tolist() == [True, False, True, True]  # after one step, not at all, after two, after one
    for i in range(4):
        alone = optimise_masks(teacher, images[i : i + 1], goal[i : i + 1], width=4, max_iter=2)
        assert torch.allclose(alone.masks[0], together.masks[i], atol=1e-4)
        assert alone.reached[0] == together.reached[i]


def test_more_sparsity_gives_masks_nearer_to_zero_and_one() -> None:
    images = lit(torch.tensor([1, 2, 1, 3])).unflatten(0, (2, 2))
    goal = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]])  # class 0 is in neither
    grey = []
    for lambda_s in (0.0, 25.0):
        masks, reached = optimise_masks(Constant(4), images, goal * 0.99, lambda_s=lambda_s, width=8, max_iter=20)
        assert not reached.any()
        grey.append(float((masks * (1 - masks)).mean()))
    assert grey[1] <= grey[0] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("b", [1, 2, 5])
def test_unconfirmed_mixtures_have_the_shares_of_their_pixels(k: int, b: int) -> None:
    class Whole(nn.Module):
        """Sees image i as class i, and class 0, which is in no image, in every mixture."""

        def forward(self, images: Tensor) -> Tensor:
            near = -100 * (images.mean((1, 2, 3))[:, None] - torch.arange(1.0, b + 1)).square()
            return torch.cat([torch.full((len(images), 1), -1.0), near], 1)

    images = numbered(b)
    result = SuperMix(Whole(), k, width=4, max_iter=3).supermix(images, torch.arange(b), b + 1, seeded(1))
    assert result.reached.tolist() == [b == 1] * b  # an image alone is no mixture
    assert torch.allclose(result.images.mean((1, 2, 3)), result.targets @ torch.arange(1.0, b + 2), atol=1e-4)
    assert torch.allclose(result.targets.sum(1), torch.ones(b), atol=1e-5)
    assert ((result.targets > 0).sum(1) <= min(k, b)).all()
    assert torch.equal(images, numbered(b))


def test_confirmed_mixtures_have_dirichlet_weights() -> None:
    class Yes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    b = 1200
    images = torch.eye(3)[torch.arange(b) % 3][..., None, None].expand(b, 3, 4, 4)
    labels = torch.arange(b) % 3
    result = SuperMix(Yes(), width=2).supermix(images, labels, 3, seeded(0))
    two = (result.targets > 0).sum(1) == 2
    assert result.reached.all()
    # The first image of a mixture is its own.
    weights = result.targets[torch.arange(b), labels][two]
    assert stats.kstest(weights.double().numpy(), stats.beta(3, 3).cdf).pvalue > 1e-3


def test_of_fewer_images_than_k_each_is_in_a_mixture_once() -> None:
    images, labels = lit(torch.tensor([0, 3])), torch.tensor([0, 3])
    two, three = (SuperMix(Quadrants(), k, width=4).supermix(images, labels, 4, seeded(2)) for k in (2, 3))
    assert all(torch.equal(a, b) for a, b in zip(two, three, strict=True))


def test_protocol(model, images, labels) -> None:
    method, state, before = SuperMix(model, width=4, max_iter=3), torch.get_rng_state(), images.clone()
    method.setup(model)
    assert list(method.parameters()) == []
    out = method(model, images, labels, seeded(0))
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(method(model, images, labels, seeded(0)).loss, out.loss)
    one_hot = nn.functional.one_hot(labels, 5).float()
    assert torch.allclose(method(model, images, one_hot, seeded(0)).loss, out.loss)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    mixed, soft = method.mix(images[:3, :, :5], labels[:3], 5, seeded(0))
    assert mixed.shape == (3, 3, 5, 8)
    assert torch.allclose(soft.sum(1), torch.ones(3))


@pytest.fixture
def splits() -> DataSplits:
    labels = torch.arange(24) % 4
    train = ArrayDataset((lit(labels, 8) * 255).round().byte(), labels)
    return DataSplits(train=train, val=None, test=train.subset(torch.arange(6)), class_names=("a", "b", "c", "d"),
                      image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)  # fmt: skip


class Interrupt(Exception):  # noqa: N818
    pass


def test_a_set_made_in_advance_is_the_same_after_an_interrupt(tmp_path, splits) -> None:
    method = SuperMix(Quadrants(), width=4)
    whole = build_set(splits, method, tmp_path / "whole.npz", count=50, batch_size=8)

    def stop(made: int, wanted: int) -> None:
        if made > 15:
            raise Interrupt

    with pytest.raises(Interrupt):
        build_set(splits, method, tmp_path / "cut.npz", count=50, batch_size=8, progress=stop)
    assert not (tmp_path / "cut.npz").exists()
    with pytest.raises(ValueError, match=r"was begun with other values of seed, k: use the same ones"):
        build_set(splits, SuperMix(Quadrants(), 3, width=4), tmp_path / "cut.npz", count=50, batch_size=8, seed=1)
    calls = []
    cut = build_set(splits, method, tmp_path / "cut.npz", count=50, batch_size=8, progress=lambda *n: calls.append(n))
    assert calls[-1] == (50, 50)
    with np.load(whole) as a, np.load(cut) as b:
        assert set(a) == set(b)
        assert all(np.array_equal(a[key], b[key]) for key in a)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.npz", "whole.npz"]


def test_no_two_batches_of_sets_are_mixed_by_the_same_draws(tmp_path, splits, monkeypatch) -> None:
    seeds, mix = [], SuperMix.supermix

    def spy(self: SuperMix, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator):
        seeds.append(generator.initial_seed())
        return mix(self, images, targets, num_classes, generator)

    monkeypatch.setattr(SuperMix, "supermix", spy)
    for seed in (0, 1):
        build_set(splits, SuperMix(Quadrants(), width=4), tmp_path / f"{seed}.npz", count=20, batch_size=8, seed=seed)
    assert len(seeds) == len(set(seeds)) > 4


def test_a_set_goes_on_with_the_same_data_only(tmp_path, splits) -> None:
    method, path = SuperMix(Quadrants(), width=4), tmp_path / "set.npz"

    def begin(train: data.Dataset, test: data.Dataset) -> None:
        def stop(made: int, wanted: int) -> None:
            raise Interrupt

        build_set(replace(splits, train=train, test=test), method, path, count=50, batch_size=8, progress=stop)

    train, test = splits.train, splits.test
    others = [ArrayDataset(255 - train.images, train.labels), ArrayDataset(train.images, train.labels.flip(0))]
    with pytest.raises(Interrupt):
        begin(train, test)
    with pytest.raises(Interrupt):
        begin(ArrayDataset(train.images.clone(), train.labels), test)
    for other in others:
        with pytest.raises(ValueError, match="was begun with other values of data: use the same"):
            begin(other, test)
    with pytest.raises(ValueError, match="was begun with other values of data: use the same"):
        begin(train, test.subset(torch.arange(6).flip(0)))


def test_a_set_from_files_is_known_by_their_names_and_labels(tmp_path, splits) -> None:
    """None of the files is there: they are not read to tell them apart."""
    method, names, labels = SuperMix(Quadrants(), width=4), [f"{k}.png" for k in range(24)], splits.train.labels

    def begin(folder: str, names: list[str], labels: Tensor) -> None:
        files = FileDataset(folder, names, labels, image_size=8)
        build_set(replace(splits, train=files), method, tmp_path / "set.npz", count=50, batch_size=8)

    for folder in ("here", "moved"):
        with pytest.raises(data.UnreadableImageError):
            begin(folder, names, labels)
    for other in ((["other.png", *names[1:]], labels), (names, labels.flip(0))):
        with pytest.raises(ValueError, match="was begun with other values of data: use the same"):
            begin("here", *other)


class EverySecond(SuperMix):
    """Confirms only every second batch, whose images are all of one grey."""

    def supermix(self, images, targets, num_classes=None, generator=None):
        self.asked = getattr(self, "asked", 0) + 1
        confirmed = torch.full((len(images),), self.asked % 2 == 0)
        soft = nn.functional.one_hot(targets, num_classes).float()
        return Supermixed(torch.full_like(images, 100.7 / 255), soft, confirmed)


def test_a_set_has_as_many_images_as_asked_for_in_whole_grey_levels(tmp_path, splits) -> None:
    """Batches in which nothing is confirmed end the search only if a whole epoch has no other."""
    path = build_set(splits, EverySecond(Quadrants()), tmp_path / "a.npz", count=50, batch_size=8, originals=False)
    with np.load(path) as found:
        assert found["train_images"].shape == (50, 3, 8, 8)
        assert (found["train_images"] == 101).all()
        assert len(found["train_soft_targets"]) == 50


def test_a_set_goes_on_in_the_middle_of_an_epoch_and_over_its_end(tmp_path, splits) -> None:
    method, sets = SuperMix(Quadrants(), width=4, max_iter=3), {}
    for name, stop_after in (("whole", 99), ("cut", 1)):
        seen = []

        def stop(made: int, wanted: int, seen=seen, stop_after=stop_after) -> None:
            seen.append(made)
            if len(seen) == stop_after:
                raise Interrupt

        def build(name=name, stop=stop):
            return build_set(splits, method, tmp_path / f"{name}.npz", count=70, batch_size=8, progress=stop)

        if name == "cut":
            with pytest.raises(Interrupt):
                build()
        with np.load(build()) as found:
            sets[name] = found["train_images"]
    assert len(sets["whole"]) == 94
    assert np.array_equal(sets["whole"], sets["cut"])


@pytest.mark.parametrize("option", ["width", "max_iter", "lambda_s", "sigma", "alpha"])
def test_a_set_goes_on_with_the_same_options_only(tmp_path, splits, option: str) -> None:
    def stop(made: int, wanted: int) -> None:
        raise Interrupt

    def begin(method: SuperMix) -> None:
        build_set(splits, method, tmp_path / "set.npz", count=50, batch_size=8, progress=stop)

    options = {"width": 4, "max_iter": 3}
    with pytest.raises(Interrupt):
        begin(SuperMix(Quadrants(), **options))
    with pytest.raises(ValueError, match=f"was begun with other values of {option}: use the same ones"):
        begin(SuperMix(Quadrants(), **{**options, option: 2}))


def test_a_set_goes_on_with_the_same_teacher_only(tmp_path, splits) -> None:
    def stop(made: int, wanted: int) -> None:
        raise Interrupt

    class Gain(Quadrants):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(gain))

        def forward(self, images: Tensor) -> Tensor:
            return self.gain * super().forward(images)

    def begin(gain: float) -> None:
        method = SuperMix(Gain(gain), width=4, max_iter=3)
        build_set(splits, method, tmp_path / "set.npz", count=50, batch_size=8, progress=stop)

    with pytest.raises(Interrupt):
        begin(1.0)
    with pytest.raises(ValueError, match="was begun with other values of teacher: use the same ones"):
        begin(0.5)


def test_soft_targets_survive_and_are_trained_on(tmp_path, splits, model) -> None:
    path = build_set(splits, SuperMix(Quadrants(), width=4), tmp_path / "set.npz", count=30, batch_size=8)
    loaded = data.load("imagefolder", root=path, image_size=8)
    assert (len(loaded.train), len(loaded.test), loaded.class_names) == (54, 6, ("a", "b", "c", "d"))
    assert torch.equal(loaded.train.images[:24], splits.train.images)
    soft = loaded.train.extras["soft_targets"]
    assert torch.equal(soft[:24], nn.functional.one_hot(splits.train.labels, 4).float())
    assert torch.allclose(soft.sum(1), torch.ones(54))
    assert (soft[24:] > 0).sum(1).float().mean() > 1.5
    # The teacher confirms what is in the file: it ranks the classes of the target first.
    scores = Quadrants()(loaded.train.images[24:].float() / 255)
    wanted = soft[24:] > 0
    least, rest = scores.masked_fill(~wanted, 99).amin(1), scores.masked_fill(wanted, -99).amax(1)
    assert (least > rest - 0.05).all()
    batch = next(data.loader(loaded.train, batch_size=8, train=True).batches(epoch=0))
    method = parse("soft-targets(erm)")
    assert method.needs == ("soft_targets",)
    targets = torch.cat([batch.extras["soft_targets"], torch.zeros(8, 1)], 1)
    loss = method(model, batch.images, batch.targets, soft_targets=targets).loss
    expected = -(targets * model(batch.images).log_softmax(1)).sum(1).mean()
    assert torch.allclose(loss, expected)
    assert isinstance(method, SoftTargets)
    assert isinstance(method.method, Erm)


def test_a_teacher_that_confirms_nothing_ends_the_search(tmp_path, splits) -> None:
    class Other(Constant):
        """Sees a class in every image that it does not see in any mixture."""

        def forward(self, images: Tensor) -> Tensor:
            seen = torch.eye(4)[1 if torch.is_inference_mode_enabled() or not torch.is_grad_enabled() else 2]
            return seen + 0 * images.mean((1, 2, 3))[:, None]

    with pytest.raises(ValueError, match="the teacher confirmed none of 3 batches"):
        build_set(splits, SuperMix(Other(4), max_iter=2), tmp_path / "x.npz", count=4, batch_size=8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SuperMix(), ValueError, r'SuperMix needs a teacher.*supermix\(teacher="runs/erm/seed0"\)'),
        (lambda: parse("supermix"), ValueError, "SuperMix needs a teacher"),
        (lambda: SuperMix(Quadrants(), k=1), ValueError, "k must be at least 2"),
        (lambda: SuperMix(Quadrants(), lambda_s=-1), ValueError, "lambda_s must be a number of at least 0"),
        (lambda: SuperMix("no/run").mix(numbered(2), torch.arange(2), 2), FileNotFoundError, r"no/run is not a run"),
        (lambda: SuperMix(Quadrants()).mix(numbered(2), torch.arange(2), 3), ValueError, r"logits \(2, 3\), got"),
        (lambda: SoftTargets(3), TypeError, "method must be a method"),
        (
            lambda: SoftTargets(Erm())(models.smallnet(num_classes=2, image_size=8), numbered(2), torch.arange(2)),
            ValueError,
            "needs soft_targets for every example",
        ),
        (lambda: build_set(None, None, "x.npz", count=1, batch_size=1), ValueError, "batch_size must be at least 2"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_paths_of_sets(tmp_path, splits) -> None:
    method = SuperMix(Quadrants())
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        build_set(splits, method, tmp_path / "set", count=3)
    (tmp_path / "set.npz").touch()
    with pytest.raises(FileExistsError, match="is there already"):
        build_set(splits, method, tmp_path / "set.npz", count=3)


def test_under_autocast(model, images, labels) -> None:
    method = SuperMix(model, width=4, max_iter=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method.mixed(model, images, labels, seeded(0))
        loss = method(model, images, labels, seeded(0)).loss
    full = method.mixed(model, images, labels, seeded(0))
    assert loss.isfinite()
    assert mixed.targets.dtype == torch.float32
    assert torch.allclose(mixed.targets, full.targets, atol=0.1)
    assert torch.allclose(mixed.targets.sum(1), torch.ones(7), atol=1e-5)
