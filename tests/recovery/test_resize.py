"""A disk on a target of another size: what other programs find there, and what is refused."""

from __future__ import annotations

import json
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.guests.lilo import LILO
from tests.noise import noise
from tests.sources.loops import loop, run
from vdbackup.errors import Cancelled, Damaged, NotResized, ProgramMissing
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.recovery import file_system_sizes, restore
from vdbackup.repository.digests import BLOCK

MIB = 1 << 20
SIZE = 160 * MIB
PASSES_ON = b"\xfa\xb8\x00\x10\x8e\xd0"
"""A master boot record's that starts the active partition."""
pytestmark = pytest.mark.usefixtures("fuse")


def table_of(image: Path) -> dict[str, Any]:
    """As util-linux reads it; by number, in sectors."""
    found: dict[str, Any] = json.loads(run("sfdisk", "--json", image))["partitiontable"]
    return found


def places(image: Path) -> list[tuple[int, int]]:
    """Of the partitions, in MiB."""
    parts = table_of(image)["partitions"]
    return [(each["start"] * 512 // MIB, each["size"] * 512 // MIB) for each in parts]


def identities(image: Path) -> list[Any]:
    """All that must stay: of the table, of its partitions, of what lies on them."""
    table = table_of(image)
    kept = [table["label"], table["id"]]
    for each in table["partitions"]:
        kept += [each.get(name) for name in ("uuid", "type", "name", "attrs", "bootable")]
        where = ("--offset", str(each["start"] * 512), "--size", str(each["size"] * 512))
        said = subprocess.run(
            ["blkid", "--probe", "--output", "export", *where, image],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        kept += [line for line in said.split("\n") if line.startswith(("UUID=", "LABEL=", "TYPE="))]
    return kept


def part_of(image: Path, number: int, folder: Path) -> Path:
    """A partition as a file."""
    start, size = places(image)[number - 1]
    file = folder / f"{image.name}-{number}"
    with image.open("rb") as source:
        source.seek(start * MIB)
        file.write_bytes(source.read(size * MIB))
    return file


def tree(folder: Path) -> Path:
    """Files of every size, in folders."""
    for number in range(40):
        file = folder / f"folder {number % 5}" / f"file {number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise(number * 20_011, number))
    return folder


def assert_ext_holds(part: Path, files: Path, folder: Path) -> None:
    run("e2fsck", "-f", "-n", part)
    folder.mkdir()
    run("debugfs", "-R", f'rdump / "{folder}"', part)
    (folder / "lost+found").rmdir()
    run("diff", "--recursive", files, folder)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tree(tmp_path / "files")


@pytest.fixture
def lab(tmp_path: Path, files: Path) -> Lab:
    """ESP, a root of ext4 that nearly fills the disk, and swap at the end."""
    lab = Lab(tmp_path, SIZE, disk_format="qcow2")
    parts = "size=8M,type=U,name=esp,attrs=RequiredPartition\nsize=120M,type=L,name=root\n"
    run("sfdisk", "-q", lab.image, stdin=f"label: gpt\n{parts}start=130M,size=16M,type=S\n")
    offset = 9 * MIB
    lab.poke(MIB + 5, noise(4 * MIB, 77))
    options = f"root_owner=0:0,offset={offset}"
    run("mkfs.ext4", "-q", "-L", "root", "-E", options, "-d", files, lab.image, "120M")
    swap = tmp_path / "swap"
    swap.write_bytes(bytes(16 * MIB))
    run("mkswap", "-L", "swap", swap)
    lab.poke(130 * MIB, swap.read_bytes())
    lab.backup()
    return lab


def sized(path: Path, size: int) -> Path:
    """A target that is full of something else."""
    path.write_bytes(b"\xa5" * size)
    return path


def planned(lab: Lab, target: Path, **wanted: object) -> restore.RestorePlan:
    request = restore.RestoreRequest(
        lab.repository, "disk", lab.set.points[-1].id, target, overwrite=True, resize=True
    )
    return restore.plan(replace(request, **wanted))  # type: ignore[arg-type]


def restored(lab: Lab, target: Path, **wanted: object) -> restore.Restored:
    done = restore.run(planned(lab, target, **wanted), Task())
    assert done.warnings == ()
    return done


def test_the_root_takes_what_a_larger_disk_has_more_and_swap_moves(
    lab: Lab, files: Path, tmp_path: Path
) -> None:
    target = sized(tmp_path / "target.img", 256 * MIB)
    plan = planned(lab, target)
    assert "Partition 2 (ext) becomes larger: 229 MiB instead of 120 MiB." in plan.summary
    assert "Partition 3 (swap) keeps its size, and moves." in plan.summary
    restore.run(plan, Task())
    assert places(target) == [(1, 8), (9, 229), (239, 16)]
    assert "No problems found" in run("sgdisk", "-v", target)
    assert identities(target) == identities(lab.image)
    assert_ext_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")
    for number in (1, 3):
        ours, theirs = (part_of(each, number, tmp_path) for each in (target, lab.image))
        assert ours.read_bytes() == theirs.read_bytes()
    assert lab.image.read_bytes() == lab.moments[lab.set.points[0].id].read_bytes()


def test_the_root_becomes_smaller_in_an_overlay_and_the_point_stays(
    lab: Lab, files: Path, tmp_path: Path
) -> None:
    target, before = sized(tmp_path / "target.img", 120 * MIB), lab.files
    plan = planned(lab, target)
    assert "Partition 2 (ext) becomes smaller: 93 MiB instead of 120 MiB." in plan.summary
    restore.run(plan, Task())
    assert places(target) == [(1, 8), (9, 93), (103, 16)]
    assert "No problems found" in run("sgdisk", "-v", target)
    assert identities(target) == identities(lab.image)
    assert_ext_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")
    assert lab.files == before
    assert target.stat().st_size == 120 * MIB


def test_what_is_too_small_is_refused_with_the_size_that_would_do(
    lab: Lab, files: Path, tmp_path: Path
) -> None:
    target = sized(tmp_path / "target.img", 48 * MIB)
    with pytest.raises(NotResized, match=r"has 48 MiB, and the disk needs \d+ MiB at least") as no:
        planned(lab, target)
    assert "Partition 1 (unknown contents) cannot be made smaller." in no.value.advice
    assert target.read_bytes() == b"\xa5" * 48 * MIB
    needed = int(no.value.title.split()[-4])
    target = sized(tmp_path / "target.img", (needed + 1) * MIB)
    restored(lab, target)
    assert_ext_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")


def test_off_leaves_what_is_larger_free(lab: Lab, tmp_path: Path, as_root: None) -> None:
    with loop(sized(tmp_path / "target.img", 200 * MIB)) as device:
        restored(lab, device, resize=False)
    assert places(tmp_path / "target.img") == places(lab.image)


@pytest.mark.parametrize("size", [128, pytest.param(200, marks=pytest.mark.long)])
def test_a_device_is_fitted_and_what_differs_alone_written(
    lab: Lab, files: Path, tmp_path: Path, as_root: None, size: int
) -> None:
    with loop(sized(tmp_path / "target.img", size * MIB)) as device:
        first = restored(lab, device).figures
        again = restored(lab, device, delta=True).figures
        assert again.written < first.written // 4
    target = tmp_path / "target.img"
    assert "No problems found" in run("sgdisk", "-v", target)
    assert_ext_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")


def test_the_partition_that_grows_can_be_chosen(lab: Lab, tmp_path: Path) -> None:
    target = sized(tmp_path / "target.img", 256 * MIB)
    with pytest.raises(NotResized, match="Partition 1 cannot be made larger"):
        planned(lab, target, grown=1)
    assert "Partition 2 (ext) becomes larger" in planned(lab, target, grown=2).summary
    same = sized(tmp_path / "same.img", lab.size)
    with pytest.raises(NotResized, match="Partition 9 cannot be made larger"):
        planned(lab, same, grown=9)


def test_a_program_that_is_missing_is_named_before_anything_is_written(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = sized(tmp_path / "target.img", 256 * MIB)
    monkeypatch.setattr(file_system_sizes, "_find", lambda name: None if "2fs" in name else name)
    with pytest.raises(ProgramMissing, match="e2fsck is not installed") as missing:
        planned(lab, target)
    assert missing.value.advice == "Install it with: sudo apt install e2fsprogs"


@pytest.mark.parametrize("size", [100, pytest.param(300, marks=pytest.mark.long)])
def test_on_an_mbr_nothing_moves_and_the_last_one_changes(
    files: Path, tmp_path: Path, size: int
) -> None:
    lab = Lab(tmp_path, SIZE, disk_format="vmdk")
    run("sfdisk", "-q", lab.image, stdin="label: dos\nsize=8M,type=c,bootable\nsize=140M\n")
    lab.poke(440 // 2, noise(220, 5))  # a boot loader's first bytes, and what lies in the gap
    lab.poke(512, noise(MIB - 512, 6))
    options = f"root_owner=0:0,offset={9 * MIB}"
    run("mkfs.ext4", "-q", "-E", options, "-d", files, lab.image, "140M")
    lab.backup()
    last = size - 9
    target = sized(tmp_path / "target.img", size * MIB)
    restored(lab, target)
    assert places(target) == [(1, 8), (9, last)]
    assert identities(target) == identities(lab.image)
    gap = target.read_bytes()[:MIB]
    assert (gap[:446], gap[512:]) == (
        lab.image.read_bytes()[:446],
        lab.image.read_bytes()[512:MIB],
    )
    assert_ext_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")


@pytest.mark.parametrize(
    ("code", "partition", "said"),
    [
        (LILO, b"", "run lilo in the system"),
        (PASSES_ON, LILO, "run lilo in the system"),
        (PASSES_ON, b"\xeb\x58\x90EXTLINUX", "extlinux --install"),
        (b"\xeb\x63\x90GRUB", b"\xeb\x58\x90EXTLINUX", ""),
    ],
    ids=["LILO", "LILO of a partition", "EXTLINUX", "GRUB"],
)
def test_a_loader_that_knows_files_by_sectors_is_named_before_and_after(
    files: Path, tmp_path: Path, code: bytes, partition: bytes, said: str
) -> None:
    lab = Lab(tmp_path, 64 * MIB, disk_format="vmdk")
    run("sfdisk", "-q", lab.image, stdin="label: dos\nsize=60M,bootable\n")
    lab.poke(0, code)
    options = f"root_owner=0:0,offset={MIB}"
    run("mkfs.ext4", "-q", "-E", options, "-d", files, lab.image, "60M")
    lab.poke(MIB, partition.ljust(510, b"\0") + b"\x55\xaa")
    lab.backup()
    target = sized(tmp_path / "target.img", 80 * MIB)
    plan = planned(lab, target)
    assert said in plan.summary
    warnings = restore.run(plan, Task()).warnings
    assert [said in each for each in warnings] == [True] * bool(said)
    assert planned(lab, sized(tmp_path / "same.img", 64 * MIB)).notes == ()


def test_a_disk_that_lilo_starts_goes_to_no_other_sectors(
    files: Path, tmp_path: Path, as_root: None
) -> None:
    lab = Lab(tmp_path, 64 * MIB, disk_format="vmdk")
    run("sfdisk", "-q", lab.image, stdin="label: dos\nsize=60M,bootable\n")
    lab.poke(0, LILO)
    lab.backup()
    with (
        loop(sized(tmp_path / "target.img", 80 * MIB), "--sector-size", "4096") as device,
        pytest.raises(NotResized, match="has an MBR"),
    ):
        planned(lab, device)


def test_a_partition_of_a_disk_that_lilo_starts_is_told_to_need_it_again(
    files: Path, tmp_path: Path, as_root: None
) -> None:
    lab = Lab(tmp_path, 64 * MIB, disk_format="vmdk")
    run("sfdisk", "-q", lab.image, stdin="label: dos\nsize=60M,bootable\n")
    lab.poke(0, LILO)
    lab.backup()
    with loop(sized(tmp_path / "target.img", 60 * MIB)) as device:
        plan = planned(lab, device, resize=False, partitions=(1,))
        assert "run lilo" in plan.summary
        assert "run lilo" in restore.run(plan, Task()).warnings[0]


def test_what_was_cut_off_begins_anew(lab: Lab, files: Path, tmp_path: Path) -> None:
    target, cancel = sized(tmp_path / "target.img", 256 * MIB), CancelToken()

    def report(progress: Progress) -> None:
        if progress.phase == "Restore" and progress.total > 100 * MIB:
            cancel.cancel()

    plan = planned(lab, target, journals=tmp_path / "restores")
    with pytest.raises(Cancelled):
        restore.run(plan, Task(report, cancel))
    assert restored(lab, target, journals=tmp_path / "restores").figures.resumed == 0
    assert_ext_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")


def test_a_damaged_block_that_a_file_system_would_move_is_noticed(lab: Lab, tmp_path: Path) -> None:
    layer = lab.layer(lab.set.points[0])
    layer.chmod(0o600)
    data = bytearray(layer.read_bytes())
    at = data.index(noise(39 * 20_011, 39)[BLOCK : 2 * BLOCK])
    data[at] ^= 1
    layer.write_bytes(data)
    target = sized(tmp_path / "target.img", 120 * MIB)
    with pytest.raises(Damaged, match="not as captured"):
        restored(lab, target)


def test_where_nothing_can_grow_the_disk_stays_as_it_is(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 16 * MIB)
    run("sfdisk", "-q", lab.image, stdin="label: gpt\nsize=4M\nstart=8M,size=4M\n")
    lab.poke(6 * MIB, b"between two partitions")
    lab.backup()
    target = sized(tmp_path / "target.img", 20 * MIB)
    plan = planned(lab, target)
    assert plan.fitting is None
    restore.run(plan, Task())
    assert target.read_bytes() == lab.image.read_bytes()


def mbr(*entries: tuple[int, int, int]) -> bytes:
    """A table of partitions: type, where it begins, and how large it is, in MiB."""
    made = bytearray(512)
    made[510:] = b"\x55\xaa"
    for number, (kind, start, size) in enumerate(entries):
        made[450 + 16 * number] = kind
        struct.pack_into("<II", made, 454 + 16 * number, start * 2048, size * 2048)
    return bytes(made)


@pytest.mark.parametrize(
    ("sectors", "problem"),
    [
        ({0: mbr((0x83, 1, 8), (0x83, 4, 8))}, "Partitions 1 and 2 overlap"),
        ({0: mbr((0x83, 1, 40))}, "names what lies beyond its end"),
        ({0: mbr((5, 1, 8)), 1: mbr((0x83, 1, 4))}, "logical partitions is not made smaller"),
        ({0: mbr((0x83, 1, 8))}, "has 8 MiB, and the disk needs 9 MiB at least"),
        ({}, "has 8 MiB, and the disk needs 16 MiB at least"),
    ],
    ids=["overlap", "beyond", "logical", "unknown", "no table"],
)
def test_tables_that_cannot_be_kept_are_refused(
    tmp_path: Path, sectors: dict[int, bytes], problem: str
) -> None:
    lab = Lab(tmp_path, 16 * MIB)
    lab.poke(15 * MIB, b"something")
    for at, sector in sectors.items():
        lab.poke(at * MIB, sector)
    lab.backup()
    with pytest.raises(NotResized, match=problem):
        planned(lab, sized(tmp_path / "target.img", 8 * MIB))


def test_of_a_hibernated_system_nothing_changes_its_place(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 64 * MIB)
    part, memory = tmp_path / "ntfs", tmp_path / "memory"
    part.write_bytes(bytes(40 * MIB))
    run("mkfs.ntfs", "-q", "-F", "-f", part)
    memory.write_bytes(b"HIBR".ljust(8192, b"\1"))
    run("ntfscp", part, memory, "hiberfil.sys")
    run("sfdisk", "-q", lab.image, stdin="label: gpt\nsize=40M\nsize=16M,type=S\n")
    lab.poke(MIB, part.read_bytes())
    windows = lab.backup()
    lab.poke(MIB, 64 * 1024)  # and now a Linux
    run("mkfs.ext4", "-q", "-E", f"offset={MIB}", lab.image, "40M")
    lab.poke(41 * MIB + 4086, b"S1SUSPEND\0")
    linux = lab.backup()
    target = sized(tmp_path / "target.img", 128 * MIB)
    for point, number in ((windows, 1), (linux, 2)):
        with pytest.raises(NotResized, match=f"memory lies in partition {number} is hibernated"):
            planned(lab, target, point_id=point.id)


@pytest.mark.parametrize("size", [96, pytest.param(240, marks=pytest.mark.long)])
def test_ntfs_becomes_another_size_and_knows_its_place(
    files: Path, tmp_path: Path, size: int
) -> None:
    lab = Lab(tmp_path, SIZE, disk_format="vhdx")
    part = tmp_path / "ntfs"
    part.write_bytes(bytes(64 * MIB))
    run("mkfs.ntfs", "-q", "-F", "-f", "-p", str(80 * 2048), "-L", "second", part)
    for file in sorted(files.rglob("file *")):
        run("ntfscp", part, file, file.name)
    run("sfdisk", "-q", lab.image, stdin="label: gpt\nsize=78M,type=L\nstart=80M,size=64M\n")
    run("mkfs.ext4", "-q", "-E", f"offset={MIB}", lab.image, "78M")
    lab.poke(80 * MIB, part.read_bytes())
    lab.backup()
    target = sized(tmp_path / "target.img", size * MIB)
    restored(lab, target)
    start, length = places(target)[1]
    seen = part_of(target, 2, tmp_path)
    boot = seen.read_bytes()[:512]
    assert int.from_bytes(boot[28:32], "little") == start * 2048
    assert int.from_bytes(boot[40:48], "little") <= length * 2048 - 1
    run("ntfsresize", "--info", "--force", "--force", "--no-progress-bar", seen)
    for file in files.rglob("file *"):
        got = subprocess.run(
            ["ntfscat", "--force", seen, file.name], capture_output=True, check=True
        ).stdout
        assert got == file.read_bytes()
