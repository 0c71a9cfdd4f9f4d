"""What all sections of the page share: tables, numbers, pictures that come out the same for the same figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "evidence"
# The same bytes for the same figures.
matplotlib.rcParams.update({"svg.hashsalt": "dandyroll", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3})


def save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


# A longer table is folded, so that a page can be read without it.
LONGEST_OPEN = 12


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    rows = list(rows)
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    text = "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    if len(rows) <= LONGEST_OPEN:
        return text
    return f"<details>\n<summary>Table of {len(rows)} rows: {', '.join(header)}</summary>\n\n{text}\n\n</details>"


def sci(value: float) -> str:
    """1.2e-3, with 0 as 0."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    return f"{value / 10**exponent:.2f}e{exponent}"
