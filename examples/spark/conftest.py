"""The package's own fixtures, and this folder's script."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "python" / "tests")]

from conftest_fixtures import *  # noqa: E402, F403
