from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.noise import noise


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    """An image with data in two thirds of it and holes in the rest, and an empty repository."""
    lab = Lab(tmp_path, SIZE, disk_format=disk_format)
    lab.poke(0, noise(9 * 65536, 1))
    lab.poke(-5 * 65536, noise(5 * 65536, 2))
    return lab
