"""What a restore writes to is what was planned, and nothing of what lay there before comes back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.loops import (
    add_partition,
    attached,
    delete_partition,
    loop,
    mounted,
    own_name,
    unmount,
)
from tests.sources.opened import open_path
from vdbackup.agent import stacking
from vdbackup.backup import capture
from vdbackup.errors import (
    NoSpace,
    RecoveryError,
    StorageLost,
    TargetExists,
    TargetInUse,
    UnfitTarget,
)
from vdbackup.jobs import Task
from vdbackup.recovery import restore
from vdbackup.recovery.hindrances import hindrance
from vdbackup.recovery.target import held_device

MIB = 1 << 20


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """One point of a disk of 4 MiB."""
    lab = Lab(tmp_path, 4 * MIB)
    lab.poke(MIB, noise(MIB, 1))
    lab.backup()
    return lab


def planned(lab: Lab, target: Path, *, overwrite: bool = False) -> restore.RestorePlan:
    point = lab.set.points[-1]
    return restore.plan(
        restore.RestoreRequest(lab.repository, "disk", point.id, target, overwrite=overwrite)
    )


def test_a_file_that_a_machine_writes_to_is_not_replaced_under_it(lab: Lab, tmp_path: Path) -> None:
    """It would go on writing to what has no name any more."""
    target = tmp_path / "machine.img"
    target.write_bytes(b"x" * 4096)
    plan = planned(lab, target, overwrite=True)
    with target.open("r+b") as file, subprocess.Popen(["sleep", "60"], stdin=file) as machine:
        file.close()
        try:
            with pytest.raises(UnfitTarget, match=r"is open elsewhere: sleep \(process"):
                planned(lab, target, overwrite=True)
            with pytest.raises(UnfitTarget, match=r"is open elsewhere: sleep \(process"):
                run(plan)  # it came after the plan
        finally:
            machine.kill()
    assert target.read_bytes() == b"x" * 4096
    with target.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as reader:
        run(planned(lab, target, overwrite=True))  # who reads goes on with what was there
        reader.kill()
    assert target.read_bytes() == lab.image.read_bytes()


def run(plan: restore.RestorePlan) -> restore.Restored:
    return restore.run(plan, Task())


# ------------------------------------------------------------------------------------------ files


def test_where_there_is_no_space_nobody_is_told_to_make_some_among_the_backups(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdbackup.repository.files.free_space", lambda _folder: 1 << 10)
    with pytest.raises(NoSpace, match=f"and {tmp_path} has 1 KiB free") as refused:
        planned(lab, tmp_path / "out.img")
    assert refused.value.advice == "Free some space there, then try again."


def test_a_file_that_came_after_the_plan_is_not_replaced(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "out.img"
    plan = planned(lab, target)
    target.write_bytes(b"somebody's")
    with pytest.raises(RecoveryError, match="was not there when the restore was planned"):
        run(plan)
    assert target.read_bytes() == b"somebody's"


def test_a_file_that_comes_while_it_is_restored_is_not_replaced(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "out.img"
    plan = planned(lab, target)

    def report(*_: object) -> None:
        target.write_bytes(b"somebody's")

    with pytest.raises(RecoveryError, match="was not there when the restore was planned"):
        restore.run(plan, Task(report))
    assert target.read_bytes() == b"somebody's"
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*.partial"))


def test_another_file_under_the_name_is_not_replaced(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "out.img"
    target.write_bytes(b"that may go")
    plan = planned(lab, target, overwrite=True)
    other = tmp_path / "other"
    other.write_bytes(b"that was not meant")
    other.rename(target)
    with pytest.raises(RecoveryError, match="another file or device"):
        run(plan)
    assert target.read_bytes() == b"that was not meant"


def test_a_link_to_a_file_of_the_backups_is_no_target(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "link.img"
    target.symlink_to(lab.set.folder / lab.set.points[0].digests)
    point = lab.set.points[-1].id
    for wanted in ({"delta": True}, {"resize": True}):
        request = restore.RestoreRequest(
            lab.repository, "disk", point, target, overwrite=True, **wanted
        )
        with pytest.raises(UnfitTarget, match="lies inside the repository"):
            restore.plan(request)


def test_a_link_that_leads_nowhere_is_refused_before_anything_is_written(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "link.img").symlink_to("nowhere")
    with pytest.raises(UnfitTarget, match="is a link that leads nowhere"):
        planned(lab, tmp_path / "link.img")


@pytest.mark.parametrize("name", ["/dev/sdz", "/dev/../dev/vdbackup-test"])
def test_the_name_of_a_device_that_is_not_there_makes_no_file_in_memory(
    lab: Lab, name: str
) -> None:
    with pytest.raises(UnfitTarget, match="There is no device"):
        planned(lab, Path(name))


def test_a_file_in_shared_memory_is_one_that_somebody_means(lab: Lab) -> None:
    target = Path(f"/dev/shm/vdbackup-{os.getpid()}.img")
    try:
        run(planned(lab, target))
        assert target.read_bytes() == lab.image.read_bytes()
    finally:
        target.unlink(missing_ok=True)


def test_a_file_may_have_the_longest_name_that_there_is(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / ("漢" * 85)  # 255 bytes
    run(planned(lab, target))
    assert target.read_bytes() == lab.image.read_bytes()


def test_a_file_that_was_to_be_replaced_is(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "out.img"
    target.write_bytes(b"that may go")
    run(planned(lab, target, overwrite=True))
    assert target.read_bytes() == lab.image.read_bytes()


def test_a_file_of_the_user_that_is_named_as_ours_in_flight_would_be_stays(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "out.img.partial").write_bytes(b"somebody's")
    run(planned(lab, tmp_path / "out.img"))
    assert (tmp_path / "out.img.partial").read_bytes() == b"somebody's"
    assert (tmp_path / "out.img").read_bytes() == lab.image.read_bytes()


# ---------------------------------------------------------------------------------------- devices


@pytest.mark.usefixtures("as_root")
def test_a_device_that_was_mounted_since_the_plan_is_not_written(lab: Lab, tmp_path: Path) -> None:
    image, where = tmp_path / "device.img", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    where.mkdir()
    with loop(image) as device:
        plan = planned(lab, device, overwrite=True)
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        subprocess.run(["mount", device, where], check=True)
        try:
            with pytest.raises(TargetInUse, match=f"is mounted at {where}"):
                run(plan)
        finally:
            unmount(where)
        subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)


@pytest.mark.usefixtures("as_root")
def test_another_device_under_the_name_is_not_written(lab: Lab, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(noise(8 * MIB, 5))
    with loop(tmp_path / "one") as one, loop(tmp_path / "two") as two:
        name = tmp_path / "by-id"
        name.symlink_to(one)
        plan = planned(lab, name, overwrite=True)
        name.unlink()
        name.symlink_to(two)
        with pytest.raises(RecoveryError, match="another file or device"):
            run(plan)
    assert (tmp_path / "two").read_bytes() == noise(8 * MIB, 5)


@pytest.mark.usefixtures("as_root")
def test_a_device_is_nobody_elses_while_it_is_written(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "device.img").write_bytes(bytes(8 * MIB))
    tried = []

    def report(*_: object) -> None:
        try:
            os.close(os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
            tried.append("opened")
        except OSError as error:
            tried.append(os.strerror(error.errno or 0))

    with loop(tmp_path / "device.img") as device:
        restore.run(planned(lab, device, overwrite=True), Task(report))
    assert set(tried) == {"Device or resource busy"}


@pytest.mark.usefixtures("as_root")
def test_nothing_of_what_lay_on_a_larger_device_comes_back(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-E", f"offset={4 * MIB}", image, "20M"], check=True)
    subprocess.run(["sfdisk", "-q", image], input=b"label: gpt\nsize=1M\n", check=True)
    with loop(image) as device:
        run(planned(lab, device, overwrite=True))
        found = subprocess.run(["wipefs", "--noheadings", device], capture_output=True, check=True)
    assert found.stdout == b""
    data = image.read_bytes()
    assert data[: 4 * MIB] == lab.image.read_bytes()
    for signature in (b"EFI PART", b"\x53\xef\x01\x00"):
        assert signature not in data[4 * MIB : 5 * MIB]
        assert signature not in data[-MIB:]


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(("of_point", "of_device"), [(512, 4096), (4096, 512)])
def test_a_disk_does_not_go_to_a_device_with_other_sectors(
    tmp_path: Path, of_point: int, of_device: int
) -> None:
    lab = Lab(tmp_path, 4 * MIB, disk_format="vhdx")
    with loop(lab.image, "--sector-size", str(of_point)) as source:
        subprocess.run(["sfdisk", "-q", source], input=b"label: gpt\nsize=1M\n", check=True)
    lab.backup()
    (tmp_path / "device.img").write_bytes(noise(8 * MIB, 5))
    with (
        loop(tmp_path / "device.img", "--sector-size", str(of_device)) as device,
        pytest.raises(RecoveryError, match=f"sectors of {of_device} bytes.* of {of_point}"),
    ):
        planned(lab, device, overwrite=True)
    assert (tmp_path / "device.img").read_bytes() == noise(8 * MIB, 5)


@pytest.mark.usefixtures("as_root")
def test_a_device_that_got_a_file_system_since_the_plan_is_not_written(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "device.img").write_bytes(bytes(8 * MIB))
    with loop(tmp_path / "device.img") as device:
        plan = planned(lab, device, overwrite=True)
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        with pytest.raises(UnfitTarget, match=r"What lies on .* has changed since"):
            run(plan)
        subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)


@pytest.mark.usefixtures("as_root")
def test_another_medium_in_the_same_drive_is_not_written(lab: Lab, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(8 * MIB))  # the same in every bit
    with own_name() as drive:
        with attached(drive, tmp_path / "one"):
            plan = planned(lab, drive, overwrite=True)
        with (
            attached(drive, tmp_path / "two"),
            pytest.raises(UnfitTarget, match="another file or device"),
        ):
            run(plan)


@pytest.mark.usefixtures("as_root")
def test_a_device_that_the_backups_lie_on_is_refused_however_they_do(tmp_path: Path) -> None:
    for name, size in (("outer.img", 64 * MIB), ("inner.img", 16 * MIB)):
        with (tmp_path / name).open("wb") as image:
            image.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", tmp_path / name], check=True)
    with (
        loop(tmp_path / "outer.img") as outer,
        mounted(outer, tmp_path / "outer") as folder,
    ):
        shutil.copy(tmp_path / "inner.img", folder)
        for name in ("lower", "upper", "work"):
            (folder / name).mkdir()
        layers = (
            f"lowerdir={folder / 'lower'},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        )
        with (
            loop(folder / "inner.img") as inner,
            mounted(inner, tmp_path / "inner") as in_file,
            mounted("overlay", tmp_path / "merged", "-t", "overlay", "-o", layers) as merged,
        ):
            for where in (folder, in_file, merged):
                found = hindrance(outer, where / "backups")
                assert found is not None
                assert found.title == f"{outer} holds the backups in {where / 'backups'}."
            found = hindrance(inner, folder / "backups")
            assert found is not None
            assert "is mounted at" in found.title
    assert hindrance(Path("/dev/null"), tmp_path) is None


@pytest.mark.usefixtures("as_root")
def test_a_file_of_the_backups_is_no_target_as_a_device_either(lab: Lab) -> None:
    with (
        loop(lab.layer(lab.set.points[0]), "--read-only") as device,
        pytest.raises(TargetInUse, match="is a file of the backups"),
    ):
        planned(lab, device, overwrite=True)


@pytest.mark.usefixtures("as_root")
def test_a_device_that_is_read_only_is_refused_with_that_word(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(bytes(lab.size))
    with loop(image, "--read-only") as device, pytest.raises(UnfitTarget, match="is read-only"):
        planned(lab, device, overwrite=True)


@pytest.mark.usefixtures("as_root")
def test_the_disk_that_this_computer_runs_from_is_refused(lab: Lab) -> None:
    disks = [path for path in map(Path, _system_disks()) if path.is_block_device()]
    if not disks:
        pytest.skip("what this system runs from is no device here")
    for disk in disks:
        with pytest.raises(TargetInUse, match="holds the system that this computer runs from"):
            planned(lab, disk, overwrite=True)


def _system_disks() -> list[str]:
    found = subprocess.run(
        ["findmnt", "--noheadings", "--output", "SOURCE", "/"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.split()


@pytest.mark.usefixtures("as_root")
def test_a_device_that_goes_while_it_is_written_is_not_called_full(tmp_path: Path) -> None:
    """For Linux a disk that was pulled out ends at its first byte: whoever writes gets ENOSPC."""
    image = tmp_path / "device.img"
    image.write_bytes(bytes(8 * MIB))

    def written(device: Path, length: int) -> None:
        with held_device(device) as fd:
            os.truncate(image, length)
            subprocess.run(["losetup", "--set-capacity", device], check=True)
            os.pwrite(fd, b"x" * 4096, 4 * MIB)
            raise OSError(errno.ENOSPC, "of another file")

    with loop(image) as device:
        with pytest.raises(OSError, match="of another file"):
            written(device, 8 * MIB)
        with pytest.raises(StorageLost, match=f"{device} was pulled out"):
            written(device, 0)


@pytest.mark.usefixtures("as_root")
def test_what_a_loop_device_shows_a_part_of_is_refused(lab: Lab, tmp_path: Path) -> None:
    """As `mount -o loop,offset=` makes one; the kernel would let the disk below be overwritten."""
    image, where = tmp_path / "device.img", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    where.mkdir()
    with (
        loop(image) as disk,
        loop(disk, "--offset", str(16 * MIB), "--sizelimit", str(8 * MIB)) as shown,
    ):
        subprocess.run(["mkfs.ext4", "-q", shown], check=True)
        subprocess.run(["mount", shown, where], check=True)
        try:
            with pytest.raises(TargetInUse, match=f"{disk} lies under {shown}"):
                planned(lab, disk, overwrite=True)
            assert hindrance(disk, None) is not None
            add_partition(disk, 1, MIB, 8 * MIB)
            add_partition(disk, 2, 15 * MIB, 8 * MIB)
            beside, below = (Path(f"{disk}p{number}") for number in (1, 2))
            try:
                assert hindrance(beside, None) is None
                assert "lies under" in hindrance(below, None).title  # type: ignore[union-attr]
            finally:
                for number in (1, 2):
                    delete_partition(disk, number)
        finally:
            unmount(where)


@pytest.mark.usefixtures("as_root")
def test_what_is_swapped_to_is_refused(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device.img").write_bytes(bytes(8 * MIB))
    with loop(tmp_path / "device.img") as device:
        swaps = tmp_path / "swaps"
        swaps.write_text(f"Filename Type Size Used Priority\n{device} partition 8188 0 -2\n")
        monkeypatch.setattr(stacking, "_SWAPS", swaps)
        with pytest.raises(TargetInUse, match=f"swapped to \\({device}\\)"):
            planned(lab, device, overwrite=True)


@pytest.mark.usefixtures("as_root")
def test_the_plan_and_the_refusal_say_what_would_be_lost(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    table = b"label: gpt\nsize=16M,type=U\nsize=32M\n"
    subprocess.run(["sfdisk", "-q", image], input=table, check=True)
    subprocess.run(["mkfs.ext4", "-q", "-E", f"offset={17 * MIB}", image, "32M"], check=True)
    with loop(image) as device:
        said = "partition 1 (unknown contents, 16 MiB); partition 2 (ext, 32 MiB)"
        assert f"What lies on it is lost: {said}." in planned(lab, device, overwrite=True).summary
        with pytest.raises(TargetExists) as refused:
            planned(lab, device)
        assert said in refused.value.title


@pytest.mark.usefixtures("as_root")
def test_the_plan_says_what_the_device_is(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "device.img").write_bytes(bytes(8 * MIB))
    with loop(tmp_path / "device.img") as device:
        assert f"{device} (8 MiB, the file " in planned(lab, device, overwrite=True).summary


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_table_of_a_larger_device_is_whole(tmp_path: Path, sector_size: int) -> None:
    lab = Lab(tmp_path, 8 * MIB, disk_format="vhdx")
    with loop(lab.image, "--sector-size", str(sector_size)) as source:
        subprocess.run(["sfdisk", "-q", source], input=b"label: gpt\nsize=2M\n", check=True)
        with open_path(source) as opened:
            capture.run(
                capture.plan(lab.repository, opened, set_name="disk", disk_format="vhdx"),
                Task(),
            )
    before = lab.image.read_bytes()
    with (tmp_path / "device.img").open("wb") as file:
        file.truncate(64 * MIB)
    with loop(tmp_path / "device.img", "--sector-size", str(sector_size)) as device:
        run(planned(lab, device, overwrite=True))
        said = subprocess.run(["sgdisk", "-v", device], capture_output=True, text=True, check=True)
        listed = subprocess.run(
            ["sfdisk", "-V", device], capture_output=True, text=True, check=False
        )
    assert "No problems found" in said.stdout
    assert "No errors detected" in listed.stdout
    after = (tmp_path / "device.img").read_bytes()[: len(before)]
    other = [n for n in range(0, len(before), 512) if after[n : n + 512] != before[n : n + 512]]
    assert other == [sector_size]  # the first header, which names the second one's place


@pytest.mark.usefixtures("as_root")
def test_the_kernel_shows_the_partitions_that_a_disk_has_afterwards(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 8 * MIB)
    subprocess.run(["sfdisk", "-q", lab.image], input=b"label: gpt\nsize=2M\n", check=True)
    with loop(lab.image, "--partscan") as device:
        if not (Path("/sys/block") / device.name / f"{device.name}p1").exists():
            pytest.skip("this kernel reads no GPT")
    lab.backup()
    (tmp_path / "device.img").write_bytes(bytes(16 * MIB))
    with loop(tmp_path / "device.img", "--partscan") as device:
        shown = Path("/sys/block") / device.name / f"{device.name}p1"
        assert not shown.exists()
        run(planned(lab, device, overwrite=True))
        assert int((shown / "size").read_text()) * 512 == 2 * MIB
