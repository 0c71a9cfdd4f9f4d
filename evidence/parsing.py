"""How much of a generated piece of Python is Python: parsing with `ast`, and the longest beginning that parses."""

from __future__ import annotations

import ast
import warnings

# What the model writes may hold invalid escapes; that is its affair.
warnings.filterwarnings("ignore", category=SyntaxWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def depth_of(prompt: str) -> int:
    return len(prompt) - len(prompt.lstrip(" "))


def blocks(depth: int) -> str:
    """Blocks for a prompt from inside a class or function to stand in."""
    return "".join(" " * i + "if True:\n" for i in range(0, depth, 4))


def indentation(source: str) -> str:
    """What the last line that is not blank is indented by."""
    last = source.rstrip().rsplit("\n", 1)[-1]
    return last[: len(last) - len(last.lstrip())]


def closed(source: str, before: str = "") -> str | None:
    """The source if it parses behind `before`, with a body for a block that was just opened if it needs one."""
    if parses(before + source):
        return source
    body = source + indentation(source) + "    pass\n"
    return body if parses(before + body) else None


def parsed_share(prompt: str, text: str) -> float:
    """Of the generated lines (the last, cut one left out) the share in the longest run from the prompt that parses."""
    lines = text.split("\n")[:-1]
    before = blocks(depth_of(prompt))
    for kept in range(len(lines), 0, -1):
        if closed(prompt + "\n".join(lines[:kept]) + "\n", before) is not None:
            return kept / len(lines)
    return 0.0


def longest_function(prompt: str, text: str) -> str | None:
    """The prompt and as many of the generated lines as parse without leaving the block that the prompt stands in.

    None if the prompt itself leaves it."""
    depth = depth_of(prompt)
    lines = text.split("\n")[:-1]

    def leaves(line: str) -> bool:
        return bool(line.strip()) and depth_of(line) < depth

    if any(leaves(line) for line in prompt.split("\n")):
        return None
    inside = next((i for i, line in enumerate(lines) if leaves(line)), len(lines))
    for kept in range(inside, -1, -1):
        source = prompt + "".join(line + "\n" for line in lines[:kept])
        if (whole := closed(source, blocks(depth))) is not None:
            return whole
    return None
