"""The methods that see the model: each against its definition, written out with the model's own parts."""

import math
import warnings

import numpy as np
import pytest
import torch
from tests.functional.oracles import make_targets
from tests.methods.conftest import numbered, seeded
from torch import nn

import multimix as mm
from multimix.methods import (
    AlignMixup,
    AugMix,
    CoMixup,
    CutMix,
    DenseLoss,
    DenseMultiMix,
    Either,
    Erm,
    FMix,
    InputMixup,
    LabelSmoothing,
    ManifoldMixup,
    Method,
    MethodOutput,
    Mixer,
    MultiMix,
    OptTransMix,
    PuzzleMix,
    SaliencyMix,
    SoftTargets,
    TokenMix,
    ZetaMixup,
    parse,
)
from multimix.models import SplitModel

ALL = [
    Erm(), InputMixup(), ManifoldMixup(), CutMix(), MultiMix(20), MultiMix(6, m=2, layer=1), MultiMix(6, layer=0),
    DenseMultiMix(20), DenseMultiMix(20, attention="cam"), DenseMultiMix(6, layer=1), DenseMultiMix(6, layer=0),
    MultiMix(math.inf), DenseMultiMix(math.inf), Either(MultiMix(20), InputMixup()),
    InputMixup((0.5, 2.0), n=9, m=4), ManifoldMixup(1.0, 2, n=9, m=4), ManifoldMixup(n=3, m=64),
    DenseLoss(CutMix()), DenseLoss(ManifoldMixup(n=9, m=4), attention="cam", normalize="global"),
    FMix(), SaliencyMix(), SaliencyMix(per_image=False), ZetaMixup(), AugMix(), OptTransMix(), DenseLoss(FMix()),
    AlignMixup(), DenseLoss(AlignMixup(), attention="cam"),
    PuzzleMix(), PuzzleMix(clean_lam=1.0), CoMixup(), CoMixup(clean_lam=0.0),
    LabelSmoothing(Erm()), LabelSmoothing(Either(MultiMix(20), CutMix()), 0.3),
]  # fmt: skip


@pytest.mark.parametrize("method", ALL, ids=lambda m: repr(m).replace("\n", ""))
@pytest.mark.parametrize("b", [1, 7])
def test_protocol(method, model, images, labels, b: int) -> None:
    images, labels, kept = images[:b], labels[:b], images.clone()
    state = torch.get_rng_state()
    out = method(model, images, labels, generator=seeded(2))
    assert out.loss.shape == ()
    assert torch.isfinite(out.loss)
    out.loss.backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    if out.logits is not None:
        assert torch.allclose(out.logits, model(images), atol=1e-5)
    again = method(model, images, labels, generator=seeded(2))
    assert torch.equal(out.loss, again.loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept[:b])
    one_hot = nn.functional.one_hot(labels, 5).float()
    for same in (one_hot, labels.to(torch.int32)):
        assert torch.allclose(method(model, images, same, generator=seeded(2)).loss, out.loss, atol=1e-5)


def test_erm_is_cross_entropy(model, images, labels) -> None:
    expected = nn.functional.cross_entropy(model(images), labels)
    assert torch.equal(Erm()(model, images, labels).loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["index", "soft", "any sum"])
def test_label_smoothing_is_that_of_pytorch(model, images, smoothing: float, kind: str) -> None:
    targets = make_targets(kind, len(images), model.num_classes)
    expected = nn.functional.cross_entropy(model(images), targets, label_smoothing=smoothing)
    assert torch.allclose(LabelSmoothing(Erm(), smoothing)(model, images, targets).loss, expected)


@pytest.mark.parametrize("mixer", [InputMixup(), CutMix(), ManifoldMixup(), FMix(), SaliencyMix()], ids=repr)
def test_labels_smoothed_before_mixing_are_mixed_labels_smoothed(model, images, labels, mixer: Mixer) -> None:
    mixed, layer, soft = mixer.mixed(model, images, labels, seeded(3))
    logits = model.head(model.features(mixed, start=layer))
    expected = nn.functional.cross_entropy(logits, soft, label_smoothing=0.2)
    assert torch.allclose(LabelSmoothing(mixer, 0.2)(model, images, labels, seeded(3)).loss, expected, atol=1e-5)


def test_label_smoothing_is_of_each_that_a_method_chooses_from(model, images, labels) -> None:
    method = parse("label-smoothing(either(erm, cutmix, p=0.3), smoothing=0.2)")
    found = [(share, part.smoothing, type(part.method)) for share, part in method.choices()]
    assert found == [(0.3, 0.2, Erm), (0.7, 0.2, CutMix)]


def test_manifold_mixup_mixes_at_each_layer_alike_for_a_linear_network() -> None:
    # In a network of linear stages, mixing at any layer is mixing the input.
    net = SplitModel([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                     nn.Linear(4, 3)).double()  # fmt: skip
    images, labels = torch.rand(5, 3, 8, 8, dtype=torch.double), torch.tensor([0, 1, 2, 1, 0])
    losses = {ManifoldMixup(layers=(k,))(net, images, labels, seeded(9)).loss.item() for k in range(3)}
    assert max(losses) - min(losses) < 1e-12


@pytest.mark.parametrize("normalize", ["position", "global"])
def test_dense_loss_is_14_written_out(model, images, labels, normalize: str) -> None:
    model = model.double()
    method = DenseLoss(CutMix(), nonlinearity="softmax", normalize=normalize)
    loss = method(model, images.double(), labels, seeded(3)).loss
    mixed, soft = CutMix().mix(images.double(), labels, 5, seeded(3))
    features = model.features(mixed)
    b, _, h, w = features.shape
    weights, losses = torch.zeros(h * w, b).double(), torch.zeros(h * w, b).double()
    for k in range(b):
        tokens = [features[k, :, y, x] for y in range(h) for x in range(w)]
        u = torch.stack(tokens).mean(0)
        a = torch.stack([z @ u for z in tokens]).exp()
        for j, z in enumerate(tokens):
            weights[j, k] = a[j] / a.sum()
            losses[j, k] = -(soft[k] * model.classifier(z).log_softmax(0)).sum()
    if normalize == "position":
        expected = ((weights * losses).sum(1) / weights.sum(1)).mean()
    else:
        expected = (weights * losses).sum() / weights.sum()
    assert torch.allclose(loss, expected, rtol=1e-9)


def test_dense_loss_needs_a_mixer() -> None:
    with pytest.raises(TypeError, match="mixer must be a method that mixes images or features, got Erm"):
        DenseLoss(Erm())


def test_manifold_mixup_goes_beyond_pairs_like_multimix() -> None:
    # Just before a linear classifier and with the same weights, all n mixed examples give the loss of MultiMix.
    net = SplitModel([nn.Sequential(nn.Flatten(), nn.Linear(12, 6))], nn.Identity(), nn.Linear(6, 3)).double()
    images, labels = torch.rand(5, 3, 2, 2, dtype=torch.double), torch.tensor([0, 1, 2, 1, 0])
    loss = ManifoldMixup((0.5, 2.0), layers=1, n=8, m=3)(net, images, labels, seeded(4)).loss
    lam = mm.functional.sample_weights(8, 5, 3, generator=seeded(4)).double()
    expected = mm.functional.mixed_cross_entropy(net(images), labels, lam)
    assert torch.allclose(loss, expected, rtol=1e-6)


def test_manifold_mixup_draws_layers_uniformly(model, images, labels, monkeypatch) -> None:
    counts = dict.fromkeys((0, 1, 2), 0)
    original = SplitModel.features

    def spy(self, x, start=0, stop=None):
        if stop is not None:
            counts[stop] += 1
        return original(self, x, start, stop)

    monkeypatch.setattr(SplitModel, "features", spy)
    for seed in range(300):
        ManifoldMixup()(model, images[:2], labels[:2], seeded(seed))
    assert sum(counts.values()) == 300
    assert all(70 < count < 130 for count in counts.values())


def test_multimix_is_the_criterion_on_the_embeddings(model, images, labels) -> None:
    expected = mm.MultiMix(30)(model.embed(images), labels, model.classifier, seeded(4))
    assert torch.allclose(MultiMix(30)(model, images, labels, seeded(4)).loss, expected)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MultiMix, {}),
        (
            DenseMultiMix,
            {"attention": "cam", "nonlinearity": "softmax", "detach_attention": False, "normalize": "global"},
        ),
    ],
)
def test_every_option_is_the_criterion_s(kind, options) -> None:
    options = {"n": math.inf, "m": 30, "alpha": (3.0, 4.0), "rescale": True, "spread_weight": 0.5, **options}
    found = kind(**options).criterion
    assert {name: getattr(found, name) for name in options} == options


@pytest.mark.parametrize("method", [MultiMix(20), DenseMultiMix(20), MultiMix(20, layer=1), DenseMultiMix(20, layer=1)])
def test_draws_come_from_the_generator_whatever_the_classifier(method, model, images, labels) -> None:
    """So that a step that is taken again after a resume, or on another rank, is the same."""
    model.classifier = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    if isinstance(method, DenseMultiMix) and method.layer is None:
        model.classifier = nn.Sequential(nn.Conv2d(6, 8, 1), nn.Tanh(), nn.Conv2d(8, 5, 1))
    elif isinstance(method, DenseMultiMix):
        model.classifier = nn.Linear(6, 5)  # at a layer, a dense loss takes no other
    losses = [method(model, images, labels, seeded(seed)).loss for seed in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_multimix_at_the_input_mixes_images(model, images, labels) -> None:
    generator = torch.Generator().manual_seed(int(mm.random.draw_seed(seeded(4))))
    lam = mm.functional.sample_weights(6, 7, m=3, alpha=1.0, generator=generator)
    mixed = torch.einsum("nb,bchw->nchw", lam, images)
    expected = -((lam @ nn.functional.one_hot(labels, 5).float()) * model(mixed).log_softmax(1)).sum(1).mean()
    found = MultiMix(6, m=3, alpha=1.0, layer=0)(model, images, labels, seeded(4)).loss
    assert torch.allclose(found, expected, atol=1e-5)


def test_dense_at_the_last_layer_agrees_with_the_default(model, images, labels) -> None:
    # At the last stage the rest of the network is the dense classifier: the generic path must agree with the logits'.
    for options in ({}, {"nonlinearity": "softmax"}, {"normalize": "global"}, {"attention": "uniform"}):
        default = DenseMultiMix(15, **options)(model, images, labels, seeded(1)).loss
        generic = DenseMultiMix(15, **options, layer=2)(model, images, labels, seeded(1)).loss
        assert torch.allclose(default, generic, atol=1e-5)


@pytest.mark.parametrize("name", ["vit-s16", "torchvision:mobilenet_v3_small"])
@pytest.mark.parametrize("layer", [None, 1])
def test_dense_on_a_transformer_and_behind_a_hidden_layer(name: str, layer: int | None) -> None:
    net = mm.models.build(name, num_classes=4, image_size=64, generator=seeded(0))
    out = DenseMultiMix(5, layer=layer)(net, torch.rand(3, 3, 64, 64), torch.tensor([0, 3, 1]), seeded(1))
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert net.classifier.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", [DenseMultiMix(5), DenseLoss(InputMixup())])
def test_a_class_token_that_a_dense_loss_does_not_train_is_told_once(method) -> None:
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 3])

    def told(name: str) -> list[str]:
        net = mm.models.build(name, num_classes=4, image_size=32, generator=seeded(0))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            method(net, images, labels, seeded(1))
        return [str(warning.message) for warning in found]

    assert told("vit-s16-mean") == []
    method._looked = False
    (message,) = told("vit-s16")
    assert "predicts from its class token, which only other mini-batches train" in message
    assert told("vit-s16") == []


def test_dense_refuses_pixels_that_become_tokens() -> None:
    net = mm.models.build("vit-s16", num_classes=4, image_size=64, generator=seeded(0))
    message = r"layer=0 mixes maps \(3, 64, 64\), and this network ends with tokens \(17, 384\)"
    with pytest.raises(ValueError, match=message):
        DenseMultiMix(5, layer=0)(net, torch.rand(2, 3, 64, 64), torch.tensor([0, 3]), seeded(1))


def test_what_is_never_chosen_is_no_choice() -> None:
    for p, chosen in ((1.0, CutMix), (0.0, Erm)):
        assert [(share, type(part)) for share, part in Either(CutMix(), Erm(), p).choices()] == [(1.0, chosen)]


def test_either_follows_its_probability(model, images, labels) -> None:
    class Constant(Method):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, model, images, targets, generator=None, **extras) -> MethodOutput:
            return MethodOutput(images.new_tensor(self.value), None)

    method = Either(Constant(1.0), Constant(0.0), p=0.3)
    share = sum(float(method(model, images, labels, seeded(s)).loss) for s in range(1000)) / 1000
    assert 0.25 < share < 0.35


class Saliency(Method):
    """What PuzzleMix needs: gradients in the images before the loss is taken."""

    def forward(self, model, images, targets, generator=None, **extras) -> MethodOutput:
        probe = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(probe), targets), probe)
        mask = (gradient.square().mean(1, keepdim=True).sqrt() > 0).float()
        return MethodOutput(nn.functional.cross_entropy(model(images * mask), targets), None)


class MixBlock(Method):
    """What AutoMix needs: parameters shaped by the model and a momentum encoder that follows it."""

    def setup(self, model) -> None:
        self.block = nn.Linear(model.classifier.in_features, 1)
        self.momentum_weight = nn.Buffer(model.classifier.weight.detach().clone())

    def forward(self, model, images, targets, generator=None, **extras) -> MethodOutput:
        z = model.embed(images)
        gate = self.block(z).sigmoid()
        return MethodOutput(nn.functional.cross_entropy(model.classifier(z * gate), targets), None)

    def after_step(self, model) -> None:
        self.momentum_weight.lerp_(model.classifier.weight.detach(), 0.1)


class Domains(Method):
    """What DAML needs: the source domain of every example."""

    needs = ("domains",)

    def forward(self, model, images, targets, generator=None, **extras) -> MethodOutput:
        domains = extras["domains"]
        of = [domains == k for k in domains.unique()]
        per_domain = [nn.functional.cross_entropy(model(images[mask]), targets[mask]) for mask in of]
        return MethodOutput(torch.stack(per_domain).mean(), None)


def test_the_protocol_carries_the_methods_to_come(model, images, labels) -> None:
    method = Either(Saliency(), Either(MixBlock(), Domains()), p=0.3)
    method.setup(model)
    assert method.needs == ("domains",)
    assert {name for name, _ in method.named_parameters()} == {"b.a.block.weight", "b.a.block.bias"}
    before = method.state_dict()["b.a.momentum_weight"].clone()
    optimizer = torch.optim.SGD([*model.parameters(), *method.parameters()], lr=0.5)
    for seed in range(12):
        loss = method(model, images, labels, seeded(seed), domains=torch.arange(7) % 3).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(model)
    assert not torch.equal(method.state_dict()["b.a.momentum_weight"], before)


def test_options_may_be_numbers_of_numpy() -> None:
    one, half = np.float32(1), np.float32(0.5)
    assert Either(CutMix(one), Erm(), p=half).p == 0.5
    assert PuzzleMix(beta=one, gamma=half).gamma == 0.5
    assert ManifoldMixup(layers=np.int64(1)).layers == (1,)
    assert ManifoldMixup(layers=np.arange(2)).layers == (0, 1)
    assert PuzzleMix(blocks=np.array([2, 4])).blocks == (2, 4)
    assert PuzzleMix(blocks=4).blocks == (4,)
    with pytest.warns(UserWarning, match="no teacher"):
        assert TokenMix(share=half, grid=np.int64(7)).grid == (7, 7)


def test_a_method_within_twice_is_set_up_and_followed_once(model) -> None:
    within = MixBlock()
    method = SoftTargets(Either(within, within))
    method.setup(model)
    before = within.momentum_weight.clone()
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    method.after_step(model)
    torch.testing.assert_close(within.momentum_weight, before + 0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: ManifoldMixup(layers=()), ValueError, "one or more whole numbers"),
        (lambda m: ManifoldMixup(layers=(5,))(m, numbered(2), torch.arange(2)), ValueError, "at most 2"),
        (lambda m: MultiMix(layer=9)(m, numbered(2), torch.arange(2)), ValueError, "<= 2, got start=0, stop=9"),
        (lambda m: MultiMix(math.inf, layer=1), ValueError, "just before the classifier"),
        (lambda m: DenseMultiMix(attention="cam", layer=1), ValueError, "use 'gap' or 'uniform' there"),
        (lambda m: Either(Erm(), None), TypeError, "must be methods, got Erm and NoneType"),
        (
            lambda m: Erm()(m, numbered(2), torch.eye(5, dtype=torch.int64)[:2]),
            ValueError,
            "one-hot targets use a float",
        ),
        (lambda m: PuzzleMix(blocks=2.5), TypeError, "blocks must be an integer, got 2.5"),
        (lambda m: Erm()(m, None, torch.arange(2)), TypeError, "images must be a tensor, got NoneType"),
        (lambda m: Erm()(m, numbered(2), torch.tensor([0, 9])), ValueError, "class indices must be in .* got values"),
        (lambda m: LabelSmoothing(Erm(), 1.5), ValueError, r"smoothing must lie in \[0, 1\], got 1.5"),
        (lambda m: Either(Erm(), Erm(), p=1.5), ValueError, r"p must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_input(call, error, message, model) -> None:
    with pytest.raises(error, match=message):
        call(model)


class Cosine(nn.Module):
    """A head that takes embeddings (b, d) only."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4, generator=seeded(0)))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(embeddings, dim=1).mm(nn.functional.normalize(self.weight, dim=1).T)


@pytest.mark.parametrize(
    "head",
    [nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 5)), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5)), Cosine()],
    ids=lambda head: type(next(head.modules() if isinstance(head, Cosine) else head.children())).__name__,
)
def test_dense_multimix_takes_any_head_of_embeddings(head: nn.Module) -> None:
    """At every position, from a linear one's mixtures: (12) to (14) written out."""
    model = SplitModel([nn.Conv2d(3, 4, 3)], mm.models.GlobalAveragePool(), head)
    images, labels = torch.rand(6, 3, 5, 5, generator=seeded(1)), torch.tensor([0, 1, 2, 3, 4, 0])
    tokens = model.features(images).flatten(2).mT
    lam = mm.functional.sample_weights(
        8, 6, positions=9, generator=torch.Generator().manual_seed(int(mm.random.draw_seed(seeded(2))))
    )
    lam, s = mm.functional.attend(lam, mm.functional.attention_map(tokens).detach())
    mixed = torch.einsum("rnb,brd->nrd", lam, tokens)
    log_p = head(mixed.flatten(0, 1)).unflatten(0, (8, 9)).log_softmax(-1)
    terms = -(torch.einsum("rnb,bc->nrc", lam, torch.eye(5)[labels]) * log_p).sum(-1)
    expected = ((terms.T * s).sum(1) / s.sum(1)).mean()
    for layer in (None, 1):
        loss = DenseMultiMix(8, layer=layer)(model, images, labels, seeded(2)).loss
        torch.testing.assert_close(loss, expected)


def test_a_plain_network_is_told_how_to_be_split() -> None:
    with pytest.raises(TypeError, match=r"must be a multimix.models.SplitModel, got Sequential: multimix.models.split"):
        Erm()(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))


def test_erm_of_no_images_is_refused(model, images, labels) -> None:
    with pytest.raises(ValueError, match="at least one example, got shape"):
        Erm()(model, images[:0], labels[:0])
