"""A file system to be found on disks of any kind."""

from __future__ import annotations

import pytest

from tests.volumes import volumes


@pytest.fixture(scope="session")
def filesystem(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ext4 of 8 MiB with a file in it."""
    folder = tmp_path_factory.mktemp("filesystem")
    tree, image = folder / "tree", folder / "image"
    tree.mkdir()
    (tree / "file").write_bytes(b"what is in it")
    volumes.ext("ext4", size=8 * volumes.MIB)(tree, image)
    return image.read_bytes()
