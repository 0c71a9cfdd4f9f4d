"""The package's own fixtures for the engines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python" / "tests"))

from shared import *  # noqa: F403
