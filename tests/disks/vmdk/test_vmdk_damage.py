"""What lies are special to VMDK; what holds for each format is in test_damage.py."""

from __future__ import annotations

import struct

import pytest

from tests.disks.damage import Sound, little_memory
from tests.disks.shelf import MIB
from tests.disks.specimens import VMDK
from vdbackup.disks.chain import Chain
from vdbackup.disks.vmdk.disk import VmdkDisk
from vdbackup.errors import DiskFormatError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(VMDK, tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 4),
        ("capacity", 2**32 + 1),
        ("grain_size", 0),
        ("grain_size", 100),
        ("entries_per_table", 0),
        ("entries_per_table", 1024),
        ("directory", 0),
        ("directory", 2**63),
        ("descriptor_size", 2**40),
        ("descriptor_offset", 2**40),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(sound, field, value):
    with pytest.raises(DiskFormatError):
        sound.seen_with(sound.number(field, value))


def test_a_file_that_went_through_a_text_mode_transfer_is_refused(sound):
    with pytest.raises(DiskFormatError, match="text-mode"):
        sound.seen(sound.file(sound.data.replace(b"\n \r\n", b"\n \n\n", 1)))


def test_a_descriptor_of_blanks_is_read_in_no_time(sound):
    """Half a megabyte of blanks before a stray quote: a careless pattern would try for years."""
    text = b"# Disk DescriptorFile\nCID=" + b" " * (1 << 19) + b'"x"y\n'
    data = bytearray(sound.data) + text[: 2047 * 512].ljust(2048 * 512, b"\n")
    struct.pack_into("<QQ", data, 28, len(sound.data) // 512, 2048)
    with pytest.raises(DiskFormatError):
        sound.seen(sound.file(data))


def test_a_directory_that_names_one_table_a_million_times_is_refused_with_little_memory(tmp_path):
    """4 MiB that claim to be a full 2 TiB in grains of 4 KiB."""
    header = bytearray(512)
    struct.pack_into("<4sIIQQQQIQQQB4s", header, 0, b"KDMV", 1, 1, 2**32, 8, 1, 20, 512, 0, 64,
                     128, 0, b"\n \r\n")  # fmt: skip
    text = b'# Disk DescriptorFile\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicSparse"'
    path = tmp_path / "bomb.vmdk"
    with path.open("wb") as file:
        file.write(bytes(header) + text)
        file.seek(60 * 512)
        file.write(struct.pack("<512I", *[64] * 512))
        file.seek(64 * 512)
        file.write(struct.pack("<I", 60) * 2**20)
        file.write(bytes(4096))
    with little_memory(256 * MIB), pytest.raises(DiskFormatError):
        Chain.open(path)


@pytest.mark.parametrize("value", ["not-a-uuid", "", "0" * 400])
def test_an_identity_that_is_no_uuid_is_refused(sound, value):
    data = bytearray(sound.data)
    text = bytes(data[512 : 21 * 512]).rstrip(b"\0").splitlines()
    text = [
        b'ddb.uuid.image="' + value.encode() + b'"' if line.startswith(b"ddb.uuid.image") else line
        for line in text
    ]
    data[512 : 21 * 512] = b"\n".join(text).ljust(20 * 512, b"\0")
    path = sound.file(data)
    with pytest.raises(DiskFormatError, match="UUID"):
        VmdkDisk.open(path)


def test_a_text_that_only_begins_like_a_descriptor_is_refused(tmp_path):
    (tmp_path / "short.vmdk").write_bytes(b"# Disk DescriptorFile\nCID=1\n")
    with pytest.raises(DiskFormatError):
        VmdkDisk.open(tmp_path / "short.vmdk")


def test_a_type_that_nobody_knows_is_refused_by_its_name(sound):
    data = sound.data.replace(b'"monolithicSparse"', b'"monolithicSpirit"')
    with pytest.raises(DiskFormatError, match="'monolithicSpirit' cannot be read"):
        sound.seen(sound.file(data))
