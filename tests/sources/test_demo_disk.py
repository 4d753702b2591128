"""The demo disk: its file system is right for foreign readers, and a change touches little."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from dissect.fat import fat as dissect_fat
from dissect.volume.disk import Disk

from tests.guests import listing
from vdbackup.errors import SourceError
from vdbackup.sources import demo_disk

PARTITION = 1 << 20
BLOCK = 64 << 10


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "demo.img"
    demo_disk.create(path, "first message")
    return path


def fsck(disk: Path) -> str:
    """What fsck.fat says of the partition; fails the test where it finds anything wrong."""
    partition = disk.with_suffix(".fat")
    copy = ["dd", f"if={disk}", f"of={partition}", "bs=1M", "skip=1", "conv=sparse", "status=none"]
    subprocess.run(copy, check=True)
    command = ["/usr/sbin/fsck.fat", "-n", "-v", str(partition)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mtools(program: str, disk: Path, *arguments: str) -> bytes:
    command = [program, "-i", f"{disk}@@{PARTITION}", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def test_boot_code_is_what_nasm_makes_of_the_listing_beside_it(tmp_path: Path) -> None:
    code = listing.assemble(demo_disk, 0x7C00, tmp_path)
    demo_disk.create(tmp_path / "demo.img", "any")
    with (tmp_path / "demo.img").open("rb") as file:
        start = file.read(512)
    assert 100 < len(code) <= 440
    assert start[:440] == code.ljust(440, b"\0")
    assert start[510:] == b"\x55\xaa"


def test_message_lies_in_a_sector_of_its_own_block(disk: Path) -> None:
    assert disk.read_bytes()[BLOCK : BLOCK + 512] == b"first message\r\n".ljust(512, b"\0")


def test_image_has_the_size_asked_for_and_is_sparse(disk: Path) -> None:
    assert disk.stat().st_size == demo_disk.SIZE == 16 << 20
    assert disk.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("size", [10 << 20, (33 << 20) + 512, 1 << 30])
def test_file_system_is_sound_at_any_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "demo.img"
    demo_disk.create(path, "message", size)
    assert "2 FATs, 16 bit entries" in fsck(path)


def test_mtools_read_the_files(disk: Path) -> None:
    fsck(disk)
    assert b"made by vdbackup" in mtools("mtype", disk, "::README.TXT")
    assert b"this letter never changes" in mtools("mtype", disk, "::LETTERS/FIRST.TXT")
    assert set(mtools("mdir", disk, "-b", "-/", "::").decode().split()) == {
        "::/README.TXT",
        "::/LETTERS/",
        "::/LETTERS/FIRST.TXT",
        "::/LETTERS/SECOND.TXT",
        "::/PICTURE.BMP",
    }


def test_dissect_finds_the_partition_and_its_files(disk: Path) -> None:
    with disk.open("rb") as file:
        (partition,) = Disk(file).partitions
        assert (partition.offset, partition.size) == (PARTITION, (16 << 20) - PARTITION)
        assert partition.type == 0x0E
        volume = dissect_fat.FATFS(partition.open())
        assert "VDBACKUP" in str(volume.volume_label)
        picture = volume.get("PICTURE.BMP").open().read()
    assert len(picture) == 307_254
    assert mtools("mtype", disk, "::PICTURE.BMP") == picture


def test_change_replaces_message_and_files_in_place(disk: Path) -> None:
    before, picture = disk.read_bytes(), mtools("mtype", disk, "::PICTURE.BMP")
    letter = b"Dear reader, this one did.\r\n"
    demo_disk.change(disk, "second message", {"LETTERS/SECOND.TXT": letter})
    after = disk.read_bytes()

    fsck(disk)
    assert after[BLOCK : BLOCK + 16] == b"second message\r\n"
    assert mtools("mtype", disk, "::LETTERS/SECOND.TXT") == letter
    assert mtools("mtype", disk, "::PICTURE.BMP") == picture
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    blocks = np.flatnonzero(changed.reshape(-1, BLOCK).any(axis=1))
    assert 2 <= len(blocks) <= 4
    assert 0 not in blocks  # the boot code is the parent's


@pytest.mark.parametrize("length", [0, 1, 2048, 2049, 300_000, 9_000_000])
def test_change_takes_content_of_any_length_over_old_content(disk: Path, length: int) -> None:
    content = bytes(range(1, 252)) * (length // 251 + 1)
    for text in (content[:length], content[1 : length + 1]):
        demo_disk.change(disk, "again", {"PICTURE.BMP": text, "NEW/DEEP/ER/FILE.BIN": b"x"})
        fsck(disk)
        assert mtools("mtype", disk, "::PICTURE.BMP") == text
        assert mtools("mtype", disk, "::NEW/DEEP/ER/FILE.BIN") == b"x"


def test_many_changes_lose_no_cluster(disk: Path) -> None:
    for turn in range(40):
        files = {"A.BIN": b"a" * (turn * 10_000), "LETTERS/B.BIN": b"b" * (400_000 - turn * 10_000)}
        demo_disk.change(disk, f"turn {turn}", files)
    assert "cluster chain" not in fsck(disk).lower()
    assert mtools("mtype", disk, "::A.BIN") == files["A.BIN"]


def test_message_may_have_several_lines_and_500_characters(disk: Path) -> None:
    demo_disk.change(disk, "a\nb", {})
    assert disk.read_bytes()[BLOCK : BLOCK + 7] == b"a\r\nb\r\n\0"
    demo_disk.change(disk, "m" * 500, {})
    assert disk.read_bytes()[BLOCK : BLOCK + 503] == b"m" * 500 + b"\r\n\0"


@pytest.mark.parametrize("message", ["", "m" * 501, "Grüße", "a\0b", "\n" * 300])
def test_message_that_cannot_be_printed_is_refused(tmp_path: Path, message: str) -> None:
    with pytest.raises(SourceError, match="message"):
        demo_disk.create(tmp_path / "demo.img", message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1 << 20, (16 << 20) + 1, 2 << 30])
def test_size_out_of_bounds_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(SourceError, match="10 MiB"):
        demo_disk.create(tmp_path / "demo.img", "message", size)


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "precious.img"
    path.write_bytes(b"precious")
    with pytest.raises(SourceError, match="exists already"):
        demo_disk.create(path, "message")
    assert path.read_bytes() == b"precious"


def test_missing_folder_and_missing_disk_are_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        demo_disk.create(tmp_path / "nowhere" / "demo.img", "message")
    with pytest.raises(SourceError, match="No such file"):
        demo_disk.change(tmp_path / "demo.img", "message", {})


@pytest.mark.parametrize("content", [b"", b"short", bytes(16 << 20)])
def test_change_of_something_else_is_refused_and_changes_nothing(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "other.img"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="not a demo disk"):
        demo_disk.change(path, "message", {})
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["LONGERTHAN8.TXT", "A.LONG", "", "A//B", "../A", "Ä.TXT"])
def test_name_that_fat_does_not_know_is_refused(disk: Path, name: str) -> None:
    before = disk.read_bytes()
    with pytest.raises(SourceError, match="file's name"):
        demo_disk.change(disk, "message", {name: b""})
    assert disk.read_bytes() == before


def test_after_a_refusal_the_message_is_the_old_one_and_the_file_system_sound(disk: Path) -> None:
    before = disk.read_bytes()
    for trouble, refused in (
        ("full", {"README.TXT": bytes(16 << 20)}),
        ("is a folder", {"LETTERS": b""}),
        ("is a file", {"README.TXT/A": b""}),
    ):
        with pytest.raises(SourceError, match=trouble):
            demo_disk.change(disk, "message", refused)
        assert disk.read_bytes() == before
        with pytest.raises(SourceError, match=trouble):
            demo_disk.change(disk, "message", {"A.BIN": b"a" * 5000, **refused})
        fsck(disk)
        assert mtools("mtype", disk, "::A.BIN") == b"a" * 5000
        assert disk.read_bytes()[BLOCK : BLOCK + 512] == before[BLOCK : BLOCK + 512]
        disk.write_bytes(before)


def test_folder_that_is_full_is_said(disk: Path) -> None:
    with pytest.raises(SourceError, match="folder of the demo disk is full"):
        demo_disk.change(disk, "message", {f"LETTERS/{n}.TXT": b"x" for n in range(100)})
    fsck(disk)
