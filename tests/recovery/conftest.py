"""The guests that are booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests import cache
from tests.guests import tiny_linux as builder


@pytest.fixture(scope="session")
def tiny_linux() -> Path:
    """A raw image of a Linux that counts its boots (tests/guests/tiny_linux.py); read-only."""
    try:
        return builder.image()
    except cache.NotBuilt as error:
        pytest.fail(str(error), pytrace=False)
