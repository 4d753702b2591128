"""VHD as others write it: what qemu-img made, and layouts that we never write, read by us."""

from __future__ import annotations

import random
import struct
import subprocess
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.disks.shelf import MIB, contents, reference
from tests.noise import noise
from tests.oracles import qemu, sevenzip
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, ParentRef
from vdbackup.disks.extents import State
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.vhd.disk import VhdDisk
from vdbackup.disks.vhd.fixed import FixedVhdDisk
from vdbackup.errors import DiskError, DiskFormatError, ParentError

BLOCK = 2 * MIB
NOBODY = uuid.UUID(int=0)


def made(path: Path, size: int, *options: str) -> Path:
    arguments = [part for option in options for part in ("-o", option)]
    command = ["qemu-img", "create", "-q", "-f", "vpc", *arguments, str(path), str(size)]
    subprocess.run(command, check=True)
    return path


def converted(disk: Path) -> bytes:
    """What QEMU reads, as raw bytes."""
    raw = disk.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(disk), str(raw)]
    subprocess.run(command, check=True)
    return raw.read_bytes()


def with_checksum(data: bytes, at: int) -> bytes:
    total = ~sum(data[:at] + data[at + 4 :]) & 0xFFFFFFFF
    return data[:at] + struct.pack(">I", total) + data[at + 4 :]


@dataclass
class Foreign:
    """A VHD put together by the specification, not by our own code.

    Attributes:
        blocks: by number, the block's sectors that are here: (first sector, bytes).
        gap: bytes of rubbish before each bitmap, so that payloads lie anywhere.
        locators: code and text.
        name: the parent's, in the header.
    """

    size: int
    block_size: int = 512 << 10
    kind: int = 3
    blocks: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    gap: int = 0
    creator: bytes = b"vpc "
    saved: int = 0
    footer_length: int = 512
    disk_id: uuid.UUID = field(default_factory=uuid.uuid4)
    parent_id: uuid.UUID = NOBODY
    locators: tuple[tuple[bytes, bytes], ...] = ()
    name: str = ""

    def footer(self, data_offset: int = 512) -> bytes:
        data = struct.pack(
            ">8sIIQI4sI4sQQHBBII16sB427x", b"conectix", 2, 0x10000, data_offset, 1, self.creator,
            0x50000, b"Wi2k", self.size, self.size, 1, 4, 17, self.kind, 0, self.disk_id.bytes,
            self.saved,
        )  # fmt: skip
        return with_checksum(data, 64)[: self.footer_length]

    def write(self, path: Path) -> Path:
        count = -(-self.size // self.block_size)
        entries, places, texts = [0xFFFFFFFF] * count, [], b""
        texts_at = 1536 + -(-count * 4 // 512) * 512
        for code, text in self.locators:
            places.append((code, 512, len(text), texts_at + len(texts)))
            texts += text.ljust(512, b"\0")
        data = bytearray(texts_at) + texts
        for number, sectors in self.blocks.items():
            data += b"\xee" * self.gap
            entries[number] = len(data) // 512
            data += self._block(sectors)
        name = self.name.encode("utf-16-be").ljust(512, b"\0")
        locators = b"".join(struct.pack(">4sII4xQ", *place) for place in places)
        header = struct.pack(
            ">8sQQIIII16sI4x512s192s256x", b"cxsparse", 2**64 - 1, 1536, 0x10000, count,
            self.block_size, 0, self.parent_id.bytes, 99, name, locators,
        )  # fmt: skip
        data[:512] = self.footer().ljust(512, b"\0")
        data[512:1536] = with_checksum(header, 36)
        struct.pack_into(f">{count}I", data, 1536, *entries)
        path.write_bytes(data + self.footer())
        return path

    def _block(self, sectors: list[tuple[int, bytes]]) -> bytes:
        count = self.block_size // 512
        bits, payload = ["0"] * (-(-count // 4096) * 4096), bytearray(self.block_size)
        for first, what in sectors:
            payload[first * 512 : first * 512 + len(what)] = what
            bits[first : first + len(what) // 512] = "1" * (len(what) // 512)
        return int("".join(bits), 2).to_bytes(len(bits) // 8, "big") + payload


# --------------------------------------------------------------------------- QEMU's


@pytest.mark.parametrize("options", [(), ("force_size=on",)])
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("size", [512 << 10, 3 * MIB + 512, 67_129_344])
def test_a_disk_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path, size, subformat, options):
    disk = made(tmp_path / "disk.vhd", size, f"subformat={subformat}", *options)
    end = f"write -P 2 {size - 512} 512"
    middle = f"write -P 3 {size // 2 // 512 * 512} 1536"
    qemu.io(disk, "write -P 1 0 512", end, middle, disk_format="vpc")
    assert probe(disk) == "vhd"
    assert contents(disk, "vhd") == converted(disk)
    assert len(contents(disk, "vhd")) >= size


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_layout_that_we_do_not_make_is_not_written_to(tmp_path, subformat):
    disk = made(tmp_path / "disk.vhd", 8 * MIB, f"subformat={subformat}")
    before = disk.read_bytes()
    with pytest.raises(DiskError, match="only read") as refusal:
        VhdDisk.open(disk, writable=True)
    assert "Export" in refusal.value.advice
    assert disk.read_bytes() == before


# --------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("block_size", [4096, 64 << 10, 512 << 10, 4 * MIB, 16 * MIB])
@pytest.mark.parametrize("gap", [0, 512, 3 * 512])
def test_bitmaps_are_read_to_the_sector_in_blocks_of_any_size(tmp_path, block_size, gap):
    size = 20 * MIB + 512
    raw = bytearray(noise(size, 1))
    base = Foreign(size, 4 * MIB, gap=gap)
    base.blocks = {
        number: [(0, bytes(raw[number * 4 * MIB : (number + 1) * 4 * MIB]))]
        for number in (4, 0, 5, 2, 1, 3)
    }
    base.write(tmp_path / "base.vhd")
    dice, blocks = random.Random(block_size + gap), {}
    for number in {*dice.sample(range(size // block_size), 1), size // block_size}:
        here = min(block_size, size - number * block_size) // 512
        firsts = sorted(dice.sample(range(here), min(here, 5)))
        blocks[number] = [(first, noise(512, first)) for first in firsts]
        for first in firsts:
            at = number * block_size + first * 512
            raw[at : at + 512] = noise(512, first)
    child = Foreign(size, block_size, 4, blocks, gap, parent_id=base.disk_id, name="base.vhd")
    child.locators = ((b"W2ru", ".\\base.vhd".encode("utf-16-le")),)
    top = child.write(tmp_path / "child.vhd")
    assert contents(top, "vhd") == raw
    (tmp_path / "wanted.raw").write_bytes(raw)
    sevenzip.assert_holds(top, tmp_path / "wanted.raw", "vhd")


def test_bitmaps_of_a_disk_without_parent_are_not_read(tmp_path):
    disk = Foreign(512 << 10, blocks={0: [(0, noise(512 << 10, 1))]}, creator=b"win ")
    disk = disk.write(tmp_path / "disk.vhd")
    data = bytearray(disk.read_bytes())
    data[2048 : 2048 + 512] = bytes(512)
    disk.write_bytes(data)
    assert contents(disk, "vhd") == noise(512 << 10, 1) == converted(disk)


@pytest.mark.parametrize("creator", [b"vpc ", b"vbox", b"qemu", b"win ", b"\0\0\0\0"])
def test_the_size_is_the_one_in_the_footer_whoever_wrote_it(tmp_path, creator):
    """QEMU takes a creator that it does not know for one that goes by the geometry."""
    disk = Foreign(3 * MIB + 512, creator=creator).write(tmp_path / "disk.vhd")
    assert contents(disk, "vhd") == bytes(3 * MIB + 512)


def test_a_disk_with_a_footer_of_511_bytes_is_read(tmp_path):
    disk = Foreign(MIB, blocks={1: [(0, noise(MIB // 2, 1))]}, footer_length=511)
    path = disk.write(tmp_path / "disk.vhd")
    assert contents(path, "vhd") == bytes(MIB // 2) + noise(MIB // 2, 1)
    path.write_bytes(bytes(512) + path.read_bytes()[512:])  # the one at the end alone
    assert contents(path, "vhd") == bytes(MIB // 2) + noise(MIB // 2, 1)


def test_a_disk_on_which_a_machine_was_suspended_is_read(tmp_path):
    disk = Foreign(MIB, blocks={0: [(0, noise(MIB // 2, 1))]}, saved=1)
    assert contents(disk.write(tmp_path / "disk.vhd"), "vhd")[: MIB // 2] == noise(MIB // 2, 1)


# --------------------------------------------------------------------------- parents

UTF16 = "utf-16-le"
NAMES = {
    "W2ru": ((b"W2ru", ".\\base.vhd".encode(UTF16)),),
    "W2ru with NUL": ((b"W2ru", ".\\base.vhd\0".encode(UTF16)),),
    "W2ru without dot": ((b"W2ru", "base.vhd".encode(UTF16)),),
    "W2ku": ((b"W2ku", "C:\\Disks\\base.vhd".encode(UTF16)),),
    "MacX": ((b"MacX", b"file://./base.vhd"),),
    "MacX, percent": ((b"MacX", b"file://localhost/else/b%61se.vhd"),),
    "Wi2r": ((b"Wi2r", b".\\base.vhd"),),
    "Wi2k": ((b"Wi2k", b"D:\\base.vhd"),),
    "nothing but the header": (),
    "one that lies first": (
        (b"MacX", b"file:///nowhere/gone.vhd"),
        (b"W2ru", "..\\gone\\gone.vhd".encode(UTF16)),
        (b"W2ku", "C:\\base.vhd".encode(UTF16)),
    ),
    "rubbish first": ((b"W2ru", b"\xff\xdf\0"), (b"MacX", b"\xff%zz"), (b"Mac ", b"\1\2\3")),
}
UNNAMED = ["nothing but the header", "rubbish first"]


def pair(folder: Path, **options: object) -> Path:
    """A base of noise, and an empty child of it."""
    base = Foreign(MIB, blocks={0: [(0, noise(MIB // 2, 1))]})
    base.write(folder / "base.vhd")
    values = {"parent_id": base.disk_id, **options}
    return Foreign(MIB, kind=4, **values).write(folder / "child.vhd")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", NAMES)
def test_a_parent_is_found_by_each_of_the_names_that_a_child_may_have(tmp_path, kind):
    child = pair(tmp_path, locators=NAMES[kind], name="base.vhd" if kind in UNNAMED else "")
    with Chain.open(child) as chain:
        assert [layer.path.name for layer in chain.layers] == ["base.vhd", "child.vhd"]
    assert contents(child, "vhd")[: MIB // 2] == noise(MIB // 2, 1)


def test_names_are_told_best_first(tmp_path):
    child = pair(tmp_path, locators=NAMES["one that lies first"], name="base.vhd")
    with closing(VhdDisk.open(child)) as disk:
        parent = disk.info.parent
    assert parent is not None
    assert parent.relative_path == "../gone/gone.vhd"
    assert parent.other_paths == ("/nowhere/gone.vhd", "C:\\base.vhd", "base.vhd")
    assert parent.content_id == ""


def test_another_disk_under_the_parents_name_is_refused(tmp_path):
    child = pair(tmp_path, locators=NAMES["W2ru"], parent_id=uuid.uuid4())
    with pytest.raises(ParentError):
        contents(child, "vhd")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.vhd", "..\\secret.vhd", "a\0b", ""])
def test_a_parent_elsewhere_is_not_looked_for(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    child = pair(folder, locators=((b"W2ru", name.encode(UTF16)),), name=name)
    (folder / "base.vhd").rename(tmp_path / "secret.vhd")
    with pytest.raises(ParentError):
        contents(child, "vhd")


def test_a_child_that_another_program_filled_is_relinked_with_its_data(tmp_path):
    """An overlay of ours in which VirtualBox was: blocks behind its own, payloads anywhere."""
    base = Foreign(4 * BLOCK, BLOCK, blocks={0: [(0, noise(BLOCK, 1))]})
    base.write(tmp_path / "base.vhd")
    path = tmp_path / "child.vhd"
    with closing(VhdDisk.create(path, 4 * BLOCK, reference(tmp_path / "base.vhd", "vhd"))) as disk:
        disk.flush()
    data = path.read_bytes()
    bitmap = b"\x10" + bytes(511)
    block = bitmap + bytes(3 * 512) + noise(512, 2) + bytes(BLOCK - 4 * 512)
    entry = struct.pack(">I", (len(data) - 512) // 512)
    path.write_bytes(data[:16388] + entry + data[16392:-512] + block + data[-512:])
    wanted = noise(BLOCK, 1) + bytes(3 * 512) + noise(512, 2) + bytes(3 * BLOCK - 4 * 512)
    assert contents(path, "vhd") == wanted
    (tmp_path / "base.vhd").rename(tmp_path / "renamed.vhd")
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.relink(ParentRef(str(base.disk_id), "", "renamed.vhd"))
        disk.write(BLOCK + UNIT, memoryview(noise(UNIT, 3)))
        disk.flush()
    at = BLOCK + UNIT
    assert contents(path, "vhd") == wanted[:at] + noise(UNIT, 3) + wanted[at + UNIT :]


# --------------------------------------------------------------------------- fixed disks


def fixed(size: int = MIB) -> bytes:
    return noise(size, 1) + Foreign(size, kind=2).footer(2**64 - 1)


def test_a_fixed_disk_is_known_by_its_end_and_only_under_the_name_of_one(tmp_path):
    """The end of a raw disk is its guest's to choose."""
    for name, wanted in (("a.vhd", "vhd"), ("a.VHD", "vhd"), ("a.img", "raw"), ("a", "raw")):
        (tmp_path / name).write_bytes(fixed())
        assert probe(tmp_path / name) == wanted
        assert contents(tmp_path / name, "vhd") == noise(MIB, 1)
    with closing(open_disk(tmp_path / "a.vhd", "vhd")) as disk:
        assert isinstance(disk, FixedVhdDisk)
        assert disk.info.parent is None


def test_the_map_of_a_fixed_disk_leaves_out_the_holes_of_its_file(tmp_path):
    path = tmp_path / "a.vhd"
    with path.open("wb") as file:
        file.seek(MIB)
        file.write(noise(MIB, 1))
        file.seek(8 * MIB)
        file.write(Foreign(8 * MIB, kind=2).footer(2**64 - 1))
    with closing(VhdDisk.open(path)) as disk:
        assert [(each.length, each.state) for each in disk.block_map().extents()] == [
            (MIB, State.ZERO),
            (MIB, State.DATA),
            (6 * MIB, State.ZERO),
        ]


@pytest.mark.parametrize(
    "data",
    [b"", b"x", noise(511, 1), noise(512, 1), noise(MIB, 1), fixed()[1:], b"x" + fixed(),
     fixed()[:-1] + b"x"],
)  # fmt: skip
def test_a_file_that_does_not_end_exactly_as_a_fixed_disk_is_none(tmp_path, data):
    (tmp_path / "a.vhd").write_bytes(data)
    assert probe(tmp_path / "a.vhd") == "raw"


def test_what_ends_as_a_dynamic_disk_and_begins_as_none_is_a_damaged_one(tmp_path):
    (tmp_path / "a.vhd").write_bytes(noise(MIB, 1) + Foreign(MIB, kind=3).footer())
    assert probe(tmp_path / "a.vhd") == "vhd"
    with pytest.raises(DiskFormatError):
        Chain.open(tmp_path / "a.vhd")


@pytest.mark.parametrize("data", [fixed()[512:], fixed()[1:], bytes(512) + fixed()])
def test_a_fixed_disk_that_was_cut_off_or_grew_is_refused(tmp_path, data):
    (tmp_path / "a.vhd").write_bytes(data)
    with pytest.raises(DiskFormatError, match="does not end there"):
        contents(tmp_path / "a.vhd", "vhd")


def test_a_guest_that_forges_a_child_at_its_fixed_disks_start_reads_no_other_file(tmp_path):
    (tmp_path / "base.vhd").write_bytes(b"secret")
    child = pair(tmp_path, locators=NAMES["W2ru"]).read_bytes()
    data = child + noise(MIB - len(child), 2)
    path = tmp_path / "a.vhd"
    path.write_bytes(data + Foreign(MIB, kind=2).footer(2**64 - 1))
    with pytest.raises(DiskFormatError, match="begins as a dynamic disk and ends as a fixed"):
        contents(path, "vhd")


def test_a_guest_whose_disk_begins_with_a_fixed_ones_footer_changes_nothing(tmp_path):
    data = Foreign(MIB, kind=2).footer(2**64 - 1) + noise(MIB - 512, 1)
    path = tmp_path / "a.vhd"
    path.write_bytes(data + Foreign(MIB, kind=2).footer(2**64 - 1))
    assert contents(path, "vhd") == data


def test_a_footer_that_a_guest_forged_at_the_end_of_a_torn_file_is_not_believed(tmp_path):
    disk = Foreign(MIB, blocks={0: [(0, noise(MIB // 2, 1))]})
    path = disk.write(tmp_path / "a.vhd")
    forged = Foreign(64 * MIB, kind=4).footer(1024)
    path.write_bytes(path.read_bytes() + forged)
    assert contents(path, "vhd") == noise(MIB // 2, 1) + bytes(MIB // 2)
