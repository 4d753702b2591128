"""A folder of a volume whose author means harm: nothing leads out of it, and nothing ends it."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from tests.recovery.mount.points import back_up, shown
from tests.volumes import volumes
from tests.volumes.volumes import MIB

pytestmark = pytest.mark.usefixtures("fuse")
FILE = 1


def image_of(tree: Path, *patches: tuple[bytes, bytes]) -> Path:
    """An ext4 of a tree, in which bytes that occur once are others."""
    image = tree.parent / "disk.img"
    volumes.ext("ext4", size=16 * MIB)(tree, image)
    data = image.read_bytes()
    for old, new in patches:
        assert len(old) == len(new)
        assert data.count(old) == 1
        data = data.replace(old, new)
    image.write_bytes(data)
    return image


def entry(name: bytes, kind: int) -> bytes:
    """The end of a folder's entry, from the length of the name on."""
    return struct.pack("<BB", len(name), kind) + name


@pytest.mark.parametrize("evil", [b"..", b"./", b"/a", b"a\0"])
def test_a_stored_name_that_leads_elsewhere_is_not_shown(evil: bytes, tmp_path: Path):
    (tmp_path / "tree" / "folder").mkdir(parents=True)
    (tmp_path / "tree" / "folder" / "~~").write_bytes(b"evil")
    (tmp_path / "tree" / "folder" / "good").write_bytes(b"good")
    image = image_of(tmp_path / "tree", (entry(b"~~", FILE), entry(evil, FILE)))
    with shown(*back_up(image, tmp_path / "backups"), tmp_path / "ours"):
        assert os.listdir(tmp_path / "ours" / "folder") == ["good"]


def test_a_folder_that_lies_in_itself_ends_there(tmp_path: Path):
    (tmp_path / "tree" / "outer").mkdir(parents=True)
    image = image_of(tmp_path / "tree")
    volumes.run("debugfs", "-w", "-R", "link /outer /outer/inner", image)
    with shown(*back_up(image, tmp_path / "backups"), tmp_path / "ours"):
        found = [names for _, names, _ in os.walk(tmp_path / "ours" / "outer")]
        with pytest.raises(OSError, match="Input/output") as refused:
            os.listdir(tmp_path / "ours" / "outer" / "inner")
    assert found == [["inner"]]
    assert refused.value.errno == errno.EIO


def test_a_damaged_file_takes_nothing_with_it(tmp_path: Path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "good").write_bytes(b"good")
    (tmp_path / "tree" / "broken").write_bytes(b"broken" * 10_000)
    image = image_of(tmp_path / "tree")
    volumes.run("debugfs", "-w", "-R", "sif /broken block[0] 0xdead", image)
    with shown(*back_up(image, tmp_path / "backups"), tmp_path / "ours"):
        with pytest.raises(OSError, match="Input/output"):
            (tmp_path / "ours" / "broken").read_bytes()
        assert (tmp_path / "ours" / "good").read_bytes() == b"good"


def test_two_files_of_one_name_are_one(tmp_path: Path):
    (tmp_path / "tree").mkdir()
    for name in ("~1", "~2"):
        (tmp_path / "tree" / name).write_bytes(name.encode())
    image = image_of(tmp_path / "tree", (entry(b"~2", FILE), entry(b"~1", FILE)))
    with shown(*back_up(image, tmp_path / "backups"), tmp_path / "ours"):
        assert os.listdir(tmp_path / "ours").count("~1") == 1
        assert len((tmp_path / "ours" / "~1").read_bytes()) == 2
