"""The attention of the class token in the last block of a vision transformer, which fused kernels do not return."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .split_model import SplitModel


class _Projections(NamedTuple):
    """How a block makes queries and keys: its normalisation, their weights (d', d), and the norm of each head."""

    norm: nn.Module
    weight: tuple[Tensor, Tensor]
    bias: tuple[Tensor | None, Tensor | None]
    head_norm: tuple[nn.Module, nn.Module]
    heads: int


def features_and_attention(model: SplitModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """The features of the last stage, and the attention of the class token to the patches in the last block.

    One forward pass: what is added is the product of the class token's queries with the keys of all tokens, without
    gradient. Nothing is hooked, and the block itself may use any fused kernel. Of a compiled model, the last stage
    is run uncompiled.

    Args:
        model: with a class token as embedding; blocks of timm's `VisionTransformer` (ViT, DeiT) or torchvision's.
        images: (b, channels, h, w) in [0, 1].

    Returns:
        Features (b, t, d), and attention (b, r), the mean over heads of the softmax over all t tokens; rows sum to at
        most 1, since prefix tokens are left out.

    Raises:
        ValueError: the model has no class token, or blocks of another kind.

    >>> from multimix.models import build
    >>> vit = build("timm:vit_tiny_patch16_224", num_classes=5, image_size=32)
    >>> features, attention = features_and_attention(vit, torch.rand(2, 3, 32, 32))
    >>> features.shape, attention.shape
    (torch.Size([2, 5, 192]), torch.Size([2, 4]))
    """
    kind = type(model).__name__
    # A pool made by hand is believed.
    made_by_split = isinstance(_reduction(model.pool), fx.GraphModule)
    if model.prefix_tokens < 1 or (made_by_split and not takes_first_token(model.pool)):
        raise ValueError(
            f"this {kind} has no class token as embedding, whose attention could be read: use a vision transformer "
            "with one (vit-s16, timm:deit_small_patch16_224, torchvision:vit_b_16), or CutMix"
        )
    last = model.stages[-1]
    steps = list(_blocks(last))
    if not steps:
        raise ValueError(
            f"the last stage of this {kind} has no block of timm's VisionTransformer or torchvision's, whose attention "
            "could be computed: use vit-s16, timm:deit_small_patch16_224 or torchvision:vit_b_16"
        )
    x = model.features(images, stop=model.depth - 1)
    features, tokens = _run(last, steps[-1], x)
    with torch.no_grad():
        attention = _class_attention(_projections(steps[-1]), tokens)
    return features, attention[:, model.prefix_tokens :]


def takes_first_token(pool: nn.Module) -> bool:
    """Whether a pool made by `split` takes the first token; of one made by hand nothing is known."""
    reduce = _reduction(pool)
    if not isinstance(reduce, fx.GraphModule):
        return False
    taken = [node.args[1] for node in reduce.graph.nodes if node.target is operator.getitem]
    return any(isinstance(index, tuple) and index[-1] == 0 for index in taken)


def _reduction(pool: nn.Module) -> nn.Module:
    reduce: nn.Module = getattr(pool, "reduce", pool)
    return reduce


def _blocks(stage: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks that a stage calls, in order."""
    if isinstance(stage, fx.GraphModule):
        called = [stage.get_submodule(str(n.target)) for n in stage.graph.nodes if n.op == "call_module"]
    else:
        called = _in_order(stage)
    yield from (module for module in called if _kind(module) is not None)


def _in_order(stage: nn.Module) -> list[nn.Module]:
    return list(stage.children()) if type(stage).forward is nn.Sequential.forward else [stage]


def _kind(block: nn.Module) -> str | None:
    """Whose block it is: exactly that class, since a relative may normalise or attend in another way."""
    name = f"{type(block).__module__}.{type(block).__name__}"
    return {
        "timm.models.vision_transformer.Block": "timm",
        "torchvision.models.vision_transformer.EncoderBlock": "torchvision",
    }.get(name)


def _run(stage: nn.Module, block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a stage, and what one of its blocks got on the way."""
    if isinstance(stage, fx.GraphModule):
        runner = _Keeper(stage, block)
        return cast(Tensor, runner.run(x)), runner.kept
    kept = x
    for module in _in_order(stage):
        kept = x if module is block else kept
        x = module(x)
    return x, kept


class _Keeper(fx.Interpreter):
    """Runs a graph, and keeps what one of its modules got."""

    kept: Tensor

    def __init__(self, graph: fx.GraphModule, module: nn.Module) -> None:
        super().__init__(graph)
        self.wanted = module

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if module is self.wanted:
            self.kept = args[0]
        return module(*args, **kwargs)


def _projections(block: Any) -> _Projections:
    if _kind(block) == "timm":
        attn = block.attn
        if type(attn).__name__ != "Attention":  # DiffAttention, say, subtracts one softmax from another
            raise ValueError(
                f"attention of a block with a {type(attn).__name__} cannot be computed: use a vision transformer with "
                "timm's plain Attention, or CutMix"
            )
        (q, k, _), (q_bias, k_bias) = attn.qkv.weight.chunk(3), _two(attn.qkv.bias)
        return _Projections(block.norm1, (q, k), (q_bias, k_bias), (attn.q_norm, attn.k_norm), attn.num_heads)
    attn, none = block.self_attention, nn.Identity()
    (q, k, _), (q_bias, k_bias) = attn.in_proj_weight.chunk(3), _two(attn.in_proj_bias)
    return _Projections(block.ln_1, (q, k), (q_bias, k_bias), (none, none), attn.num_heads)


def _two(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if bias is None else bias.chunk(3)[:2]  # type: ignore[return-value]


def _class_attention(p: _Projections, tokens: Tensor) -> Tensor:
    """softmax(q k' / sqrt(size of a head)) of the first token over all t, mean over heads: (b, t)."""
    x = p.norm(tokens)
    q_B1HE = F.linear(x[:, :1], p.weight[0], p.bias[0]).unflatten(2, (p.heads, -1))
    k_BTHE = F.linear(x, p.weight[1], p.bias[1]).unflatten(2, (p.heads, -1))
    q, k = p.head_norm[0](q_B1HE), p.head_norm[1](k_BTHE)
    scores_BHT = torch.einsum("bqhe,bthe->bht", q, k) * q.shape[-1] ** -0.5
    attention: Tensor = scores_BHT.float().softmax(2).mean(1)
    return attention
