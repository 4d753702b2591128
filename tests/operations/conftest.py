from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A disk image with something on it, and an empty repository."""
    lab = Lab(tmp_path)
    lab.poke(0, noise(3 * 65536, 1))
    return lab
