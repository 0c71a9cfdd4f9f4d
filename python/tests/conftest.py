"""Makes the shared fixtures known to the tests here."""

from shared import *  # noqa: F403
