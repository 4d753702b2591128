"""The guests that are booted, and a file system to be found on disks of any kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests import cache
from tests.guests import tiny_linux as builder
from tests.recovery import volumes


@pytest.fixture(scope="session")
def tiny_linux() -> Path:
    """A raw image of a Linux that counts its boots (tests/guests/tiny_linux.py); read-only."""
    try:
        return builder.image()
    except cache.NotBuilt as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def filesystem(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ext4 of 8 MiB with a file in it."""
    folder = tmp_path_factory.mktemp("filesystem")
    tree, image = folder / "tree", folder / "image"
    tree.mkdir()
    (tree / "file").write_bytes(b"what is in it")
    volumes.ext("ext4", size=8 * volumes.MIB)(tree, image)
    return image.read_bytes()
