"""What a source is taken for: `info` and `backup` say the same, and a set keeps the answer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.disks.seals import seal_vhd
from tests.disks.shelf import MIB
from tests.noise import noise
from tests.oracles import qemu
from tests.volumes import volumes

SIZE = 2 * MIB


def raw_disk(folder: Path) -> Path:
    path = folder / "contents.raw"
    path.write_bytes(bytes(65536) + noise(SIZE - 65536, 1))
    return path


def converted(raw: Path, disk: Path, disk_format: str, *options: str) -> Path:
    command = ["qemu-img", "convert", "-f", "raw", "-O", disk_format, *options, raw, disk]
    subprocess.run(command, check=True)
    return disk


def restored(vdbackup: Vdbackup, repository: Path, *options: str) -> bytes:
    """The newest point, as a raw disk."""
    target = repository.parent / "restored.raw"
    restore = vdbackup("restore", "-r", repository, *options, "latest", target, "--overwrite")
    assert restore.status == 0, restore.err
    return target.read_bytes()


@pytest.mark.parametrize("disk_format", ["vdi", "qed", "parallels", "qcow", "qcow2", "vpc", "vmdk"])
@pytest.mark.parametrize("name", ["disk.img", "disk.vhdx"])
def test_a_file_that_is_not_what_its_name_says_is_refused_by_info_and_backup(
    vdbackup, tmp_path, repository, disk_format, name
):
    disk = converted(raw_disk(tmp_path), tmp_path / name, disk_format)
    info = vdbackup("info", disk)
    backup = vdbackup("backup", disk, "-r", repository)
    assert (info.status, backup.status) == (1, 1)
    assert info.err == backup.err
    assert "--source-format says it: " in info.err
    assert not list(repository.rglob("*.json"))


def test_the_format_that_the_user_says_is_used_by_info_and_backup_and_kept_by_the_set(
    vdbackup, tmp_path, repository
):
    raw = raw_disk(tmp_path)
    disk = converted(raw, tmp_path / "cloud.img", "qcow2")
    said = ("--source-format", "qcow2")
    assert vdbackup("info", disk, *said, "--json").json["format"] == "qcow2"
    assert vdbackup("backup", disk, "-r", repository, *said).status == 0
    assert restored(vdbackup, repository) == raw.read_bytes()
    qemu.io(disk, "write -P 7 0 64k", disk_format="qcow2")
    for _ in range(2):
        assert vdbackup("backup", disk, "-r", repository).status == 0
    assert restored(vdbackup, repository)[: 1 << 16] == b"\7" * (1 << 16)
    points = vdbackup("list", "-r", repository, "--json").json
    assert len(json.dumps(points).split('"incremental"')) > 1


def test_a_raw_disk_with_a_formats_magic_is_backed_up_as_raw_where_the_user_says_so(
    vdbackup, tmp_path, repository
):
    inside = converted(raw_disk(tmp_path), tmp_path / "inside", "qcow2").read_bytes()
    disk = tmp_path / "server.img"
    disk.write_bytes(inside + noise(MIB - len(inside) % MIB, 2))
    assert vdbackup("backup", disk, "-r", repository).status == 1
    assert vdbackup("backup", disk, "-r", repository, "--source-format", "raw").status == 0
    assert restored(vdbackup, repository) == disk.read_bytes()
    assert vdbackup("backup", disk, "-r", repository).status == 0
    assert restored(vdbackup, repository) == disk.read_bytes()


def test_what_only_its_content_tells_is_backed_up_with_a_word(vdbackup, tmp_path, repository):
    raw = raw_disk(tmp_path)
    disk = converted(raw, tmp_path / "disk", "qcow2")
    info = vdbackup("info", disk)
    backup = vdbackup("backup", disk, "-r", repository)
    assert (info.status, backup.status) == (3, 3)
    assert "by its content alone" in info.err
    assert "by its content alone" in backup.err
    assert restored(vdbackup, repository) == raw.read_bytes()
    said = ("--source-format", "qcow2")
    assert vdbackup("info", disk, *said).status == 0
    assert vdbackup("backup", disk, "-r", repository, *said).status == 0
    assert vdbackup("backup", disk, "-r", repository).status == 0


def test_a_set_that_is_named_keeps_its_own_answer(vdbackup, tmp_path, repository):
    """One file, backed up as what it is and as what is in it: a test of two answers for a path."""
    raw = raw_disk(tmp_path)
    disk = converted(raw, tmp_path / "disk.img", "qcow2")
    for name in ("raw", "qcow2"):
        made = vdbackup("backup", disk, "-r", repository, "--set", name, "--source-format", name)
        assert made.status == 0, made.err
    for name, data in (("raw", disk.read_bytes()), ("qcow2", raw.read_bytes())):
        assert vdbackup("backup", disk, "-r", repository, "--set", name).status == 0
        assert restored(vdbackup, repository, "--set", name) == data
    assert vdbackup("backup", disk, "-r", repository).status == 1  # two answers are none


def test_an_adopted_disk_is_what_is_said(vdbackup, tmp_path, repository):
    raw = raw_disk(tmp_path)
    disk = converted(raw, tmp_path / "disk.img", "qcow2")
    refused = vdbackup("adopt", disk, "-r", repository)
    assert refused.status == 1
    assert "--source-format says it: qcow2 or raw." in refused.err
    adopted = vdbackup("adopt", disk, "-r", repository, "--source-format", "qcow2")
    assert adopted.status == 0, adopted.err
    assert restored(vdbackup, repository) == raw.read_bytes()
    assert vdbackup("backup", disk, "-r", repository).status == 0


def flagged(raw: Path, kind: str) -> Path:
    """A disk with a mark that something was wrong with it when it was written last."""
    folder = raw.parent
    match kind:
        case "corrupt":
            return patched(converted(raw, folder / "disk.qcow2", "qcow2"), 72, struct.pack(">Q", 2))
        case "dirty":
            return patched(converted(raw, folder / "disk.qcow2", "qcow2"), 72, struct.pack(">Q", 1))
        case "unclean":
            return patched(converted(raw, folder / "disk.vmdk", "vmdk"), 72, b"\1")
        case "saved" | "saved-fixed":
            subformat = "subformat=fixed" if kind == "saved-fixed" else "subformat=dynamic"
            options = ("-o", f"{subformat},force_size=on")
            disk = converted(raw, folder / "disk.vhd", "vpc", *options)
            data = bytearray(disk.read_bytes())
            for at in (0, len(data) - 512):
                if data[at : at + 8] == b"conectix":
                    data[at + 84] = 1
            seal_vhd(data)
            disk.write_bytes(data)
            return disk
    raise AssertionError(kind)


def patched(path: Path, place: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("corrupt", "marked as damaged"),
        ("dirty", "not closed"),
        ("unclean", "not closed"),
        ("saved", "suspended"),
        ("saved-fixed", "suspended"),
    ],
)
def test_a_mark_that_a_disk_was_not_well_is_said(vdbackup, tmp_path, repository, kind, words):
    raw = raw_disk(tmp_path)
    disk = flagged(raw, kind)
    info, backup = vdbackup("info", disk), vdbackup("backup", disk, "-r", repository)
    assert (info.status, backup.status) == (3, 3)
    assert words in info.err
    assert words in backup.err
    assert restored(vdbackup, repository) == raw.read_bytes()
    in_json = vdbackup("info", disk, "--json")
    assert in_json.status == 3
    assert words in in_json.json["warnings"][0]


def contradictory(raw: Path, kind: str) -> Path:
    """A disk whose tables can all be read, and do not agree."""
    suffix, disk_format = {"vmdk": (".vmdk", "vmdk"), "qcow": (".qcow2", "qcow2")}[kind[:4]]
    options = ("-o", "subformat=twoGbMaxExtentSparse") if "split" in kind else ()
    disk = converted(raw, raw.parent / f"disk{suffix}", disk_format, *options)
    part = disk.with_name("disk-s001.vmdk") if "split" in kind else disk
    data = part.read_bytes()
    if disk_format == "vmdk":
        (directory,) = struct.unpack_from("<Q", data, 56)
        (table,) = struct.unpack_from("<I", data, directory * 512)
        grains = struct.unpack_from("<32I", data, table * 512)
        places = {
            "vmdk-directory": (directory * 512, bytes(4)),
            "vmdk-table": (table * 512, bytes(512)),
            "vmdk-table-split": (table * 512, bytes(512)),
            "vmdk-entry": (table * 512 + 4 * 9, struct.pack("<I", grains[8])),
            "vmdk-in-tables": (table * 512 + 4 * 9, struct.pack("<I", table)),
        }
    else:
        (l1,) = struct.unpack_from(">Q", data, 40)
        table = struct.unpack_from(">Q", data, l1)[0] & (1 << 63) - 1
        clusters = struct.unpack_from(">32Q", data, table)
        places = {
            "qcow2-twice": (table + 8 * 9, struct.pack(">Q", clusters[8])),
            "qcow2-in-tables": (table + 8 * 9, struct.pack(">Q", table | 1 << 63)),
        }
    patched(part, *places[kind])
    return disk


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vmdk-directory", "contradict each other"),
        ("vmdk-table", "contradict each other"),
        ("vmdk-table-split", "contradict each other"),
        ("vmdk-entry", "two things in one place"),
        ("vmdk-in-tables", "two things in one place"),
        ("qcow2-twice", "two things in one place"),
        ("qcow2-in-tables", "two things in one place"),
    ],
)
def test_tables_that_contradict_each_other_are_said_and_not_believed_in_silence(
    vdbackup, tmp_path, repository, kind, words
):
    disk = contradictory(raw_disk(tmp_path), kind)
    info, backup = vdbackup("info", disk), vdbackup("backup", disk, "-r", repository)
    assert (info.status, backup.status) == (3, 3)
    assert words in info.err
    assert words in backup.err


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_a_second_copy_of_the_tables_that_nobody_filled_is_no_contradiction(
    vdbackup, tmp_path, repository, subformat
):
    raw = raw_disk(tmp_path)
    disk = converted(raw, tmp_path / "disk.vmdk", "vmdk", "-o", f"subformat={subformat}")
    data = disk.read_bytes()
    (directory,) = struct.unpack_from("<Q", data, 48)
    (table,) = struct.unpack_from("<I", data, directory * 512)
    patched(disk, table * 512, bytes(2048))
    assert vdbackup("info", disk).status == 0
    assert vdbackup("backup", disk, "-r", repository).status == 0
    assert restored(vdbackup, repository) == raw.read_bytes()


def test_snapshots_inside_a_disk_are_said_to_be_in_no_backup(vdbackup, tmp_path, repository):
    disk = converted(raw_disk(tmp_path), tmp_path / "disk.qcow2", "qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "before the update", disk], check=True)
    qemu.io(disk, "write -P 7 1M 64k", disk_format="qcow2")
    now = tmp_path / "now.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, now], check=True)
    for said in (vdbackup("info", disk), vdbackup("backup", disk, "-r", repository)):
        assert said.status == 3
        assert "keeps snapshots inside itself (1)" in said.err
    assert restored(vdbackup, repository) == now.read_bytes()
    again = vdbackup("backup", disk, "-r", repository)
    assert again.status == 0  # it was said, and stays so
    assert "keeps snapshots inside itself (1)" in again.out + again.err
    subprocess.run(["qemu-img", "snapshot", "-d", "before the update", disk], check=True)
    without = vdbackup("backup", disk, "-r", repository)
    assert without.status == 0
    assert "keeps snapshots" not in without.out + without.err


@pytest.mark.parametrize("last", [b"\0", b"\xce"])
def test_a_fixed_disk_of_an_old_virtual_pc_is_known_whatever_its_last_byte_is(
    vdbackup, tmp_path, repository, last
):
    raw = raw_disk(tmp_path)
    patched(raw, SIZE - 1, last)
    options = ("-o", "subformat=fixed,force_size=on")
    disk = converted(raw, tmp_path / "disk.vhd", "vpc", *options)
    disk.write_bytes(disk.read_bytes()[:-1])  # its footer had 511 bytes
    assert vdbackup("backup", disk, "-r", repository).status == 0
    assert restored(vdbackup, repository) == raw.read_bytes()


def test_a_mark_of_a_parent_is_said_too(vdbackup, tmp_path, repository):
    base = flagged(raw_disk(tmp_path), "corrupt")
    child = tmp_path / "child.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2"]
    subprocess.run([*command, child], cwd=tmp_path, check=True)
    for said in (vdbackup("info", child), vdbackup("backup", child, "-r", repository)):
        assert said.status == 3
        assert f"{base} is marked as damaged" in said.err


def test_a_parent_that_is_called_raw_and_does_not_look_so_is_read_as_qemu_does_and_said(
    vdbackup, tmp_path, repository
):
    """`qemu-img create -b base -F raw`, where the base is QCOW2: a mistake that QEMU obeys."""
    base = converted(raw_disk(tmp_path), tmp_path / "base.qcow2", "qcow2")
    child, seen = tmp_path / "child.qcow2", tmp_path / "seen.raw"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw"]
    subprocess.run([*command, child], cwd=tmp_path, check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", child, seen], check=True)
    for said in (vdbackup("info", child), vdbackup("backup", child, "-r", repository)):
        assert said.status == 3
        assert f"{base} begins as a QCOW2 disk does, and is read as a raw one" in said.err
    assert restored(vdbackup, repository) == seen.read_bytes()


def test_a_moved_disk_is_asked_for_once_more(vdbackup, tmp_path, repository):
    disk = converted(raw_disk(tmp_path), tmp_path / "disk.img", "qcow2")
    assert vdbackup("backup", disk, "-r", repository, "--source-format", "qcow2").status == 0
    moved = Path(shutil.move(disk, tmp_path / "moved.img"))
    assert vdbackup("backup", moved, "-r", repository).status == 1
    again = vdbackup("backup", moved, "-r", repository, "--source-format", "qcow2", "--json")
    assert again.status == 0
    assert vdbackup("backup", moved, "-r", repository).status == 0


def test_a_part_of_something_is_said_once_and_not_where_the_rest_is_backed_up_too(
    vdbackup, tmp_path, repository
):
    disks = [tmp_path / "one.img", tmp_path / "other.img"]
    for disk in disks:
        volumes.blank(disk, 256 * MIB)
    volumes.run("mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", *disks)
    sentence = "Btrfs lies on other devices, too, which this backup does not have"
    first = vdbackup("backup", disks[0], "-r", repository)
    assert (first.status, sentence in first.err) == (3, True)
    again = vdbackup("backup", disks[0], "-r", repository)
    assert (again.status, sentence in again.out) == (0, True)
    whole = vdbackup("backup", *disks, "--machine", "box", "-r", tmp_path / "both")
    assert (whole.status, sentence in whole.out + whole.err) == (0, False)
