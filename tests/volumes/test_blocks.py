"""Where a file's bytes lie: in the image, at those places, they are its bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.volumes import volumes
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.jobs import Task
from vdbackup.recovery.history import walk
from vdbackup.volumes.filesystems.node import Kind
from vdbackup.volumes.volumes import Volumes


@pytest.mark.parametrize("kind", volumes.MAKERS)
def test_the_blocks_of_a_file_hold_its_bytes(kind: str, tmp_path: Path):
    tree = tmp_path / "tree"
    tree.mkdir()
    volumes.sample(tree)
    image = tmp_path / "disk.img"
    volumes.MAKERS[kind](tree, image)
    data = image.read_bytes()
    checked = 0
    with Chain.open(image, DiskFormat.RAW) as disk:
        warnings: list[str] = []
        for found in walk.files(Volumes(disk), Task(), warnings):
            content = (tree / found.path.lstrip("/")) if found.path != "/" else tree
            if found.stat.kind is not Kind.FILE or content.name == "holes":
                continue
            wanted = content.read_bytes()
            lies = b"".join(data[start:end] for start, end in found.node.blocks())
            if lies:  # small ones lie in the file system's own structures
                assert lies[: len(wanted)] == wanted
                assert not lies[len(wanted) :].strip(b"\0") or kind.startswith("fat")
                checked += 1
    assert warnings == []
    assert checked >= 3
