"""Writes docs/api.md, the public names and what their docstrings begin with: `python docs/api.py`."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "multimix": "torch alone",
    "multimix.functional": "torch alone",
    "multimix.criteria": "torch alone",
    "multimix.methods": "torch alone, but for those that name an extra when they are made",
    "multimix.models": "torch alone; `from_timm` and `from_torchvision` take models of these libraries",
    "multimix.random": "torch alone",
    "multimix.data": "`[train]`",
    "multimix.training": "`[train]`",
    "multimix.evaluation": "`[evaluate]`",
    "multimix.detection": "`[evaluate]`",
    "multimix.published": "nothing",
    "multimix.recipes": "`[train]`",
    "multimix.reports": "`[evaluate]`",
    "multimix.suite": "`[evaluate]`",
}
HEAD = """# The public names

What can be imported, with the first lines of its docstring; `help(multimix.MultiMix)` shows shapes, errors, equations
and an example too. Whatever is not listed is internal, and may change. Written by `python docs/api.py`.
"""
LONGEST = 240


def text() -> str:
    """The whole document."""
    lines, shown = [HEAD], set[str]()
    for name, extra in MODULES.items():
        module = importlib.import_module(name)
        values = {public: getattr(module, public) for public in module.__all__}
        lines.append(f"## `{name}`\n\n{begins(module)} Needs {extra}.\n")
        again = [public for public, value in values.items() if key(public, value) in shown]
        lines += [entry(public, value) for public, value in values.items() if documented(value) and public not in again]
        if again:
            lines.append(f"- {', '.join(f'`{public}`' for public in again)}: as above.")
        lines.append("")
        shown |= {key(public, value) for public, value in values.items() if documented(value)}
    return "\n".join(lines)


def entry(name: str, value: Any) -> str:
    """One line for a name, which leads to the file that defines it."""
    if not callable(value):
        return f"- `{name}` = `{value!r}`" if len(repr(value)) < LONGEST else f"- `{name}`"
    file = Path(inspect.getsourcefile(inspect.unwrap(value)) or "").resolve()
    return f"- [`{name}`](../{file.relative_to(ROOT).as_posix()}){signature(value)}: {begins(value)}"


def documented(value: Any) -> bool:
    return not isinstance(value, ModuleType | str)


def key(name: str, value: Any) -> str:
    """By which a value is known when another module has it too."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else name


def signature(value: Any) -> str:
    """Names and defaults of the arguments; none of exceptions and of classes that others make or fill in."""
    if inspect.isclass(value) and (issubclass(value, BaseException | tuple) or inspect.isabstract(value)):
        return ""
    parameters = inspect.signature(value).parameters.values()
    plain = [p.replace(annotation=p.empty) for p in parameters if p.name not in ("args", "kwargs")]
    shown = str(inspect.Signature(plain))
    return f" `{shown}`" if len(shown) <= LONGEST and "<" not in shown else " `(...)`"


def begins(value: Any) -> str:
    """The first paragraph of the docstring, on one line."""
    paragraph = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return paragraph.rstrip(":.") + "."


if __name__ == "__main__":
    (ROOT / "docs" / "api.md").write_text(text(), encoding="utf-8")
