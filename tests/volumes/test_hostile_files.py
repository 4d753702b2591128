"""What is known of files beside their bytes, in file systems that were changed at random."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.disks.damage import no_more_memory
from tests.sources.loops import loop, mounted, run
from tests.volumes import volumes
from tests.volumes.volumes import MIB, overwritten
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import RecoveryError
from vdbackup.jobs import Task
from vdbackup.recovery.history import walk
from vdbackup.volumes.filesystems.node import reading
from vdbackup.volumes.volumes import Volumes

ROOM = 512 * MIB
"""Bytes that reading a small disk may take, whatever it claims."""
MAKERS = {
    "ext4": (16, ("mkfs.ext4", "-q", "-O", "ea_inode,^metadata_csum")),
    "xfs": (304, ("mkfs.xfs", "-q")),
    "btrfs": (128, ("mkfs.btrfs", "-q", "--mixed")),
}


@pytest.fixture(scope="module", params=MAKERS)
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, as_root: None
) -> tuple[Path, list[int]]:
    """A file system with attributes of all lengths, and where anything lies in it."""
    folder = tmp_path_factory.mktemp("disk")
    image = folder / "disk.img"
    size, maker = MAKERS[str(request.param)]
    volumes.blank(image, size * MIB)
    run(*maker, image)
    with loop(image) as device, mounted(device, folder / "mounted") as top:
        for number in range(12):
            file = top / f"file-{number}"
            file.write_bytes(b"x" * 5000)
            for length in (10, 300, 900, 9000)[: 1 + number % 4]:
                with suppress(OSError):  # not every file system has so much space
                    os.setxattr(file, f"user.a{length}", b"v" * length)
    data = image.read_bytes()
    return image, [at for at in range(0, len(data), 512) if data[at : at + 512].strip(b"\0x")]


@settings(max_examples=max(20, settings.default.max_examples // 4))
@given(data=st.data())
def test_no_lie_leads_to_more_than_a_sentence(data: st.DataObject, disk: tuple[Path, list[int]]):
    image, places = disk
    word = st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 4])
    lies = [
        (data.draw(st.sampled_from(places)) + data.draw(st.integers(0, 504)), data.draw(word))
        for _ in range(data.draw(st.integers(1, 8)))
    ]
    with (
        overwritten(image, lies),
        no_more_memory(ROOM),
        Chain.open(image, DiskFormat.RAW) as chain,
        suppress(RecoveryError),
    ):
        for found in walk.files(Volumes(chain), Task(), []):
            for ask in (found.node.attributes, found.node.blocks):
                with suppress(RecoveryError), reading(found.path):
                    ask()
