"""Optional dependencies: imported when used, with one clear error when missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of multimix brings it.

    >>> require("math", "train").pi > 3
    True
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ImportError(
            f"this needs {error.name}, which is not installed: pip install 'multimix[{extra}]' "
            f"(in a clone: '.[{extra}]')"
        ) from None
