"""A layer imports what stands above it in the list of CONTRIBUTING.md, apart from imports inside functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "multimix"


def layers() -> list[str]:
    listed = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("src/multimix/\n")[1].split("```")[0]
    return re.findall(r"^  (\w+)/ ", listed, re.MULTILINE)


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """The layers that a module imports when it is imported itself."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            place = package[: len(package) - node.level + 1]
            names = [*place, *(node.module.split(".") if node.module else ())]
            yield from ([names[0]] if names else [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "multimix":
            names = (node.module or "").split(".")[1:]
            yield from ([names[0]] if names else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("multimix."))
        else:
            yield from imports(node, package)


def test_layers_import_what_stands_above_them() -> None:
    order = layers()
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()} == set(order)
    upward, seen = [], 0
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE).parts[:-1]
        if place:
            for name in imports(ast.parse(file.read_text(encoding="utf-8")), place):
                if name in order and name != place[0]:
                    seen += 1
                    if order.index(name) > order.index(place[0]):
                        upward.append(f"{file.relative_to(SOURCE)} imports {name}")
    assert not upward
    assert seen > 100
