"""XFS and Btrfs on a disk of another size, changed by the kernel as root does it; and swap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.recovery.test_resize import identities, places, planned, restored, sized, tree
from tests.sources.loops import mounted, run
from vdbackup.errors import NotResized, UsageError

MIB = 1 << 20
DISK, PART = 340 * MIB, 320
FSCK = {"xfs": ("xfs_repair", "-n", "-f"), "btrfs": ("btrfs", "check", "--readonly")}
pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tree(tmp_path / "files")


def lab_with(kind: str, files: Path, tmp_path: Path) -> Lab:
    """One partition of 320 MiB with a file system that was not unmounted, and files."""
    lab = Lab(tmp_path, DISK, disk_format="qcow2")
    run("sfdisk", "-q", lab.image, stdin=f"label: gpt\nstart=1M,size={PART}M,type=L,name=data\n")
    part = tmp_path / "part"
    sized_empty(part, PART * MIB)
    run(f"mkfs.{kind}", "-q", "-L", "data", part)
    with mounted(part, tmp_path / "made", "-o", "loop") as folder:
        run("cp", "-r", *sorted(files.iterdir()), folder)
        run("sync", "-f", folder)
        data = part.read_bytes()  # as a computer leaves it that loses its power
    lab.poke(MIB, data)
    part.unlink()
    lab.backup()
    return lab


def sized_empty(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def assert_holds(kind: str, target: Path, files: Path, tmp_path: Path) -> None:
    ((start, size),) = places(target)
    part = tmp_path / "restored"
    with target.open("rb") as source:
        source.seek(start * MIB)
        part.write_bytes(source.read(size * MIB))
    run(*FSCK[kind], part)
    with mounted(part, tmp_path / "seen", "-o", "loop,ro") as folder:
        run("diff", "--recursive", files, folder)
        kib = int(run("df", "--output=size", folder).split()[-1])
        assert kib * 1024 > 0.7 * size * MIB  # the file system is as large, not the partition alone
    part.unlink()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_the_kernel_has_to_change_takes_what_a_larger_disk_has_more(
    kind: str, files: Path, tmp_path: Path
) -> None:
    lab = lab_with(kind, files, tmp_path)
    target = sized(tmp_path / "target.img", 520 * MIB)
    plan = planned(lab, target)
    assert f"Partition 1 ({kind}) becomes larger: 518 MiB instead of 320 MiB." in plan.summary
    assert restored(lab, target).warnings == ()
    assert places(target) == [(1, 518)]
    assert identities(target) == identities(lab.image)
    assert_holds(kind, target, files, tmp_path)
    run("sfdisk", "--verify", target)


def test_btrfs_becomes_smaller_in_an_overlay_and_the_point_stays(
    files: Path, tmp_path: Path
) -> None:
    lab = lab_with("btrfs", files, tmp_path)
    target = sized(tmp_path / "target.img", 300 * MIB)
    assert restored(lab, target).warnings == ()
    assert places(target)[0][1] < PART
    assert_holds("btrfs", target, files, tmp_path)
    lab.check_all()


def test_xfs_cannot_become_smaller_and_the_figure_that_would_do_is_said(
    files: Path, tmp_path: Path
) -> None:
    lab = lab_with("xfs", files, tmp_path)
    with pytest.raises(NotResized, match=r"has 300 MiB, and the disk needs 32\d") as refused:
        planned(lab, sized(tmp_path / "target.img", 300 * MIB))
    assert refused.value.advice == "Partition 1 (XFS) cannot be made smaller."


def test_an_ordinary_user_has_it_left_as_it_is(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_with("xfs", files, tmp_path)
    target = sized(tmp_path / "target.img", 520 * MIB)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotResized, match="Partition 1 cannot be made"):
        planned(lab, target, grown=1)


def test_swap_grows_where_that_is_said_and_keeps_its_names(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 40 * MIB, disk_format="qcow2")
    run("sfdisk", "-q", lab.image, stdin="label: gpt\nstart=1M,size=32M,type=S\n")
    swap = tmp_path / "swap"
    sized_empty(swap, 32 * MIB)
    run("mkswap", "-q", "-L", "night", swap)
    lab.poke(MIB, swap.read_bytes())
    lab.backup()
    target = sized(tmp_path / "target.img", 80 * MIB)
    assert restored(lab, target).warnings == ()
    assert places(target) == [(1, 32)]  # nobody said so
    target = sized(tmp_path / "other.img", 80 * MIB)
    assert restored(lab, target, grown=1).warnings == ()
    assert places(target) == [(1, 78)]
    assert identities(target) == identities(lab.image)
    last_page = target.read_bytes()[MIB + 1028 : MIB + 1032]  # of the header, mkswap(8)
    assert int.from_bytes(last_page, "little") == 78 * 256 - 1


@pytest.mark.parametrize("wanted", [{"grown": 1}, {}])
def test_a_new_file_is_as_large_as_the_disk_and_fits_nothing(
    tmp_path: Path, wanted: dict[str, int]
) -> None:
    lab = Lab(tmp_path, 40 * MIB)
    lab.backup()
    with pytest.raises(UsageError, match="there is nothing to fit it to"):
        planned(lab, tmp_path / "new.img", **wanted)
    assert not (tmp_path / "new.img").exists()
