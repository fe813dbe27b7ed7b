"""Methods by name."""

import math
import re

import pytest

from multimix import methods
from multimix.methods import parse, split_list


def test_names_are_the_paper_s_regimes() -> None:
    for name, kind in (("multimix", methods.MultiMix), ("dense-multimix", methods.DenseMultiMix)):
        regime = parse(name)
        assert isinstance(regime, methods.Either)
        assert isinstance(regime.a, kind)
        assert isinstance(regime.b, methods.InputMixup)
        assert regime.p == 0.5
        assert regime.a.criterion.n == 1000
        assert regime.a.criterion.alpha == (0.5, 2.0)
        assert isinstance(parse(f"{name}-alone"), kind)


def test_small_alpha_is_the_paper_s_regime_but_for_alpha() -> None:
    for name in ("multimix", "dense-multimix"):
        paper, preset = parse(name), parse(f"{name}-small-alpha")
        assert preset.a.criterion.alpha == (0.02, 0.02)
        assert repr(preset) == repr(parse(f"{name}(alpha=0.02)"))
        assert preset.p == paper.p
        assert parse(f"{name}-small-alpha(n=5, share=0.3)").a.criterion.n == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("erm", "erm"),
        ("multimix(1000, None, (0.5, 2.0))", "multimix"),
        ("multimix(n=inf, share=.5)", "multimix(n=inf)"),
        ("multimix(alpha=(0.1, 2.0))", "multimix(alpha=(0.1, 2))"),
        ("multimix(alpha=[0.1, 2])", "multimix(alpha=(0.1, 2))"),
        ("manifold-mixup(layers=[0, 1, 2])", "manifold-mixup"),
        ("manifold-mixup(layers=[0, 1])", "manifold-mixup(layers=(0, 1))"),
        ("multimix-small-alpha(alpha=0.02)", "multimix-small-alpha"),
        ("supermix(teacher='a, b-c')", "supermix(teacher='a, b-c')"),
        (
            "either(multimix-alone(n=1000), alignmixup(max_iter=3), p=0.5)",
            "either(a=multimix-alone, b=alignmixup(max_iter=3))",
        ),
        ("dense-multimix(detach_attention=False,m=-0.0)", None),
    ],
)
def test_canonical_names(text, expected) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="m must be"):
            methods.canonical(text)
        return
    assert methods.canonical(text) == expected
    assert repr(parse(methods.canonical(text))) == repr(parse(text))


def test_options_and_nesting() -> None:
    method = parse("either(multimix-alone(n=inf, alpha=(0.1, 0.3)), either(cutmix, input-mixup(alpha=0.2)), p=0.25)")
    assert method.p == 0.25
    assert method.a.criterion.n == math.inf
    assert method.a.criterion.alpha == (0.1, 0.3)
    assert method.b.b.linear.alpha == 0.2
    assert parse("multimix(alpha=1.0, share=0.75)").p == 0.75
    assert parse("dense-multimix(attention='cam')").a.criterion.attention == "cam"
    for name in ("multimix", "dense-multimix"):
        assert parse(f"{name}(n=inf, spread_weight=3)").a.criterion.spread_weight == 3
        assert parse(f"{name}-alone(n=inf, spread_weight=3)").criterion.spread_weight == 3


def test_lists() -> None:
    assert split_list("erm,multimix(alpha=(0.1, 0.2), n=5) , cutmix,") == [
        "erm",
        "multimix(alpha=(0.1, 0.2), n=5)",
        "cutmix",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("multimx", "unknown method 'multimx': did you mean multimix?"),
        ("mixup", "unknown method 'mixup': did you mean input-mixup?"),
        ("Mix-Up", "did you mean input-mixup?"),
        ("cross_entropy", "did you mean erm?"),
        ("quux", "expected one of erm, input-mixup"),
        ("multimix(alfa=1)", "multimix has no option 'alfa': did you mean alpha?"),
        ("multimix(alpha=-1)", "alpha must be positive"),
        ("multimix(", "cannot read the method"),
        ("3", "is not a method"),
        ("erm(1)", "erm takes at most 0 values (none), got [1]"),
        ("erm(n=1)", "erm has no option 'n': its options are none"),
        ("fmix(alpha=x)", "cannot read alpha=x in the method"),
        ("soft-targets", "soft-targets: missing a required argument: 'method'; write soft-targets(method"),
        ("multimix(n=__import__('os'))", "unknown method '--import--'|cannot read"),
        ("cutmix(alpha=1 if 2 else 3)", "cannot read"),
        ("cutmix(alpha={[]: 1})", "cannot read"),
        ("cutmix(alpha=1, alpha=2)", "gives alpha more than once"),
        ("multimix(rescale='no')", "multimix: rescale must be True or False, got 'no'"),
        (f"multimix(alpha={'-' * 300}1)", "cannot read the method"),
        (f"multimix(alpha={'-' * 5000}1)", "cannot read the method"),
        ("cutmix(alpha=inf)", "alpha must be a positive number, got inf"),
    ],
)
def test_bad_names(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.sub(r"([(\[?)])", r"\\\1", message)):
        parse(text)


def test_quoted_strings_are_left_alone() -> None:
    text = "stylemix( encoder='/my-data/vgg normalised.pth',decoder=\"a,  b-c.pth\" )"
    assert parse(text).files == ("/my-data/vgg normalised.pth", "a,  b-c.pth")
    assert methods.spelled(text) == "stylemix(encoder='/my-data/vgg normalised.pth', decoder=\"a,  b-c.pth\")"


@pytest.mark.parametrize("name", ["multimix", "dense-multimix", "multimix-small-alpha"])
def test_input_mixup_of_the_regime_has_an_alpha_of_its_own(name: str) -> None:
    assert parse(name).b.linear.alpha == 1.0
    assert parse(f"{name}(mixup_alpha=0.2)").b.linear.alpha == 0.2
    assert methods.canonical(f"{name}(mixup_alpha=1.0)") == name
