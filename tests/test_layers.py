"""A layer imports what stands above it in the list of CONTRIBUTING.md, anywhere in its modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "multimix"

UPWARD = {
    # A function hands over to a faster implementation of itself.
    "functional/closed_form.py imports kernels",
    "functional/loss.py imports kernels",
    # A teacher may be the folder of a run; who gives a model needs no training.
    "methods/teacher.py imports training",
    # The page of a comparison shows two parts of the evaluation, and these draw with the figures beside it.
    "reports/comparison.py imports suite",
}
"""Where it cannot be helped; inside functions, or the modules could not import each other."""


def layers() -> list[str]:
    listed = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("src/multimix/\n")[1].split("```")[0]
    return re.findall(r"^  (\w+)/ ", listed, re.MULTILINE)


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """What a module of `package` imports directly below multimix."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "multimix"):
            within = package[: len(package) - node.level + 1] if node.level else ()
            named = (node.module or "").split(".")[0 if node.level else 1 :]
            below = [name for name in (*within, *named) if name]
            yield from below[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("multimix."))


def test_layers_import_what_stands_above_them() -> None:
    order = layers()
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()} == set(order)
    upward, seen = set(), 0
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE).parts[:-1]
        for name in imports(ast.parse(file.read_text(encoding="utf-8")), place):
            if place and name in order and name != place[0]:
                seen += 1
                if order.index(name) > order.index(place[0]):
                    upward.add(f"{file.relative_to(SOURCE).as_posix()} imports {name}")
    assert upward == UPWARD
    assert seen > 100


def test_what_all_layers_share_imports_none_of_them() -> None:
    order = layers()
    for file in SOURCE.glob("*.py"):
        if not file.name.startswith("__"):
            assert not set(imports(ast.parse(file.read_text(encoding="utf-8")), ())) & set(order), file.name
