"""Triton's interpreter, which runs kernels on the CPU, made faster, for the files that `test_triton.py` runs."""

import types

import triton.language as tl
from triton.runtime import interpreter


def patch_once() -> None:
    """Replace the functions of `triton.language` by those of the interpreter now, for the rest of this process.

    The interpreter does so anew whenever one function of a kernel calls another, which is a good part of its time.
    """
    if not hasattr(interpreter, "_LangPatchScope"):  # another version of Triton
        return
    interpreter._patch_lang(types.FunctionType(patch_once.__code__, {"tl": tl, "core": tl.core}))
    nothing_to_restore = interpreter._LangPatchScope()
    interpreter._patch_lang = lambda fn: nothing_to_restore
