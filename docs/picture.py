#!/usr/bin/env python3
"""Draws docs/marked.svg, README's picture: the beginnings of a marked and a human text, token by token.

    python3 x.py demo --html target/demo.html
    python3 docs/picture.py target/demo.html

It reads what the demonstration's page shows and changes nothing but where lines are cut. Keys and texts of the
demonstration are new each time. Python's standard library only.
"""

from __future__ import annotations

import argparse
import re
from html import unescape
from pathlib import Path
from xml.sax.saxutils import escape

OUT = Path(__file__).resolve().parent / "marked.svg"
COLUMNS, LINES = 58, 15
CHARACTER, LINE, MARGIN, TOP = 7.25, 19, 14, 74
FILLS = {"favoured": "#b7ecc3", "unfavoured": "#f9c6c6"}


def section(page: str, heading: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The facts of one text on the page, and its pieces with their colours."""
    found = re.search(rf"<section><h2>{re.escape(heading)}</h2>\n(.*?)</section>", page, re.S)
    if not found:
        raise SystemExit(f"the page has no text called {heading}")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", found[1]))
    pieces = re.findall(r'<span class="(\w+)">(.*?)</span>', found[1], re.S)
    return {unescape(k): unescape(v) for k, v in facts.items()}, [(colour, unescape(text)) for colour, text in pieces]


def panel(left: float, title: str, facts: dict[str, str], pieces: list[tuple[str, str]]) -> list[str]:
    counted = re.match(r"(\d+) on (\d+) positions", facts["score"])
    verdict = facts["verdict"].split(" (")[0].replace("_", " ")
    said = f"{counted[1]} of {counted[2]} green, p = {facts['p']}: {verdict}" if counted else verdict
    drawn = [
        f'<text x="{left}" y="28" class="title">{escape(title)}</text>',
        f'<text x="{left}" y="50" class="said">{escape(said)}</text>',
    ]
    column = line = 0
    for colour, text in pieces:
        for part in re.split(r"(\n)", text):
            if part == "\n":
                column, line = 0, line + 1
                continue
            while part and line < LINES:
                room = COLUMNS - column
                if room == 0:
                    column, line = 0, line + 1
                    continue
                shown, part = part[:room], part[room:]
                x, y, width = left + column * CHARACTER, TOP + line * LINE, len(shown) * CHARACTER
                if colour in FILLS:
                    box = f'x="{x + 0.4:.2f}" y="{y:.2f}" width="{width - 0.8:.2f}" height="{LINE - 3}" rx="2.5"'
                    drawn.append(f'<rect {box} fill="{FILLS[colour]}"/>')
                if shown.strip():
                    faint = "" if colour in FILLS else ' class="faint"'
                    place = f'x="{x:.2f}" y="{y + 12:.2f}" textLength="{width:.2f}" xml:space="preserve"'
                    drawn.append(f"<text {place}{faint}>{escape(shown)}</text>")
                column += len(shown)
    return drawn


def main() -> None:
    arguments = argparse.ArgumentParser(description="Draws README's picture from the demonstration's page.")
    arguments.add_argument("page", type=Path)
    arguments.add_argument("--prompt", default="html/parser.py:86", help="whose texts are shown")
    given = arguments.parse_args()
    page = given.page.read_text(encoding="utf-8")
    width = 2 * COLUMNS * CHARACTER + 4 * MARGIN
    height = TOP + LINES * LINE + MARGIN
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">',
        "<title>A marked text has many more green tokens than a human text</title>",
        "<style>text{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#1b1f24}"
        ".title{font:bold 15px system-ui,sans-serif}.said{font:14px system-ui,sans-serif}.faint{fill:#68717b}</style>",
        f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#fff"/>',
    ]
    for left, title, kind in (
        (MARGIN, "Written by the model, marked", "marked"),
        (3 * MARGIN + COLUMNS * CHARACTER, "Written by a person", "human"),
    ):
        drawn += panel(left, title, *section(page, f"{given.prompt} ({kind})"))
    OUT.write_text("\n".join([*drawn, "</svg>", ""]), encoding="utf-8")
    print(f"{OUT} is written")


if __name__ == "__main__":
    main()
