"""What volumes and files claim of themselves, changed at random: read, or refused in a sentence.

Here what lies beside tables and file systems: a journal that is replayed, superblocks of RAID, and
the first and last bytes by which it is told what a file is. VDBACKUP_LONG=1 tries a thousand of
each, and new ones each time.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.disks.damage import no_more_memory
from tests.sources.opened import open_path
from tests.volumes import test_raid, volumes
from tests.volumes.volumes import MIB, browsing, overwritten
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task

ROOM = 512 * MIB
"""Bytes that reading a small disk may take, whatever it claims."""
BLOCK = 1024
JOURNAL = bytes.fromhex("c03b3998")
NUMBERS = st.integers(0, 64).map(lambda power: (1 << power) % (1 << 64)) | st.integers(0, 1 << 64)
WORDS = st.builds(
    lambda number, length, order: (number % (1 << 8 * length)).to_bytes(length, order),
    NUMBERS | NUMBERS.map(lambda number: max(number - 1, 0)),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["little", "big"]),
)
"""Numbers near some power of two, as lies about lengths and places are."""


def read_all(image: Path, target: Path) -> None:
    """Look at a disk as `files` and `extract` do; only a sentence may come of it."""
    said: VdbackupError | None = None
    with no_more_memory(ROOM):
        try:
            with browsing(image) as browser:
                browser.volumes()
                browser.extract(["/"], target, Task())
        except VdbackupError as error:
            said = error
    assert said is None or said.title.endswith(".")
    assert not isinstance(said and said.__cause__, MemoryError), "memory of the size of a claim"


# ------------------------------------------------------------------------------------ a journal


@pytest.fixture(scope="module")
def in_use(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """An ext4 whose journal is to be replayed, and where the journal's own blocks lie."""
    folder = tmp_path_factory.mktemp("in-use")
    image, block, tree = folder / "disk.img", folder / "block", folder / "tree"
    for number in range(20):
        file = tree / f"folder-{number % 4}" / f"file-{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"a" * number * 100)
    volumes.blank(image, 8 * MIB)
    options = ("-q", "-b", str(BLOCK), "-O", "^metadata_csum", "-d", tree)
    volumes.run("mkfs.ext4", *options, image)
    block.write_bytes(bytes(range(256)) * 12)
    commands = ["jo", f"jw -b 5000,5001,5002 {block}", "jw -r 5001", f"jw -b 5003 {block}", "jc"]
    volumes.run("debugfs", "-w", "-f", "/dev/stdin", image, stdin="\n".join(commands) + "\n")
    data = image.read_bytes()
    own = [at for at in range(0, len(data), BLOCK) if data[at : at + 4] == JOURNAL]
    assert len(own) >= 6, "superblock, and descriptors, commits and revocations"
    return image, own


@settings(max_examples=max(20, settings.default.max_examples // 2))
@given(
    lies=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 80) | st.integers(0, BLOCK - 9), WORDS),
        min_size=1,
        max_size=6,
    )
)
def test_no_lie_of_a_journal_leads_to_more_than_a_sentence(
    lies: list[tuple[int, int, bytes]],
    in_use: tuple[Path, list[int]],
    tmp_path_factory: pytest.TempPathFactory,
):
    image, own = in_use
    target = tmp_path_factory.mktemp("out") / "files"
    with overwritten(image, [(own[block] + place, lie) for block, place, lie in lies]):
        read_all(image, target)


# ------------------------------------------------------------------------------------ an array


@pytest.mark.parametrize("version", test_raid.VERSIONS)
@settings(max_examples=max(10, settings.default.max_examples // 5))
@given(
    lies=st.lists(
        st.tuples(st.integers(0, 264) | st.integers(0, 4080), WORDS), min_size=1, max_size=6
    ),
    sealed=st.booleans(),
)
def test_no_lie_of_an_array_leads_to_more_than_a_sentence(
    version: str,
    lies: list[tuple[int, bytes]],
    sealed: bool,
    tmp_path_factory: pytest.TempPathFactory,
):
    folder = tmp_path_factory.mktemp("array")
    image = folder / "disk.img"
    volumes.blank(image, test_raid.MEMBER)
    test_raid.member(image, b"", version, 1)
    at = test_raid.place(version, test_raid.MEMBER)
    block = bytearray(test_raid.superblock(version, test_raid.MEMBER, 1))
    for place, lie in lies:
        end = place + len(lie)
        if end <= len(block):
            block[place:end] = lie
    if sealed and version != "0.90":
        _seal(block)
    with overwritten(image, [(at, bytes(block))]):
        read_all(image, folder / "files")
    image.unlink()


def _seal(block: bytearray) -> None:
    block[216:220] = bytes(4)
    words = (int.from_bytes(block[at : at + 4], "little") for at in range(0, 260, 4))
    total = sum(words)
    block[216:220] = ((total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF).to_bytes(4, "little")


# ----------------------------------------------------------------------------- what a file is

MAGICS = [
    b"QFI\xfb\0\0\0\x03", b"KDMV\x01\0\0\0", b"vhdxfile", b"conectix", b"cxsparse", b"EFI PART",
    b"# Disk DescriptorFile\nversion=1\n", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"PK\x03\x04", b"QED\0",
    b"<<< Oracle VM VirtualBox Disk Image >>>\n", b"\x7f\x10\xda\xbe", b"WithoutFreeSpace",
    b"LABELONE", b"LVM2 001", b"_BHRfS_M", b"XFSB", b"\x53\xef", b"\x55\xaa", b"NTFS    ",
    b"\xbe\xba\xfe\xca\0\0\0\0", b"COWD", b"ustar\0", b"CD001",
]  # fmt: skip
PLACES = [0, 3, 64, 257, 510, 512, 1080, 4096, 32769, 65536, 65600, -512, -511, -1024]


@settings(max_examples=max(40, settings.default.max_examples // 2))
@given(
    size=st.sampled_from([1, 511, 512, 513, 1023, 1536, 4096, 70_001, 1 << 20, (1 << 20) + 511]),
    parts=st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(MAGICS), st.lists(WORDS, max_size=20)),
        max_size=4,
    ),
    suffix=st.sampled_from(["img", "raw", "vmdk", "vhd", "vhdx", "qcow2", "vdi", "", "gz"]),
)
def test_whatever_a_file_begins_or_ends_with_it_is_read_or_refused_in_a_sentence(
    size: int,
    parts: list[tuple[int, bytes, list[bytes]]],
    suffix: str,
    tmp_path_factory: pytest.TempPathFactory,
):
    data = bytearray(size)
    for place, magic, words in parts:
        at = place % size
        data[at:size] = (magic + b"".join(words) + data[at + 200 :])[: size - at].ljust(
            size - at, b"\0"
        )
    file = tmp_path_factory.mktemp("file") / f"disk.{suffix}"
    file.write_bytes(data)
    for said in (None, "raw", "vmdk", "vhd", "vhdx", "qcow2"):
        with no_more_memory(ROOM), suppress(VdbackupError), open_path(file, (), said) as source:
            source.data_ranges()
            source.readinto(0, memoryview(bytearray(min(512, source.size))))
    file.unlink()
