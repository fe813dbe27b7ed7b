"""The outline of somebody else's network: the order in which its outermost forward calls its blocks.

Only the outermost forward is traced (torch.fx); every block stays the module it is, so that nothing of what it
does in training or evaluation, on any device or in any precision, is frozen into a graph. Where one tensor is all
that the rest of the network needs, the network can be cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .modes import keeping_modes


class CannotSplit(Exception):  # noqa: N818 - a reason, not an error of its own: `split` turns it into one
    """Why a model cannot be split, as the middle of a sentence."""


@dataclass(frozen=True)
class Piece:
    """The nodes between two neighbouring cuts: one tensor in (the output of `source`), one out."""

    nodes: tuple[fx.Node, ...]
    source: fx.Node

    @property
    def output(self) -> fx.Node:
        return self.nodes[-1]

    @property
    def modules(self) -> list[str]:
        """The names of the modules it calls."""
        return [str(node.target) for node in self.nodes if node.op == "call_module"]


@dataclass
class Outline:
    """A model, the graph of its outermost forward, and the values of all nodes for a batch of images."""

    model: nn.Module
    graph: fx.Graph
    added: dict[str, nn.Module] = field(default_factory=dict)
    """Modules made for functions that behave differently in training, by the name that the graph gives them."""
    values: dict[fx.Node, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Outline:
        """Trace a model in evaluation mode.

        Raises:
            CannotSplit: the forward cannot be traced, or is not the same in training and in evaluation.
        """
        with keeping_modes(model):
            training = _trace(model.train())
        evaluation = _trace(model)
        if str(training.graph) != str(evaluation.graph):
            raise CannotSplit("its forward does not do the same in training and in evaluation (auxiliary classifiers?)")
        return evaluation

    def get(self, node: fx.Node | str) -> Any:
        """The module, parameter or buffer that a node names."""
        name = str(node.target) if isinstance(node, fx.Node) else node
        value: Any = self.added.get(name, self.model)
        for part in () if name in self.added else name.split("."):
            value = getattr(value, part)
        return value

    def describe(self, node: fx.Node) -> str:
        """A node in words, for error messages."""
        if node.op == "call_module":
            return f"{node.target} ({type(self.get(node)).__name__})"
        return str(getattr(node.target, "__name__", node.target))

    def run(self, images: Tensor) -> None:
        """Fill in the values for a batch of images."""
        outline, values = self, dict[fx.Node, Any]()

        class Recorder(fx.Interpreter):
            def fetch_attr(self, target: str) -> Any:
                return outline.get(target)

            def run_node(self, n: fx.Node) -> Any:
                values[n] = super().run_node(n)
                return values[n]

            def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                # A graph's lists are immutable, and some modules write into the list they get.
                return super().call_module(target, tuple(list(a) if isinstance(a, list) else a for a in args), kwargs)

        Recorder(self.model, graph=self.graph).run(images)
        self.values = values

    def pieces(self) -> list[Piece]:
        """The graph in order, in the smallest pieces that one tensor connects."""
        nodes = [node for node in self.graph.nodes if node.op != "output"]
        position = {node: i for i, node in enumerate(self.graph.nodes)}
        last_use = {node: max((position[user] for user in node.users), default=-1) for node in nodes}
        source = next(node for node in nodes if node.op == "placeholder")
        from_images, live, found, start = {source}, {source}, list[Piece](), position[source] + 1
        for node in nodes[start:]:
            if any(parent in from_images for parent in node.all_input_nodes):
                from_images.add(node)
                live.add(node)
            live = {n for n in live if last_use[n] > position[node]}
            if live == {node} and isinstance(self.values[node], Tensor):
                found.append(Piece(tuple(nodes[start : position[node] + 1]), source))
                source, start = node, position[node] + 1
        return found

    def assemble(
        self, parts: Sequence[Piece], *, from_map: bool = False, to_map: bool = False, flatten: bool = False
    ) -> fx.GraphModule:
        """A module of consecutive pieces, which holds the model's own modules under their own names.

        With `from_map` it takes (b, d, h, w) where the first piece wants (b, h, w, d), with `to_map` it does the
        inverse at its end; with `flatten` it returns (b, d) where the last piece returns (b, d, 1, 1).
        """
        graph = fx.Graph()
        x = graph.placeholder("x")
        if from_map:  # contiguous, since the model may take views of it
            x = graph.call_method("contiguous", (graph.call_method("permute", (x, 0, 2, 3, 1)),))
        copies, held = {parts[0].source: x}, dict[str, Any]()
        for node in self._needed(parts):
            copies[node] = graph.node_copy(node, lambda n: copies[n])
            if node.op in ("call_module", "get_attr"):
                held[str(node.target)] = self.get(node)
        out = copies[parts[-1].output]
        if to_map:
            out = graph.call_method("permute", (out, 0, 3, 1, 2))
        if flatten:
            out = graph.call_method("flatten", (out, 1))
        graph.output(out)
        return fx.GraphModule(held, graph, class_name="Part")

    def _needed(self, parts: Sequence[Piece]) -> Iterator[fx.Node]:
        """The pieces' nodes, and what they read that was made of parameters alone before."""
        of_images = {node for node in self.graph.nodes if node.op == "placeholder"}
        for node in self.graph.nodes:
            if any(each in of_images for each in node.all_input_nodes):
                of_images.add(node)
        needed = {node for part in parts for node in part.nodes}
        for node in reversed(self.graph.nodes):
            if node not in of_images and any(user in needed for user in node.users):
                needed.add(node)
        yield from (node for node in self.graph.nodes if node in needed)

    def is_reshape(self, node: fx.Node) -> bool:
        """Whether a node passes its input on unchanged, but for the shape."""
        if node.op == "call_module":
            return isinstance(self.get(node), (nn.Identity, nn.Flatten))
        if node.op == "call_method":
            return node.target in ("flatten", "squeeze", "view", "reshape", "contiguous")
        return node.target in (torch.flatten, torch.squeeze, torch.reshape)


class _Frame(nn.Module):
    """Calls the model with the images alone, so that its further arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)


class _Tracer(fx.Tracer):
    """Looks into containers only: the model itself, sequences, what holds the last linear layer, and, with
    `look_into_heavy`, what holds more than half of the parameters (an `encoder` with all blocks)."""

    def __init__(self, model: nn.Module, look_into_heavy: bool) -> None:
        super().__init__()
        self.model = model
        layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        self.last = layers[-1] if layers else None
        self.heavy = _size(model) / 2 if look_into_heavy else float("inf")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m is self.model or type(m).forward is nn.Sequential.forward:
            return False
        if next(m.children(), None) is None:
            return True
        return not any(part is self.last for part in m.modules()) and _size(m) <= self.heavy


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _trace(model: nn.Module) -> Outline:
    for look_into_heavy in (True, False):
        try:
            outline = Outline(model, _Tracer(model, look_into_heavy).trace(_Frame(model)))
        except Exception as error:  # a model's forward may raise anything when its input is symbolic
            reason = str(error).split(".")[0] or type(error).__name__
            if look_into_heavy:
                continue
            raise CannotSplit(f"its forward cannot be traced: {reason}") from error
        break
    for node in outline.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            if not str(node.target).startswith("model."):
                raise CannotSplit(f"its forward makes a constant, {node.target}, that no module holds")
            node.target = str(node.target).removeprefix("model.")
    _hold_dropout(outline)
    return outline


def _hold_dropout(outline: Outline) -> None:
    """Turn calls of `F.dropout(x, p, training=self.training)` into modules: a graph would fix `training`."""
    for node in outline.graph.nodes:
        if node.op == "call_function" and node.target is F.dropout:
            given = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | node.kwargs
            node.op, node.target = "call_module", f"dropout_{len(outline.added)}"
            node.args, node.kwargs = (given["input"],), {}
            outline.added[node.target] = nn.Dropout(given.get("p", 0.5)).eval()
