"""A Windows made to start from another controller: each edit is read back by regipy and ntfscat."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from regipy.exceptions import RegistryKeyNotFoundException
from regipy.registry import RegistryHive

from tests.guests import chains
from tests.guests import windows as made
from tests.sources.opened import open_path
from tests.volumes import volumes
from vdbackup.backup import capture
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import open_disk
from vdbackup.errors import Cancelled, RecoveryError
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import FileSystem
from vdbackup.guest.tree import Tree
from vdbackup.jobs import CancelToken, Task
from vdbackup.qemu import qemu
from vdbackup.recovery import exporting
from vdbackup.recovery.retarget import retarget as retargeting
from vdbackup.recovery.retarget.report import RetargetReport
from vdbackup.recovery.retarget.windows import edits as retarget
from vdbackup.recovery.retarget.windows import hive_edit
from vdbackup.recovery.retarget.windows.edits import WindowsEdits, plan_windows
from vdbackup.repository.repository import Repository
from vdbackup.volumes.filesystems.ntfs import NtfsNode

SYSTEM = "Windows/System32/config/SYSTEM"
SERVICES = "\\ControlSet002\\Services\\"
P1 = made.VOLUME_AT
LEGACY, MODERN = "VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1042&REV_01"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Raw disks with a Windows 10, for a BIOS and for UEFI, and with a Windows 7."""
    folder = tmp_path_factory.mktemp("disks")
    ten = made.volume(made.with_bios(made.files(folder / "ten")), folder / "ten.img")
    seven = made.volume(made.with_bios(made.files(folder / "7", made.SEVEN)), folder / "7.img")
    return {
        "ten": made.mbr_disk(ten, folder / "mbr.img"),
        "uefi": made.gpt_disk(ten, folder / "gpt.img"),
        "seven": made.mbr_disk(seven, folder / "seven.img"),
    }


@contextmanager
def found(chain_tip: Path, disk_format: str = "raw") -> Iterator[tuple[Chain, Tree, FileSystem]]:
    """A chain, and where in it Windows lies."""
    with Chain.open(chain_tip, disk_format) as chain:
        volume = inspect(chain).root
        assert volume is not None
        yield chain, Disk(chain).trees[volume.volume], volume


def planned(disk: Path, controller: str, drivers: Path | None = None) -> WindowsEdits:
    with found(disk) as (_, tree, volume):
        return plan_windows(tree, volume, Controller(controller), drivers)


def raw_of(chain: Chain, target: Path) -> Path:
    """The whole disk as a file."""
    data = bytearray(chain.size)
    chain.readinto(0, memoryview(data))
    target.write_bytes(data)
    return target


def patched(overlay: Path, disk_format: str, edits: WindowsEdits) -> None:
    """Write the patches into an overlay, as whole units."""
    with Chain.open(overlay, disk_format) as chain:
        units: dict[int, bytearray] = {}
        for place, data in edits.patches.items():
            for at, byte in enumerate(data, place):
                start = at // UNIT * UNIT
                if start not in units:
                    units[start] = bytearray(min(UNIT, chain.size - start))
                    chain.readinto(start, memoryview(units[start]))
                units[start][at - start] = byte
    overlay.chmod(0o644)
    disk = open_disk(overlay, disk_format, writable=True)
    for start, unit in units.items():
        disk.write(start, memoryview(unit))
    disk.flush()
    disk.close()


class Result:
    """An edited disk as tools of others read it.

    Attributes:
        volume: its NTFS, a file.
        system: its SYSTEM hive, by regipy.
    """

    def __init__(self, disk: Path, offset: int = P1) -> None:
        self.volume = disk.with_suffix(".ntfs")
        with disk.open("rb") as file:
            file.seek(offset)
            self.volume.write_bytes(file.read(made.VOLUME_SIZE))
        hive = disk.with_suffix(".SYSTEM")
        hive.write_bytes(self.file(SYSTEM))
        self.system = RegistryHive(str(hive))

    def file(self, path: str) -> bytes:
        """A file, by ntfscat."""
        done = subprocess.run(["ntfscat", self.volume, path], capture_output=True, check=True)
        return done.stdout

    def values(self, path: str) -> dict[str, Any]:
        """A key's values, by regipy."""
        return {value.name: value.value for value in self.system.get_key(path).get_values()}

    def start(self, service: str) -> tuple[Any, Any]:
        """A service's Start and its StartOverride."""
        try:
            override = self.values(f"{SERVICES}{service}\\StartOverride")["0"]
        except RegistryKeyNotFoundException:
            override = None
        return self.values(f"{SERVICES}{service}")["Start"], override

    def check(self) -> None:
        """The file system is sound, by ntfs-3g's tools."""
        volumes.run("ntfsfix", "--no-action", self.volume)
        volumes.run("ntfsinfo", "--mft", self.volume)


# ---------------------------------------------------------------------- drivers that Windows has


def test_a_driver_that_windows_has_is_switched_on_in_the_overlay_alone(
    disk_format: str, disks: dict[str, Path], tmp_path: Path
):
    overlay = chains.make(tmp_path / "chain", disks["ten"], disk_format=disk_format)
    before = chains.digests(overlay)
    with found(overlay, disk_format) as (_, tree, volume):
        edits = plan_windows(tree, volume, Controller.AHCI)
    assert not edits.needs_tools
    patched(overlay, disk_format, edits)
    with Chain.open(overlay, disk_format) as chain:
        after = raw_of(chain, tmp_path / "after.img")
        assert "storahci" in inspect(chain).services
    result = Result(after)
    assert result.start("storahci") == (0, 0)
    result.check()
    unchanged = chains.digests(overlay)
    assert unchanged.pop(overlay.name) != before.pop(overlay.name)
    assert unchanged == before


@pytest.mark.parametrize(
    ("controller", "services"), [("ahci", ["storahci"]), ("ide", ["intelide", "atapi"])]
)
def test_no_other_service_is_touched(
    disks: dict[str, Path], tmp_path: Path, controller: str, services: list[str]
):
    edits = planned(disks["ten"], controller)
    old, new = disks["ten"].read_bytes(), bytearray(disks["ten"].read_bytes())
    for place, data in edits.patches.items():
        new[place : place + len(data)] = data
    differing = [at for at in range(len(old)) if old[at] != new[at]] if old != new else []
    assert 0 < len(differing) <= 2 * len(services)
    (tmp_path / "after.img").write_bytes(new)
    result = Result(tmp_path / "after.img")
    for name in made.MODERN:
        start = result.start(name)
        assert start == (
            (0, 0 if start[1] is not None else None) if name in services else made.MODERN[name]
        )
    assert result.values("\\ControlSet001\\Services\\storahci")["Start"] == 3


def test_a_registry_on_a_disk_for_uefi_is_changed_where_it_lies(
    disks: dict[str, Path], tmp_path: Path
):
    edits = planned(disks["uefi"], "ahci")
    after = tmp_path / "after.img"
    shutil.copy(disks["uefi"], after)
    with after.open("r+b") as file:
        for place, data in edits.patches.items():
            file.seek(place)
            file.write(data)
    assert Result(after, 83968 * 512).start("storahci") == (0, 0)


def test_a_registry_whose_file_is_fragmented_is_changed_where_it_lies(tmp_path: Path):
    image = made.volume(made.files(tmp_path / "files"), tmp_path / "volume.img")
    hive = tmp_path / "SYSTEM"
    made.system_hive(hive, made.TEN, filling=60)
    volumes.run("ntfscp", "--quiet", image, hive, SYSTEM)  # grows, past what lies behind it
    with found(image) as (_, tree, volume):
        node = tree.find(SYSTEM)
        assert isinstance(node, NtfsNode)
        (_, _, first), *others = node.places()
        edits = plan_windows(tree, volume, Controller.AHCI)
    assert others
    assert min(number.place for number in edits.numbers) > first
    with image.open("r+b") as file:
        for place, data in edits.patches.items():
            file.seek(place)
            file.write(data)
    assert Result(image, 0).start("storahci") == (0, 0)


def test_what_is_changed_is_told_with_before_and_after(disks: dict[str, Path]):
    (change,) = planned(disks["ten"], "ahci").changes
    path = "ControlSet002\\Services\\storahci"
    assert change.path == SYSTEM
    assert change.before.splitlines() == [f"{path}\\Start = 3", f"{path}\\StartOverride\\0 = 3"]
    assert change.after.splitlines() == [f"{path}\\Start = 0", f"{path}\\StartOverride\\0 = 0"]


def test_a_windows_that_boots_from_that_controller_already_is_not_changed(disks: dict[str, Path]):
    edits = planned(disks["ten"], "nvme")
    assert (edits.patches, edits.changes, edits.needs_tools) == ({}, (), False)


# ------------------------------------------------------------------ drivers that are given to it


def edited(
    disk: Path, controller: str, folder: Path, drivers: Path | None, disk_format: str = "vmdk"
) -> Result:
    """The disk in a chain of that format, edited on a scratch disk above it by tools."""
    overlay = chains.make(folder / "chain", disk, disk_format=disk_format)
    before = chains.digests(overlay)
    after = folder / "after.img"
    with found(overlay, disk_format) as (chain, tree, volume):
        edits = plan_windows(tree, volume, Controller(controller), drivers)
        assert edits.needs_tools
        with retarget.edited(edits, chain, disk_format, volume, CancelToken()) as scratch:
            volumes.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", scratch, after)
        assert not scratch.exists()
    assert chains.digests(overlay) == before
    return Result(after)


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What virtio-win.iso holds."""
    folder = made.virtio_win(tmp_path_factory.mktemp("virtio-win"))
    return made.virtio_win(folder, "vioscsi")


@pytest.mark.usefixtures("fuse")
def test_virtio_is_put_into_a_windows_10(
    disk_format: str, disks: dict[str, Path], drivers: Path, tmp_path: Path
):
    result = edited(disks["ten"], "virtio", tmp_path, drivers, disk_format)
    source = drivers / "viostor/w10/amd64"
    program = (source / "viostor.sys").read_bytes()
    assert result.file("Windows/System32/drivers/viostor.sys") == program
    for name in ("viostor.sys", "viostor.inf", "viostor.cat"):
        assert result.file(f"Windows/INF/{name}") == (source / name).read_bytes()
    assert result.values(f"{SERVICES}viostor") == {
        "Type": 1,
        "Start": 0,
        "ErrorControl": 1,
        "Group": "SCSI miniport",
        "ImagePath": "system32\\drivers\\viostor.sys",
    }
    package = "\\DriverDatabase\\DriverPackages\\vdbackup-viostor.inf_vdbackup"
    for device in (LEGACY, MODERN):
        known = result.values(f"\\DriverDatabase\\DeviceIds\\PCI\\{device}")
        assert known == {"vdbackup-viostor.inf": b"\x01\xff\0\0"}
        configuration = result.values(f"{package}\\Descriptors\\PCI\\{device}")
        assert configuration == {"Configuration": "vdbackup-viostor"}
    assert result.values(f"{package}\\Configurations\\vdbackup-viostor") == {
        "ConfigFlags": 0,
        "Service": "viostor",
    }
    assert result.values("\\DriverDatabase\\DriverInfFiles\\vdbackup-viostor.inf") == {
        "(default)": ["vdbackup-viostor.inf_vdbackup"],
        "Active": "vdbackup-viostor.inf_vdbackup",
        "Configurations": ["vdbackup-viostor"],
    }
    assert result.start("storahci") == (3, 3)
    result.check()


@pytest.mark.usefixtures("fuse")
def test_virtio_scsi_is_put_into_a_windows_7(disks: dict[str, Path], drivers: Path, tmp_path: Path):
    result = edited(disks["seven"], "virtio-scsi", tmp_path, drivers)
    assert result.file("Windows/System32/drivers/vioscsi.sys").endswith(b"w7 amd64")
    assert result.start("vioscsi") == (0, None)
    for device in ("VEN_1AF4&DEV_1004&REV_00", "VEN_1AF4&DEV_1048&REV_01"):
        key = f"\\ControlSet002\\Control\\CriticalDeviceDatabase\\PCI#{device}"
        assert result.values(key) == {
            "Service": "vioscsi",
            "ClassGUID": "{4D36E97B-E325-11CE-BFC1-08002BE10318}",
        }
    with pytest.raises(RegistryKeyNotFoundException):
        result.system.get_key("\\DriverDatabase")
    result.check()


@pytest.mark.usefixtures("fuse")
def test_a_windows_7_gets_its_own_drivers_into_the_critical_devices(
    disks: dict[str, Path], tmp_path: Path
):
    result = edited(disks["seven"], "ahci", tmp_path, None)
    assert result.start("msahci") == (0, None)
    critical = "\\ControlSet002\\Control\\CriticalDeviceDatabase"
    assert result.values(f"{critical}\\PCI#CC_010601")["Service"] == "msahci"
    assert result.values(f"{critical}\\PCI#CC_0101")["Service"] == "pciide"


@pytest.mark.parametrize(
    ("name", "version", "architecture", "folder"),
    [
        ("Windows 11 Pro", "10.0.26100", "x86_64", "w11/amd64"),
        ("Windows 10 Pro", "10.0.19045", "x86_64", "w10/amd64"),
        ("Windows 10 Pro", "10.0.19045", "i386", "w10/x86"),
        ("Windows 8.1 Pro", "6.3.9600", "x86_64", "w8.1/amd64"),
        ("Windows 7 Professional", "6.1.7601", "i386", "w7/x86"),
        ("Windows Server 2019 Standard", "10.0.17763", "x86_64", "2k19/amd64"),
        ("Windows Server 2022 Standard", "10.0.20348", "x86_64", "2k19/amd64"),
    ],
)
def test_the_driver_is_the_one_for_that_windows(
    drivers: Path, name: str, version: str, architecture: str, folder: str
):
    from vdbackup.guest.windows.inspect import Windows
    from vdbackup.recovery.retarget.windows.drivers import find_driver

    windows = Windows(name, version, "Windows", architecture)
    driver = find_driver(drivers, "viostor", windows)
    assert driver.program == drivers / "viostor" / folder / "viostor.sys"
    assert [path.name for path in driver.others] == ["viostor.cat", "viostor.inf"]
    beside = find_driver(driver.program.parent, "viostor", windows)
    assert beside == driver


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"HIBR", "Windows is hibernated"), (b"RSTR", "Windows is hibernated")],
)
def test_a_hibernated_windows_is_left_alone(
    disks: dict[str, Path], tmp_path: Path, content: bytes, sentence: str
):
    image, file = tmp_path / "volume.img", tmp_path / "hiberfil.sys"
    image.write_bytes(disks["ten"].read_bytes()[P1 : P1 + made.VOLUME_SIZE])
    file.write_bytes(content.ljust(5000, b"\1"))
    volumes.run("ntfscp", "--quiet", image, file, "hiberfil.sys")
    with pytest.raises(RecoveryError, match=sentence):
        planned(image, "ahci")


def test_a_volume_that_was_not_closed_is_left_alone(disks: dict[str, Path], tmp_path: Path):
    image = tmp_path / "volume.img"
    image.write_bytes(disks["ten"].read_bytes()[P1 : P1 + made.VOLUME_SIZE])
    volumes.run("ntfsfix", image)
    with pytest.raises(RecoveryError, match="was not closed cleanly"):
        planned(image, "ahci")


def test_a_registry_with_unreplayed_logs_is_left_alone(tmp_path: Path):
    tree = made.files(tmp_path / "files")
    hive = tree / SYSTEM
    base = bytearray(hive.read_bytes())
    base[4] += 1
    hive.write_bytes(made.sealed(bytes(base[:4096])) + base[4096:])
    with pytest.raises(RecoveryError, match="its logs hold changes"):
        planned(made.volume(tree, tmp_path / "volume.img"), "ahci")


@pytest.mark.parametrize("controller", ["virtio", "pvscsi"])
def test_a_controller_without_a_driver_is_refused(disks: dict[str, Path], controller: str):
    with pytest.raises(RecoveryError, match=f"has no driver for a disk on {controller}"):
        planned(disks["ten"], controller)


def test_a_driver_for_another_architecture_is_refused(
    disks: dict[str, Path], drivers: Path, tmp_path: Path
):
    with pytest.raises(RecoveryError, match="is not a driver for this Windows"):
        planned(disks["ten"], "virtio", drivers / "viostor/w10/x86")
    with pytest.raises(RecoveryError, match=r"has no viostor\.sys"):
        planned(disks["ten"], "virtio", tmp_path)


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize(
    ("program", "package"),
    [
        ("hivexsh", "libhivex-bin"),
        ("ntfscp", "ntfs-3g"),
        ("qemu-storage-daemon", "qemu-system-common"),
        ("fusermount3", "fuse3"),
    ],
)
def test_a_missing_program_is_named_with_its_package(
    disks: dict[str, Path],
    drivers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    package: str,
):
    real = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **how: None if name == program else real(name, **how)
    )
    with pytest.raises(RecoveryError) as error:
        edited(disks["ten"], "virtio", tmp_path, drivers)
    assert program in error.value.title
    assert package in error.value.advice


# ------------------------------------------------------------------------------ a recovery point


def repository_with(disk: Path, folder: Path, disk_format: str = "vmdk") -> Repository:
    """A repository with the disk as its only point."""
    repository = Repository.create(folder / "repository")
    with open_path(disk) as source:
        plan = capture.plan(repository, source, set_name="pc", disk_format=disk_format)
        capture.run(plan, Task())
    return repository


def retargeted(
    repository: Repository, folder: Path, wish: str, drivers: Path | None = None
) -> tuple[RetargetReport, Result]:
    """The point retargeted, and its overlay's disk as others read it."""
    backup_set, point = repository.find("1")
    layer = backup_set.disk_path(point)
    before = layer.read_bytes()
    plan = retargeting.plan(repository, "pc", point.id, wish, drivers)
    report = retargeting.run(plan, folder / "sessions", Task())
    assert report is not None
    assert layer.read_bytes() == before
    with Chain.open(backup_set.overlay_path(point), backup_set.settings.format) as chain:
        volume = report.guest.root
        assert volume is not None
        return report, Result(raw_of(chain, folder / "after.img"), volume.runs[0].offset)


def test_a_point_is_retargeted_to_ahci(disk_format: str, disks: dict[str, Path], tmp_path: Path):
    repository = repository_with(disks["ten"], tmp_path, disk_format)
    report, result = retargeted(repository, tmp_path, "ahci")
    assert result.start("storahci") == (0, 0)
    assert report.hardware.controller is Controller.AHCI
    assert not report.hardware.edit.needed
    assert [change.path for change in report.changes] == [f"/{SYSTEM}"]
    assert retarget.KEEPS_IDENTITY in report.notes
    result.check()


@pytest.mark.usefixtures("fuse")
def test_a_point_is_retargeted_to_virtio(disks: dict[str, Path], drivers: Path, tmp_path: Path):
    repository = repository_with(disks["uefi"], tmp_path, "vhdx")
    backup_set, point = repository.find("1")
    report, _ = retargeted(repository, tmp_path, "virtio", drivers)
    assert report.hardware.controller is Controller.VIRTIO
    assert not any(problem.blocks for problem in report.hardware.problems)
    with Chain.open(backup_set.overlay_path(point), "vhdx") as chain:
        assert "viostor" in inspect(chain).services


def test_a_windows_of_a_raid_gets_what_it_has_switched_on_by_itself(tmp_path: Path):
    tree = made.with_bios(made.files(tmp_path / "files", made.RAID))
    disk = made.mbr_disk(made.volume(tree, tmp_path / "volume.img"), tmp_path / "disk.img")
    report, result = retargeted(repository_with(disk, tmp_path), tmp_path, "auto")
    assert report.hardware.controller is Controller.AHCI
    assert result.start("storahci") == (0, 0)


def test_a_windows_that_must_not_be_touched_is_told_of(tmp_path: Path):
    tree = made.with_bios(made.files(tmp_path / "files", made.RAID))
    hive = tree / SYSTEM
    base = bytearray(hive.read_bytes())
    base[4] += 1
    hive.write_bytes(made.sealed(bytes(base[:4096])) + base[4096:])
    disk = made.mbr_disk(made.volume(tree, tmp_path / "volume.img"), tmp_path / "disk.img")
    report, result = retargeted(repository_with(disk, tmp_path), tmp_path, "auto")
    assert report.changes == ()
    assert any("its logs hold changes" in note for note in report.notes)
    assert result.start("storahci") == (0, 3)


# ------------------------------------------------------------------------------------ the tools


def scratch_above(disk: Path, folder: Path) -> tuple[Path, qemu.Backing]:
    backing = qemu.Backing.of_chain([disk], "raw")
    scratch = folder / "scratch.qcow2"
    qemu.create_session_disk(scratch, backing, disk.stat().st_size)
    return scratch, backing


@pytest.mark.usefixtures("fuse")
def test_an_export_ends_with_whatever_goes_wrong_in_it(disks: dict[str, Path], tmp_path: Path):
    scratch, backing = scratch_above(disks["ten"], tmp_path)
    sizes = []

    def cancelled() -> None:
        with exporting.exported(
            exporting.above(scratch, backing), P1, made.VOLUME_SIZE, tmp_path
        ) as file:
            sizes.append(file.stat().st_size)
            raise Cancelled

    with pytest.raises(Cancelled):
        cancelled()
    assert sizes == [made.VOLUME_SIZE]
    assert [path.name for path in tmp_path.iterdir()] == ["scratch.qcow2"]


@pytest.mark.usefixtures("fuse")
def test_an_export_that_cannot_be_says_what_the_daemon_says(disks: dict[str, Path], tmp_path: Path):
    scratch, backing = scratch_above(disks["ten"], tmp_path)
    size = 2 * disks["ten"].stat().st_size
    with (
        pytest.raises(RecoveryError, match=r"could not be exported.*qemu-storage-daemon says"),
        exporting.exported(exporting.above(scratch, backing), P1, size, tmp_path),
    ):
        pass


@pytest.mark.usefixtures("fuse")
def test_an_export_does_not_outlive_a_process_that_is_killed(
    disks: dict[str, Path], tmp_path: Path
):
    scratch, _ = scratch_above(disks["ten"], tmp_path)
    script = f"""
        import sys, time
        from pathlib import Path
        from vdbackup.qemu import qemu
        from vdbackup.recovery.exporting import above, exported
        disk, scratch, folder = map(Path, sys.argv[1:])
        backing = qemu.Backing.of_chain([disk], "raw")
        with exported(above(scratch, backing), {P1}, 1 << 20, folder) as file:
            print(file, flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), disks["ten"], scratch, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        file = Path(process.stdout.readline().strip())
        assert str(file) in Path("/proc/self/mounts").read_text()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while str(file) in Path("/proc/self/mounts").read_text():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_hive_that_hivexsh_refuses_is_a_sentence(tmp_path: Path):
    hive = tmp_path / "SYSTEM"
    made.system_hive(hive, made.TEN)
    data = bytearray(hive.read_bytes())
    data[4096:4100] = b"nibh"  # the first bin's magic
    hive.write_bytes(data)
    wanted = [hive_edit.KeyEdit("Select\\New", {"One": hive_edit.number(1)})]
    with pytest.raises(RecoveryError, match="could not be changed"):
        hive_edit.change(hive, [], wanted)


def test_registry_values_that_are_not_named_stay(tmp_path: Path):
    hive = tmp_path / "SYSTEM"
    script = made.Script()
    script.key(
        "Key with spaces",
        **{"@": "string:default", "Text": "string:a", "Number": "dword:7", "Long": "qword:9"},
        Bytes="hex:3:" + ",".join(["ab"] * 1500),
        Odd="hex:12345:01,02,03",
    )
    script.run(hive)
    before = RegistryHive(str(hive)).get_key("\\Key with spaces")
    kept = {(value.name, value.value, value.value_type) for value in before.get_values()}
    edit = hive_edit.KeyEdit("key WITH spaces", {"text": hive_edit.text("b")})
    hive_edit.change(hive, [], [edit])
    after = RegistryHive(str(hive)).get_key("\\Key with spaces")
    now = {(value.name, value.value, value.value_type) for value in after.get_values()}
    assert {value for value in kept if value[0] != "Text"} <= now
    assert ("text", "b", "REG_SZ") in now
    assert len(now) == len(kept)


def test_a_path_is_given_to_ntfscp_as_it_is_spelled(tmp_path: Path):
    tree = made.files(tmp_path / "files")
    (tree / "Windows/System32").rename(tree / "Windows/SYSTEM32")
    image = made.volume(tree, tmp_path / "volume.img")
    with Chain.open(image, "raw") as chain:
        spelled = retarget._spelled(Disk(chain).trees[""], "windows/system32/CONFIG/system")
    assert spelled == "Windows/SYSTEM32/config/SYSTEM"
