# mypy: disable-error-code="import-untyped"
"""What the compiler makes of a Triton kernel for a GPU, without one: registers, instructions by line of the source."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = "backends/nvidia/bin"


class Resources(NamedTuple):
    """Of a thread: registers, and bytes for what they do not hold; of a program: bytes of shared memory."""

    registers: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Instruction:
    """One of a warp."""

    text: str
    lines: Sequence[tuple[str, int]]
    """File and line that it comes from, then where that was called, and so on."""


@dataclass(frozen=True)
class Loop:
    """From the first to the last instruction of its body."""

    first: int
    last: int

    def __contains__(self, other: Loop) -> bool:
        return self != other and self.first <= other.first and other.last <= self.last


def compile_for(
    kernel: Any, capability: int, pointers: Mapping[str, str], constants: Mapping[str, object], **options: int
) -> Any:
    """A kernel compiled for a compute capability (90 is 9.0).

    Parameters are pointers to float32 (`*_ptr`) and 32-bit numbers, as those of our kernels are; `pointers` names other
    types. Addresses and widths are multiples of 16, as they are at run time.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names}
    types |= {name: "fp32" for name in ("low", "high", "spread_weight") if name in names}
    types |= {**pointers, **dict.fromkeys(constants, "constexpr")}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr") or name == "width"
    }
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in constants.items()}, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(compiled: Any) -> Resources:
    """Of a compiled kernel, as `cuobjdump` reports them."""
    usage = _run("cuobjdump", "-res-usage", compiled)
    registers, spilled = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0]
    return Resources(int(registers), int(spilled), int(compiled.metadata.shared))


def disassemble(compiled: Any) -> tuple[list[Instruction], list[Loop]]:
    """The instructions of a compiled kernel, in order, and its loops, as `nvdisasm` prints them."""
    return parse(_run("nvdisasm", "-gi", "-c", compiled))


def parse(listing: str) -> tuple[list[Instruction], list[Loop]]:
    """What `nvdisasm` prints.

    >>> instructions, loops = parse('''
    ... //## File "/a/kernel.py", line 7
    ... .L_1:
    ...         /*0000*/                   FADD R1, R1, R2 ;
    ... //## File "/a/random.py", line 3 inlined at "/a/kernel.py", line 8
    ... //## File "/a/kernel.py", line 8
    ...         /*0010*/               @P0 BRA `(.L_1) ;
    ... ''')
    >>> [instruction.lines for instruction in instructions]
    [[('kernel.py', 7)], [('random.py', 3), ('kernel.py', 8)]]
    >>> loops
    [Loop(first=0, last=1)]
    """
    instructions: list[Instruction] = []
    loops: list[Loop] = []
    labels: dict[str, int] = {}
    where: list[tuple[str, int]] = []
    fresh = True
    for line in listing.splitlines():
        if match := re.search(r'//## File "([^"]+)", line (\d+)', line):
            where = [] if fresh else where
            where = [*where, (Path(match[1]).name, int(match[2]))]
            fresh = False
        elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            instructions.append(Instruction(match[1], where))
            fresh = True
            target = re.search(r"\bBRA\b.*\((\.L_\w+)\)", match[1])
            if target and target[1] in labels and labels[target[1]] < len(instructions) - 1:
                loops.append(Loop(labels[target[1]], len(instructions) - 1))
        elif match := re.match(r"(\.L_\w+):", line):
            labels[match[1]] = len(instructions)
    return instructions, loops


def _run(tool: str, *arguments: Any) -> str:
    import triton

    *flags, compiled = arguments
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        command = [str(Path(triton.__file__).parent / TOOLS / tool), *flags, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
