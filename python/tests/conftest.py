"""Makes the shared fixtures known to the tests here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest_fixtures import *  # noqa: E402, F403
