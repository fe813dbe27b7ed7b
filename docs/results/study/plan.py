"""What the study trains: for every part, settings by name, each a method and changes of the base configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from variants import Annealed, AtEveryBatchSize, Both, OnTop, Scaled, Terms, WithClean

from multimix.methods import CutMix, DenseMultiMix, Either, Erm, InputMixup, Method, MultiMix, parse
from multimix.training import Config

BASES = {
    # 10 training images of every class, 70 to choose by; a mini-batch is an epoch.
    "digits": Config(
        data="digits", model="smallnet", per_class=10, val_per_class=70, epochs=300, batch_size=64, augment="crop",
        lr=0.1, weight_decay=5e-4, nesterov=True, warmup_epochs=10,
    ),
    # Twenty classes of CIFAR-100 at half of the resolution, 100 training images of every class, 100 to choose by.
    "cifar20": Config(
        data="imagefolder", model="preactresnet10-w8", per_class=100, val_per_class=100, image_size=16, epochs=60,
        batch_size=128, lr=0.1, weight_decay=5e-4, nesterov=True, warmup_epochs=2,
    ),
}  # fmt: skip

TIMES = {"long": 3, "x10": 10, "x30": 30}  # as many epochs

ON_TEST = ("final", "confirm", "softness")
"""What looks at the test set; everything else at the validation split."""

LONG_ON_CIFAR20 = (*ON_TEST, "stacked")
"""What has three times the epochs on cifar20, and the usual number on digits."""

LEFT_OUT = {
    "final": ("rescale", "manifold"),
    "optimiser": ("adamw", "lr=0.01", "multimix(share=1)"),
}

Setting = tuple[Callable[[], Method], dict[str, Any]]

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, "(0.5, 2)")
# What the map found best with each kind of loss; the parts after it vary one thing around these.
PAPER, SMALL, RESCALED = "multimix", "multimix(alpha=0.02)", "multimix(alpha=0.1, rescale=True, share=1)"


def settings(part: str, base: str) -> dict[str, Setting]:
    """The settings of a part by name; on the slower data set some are left out, and the last runs are long ones."""
    found = PARTS[part]()
    left_out = LEFT_OUT.get(part, ()) if base == "cifar20" else ()
    if times := 3 if base == "cifar20" and part in LONG_ON_CIFAR20 else TIMES.get(part):
        found = {name: (method, {"epochs": times * BASES[base].epochs}) for name, (method, _) in found.items()}
    return {name: setting for name, setting in found.items() if not any(text in name for text in left_out)}


def _named(names: list[str], **changes: Any) -> dict[str, Setting]:
    return {name: (partial(parse, name), changes) for name in names}


def _map() -> dict[str, Setting]:
    names = ["erm", "input-mixup", "manifold-mixup", "cutmix"]
    for alpha in ALPHAS:
        for share in (0.5, 1):
            for rescale in ("", ", rescale=True"):
                names.append(f"multimix(alpha={alpha}{rescale}, share={share})")
    return _named(names) | CONTROL


def _n() -> dict[str, Setting]:
    names = []
    for n in (1, 10, 100, 10000):
        names += [
            f"multimix(n={n})",
            f"multimix(n={n}, alpha=0.02, share=0.5)",
            f"multimix(n={n}, alpha=0.1, rescale=True, share=1)",
        ]
    for alpha in ("(0.5, 2)", "0.1", "0.02"):
        names += [f"multimix(n=inf, alpha={alpha}, share={share})" for share in (0.5, 1)]
    return _named([*names, "multimix(n=inf, alpha=0.1, rescale=True, share=1)"])


def _m() -> dict[str, Setting]:
    names = []
    for m in (2, 4, 8, 16):
        for alpha in ("1", "(0.5, 2)"):
            for rescale in ("", ", rescale=True"):
                names.append(f"multimix(m={m}, alpha={alpha}{rescale}, share=1)")
        names.append(f"multimix(m={m}, alpha=1, share=0.5)")
    return _named(names)


def _grid() -> dict[str, Setting]:
    """All five factors at once, so that what one does can be seen at every level of the others."""
    names = []
    for alpha, m, n, share in product((0.02, 0.1, 0.5), (4, 16, None), (100, 1000), (0.5, 1)):
        for rescale in ("", ", rescale=True"):
            names.append(f"multimix(alpha={alpha}, m={m}, n={n}{rescale}, share={share})")
    return _named(names)


def _lead() -> dict[str, Setting]:
    return _named(["erm", "input-mixup", *LEAD, SMALL]) | CONTROL


def _optimiser() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for lr in (0.01, 0.03, 0.3):
        for name, (method, _) in _named(["erm", "input-mixup", PAPER, SMALL, RESCALED, "multimix(share=1)"]).items():
            found[f"{name} lr={lr}"] = method, {"lr": lr}
    for lr in (0.001, 0.003):
        for name, (method, _) in _named(["erm", "input-mixup", PAPER, SMALL, RESCALED, "multimix(share=1)"]).items():
            found[f"{name} adamw lr={lr}"] = method, {"optimizer": "adamw", "lr": lr, "nesterov": False}
    return found


def _variants() -> dict[str, Setting]:
    found: dict[str, Callable[[], Method]] = {}
    for start, end in ((1.0, 0.02), (0.1, 0.01), (0.01, 0.2)):
        found[f"anneal {start}->{end}"] = partial(Annealed, start, end)
        found[f"anneal {start}->{end} rescaled"] = partial(Annealed, start, end, rescale=True)
    for weight in (0.1, 1.0):
        found[f"paper's alpha + {weight} clean"] = lambda weight=weight: WithClean(MultiMix(), weight)
        found[f"alpha=0.02 + {weight} clean"] = lambda weight=weight: WithClean(MultiMix(alpha=0.02), weight)
        found[f"alpha=0.1 rescaled + {weight} clean"] = lambda weight=weight: WithClean(
            MultiMix(alpha=0.1, rescale=True), weight
        )
    for scale in (4.0, 16.0):
        found[f"paper's regime, multimix x{scale:g}"] = lambda scale=scale: Either(
            Scaled(MultiMix(), scale), InputMixup(), p=0.5
        )
    found["both in every step, paper's alpha"] = lambda: Both(MultiMix())
    found["both in every step, alpha=0.02"] = lambda: Both(MultiMix(alpha=0.02))
    for total in (1.0, 3.0):
        found[f"alpha={total:g}/b"] = partial(AtEveryBatchSize, total)
        found[f"alpha={total:g}/b rescaled"] = partial(AtEveryBatchSize, total, rescale=True)
    return {name: (method, {}) for name, method in found.items()}


def _half() -> dict[str, Setting]:
    """What `variants` tries with MultiMix alone, half and half with input mixup."""
    alone = {name: make for name, (make, _) in _variants().items() if "anneal" in name or "clean" in name}
    return {
        f"half and half: {name}": (lambda make=make: Either(make(), InputMixup(), p=0.5), {})
        for name, make in alone.items()
    }


def _terms() -> dict[str, Setting]:
    return {
        f"n=inf, alpha={alpha}, terms x{mean:g}, x{spread:g}": (partial(Terms, mean, spread, alpha), {})
        for alpha, spreads in (((0.5, 2.0), (10.0, 70.0)), (0.1, (1.0, 7.0)))
        for mean in (0.1, 1.0)
        for spread in spreads
    }


CONTROL: dict[str, Setting] = {"erm, half and half with input mixup": (lambda: Either(Erm(), InputMixup(), p=0.5), {})}
"""What is left of MultiMix half and half with input mixup where nothing is mixed but the other half."""

LEAD = ["multimix(alpha=0.02, m=16)", "multimix(alpha=0.0025)"]
"""What looked best in the grid of cifar20; and its m alpha with all examples."""

CHOSEN = ["erm", "input-mixup", "multimix", "multimix(alpha=0.02)", "multimix(alpha=0.02, rescale=True)",
          "multimix(alpha=0.02, rescale=True, share=1)"]  # fmt: skip


def _long() -> dict[str, Setting]:
    names = [*CHOSEN, *LEAD, "multimix(share=1)", "dense-multimix", "dense-multimix(alpha=0.02)", "manifold-mixup"]
    return _named(names) | CONTROL


def _longer() -> dict[str, Setting]:
    return _named(["erm", "input-mixup", PAPER, SMALL, "multimix(share=1)"]) | CONTROL


def _final() -> dict[str, Setting]:
    return _named([*CHOSEN, "manifold-mixup", "cutmix"])


def _confirm() -> dict[str, Setting]:
    """Named before it was run: with fresh seeds, what of the gain is MultiMix's, and what input mixup's."""
    return _named(["erm", "input-mixup", PAPER, SMALL]) | CONTROL


def _stacked() -> dict[str, Setting]:
    """MultiMix and the mixing of images, in turns or the one on top of the other; for seeds with which another part has
    ERM, input mixup and the preset: those of `lead` on digits, of `long` on cifar20."""
    small = partial(MultiMix, alpha=0.02)
    found: dict[str, Callable[[], Method]] = {
        "multimix(alpha=0.02), half and half with cutmix": lambda: Either(small(), CutMix(), p=0.5),
        "erm, half and half with cutmix": lambda: Either(Erm(), CutMix(), p=0.5),
        "cutmix, half and half with input mixup": lambda: Either(CutMix(), InputMixup(), p=0.5),
        "multimix(alpha=0.02) of input mixup": lambda: OnTop(InputMixup(), alpha=0.02),
        "multimix(alpha=0.02) of cutmix": lambda: OnTop(CutMix(), alpha=0.02),
        "multimix(alpha=0.02) of cutmix, half and half with input mixup": lambda: Either(
            OnTop(CutMix(), alpha=0.02), OnTop(InputMixup(), alpha=0.02), p=0.5
        ),
    }
    return _named(["cutmix"]) | {name: (make, {}) for name, make in found.items()}


def _dense() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for alpha in (0.02, (0.5, 2.0)):
        for what, options in (
            ("", {}), (" cam", {"attention": "cam"}), (" uniform", {"attention": "uniform"}),
            (" softmax", {"nonlinearity": "softmax"}), (" global", {"normalize": "global"}),
            (" gradient through attention", {"detach_attention": False}), (" n=100", {"n": 100}),
        ):  # fmt: skip
            method = partial(_regime, alpha=alpha, **options)
            found[f"dense alpha={alpha}{what}"] = method, {}
    return found


def _regime(**options: Any) -> Method:
    return Either(DenseMultiMix(**options), InputMixup(), p=0.5)


def _smoothing() -> dict[str, Setting]:
    """Soft targets without any mixing, and with that of images; for the seeds of `lead`, which has the others."""
    names = [f"label-smoothing(erm, smoothing={share})" for share in (0.05, 0.1, 0.2, 0.4)]
    names += [f"either({name}, input-mixup)" for name in names[1:3]]
    return _named(names)


def _softness() -> dict[str, Setting]:
    """Named before it was run, for the seeds of `confirm` on cifar20: the best of `smoothing` there, alone and in
    MultiMix's half, and on top of input mixup."""
    names = ["label-smoothing(erm, smoothing=0.2)", "either(label-smoothing(erm, smoothing=0.1), input-mixup)"]
    return _named([*names, "label-smoothing(input-mixup, smoothing=0.1)"])


PARTS = {
    "map": _map, "n": _n, "m": _m, "grid": _grid, "lead": _lead, "optimiser": _optimiser, "variants": _variants,
    "half": _half, "terms": _terms, "dense": _dense, "long": _long, "x10": _longer, "x30": _longer, "final": _final,
    "confirm": _confirm, "stacked": _stacked, "smoothing": _smoothing,
    "softness": _softness,
}  # fmt: skip
