"""Methods by name, for the command line and stored configurations: the one place that maps names to classes."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

from ..errors import nearest, nearest_or_all
from ..functional import SMALL_ALPHA
from ..functional._checks import Alpha
from .alignmixup import AlignMixup
from .augmix import AugMix
from .automix import AutoMix
from .barycenter import BarycenterAutoMix
from .base import Method
from .comixup import CoMixup
from .cutmix import CutMix
from .daml import Daml
from .dense_loss import DenseLoss
from .either import Either
from .erm import Erm
from .fmix import FMix
from .input_mixup import InputMixup
from .manifold_mixup import ManifoldMixup
from .multimix import DenseMultiMix, MultiMix
from .opttransmix import OptTransMix
from .puzzlemix import PuzzleMix
from .saliencymix import SaliencyMix
from .soft_targets import LabelSmoothing, SoftTargets
from .stylecutmix import StyleCutMix
from .stylemix import StyleMix
from .supermix import SuperMix
from .tokenmix import TokenMix
from .transmix import TransMix
from .zeta_mixup import ZetaMixup


def paper_regime(*, multimix: Method, share: float = 0.5, mixup_alpha: Alpha = 1.0) -> Either:
    """How the paper trains (section 4.1): a share of the mini-batches with `multimix`, the others with input mixup."""
    return Either(multimix, InputMixup(mixup_alpha), p=share)


def _multimix(n: int | float = 1000, m: int | None = None, alpha: Alpha = (0.5, 2.0), *, layer: int | None = None,
              rescale: bool = False, spread_weight: float = 1.0, gather: bool = False, share: float = 0.5,
              mixup_alpha: Alpha = 1.0) -> Either:  # fmt: skip
    """MultiMix in a `share` of the mini-batches, input mixup in the others: the paper's regime (section 4.1).

    Args:
        n, m, alpha, layer, rescale, spread_weight, gather: as in multimix-alone.
        share: of the mini-batches that MultiMix has, by chance.
        mixup_alpha: alpha of the input mixup, which the paper does not state.
    """
    alone = MultiMix(n, m, alpha, layer=layer, rescale=rescale, spread_weight=spread_weight, gather=gather)
    return paper_regime(multimix=alone, share=share, mixup_alpha=mixup_alpha)


def _dense_multimix(n: int | float = 1000, m: int | None = None, alpha: Alpha = (0.5, 2.0), attention: str = "gap",
                    nonlinearity: str = "relu", detach_attention: bool = True, normalize: str = "position", *,
                    layer: int | None = None, rescale: bool = False, spread_weight: float = 1.0,
                    gather: bool = False, share: float = 0.5, mixup_alpha: Alpha = 1.0) -> Either:  # fmt: skip
    """Dense MultiMix in a `share` of the mini-batches, input mixup in the others: the paper's regime (section 4.1).

    Args:
        n, m, alpha, layer, rescale, spread_weight, gather: as in multimix-alone.
        attention, nonlinearity, detach_attention, normalize: as in dense-multimix-alone.
        share: of the mini-batches that Dense MultiMix has, by chance.
        mixup_alpha: alpha of the input mixup, which the paper does not state.
    """
    options = (n, m, alpha, attention, nonlinearity, detach_attention, normalize)
    alone = DenseMultiMix(*options, layer=layer, rescale=rescale, spread_weight=spread_weight, gather=gather)
    return paper_regime(multimix=alone, share=share, mixup_alpha=mixup_alpha)


def _alignmixup(alpha: float = 2.0, *, eps: float = 0.1, max_iter: int = 100, share: float = 0.5) -> Either:
    """AlignMixup in a `share` of the mini-batches, input mixup in the others, as in its authors' code.

    Args:
        alpha, eps, max_iter: as in alignmixup-alone; input mixup has the same alpha.
        share: of the mini-batches that AlignMixup has, by chance.
    """
    return Either(AlignMixup(alpha, eps=eps, max_iter=max_iter), InputMixup(alpha), p=share)


NAMES: dict[str, Callable[..., Method]] = {
    "erm": Erm,
    "input-mixup": InputMixup,
    "manifold-mixup": ManifoldMixup,
    "augmix": AugMix,
    "cutmix": CutMix,
    "fmix": FMix,
    "opttransmix": OptTransMix,
    "puzzlemix": PuzzleMix,
    "comixup": CoMixup,
    "saliencymix": SaliencyMix,
    "zeta-mixup": ZetaMixup,
    "multimix": _multimix,
    "dense-multimix": _dense_multimix,
    "multimix-small-alpha": functools.partial(_multimix, alpha=SMALL_ALPHA),
    "dense-multimix-small-alpha": functools.partial(_dense_multimix, alpha=SMALL_ALPHA),
    "multimix-alone": MultiMix,
    "dense-multimix-alone": DenseMultiMix,
    "alignmixup": _alignmixup,
    "alignmixup-alone": AlignMixup,
    "transmix": TransMix,
    "tokenmix": TokenMix,
    "supermix": SuperMix,
    "soft-targets": SoftTargets,
    "label-smoothing": LabelSmoothing,
    "automix": AutoMix,
    "automix-barycenter": BarycenterAutoMix,
    "stylemix": StyleMix,
    "stylecutmix": StyleCutMix,
    "daml": Daml,
    "either": Either,
    "dense-loss": DenseLoss,
}

_ELSEWHERE = {
    "mixup": "input-mixup", "baseline": "erm", "plain": "erm", "crossentropy": "erm", "dense": "dense-multimix",
    "zeta": "zeta-mixup",
}  # fmt: skip
"""What others call a method, without hyphens; by its letters another would be nearest."""

_DEEPEST = 50
"""Levels of a method's text. What is far deeper some versions of Python read, and then fail to write."""

# Quoted strings, such as the names of files, are left as they are.
_QUOTED = r"""('[^']*'|"[^"]*")"""


def parse(text: str) -> Method:
    """A method from its name, with options as in a call: `multimix(alpha=0.1, n=500)`.

    `multimix` and `dense-multimix` are the paper's regime, half of the mini-batches with input mixup (option
    `share`), and with `-small-alpha` the same with this project's preset `SMALL_ALPHA`; `multimix-alone` and
    `dense-multimix-alone` are the bare methods; `n=inf` is the closed form.

    >>> parse("either(multimix-alone(alpha=0.1), cutmix, p=0.3)").p
    0.3
    """
    method = _value(_tree(text), text)
    if not isinstance(method, Method):
        raise ValueError(f"{text!r} is not a method: expected one of {', '.join(NAMES)}")
    return method


def complete() -> list[str]:
    """The methods that need no options: no other method and no teacher.

    >>> "erm" in complete(), "either" in complete(), "supermix" in complete()
    (True, False, False)
    """
    found = []
    for name, make in NAMES.items():
        with contextlib.suppress(TypeError, ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make()
            found.append(name)
    return found


def spelled(text: str) -> str:
    """The one spelling of a method that tables and folders use, since spaces mean nothing.

    >>> spelled("multimix( alpha=0.1,n=500 )")
    'multimix(alpha=0.1, n=500)'
    """
    return re.sub(rf"{_QUOTED}|\s*(,)\s*|\s+", lambda m: m[1] or (", " if m[2] else ""), text)


def canonical(text: str) -> str:
    """A method without the options that say what holds anyway, so that names can be compared.

    >>> canonical("dense-multimix(n=1000, alpha=(0.5,2))"), canonical("multimix( alpha=[1.0,2.0] )")
    ('dense-multimix', 'multimix(alpha=(1, 2))')
    """
    parse(text)
    return _canonical(_tree(text))


def _canonical(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id.replace("_", "-")
    if not isinstance(node, ast.Call):
        return repr(_plain(ast.literal_eval(node)))
    assert isinstance(node.func, ast.Name)
    name = _canonical(node.func)
    given = inspect.signature(NAMES[name]).bind(*node.args, **{str(o.arg): o.value for o in node.keywords})
    kept = []
    for option, value in given.arguments.items():
        default = given.signature.parameters[option].default
        if isinstance(value, ast.Name | ast.Call) or _plain(ast.literal_eval(value)) != default:
            kept.append(f"{option}={_canonical(value)}")
    return f"{name}({', '.join(kept)})" if kept else name


def _plain(value: Any) -> Any:
    """Whole numbers without a point, lists as tuples: methods take one for the other."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The options that a method takes, by name.

    Raises:
        ValueError: no method of this name.

    >>> list(options_of("cutmix")), options_of("cutmix")["alpha"].default
    (['alpha'], 1.0)
    """
    if name not in NAMES:
        meant = _ELSEWHERE.get(re.sub("[-_ ]", "", name.casefold()))
        hint = f": did you mean {meant}?" if meant else nearest_or_all(name, NAMES)
        raise ValueError(f"unknown method {name!r}{hint}")
    # Of a class without a constructor of its own, the signature is that of torch.nn.Module, (*args, **kwargs).
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(NAMES[name]).parameters
    return {option: parameter for option, parameter in parameters.items() if parameter.kind not in open_ended}


def split_list(text: str) -> list[str]:
    """A comma-separated list of methods, where commas inside parentheses or quotes do not separate.

    >>> split_list("erm, multimix(alpha=0.1, n=500),cutmix")
    ['erm', 'multimix(alpha=0.1, n=500)', 'cutmix']
    >>> split_list("supermix(teacher='runs/a)b'),erm")
    ["supermix(teacher='runs/a)b')", 'erm']
    """
    parts, depth = [""], 0
    for token in re.findall(f"{_QUOTED}|(.)", text, re.DOTALL):
        piece = token[0] or token[1]
        depth += (piece in ("(", "[")) - (piece in (")", "]"))
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def _tree(text: str) -> ast.expr:
    try:
        # A hyphen between letters joins a name.
        joined = re.sub(rf"{_QUOTED}|(?<=[A-Za-z])-(?=[A-Za-z])", lambda m: m[1] or "_", text.strip())
        tree = ast.parse(joined, mode="eval").body
        level: list[ast.AST] = [tree]
        for _ in range(_DEEPEST):
            level = [child for node in level for child in ast.iter_child_nodes(node)]
        if level:
            raise RecursionError
        return tree
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"cannot read the method {text!r}: write name, or name(option=value, ...)") from None


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        for option in node.keywords:
            value = option.value
            if isinstance(value, ast.Name) and value.id != "inf" and value.id.replace("_", "-") not in NAMES:
                raise ValueError(
                    f"cannot read {option.arg}={value.id} in the method {text!r}: a value is a number, a quoted text, "
                    "or the name of a method"
                )
        given = [str(option.arg) for option in node.keywords]
        if twice := [name for name in dict.fromkeys(given) if given.count(name) > 1]:
            raise ValueError(f"the method {text!r} gives {' and '.join(twice)} more than once: leave all but one out")
        keywords = {str(option.arg): _value(option.value, text) for option in node.keywords}
        return _make(node.func.id, [_value(argument, text) for argument in node.args], keywords)
    if isinstance(node, ast.Name):
        return math.inf if node.id == "inf" else _make(node.id, [], {})
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(f"cannot read {ast.unparse(node)!r} in the method {text!r}") from None


def _make(identifier: str, arguments: list[Any], keywords: dict[str, Any]) -> Method:
    name = identifier.replace("_", "-")
    options = options_of(name)
    make = NAMES[name]
    for keyword in keywords:
        if keyword not in options:
            hint = nearest(keyword, options) or f": its options are {', '.join(options) or 'none'}"
            raise ValueError(f"{name} has no option {keyword!r}{hint}")
    if len(arguments) > len(options):
        known = ", ".join(options) or "none"
        raise ValueError(f"{name} takes at most {len(options)} values ({known}), got {arguments}")
    try:
        given = inspect.signature(make).bind(*arguments, **keywords).arguments
    except TypeError as error:
        raise ValueError(f"{name}: {error}; write {name}({', '.join(options)})") from None
    for option, value in given.items():
        if isinstance(options[option].default, bool) and not isinstance(value, bool):
            raise ValueError(f"{name}: {option} must be True or False, got {value!r}")
    try:
        return make(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
