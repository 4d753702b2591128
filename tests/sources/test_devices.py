"""Real block devices: loop devices over small images.

An ordinary user can attach none. Then the same fixtures prove what that user is told instead.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.noise import noise
from tests.sources.loops import add_partition, delete_partition, loop, mounted, run
from tests.sources.opened import open_path
from vdbackup.agent.stacking import lies_on, mounts_of
from vdbackup.backup import capture
from vdbackup.errors import BackupError, SourceError
from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository
from vdbackup.sources import devices
from vdbackup.sources.devices import candidates, device_id
from vdbackup.sources.opening import open_source
from vdbackup.sources.reference import SourceRef

MIB = 1 << 20
LOOP_CHANGE_FD = 0x4C06  # linux/loop.h: of one that is only read
ROOT = os.geteuid() == 0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB of noise with a hole in it."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(noise(3 * MIB, 1))
        file.seek(5 * MIB)
        file.write(noise(3 * MIB, 2))
    return path


def contents(path: Path) -> bytes:
    with open_path(path) as source:
        data = bytearray(source.size)
        for offset, length in source.data_ranges().tolist():
            source.readinto(offset, memoryview(data)[offset : offset + length])
        return bytes(data)


if ROOT:

    @pytest.mark.parametrize("sector_size", [512, 4096])
    def test_a_device_has_the_size_and_the_sectors_that_the_kernel_says(stack, image, sector_size):
        device = stack.enter_context(loop(image, "--sector-size", str(sector_size)))
        with open_path(device) as source:
            assert (source.size, source.sector_size) == (8 * MIB, sector_size)

    def test_everything_on_a_device_counts_as_data(stack, image):
        device = stack.enter_context(loop(image))
        with open_path(device) as source:
            assert source.data_ranges().tolist() == [[0, 8 * MIB]]
        assert contents(device) == image.read_bytes()

    @pytest.mark.parametrize("sector_size", [512, 4096])
    def test_a_device_is_backed_up_with_its_contents(stack, image, tmp_path, sector_size):
        device = stack.enter_context(loop(image, "--sector-size", str(sector_size)))
        repository = Repository.create(tmp_path / "repository")
        with open_path(device) as source:
            plan = capture.plan(repository, source)
            point = capture.run(plan, Task()).point
        assert point.sector_size == sector_size
        backup_set, _ = repository.find("latest")
        with backup_set.open_chain(point) as chain:
            data = bytearray(chain.size)
            chain.readinto(0, memoryview(data))
        assert bytes(data) == image.read_bytes()

    def test_an_image_on_a_disk_that_the_kernel_cannot_read_whole_is_saved_as_far_as_it_goes(
        stack, image, tmp_path
    ):
        """The file system's own device ends too early: the kernel answers with real errors."""
        device = stack.enter_context(loop(image))
        run("mkfs.ext2", "-q", "-F", "-b", "4096", device)
        folder = stack.enter_context(mounted(device, tmp_path / "mount"))
        contents = noise(4 * MIB, 3)
        disk = folder / "disk.img"
        disk.write_bytes(contents)
        os.sync()
        with disk.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pages = [contents[at : at + 4096] for at in range(0, len(contents), 4096)]
        stored = image.read_bytes()
        places = [stored.index(page) for page in pages]
        end = sorted(places)[len(places) * 3 // 4]
        os.truncate(image, end)
        run("losetup", "--set-capacity", device)
        repository = Repository.create(tmp_path / "repository")
        with open_path(disk) as source:
            point = capture.run(capture.plan(repository, source), Task()).point
        lost = [
            at for at, place in zip(range(0, 4 * MIB, 4096), places, strict=True) if place >= end
        ]
        assert [
            at for offset, length in point.unreadable for at in range(offset, offset + length, 4096)
        ] == lost
        assert any("1 MiB of the source could not be read" in each for each in point.warnings)
        data = bytearray(4 * MIB)
        with repository.set().open_chain(point) as chain:
            chain.readinto(0, memoryview(data))
        assert bytes(data) == b"".join(
            bytes(4096) if place >= end else page for page, place in zip(pages, places, strict=True)
        )

    @pytest.mark.parametrize("whole", [True, False], ids=["disk", "partition"])
    def test_another_medium_under_the_same_name_is_no_backup(stack, image, tmp_path, whole):
        """As in a card reader: one as large, so that nothing else tells."""
        other = tmp_path / "other.img"
        other.write_bytes(bytes(8 * MIB))
        device = disk = stack.enter_context(loop(image, "--read-only"))
        if not whole:
            add_partition(disk, 1, 0, 4 * MIB)
            stack.callback(delete_partition, disk, 1)
            device = Path(f"{disk}p1")
        repository = Repository.create(tmp_path / "repository")

        def change(_: object) -> None:
            with disk.open("rb") as loop_device, other.open("rb") as file:
                fcntl.ioctl(loop_device, LOOP_CHANGE_FD, file.fileno())

        with open_path(device) as source:
            plan = capture.plan(repository, source, set_name="disk")
            with pytest.raises(SourceError, match="another medium"):
                capture.run(plan, Task(change))
        assert repository.set("disk").points == ()

    def test_a_device_that_shrinks_while_it_is_read_is_no_backup(stack, image, tmp_path):
        device = stack.enter_context(loop(image))
        repository = Repository.create(tmp_path / "repository")

        def shrink(_: object) -> None:
            os.truncate(image, 6 * MIB)
            run("losetup", "--set-capacity", device)

        with open_path(device) as source:
            plan = capture.plan(repository, source, set_name="disk")
            with pytest.raises(SourceError, match="became shorter"):
                capture.run(plan, Task(shrink))
        assert repository.set("disk").points == ()

    def test_a_device_without_any_identity_is_known_by_its_path(stack, image):
        device = stack.enter_context(loop(image))
        assert device_id(device) == f"device:{device}"

    def test_a_device_that_was_given_by_a_name_that_stays_is_kept_by_it(stack, image, tmp_path):
        """As udev makes them: /dev/sdb is another disk after the next start."""
        device = stack.enter_context(loop(image))
        link = tmp_path / "by-id" / "usb-Maker_Disk_0123-0:0"
        link.parent.mkdir()
        link.symlink_to(device)
        (tmp_path / "folder").mkdir()
        for given in (link, tmp_path / "folder/../by-id" / link.name):
            with open_source(SourceRef.of_path(given)) as source:
                assert source.ref == SourceRef.of_path(link)
                assert source.title == str(device)
                facts = source.facts()
            assert (facts.paths, facts.links) == ((str(device),), (str(link),))
        with open_source(SourceRef.of_path(device)) as source:
            assert source.ref == SourceRef.of_path(device)
            assert source.facts().links == ()
        fd = os.open(device, os.O_RDONLY)
        stack.callback(os.close, fd)
        with open_source(SourceRef.parse(f"/dev/fd/{fd}")) as source:  # that name does not stay
            assert source.ref == SourceRef.of_path(device)

    def test_devices_are_offered_with_their_size_and_where_they_are_mounted(stack, image, tmp_path):
        device = stack.enter_context(loop(image))
        run("mkfs.ext2", "-q", "-F", device)
        folder = stack.enter_context(mounted(device, tmp_path / "mount"))
        offered = {candidate.path: candidate for candidate in candidates()}[device]
        assert (offered.size, offered.kind) == (8 * MIB, "loop")
        assert offered.mountpoints == (str(folder),)
        assert offered.readable

    @pytest.mark.parametrize("name", ["mount", "two words", "grün", "tab\tand\\backslash"])
    def test_a_mounted_device_is_warned_of_by_the_name_of_its_mount_point(
        stack, image, tmp_path, name
    ):
        device = stack.enter_context(loop(image))
        run("mkfs.ext2", "-q", "-F", device)
        assert mounts_of(device) == ()
        folder = stack.enter_context(mounted(device, tmp_path / name))
        assert mounts_of(device) == (str(folder),)
        with open_path(device) as source:
            (sentence,) = source.trouble()
        assert str(folder) in sentence

    def test_an_image_that_is_mounted_through_a_loop_device_is_in_use(stack, image, tmp_path):
        device = stack.enter_context(loop(image))
        run("mkfs.ext2", "-q", "-F", device)
        folder = stack.enter_context(mounted(device, tmp_path / "mount"))
        assert mounts_of(image) == (str(folder),)

    @pytest.mark.parametrize("as_image", [False, True])
    def test_a_repository_on_the_file_system_of_its_source_is_refused(
        stack, image, tmp_path, as_image
    ):
        device = stack.enter_context(loop(image))
        run("mkfs.ext2", "-q", "-F", device)
        folder = stack.enter_context(mounted(device, tmp_path / "mount"))
        source_path = image if as_image else device
        assert lies_on(folder / "not" / "there" / "yet", source_path)
        assert not lies_on(tmp_path, source_path)
        repository = Repository.create(folder / "backups")
        with (
            open_path(source_path) as source,
            pytest.raises(BackupError, match="lies on") as refusal,
        ):
            capture.plan(repository, source)
        assert refusal.value.advice

    def test_a_partition_lies_on_its_disk(stack, tmp_path):
        image = tmp_path / "parted.img"
        with image.open("wb") as file:
            file.truncate(8 * MIB)
        subprocess.run(
            ["sfdisk", "--quiet", image], input="label: dos\n2048,8192\n", check=True, text=True
        )
        disk = stack.enter_context(loop(image))
        run("partx", "--add", disk)  # the kernel itself may not know this kind of table
        stack.callback(run, "partx", "--delete", disk)
        partition = Path(f"{disk}p1")
        assert partition.is_block_device()
        run("mkfs.ext2", "-q", "-F", partition)
        folder = stack.enter_context(mounted(partition, tmp_path / "mount"))
        assert lies_on(folder, disk)
        assert lies_on(folder, partition)
        assert mounts_of(disk) == (str(folder),)

    def test_mounts_whose_names_are_not_text_do_not_get_in_the_way(stack, image, tmp_path):
        device = stack.enter_context(loop(image))
        run("mkfs.ext2", "-q", "-F", device)
        name = os.fsdecode(bytes(tmp_path / "mount-") + b"\xff")
        stack.enter_context(mounted(device, Path(name)))
        assert [os.fsencode(where) for where in mounts_of(device)] == [os.fsencode(name)]

else:

    def an_unreadable_device() -> Path:
        return next(c.path for c in candidates() if not c.readable)

    def test_an_ordinary_user_is_told_how_to_be_allowed_to_read_a_device():
        device = an_unreadable_device()
        with pytest.raises(SourceError, match="may not read") as refusal:
            open_path(device)
        assert "setfacl" in refusal.value.advice

    def test_devices_that_may_not_be_read_are_offered_as_such():
        assert an_unreadable_device().is_block_device()


def test_what_a_volume_whose_writes_are_logged_lies_on_is_no_clone_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As lsblk lists it: what lies on two devices it shows below the first alone."""
    volume = {"path": "/dev/mapper/crypt", "maj:min": "253:2", "uuid": "1"}
    log = {"path": "/dev/loop9", "maj:min": "7:9", "uuid": "1"}
    below = {"path": "/dev/mapper/vdbackup-below-253-2", "maj:min": "253:3", "uuid": "1"}
    clone = {"path": "/dev/sdz", "maj:min": "8:400", "uuid": "1"}
    for row in (below, log):
        place = tmp_path / "253:2/slaves" / str(row["maj:min"])
        place.mkdir(parents=True)
        (place / "dev").write_text(f"{row['maj:min']}\n")
    rows = [{**below, "children": [volume]}, log, clone]
    monkeypatch.setattr(devices, "lsblk", lambda *of: [volume] if of else rows)
    monkeypatch.setattr(devices, "SYS_BLOCK", tmp_path)
    monkeypatch.setattr(devices, "number_of", lambda _: "253:2")
    assert devices.facts_of_device(Path("/dev/mapper/crypt")).twins == ("/dev/sdz",)
