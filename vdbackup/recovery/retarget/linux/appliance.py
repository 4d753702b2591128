"""The appliance: the guest's own kernel edits the guest's disk, in a virtual machine.

What a machine was backed up with while it ran has a file system whose journal is to be replayed,
and no program of ours or of this computer may write to it before that. The kernel that owns it can,
with any file system, and LVM below it; nobody has to be root here for that, and nothing is mounted.
So QEMU starts the guest's kernel on a scratch disk above the point's layers. Its first root is the
guest's initramfs with two archives behind it: drivers that it lacks, and a script of ours in place
of `init` with the files that are to be written. The script takes of the guest's programs what every
initramfs has (sh, mount, modprobe, cat, mkdir, sleep, sync, umount; lvm where the root lies on it),
and says on the serial console how far it has come.
"""

from __future__ import annotations

import secrets
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vdbackup.disks.names import DiskFormat
from vdbackup.errors import Cancelled, NotRetargeted, RecoveryError, Remedy
from vdbackup.guest.disk import disk_of, name_on_disk
from vdbackup.guest.hardware import Controller, Hardware, MachineType
from vdbackup.guest.model import FileSystem
from vdbackup.jobs import Task
from vdbackup.qemu import qemu
from vdbackup.recovery.retarget.linux.cpio import Member, archive, padded
from vdbackup.text import printable
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.recovery.sessions.session import Session

TIME_LIMIT = 600.0
"""Seconds that it may take: KVM takes 3, translation 20 to 60, on a busy computer a few minutes."""
_PHASE = tr("Retarget")
_QUIT_LIMIT = 60.0
_MEMORY_MIB = 1024
"""A whole initramfs of Ubuntu takes 300 MiB when it is unpacked."""
_COMMAND_LINE = "console=ttyS0 rdinit=/vdbackup quiet loglevel=4 panic=-1"
_STAGES = {
    "start": tr("the guest's kernel did not start, or its initramfs has no shell"),
    "disk": tr("the guest's kernel did not find its disk"),
    "lvm": tr("its logical volumes could not be activated"),
    "mount": tr("a volume could not be mounted"),
    "write": tr("a file could not be written"),
    "umount": tr("a volume could not be unmounted"),
}
"""What has gone wrong where the script got to that stage and no further."""
_DEVICES = {
    Controller.VIRTIO: ("/dev/vda", "", ("virtio_pci", "virtio_blk")),
    Controller.AHCI: ("/dev/sda", "", ("ahci", "sd_mod")),
    Controller.IDE: ("/dev/sda", "", ("ata_piix", "sd_mod")),
    Controller.NVME: ("/dev/nvme0n1", "p", ("nvme",)),
}
"""By controller: the only disk's name, what stands before a partition's number, and drivers."""
_KINDS = {"ext": "ext4", "xfs": "xfs", "btrfs": "btrfs", "fat": "vfat"}
_OPTIONS = {"btrfs": "subvolid=5"}
"""Paths in a volume start at its top, whatever subvolume is the default."""
_FILE_SYSTEM_DRIVERS = {
    "ext4": ("ext4",),
    "xfs": ("xfs",),
    "btrfs": ("btrfs",),
    "vfat": ("vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"),
}
_SCRIPT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /proc /sys /dev /run /vdbackup.mnt
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec > /dev/console 2>&1
say() { echo "$@"; }
stop() { say "$nonce failed $1"; while :; do sleep 60; done; }
present() {
  tries=0
  until [ -b "$1" ]; do
    [ $tries -lt 600 ] || stop "disk: there is no $1 among $(echo /sys/class/block/*)"
    tries=$((tries+1)); sleep 0.1 || sleep 1
  done
}
"""


@dataclass(frozen=True)
class Write:
    """A file to be written.

    Attributes:
        volume: that it lies on.
        path: in that volume, from "/" on.
        content: the whole of it; with `append`, what is put behind what is there.
    """

    volume: FileSystem
    path: str
    content: bytes
    append: bool = False


@dataclass(frozen=True)
class Errand:
    """What the appliance is to do.

    Attributes:
        kernel, initramfs: the guest's own; the second with drivers behind it where it needs any.
        controller: one of those that `controllers` names, for which it has drivers then.
        writes: in this order.
    """

    kernel: bytes
    initramfs: bytes
    controller: Controller
    writes: Sequence[Write]

    def on_each_disk(self) -> dict[int, Errand]:
        """The same for each of a machine's disks that something is written to, by its number.

        The volumes have the names that they have on it: the appliance has one disk at a time,
        because which of two a kernel finds first is its own to say.
        """
        found: dict[int, list[Write]] = {}
        for each in self.writes:
            volume = replace(each.volume, volume=name_on_disk(each.volume.volume))
            on_it = found.setdefault(disk_of(each.volume.volume), [])
            on_it.append(replace(each, volume=volume))
        return {number: replace(self, writes=writes) for number, writes in found.items()}


def controllers() -> dict[Controller, tuple[str, ...]]:
    """The controllers that the appliance can have its disk on, best first, with their drivers."""
    return {name: drivers for name, (_, _, drivers) in _DEVICES.items()}


def file_system_drivers(volumes: Sequence[FileSystem]) -> tuple[str, ...]:
    """What mounts them."""
    kinds = dict.fromkeys(kind_of(volume) for volume in volumes)
    return tuple(driver for kind in kinds for driver in _FILE_SYSTEM_DRIVERS[kind])


@contextmanager
def edited(
    layer: Path,
    disk_format: DiskFormat,
    errand: Errand,
    *,
    sessions_folder: Path,
    sector_size: int,
    task: Task,
    time_limit: float = TIME_LIMIT,
) -> Iterator[Path]:
    """A scratch disk (qcow2) above `layer` with the errand done; gone afterwards.

    Raises:
        RecoveryError: it could not be done, and at which stage it stopped.
        Cancelled: by `cancel`.
    """
    from vdbackup.recovery.sessions import vm  # with what talks to QEMU: most disks need none

    nonce = secrets.token_hex(8)
    content = [
        Member("vdbackup", _script(nonce, errand).encode(errors="surrogateescape"), 0o755),
        *(Member(f"vdbackup.{n}", write.content) for n, write in enumerate(errand.writes)),
    ]
    with tempfile.TemporaryDirectory(prefix="vdbackup-") as folder:
        image, initramfs = Path(folder, "kernel"), Path(folder, "initramfs")
        image.write_bytes(errand.kernel)
        initramfs.write_bytes(padded(errand.initramfs) + archive(content))
        with vm.start_session(
            layer,
            sessions_folder=sessions_folder,
            title=tr("the retargeting of this recovery point"),
            sector_size=sector_size,
            hardware=_hardware(errand.controller),
            disk_format=disk_format,
            kernel=qemu.Kernel(image, initramfs, _COMMAND_LINE),
        ) as session:
            _wait(session, nonce, len(errand.writes), task, time_limit)
            yield session.files.disk


def _wait(
    session: Session,
    nonce: str,
    steps: int,
    task: Task,
    time_limit: float,
) -> None:
    """Return when the script has done all and QEMU has ended, so that all is in the scratch's file.

    Nothing is expected of the guest but its last line: not every kernel can power off like that.
    """
    task.phase(_PHASE, 0, steps)
    started = time.monotonic()
    try:
        came = session.wait_for_text(f"{nonce} ", time_limit, task.cancel)
        while came and not _ended(session.console_text(), nonce):
            task.check()
            left = time_limit - (time.monotonic() - started)
            came = left > 0 and not session.wait(min(left, 0.2))
    except Cancelled:
        raise
    except RecoveryError as error:
        raise _failed(session.console_text(), nonce, error.title) from error
    console = session.console_text()
    if f"{nonce} done" not in console:
        why = (
            ""
            if came
            else tr(
                "It had not ended after {monotonic:.0f} s.", monotonic=time.monotonic() - started
            )
        )
        raise _failed(console, nonce, why)
    session.execute("quit")  # which writes what QEMU keeps of the scratch's tables in memory
    session.wait(_QUIT_LIMIT)
    task.phase(_PHASE, steps, steps)


def _hardware(controller: Controller) -> Hardware:
    old = controller is Controller.IDE
    return Hardware(controller, MachineType.PC if old else MachineType.Q35, memory_mib=_MEMORY_MIB)


def _ended(console: str, nonce: str) -> bool:
    return f"{nonce} done" in console or f"{nonce} failed" in console


def _failed(console: str, nonce: str, why: str) -> RecoveryError:
    """What the last stage was, in a sentence."""
    stages = [line.split(f"{nonce} ", 1)[1] for line in console.splitlines() if f"{nonce} " in line]
    last = stages[-1] if stages else "start"
    failed = last.removeprefix("failed ")
    stage, _, detail = failed.partition(":")
    sentence = _STAGES.get(stage.split()[0] if stage.split() else "start", _STAGES["write"])
    words = detail.strip() if last.startswith("failed ") else why
    complaint = _complaint(console, nonce)
    more = " ".join(part for part in (words[:300], complaint) if part)
    return NotRetargeted(
        tr("The overlay could not be retargeted: {sentence}", sentence=sentence)
        + (f" ({more.rstrip('.')})." if more else "."),
        tr("The overlay is as it was. Use another point, or other hardware."),
        remedy=Remedy.CHOOSE_HARDWARE,
    )


def _complaint(console: str, nonce: str) -> str:
    """The last thing that a program of the guest's said, which is no line of ours."""
    lines = [line.strip() for line in console.splitlines() if line.strip() and nonce not in line]
    return tr("the guest says: {line}", line=printable(lines[-1])[:200]) if lines else ""


# ----------------------------------------------------------------------------- the script


def _script(nonce: str, errand: Errand) -> str:
    volumes = list(dict.fromkeys(write.volume for write in errand.writes))
    drivers = (*_DEVICES[errand.controller][2], *file_system_drivers(volumes))
    lines = [f"nonce={nonce}", 'say "$nonce start"']
    # a driver that is built in, or is not there and not needed, is no failure
    lines += [f"modprobe -q {driver}" for driver in dict.fromkeys(drivers)]
    lines += ['say "$nonce disk"']
    lines += [f"present {_quoted(disk)}" for disk in _disks(errand.controller, volumes)]
    lines += _activation(volumes)
    for number, volume in enumerate(volumes):
        lines += _mount(number, volume, errand.controller)
    for number, write in enumerate(errand.writes):
        lines += _write(number, write, volumes.index(write.volume))
    lines += ['say "$nonce umount"', "sync"]
    for number in range(len(volumes)):
        lines.append(f'umount /vdbackup.mnt/{number} || stop "umount: volume {number}"')
    lines += ["sync", 'say "$nonce done"', "while :; do sleep 60; done"]
    return _SCRIPT + "\n".join(lines) + "\n"


def _disks(controller: Controller, volumes: Sequence[FileSystem]) -> list[str]:
    """The devices that have to be there before anything can be mounted or activated."""
    disk = _DEVICES[controller][0]
    return [
        disk,
        *(_device(each, controller) for each in volumes if not each.logical),
    ]


def _device(volume: FileSystem, controller: Controller) -> str:
    disk, infix, _ = _DEVICES[controller]
    if volume.logical:
        return f"/dev/{volume.logical}"
    return disk + (infix + volume.volume.removeprefix("p") if volume.volume else "")


def _activation(volumes: Sequence[FileSystem]) -> list[str]:
    """Without udev LVM has to look at the devices and make the names itself (lvm.conf(5))."""
    groups = dict.fromkeys(each.logical.partition("/")[0] for each in volumes if each.logical)
    if not groups:
        return []
    config = (
        "activation{udev_sync=0 udev_rules=0} global{locking_type=1} "
        "devices{obtain_device_list_from_udev=0 use_devicesfile=0}"
    )
    command = f"lvm vgchange -ay --config {_quoted(config)}"
    return [
        "mkdir -p /run/lock/lvm /run/lvm /etc/lvm",
        'say "$nonce lvm"',
        "modprobe -q dm_mod",
        *(f'{command} {_quoted(group)} || stop "lvm: {_plain(group)}"' for group in groups),
    ]


def _mount(number: int, volume: FileSystem, controller: Controller) -> list[str]:
    kind = kind_of(volume)
    options = f" -o {_OPTIONS[kind]}" if kind in _OPTIONS else ""
    device = _quoted(_device(volume, controller))
    place = f"/vdbackup.mnt/{number}"
    return [
        'say "$nonce mount"',
        f"mkdir -p {place}",
        f'mount -t {kind}{options} {device} {place} || stop "mount: {_plain(volume.volume)}"',
    ]


def _write(number: int, write: Write, volume: int) -> list[str]:
    """`cat` into the file that is there keeps its owner, mode and SELinux label."""
    target = f"/vdbackup.mnt/{volume}{write.path}"
    arrow = ">>" if write.append else ">"
    return [
        f'say "$nonce write {number}"',
        f"mkdir -p {_quoted(str(PurePosixPath(target).parent))}",
        f'cat /vdbackup.{number} {arrow} {_quoted(target)} || stop "write: {_plain(write.path)}"',
    ]


def kind_of(volume: FileSystem) -> str:
    """What Linux mounts it as; raises RecoveryError where it is not edited."""
    kind = next((k for name, k in _KINDS.items() if volume.kind.lower().startswith(name)), None)
    if kind is None:
        raise NotRetargeted(
            tr(
                "A file on {kind} would have to be changed, which is not done.",
                kind=volume.kind or tr("a volume of unknown kind"),
            ),
            tr("Choose hardware that needs no changes."),
        )
    return kind


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _plain(text: str) -> str:
    """As it may stand between double quotes in the script, for a message alone."""
    return "".join(letter for letter in text if letter.isalnum() or letter in "/._-+@ ")
