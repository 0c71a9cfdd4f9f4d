#!/usr/bin/env python3
"""Human texts that are on every machine that builds this, as corpora: target/evidence/human/*.jsonl.

    python3 evidence/human.py [FOLDER]

Python: functions of the running Python's standard library, but for the files that fixtures/ takes its excerpts from.
Rust: our dependencies' sources, whose versions Cargo.lock pins; English: their README and CHANGELOG files. C: the
headers in /usr/include, if there are any. Rows: `id`, `group` (package or top
folder: no two groups of a corpus share files) and `text`. Standard library only; nothing is fetched.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES = (12, 90)
"""Documents have so many lines."""
DOCUMENTS = 8000
"""A corpus holds at most so many, chosen by the SHA-256 of their ids."""
GROUP = 400
"""A group gives at most so many, so that no package is the corpus."""

Row = dict[str, str]


def read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def held_out() -> set[str]:
    rows = (ROOT / "fixtures" / "model" / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {path for split, _, _, path in (row.split("\t") for row in rows) if split == "heldout"}


def python() -> Iterator[Row]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    left_out = held_out() | {"pydoc_data/topics.py"}
    for path in sorted(stdlib.rglob("*.py")):
        place = path.relative_to(stdlib)
        if {"site-packages", "__pycache__"} & set(place.parts) or place.as_posix() in left_out:
            continue
        if (text := read(path)) is None:
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        lines = text.splitlines(keepends=True)
        group = "/".join(place.parts[:2]) if len(place.parts) > 1 else place.stem
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.end_lineno is None:
                continue
            if LINES[0] <= node.end_lineno - node.lineno + 1 <= LINES[1]:
                body = "".join(lines[node.lineno - 1 : node.end_lineno])
                yield {"id": f"{place.as_posix()}:{node.lineno}", "group": group, "text": body}


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """A file cut at blank lines before a line that is not indented, into pieces of at least 40 lines."""
    lines = text.splitlines(keepends=True)
    start = 0
    for i in range(1, len(lines) + 1):
        enough = i - start >= 40 and not lines[i - 1].strip() and i < len(lines) and lines[i][:1] not in (" ", "\t", "}")
        if enough or i - start >= LINES[1] or i == len(lines):
            if i - start >= LINES[0]:
                yield start + 1, "".join(lines[start:i])
            start = i


def files(folder: Path, pattern: str, group: str | None) -> Iterator[Row]:
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and (text := read(path)) is not None:
            place = path.relative_to(folder)
            top = group or (place.parts[0] if len(place.parts) > 1 else place.stem)
            for line, piece in pieces(text):
                yield {"id": f"{group + '/' if group else ''}{place.as_posix()}:{line}", "group": top, "text": piece}


def packages() -> list[tuple[Path, str]]:
    """Folder and name of every dependency."""
    command = ["cargo", "metadata", "--offline", "--locked", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    foreign = (package for package in metadata["packages"] if package["source"] is not None)
    return sorted((Path(package["manifest_path"]).parent, package["name"]) for package in foreign)


def rust() -> Iterator[Row]:
    for directory, name in packages():
        yield from files(directory / "src", "*.rs", name)


def readmes() -> Iterator[Row]:
    for directory, name in packages():
        for path in sorted(directory.glob("*.md")):
            if (text := read(path)) is not None:
                for line, piece in pieces(text):
                    yield {"id": f"{name}/{path.name}:{line}", "group": name, "text": piece}


def c() -> Iterator[Row]:
    yield from files(Path("/usr/include"), "*.h", None)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target" / "evidence" / "human"
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("python_library", python), ("rust_dependencies", rust), ("rust_readmes", readmes), ("c_headers", c)):
        by_group: dict[str, list[tuple[str, Row]]] = {}
        for row in source():
            key = hashlib.sha256(row["id"].encode()).hexdigest()
            by_group.setdefault(row["group"], []).append((key, row))
        rows = [pair for group in by_group.values() for pair in sorted(group, key=lambda pair: pair[0])[:GROUP]]
        rows.sort(key=lambda pair: pair[0])
        rows = rows[:DOCUMENTS]
        if not rows:
            print(f"{name}: nothing on this machine", file=sys.stderr)
            continue
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in rows)
        (folder / f"{name}.jsonl").write_bytes(lines.encode())
        groups = len({row["group"] for _, row in rows})
        print(f"{name}: {len(rows)} documents of {groups} groups, {len(lines) / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
