"""The command line says what of a source is not read, and --all-blocks reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.volumes.volumes import MIB, run

SIZE = 64 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An ext4 with one file, where something else was before."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"old" * (SIZE // 3) + b"x")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "file").write_bytes(b"new" * MIB)
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-d", folder, image)
    return image


def test_what_is_not_read_is_said_before_and_after(vdbackup, tmp_path, image):
    repository = tmp_path / "backups"
    plan = vdbackup("backup", image, "-r", repository, "--dry-run", "--json").json
    assert "Free space of ext4 is not read" in plan["summary"]
    assert plan["bytes_to_copy"] < SIZE / 2
    said = vdbackup("backup", image, "-r", repository)
    assert said.status == 0
    assert "Free space of ext4 is not read" in said.out
    (point,) = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert not point["all_blocks"]
    assert SIZE / 2 < point["not_read"] < SIZE - point["read_bytes"]  # mkfs has made some holes
    assert point["about_free"][0].startswith("Free space of ext4 is not read")
    assert vdbackup("verify", "-r", repository).status == 0
    raw = tmp_path / "restored.img"
    assert vdbackup("restore", "-r", repository, "1", raw).status == 0
    run("e2fsck", "-fn", raw)
    assert raw.read_bytes() != image.read_bytes()
    assert run("debugfs", "-R", "cat /file", raw) == "new" * MIB


def test_all_blocks_are_kept_where_that_is_said(vdbackup, tmp_path, image):
    repository = tmp_path / "backups"
    assert vdbackup("backup", image, "-r", repository).status == 0
    said = vdbackup("backup", image, "-r", repository, "--all-blocks")
    assert "not read" not in said.out
    first, second = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert second["all_blocks"]
    assert second["not_read"] == 0
    assert second["stored_bytes"] > first["not_read"] * 0.9
    raw = tmp_path / "restored.img"
    assert vdbackup("restore", "-r", repository, "2", raw).status == 0
    assert raw.read_bytes() == image.read_bytes()


def test_a_file_system_that_is_damaged_is_kept_whole_and_that_is_said(vdbackup, tmp_path, image):
    bitmap = int(run("dumpe2fs", image).split("Block bitmap at ")[1].split()[0])
    with image.open("r+b") as file:
        file.seek(bitmap * 1024 + 500)
        file.write(b"\x55")
    repository = tmp_path / "backups"
    said = vdbackup("backup", image, "-r", repository)
    assert said.status == 0
    assert "ext4 is kept whole: its maps of free blocks are damaged." in said.out
    (point,) = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert point["not_read"] == 0
    assert point["read_bytes"] > SIZE * 0.9
