"""QEMU's programs, and the command line of a virtual machine. Nothing is started here but qemu-img.

The machine has no sound and none of QEMU's default devices, and no network unless it is asked for;
QEMU runs in its sandbox, as the user. What each option means: QEMU's manual, qemu-system-x86_64(1),
and for the objects in JSON the QMP reference (BlockdevOptions).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.write_log.log import LoggedDisk
from vdbackup.errors import NoDisplay, ProgramMissing, Remedy, SessionsFolder
from vdbackup.guest.hardware import Hardware
from vdbackup.qemu import concatenation
from vdbackup.qemu.concatenation import ConcatenationMap
from vdbackup.qemu.devices import devices, network_card
from vdbackup.qemu.gathering import OTHER_FILES, gathered
from vdbackup.qemu.guest_agent import PORT
from vdbackup.translation import tr

SYSTEM = "qemu-system-x86_64"
IMAGE = "qemu-img"

DRIVERS = {DiskFormat.RAW: "raw", DiskFormat.VMDK: "vmdk", DiskFormat.QCOW2: "qcow2"}
"""QEMU's driver for each of our formats, where it reads chains of that format correctly."""
MAX_LAYERS = 64
"""Layers of a chain that QEMU opens as such: until it answered, 64 took 0.8 s, 128 5.4 s, and 500
more than two minutes (QEMU 7.2)."""
_TABLE_CACHE = (1 << 20, 256 << 20)
"""Least and most bytes of a map's tables that QEMU keeps in memory: enough for 2 TiB of data."""


class Accelerator(StrEnum):
    """What runs the guest's instructions: the processor itself, or a translator."""

    KVM = "kvm"
    TCG = "tcg"


Node = dict[str, Any]
"""A block device as QMP describes it (BlockdevOptions)."""


@dataclass(frozen=True)
class Backing:
    """What a session's disk is a child of, as QEMU opens it: for reading only.

    Attributes:
        nodes: each after those that it needs, the disk itself last.
        file_name, driver: the same disk, as the session's disk names it.
        files: how many QEMU opens for it.
    """

    nodes: Sequence[Node]
    file_name: str
    driver: str
    files: int

    @classmethod
    def of(cls, folder: Path, chain: Chain, disk_format: DiskFormat) -> Backing:
        """A chain as QEMU reads it by itself, or else through a map that is made in `folder`.

        Raises RecoveryError where QEMU may not open so many files, or the chain has no map; OSError
        where the folder cannot be written to.
        """
        if isinstance(chain.layers[-1], LoggedDisk):
            return cls._of_moment(folder, chain, chain.layers[-1], disk_format)
        if disk_format in DRIVERS and len(chain.layers) <= MAX_LAYERS:
            return cls.of_chain([layer.path.absolute() for layer in chain.layers], disk_format)
        files = gathered(folder, chain)
        return cls.of_map(concatenation.build(folder, files.flat, files.paths))

    @classmethod
    def _of_moment(
        cls, folder: Path, chain: Chain, log: LoggedDisk, disk_format: DiskFormat
    ) -> Backing:
        """What lies below the log of a machine's writes as ever, and that as a map above it.

        One map of both would count all in the log's sectors: 16 MB for each GiB, and no disk of
        more than 128 GiB (MAX_L1_BYTES).
        """
        below = cls.of(folder, Chain(chain.layers[:-1]), disk_format)
        written = concatenation.build(folder, log.block_map(), [log.path], "moment")
        disk = cls.of_map(written).nodes[0]
        under = {"driver": below.driver, "file": {"driver": "file", "filename": below.file_name}}
        if below.file_name.startswith("json:"):
            under = json.loads(below.file_name.removeprefix("json:"))
        name = "json:" + json.dumps(written.options | {"backing": under})
        node = disk | {"node-name": "moment", "backing": below.nodes[-1]["node-name"]}
        return cls([*below.nodes, node], name, "qcow2", below.files + written.files)

    @classmethod
    def of_chain(cls, layers: Sequence[Path], disk_format: DiskFormat) -> Backing:
        """A checked chain that QEMU reads by itself, base first.

        Each parent is named outright: QEMU follows no link that a file holds.
        """
        driver = DRIVERS[disk_format]
        nodes: list[Node] = []
        for number, layer in enumerate(layers):
            node = {"driver": driver, "node-name": f"layer{number}", "read-only": True}
            node["file"] = _file(layer)
            if driver != "raw":  # null: whatever the file says, it has no parent
                node["backing"] = f"layer{number - 1}" if number else None
            nodes.append(node)
        return cls(nodes, str(layers[-1]), driver, len(layers))

    def prefixed(self, prefix: str) -> Backing:
        """The same, with nodes of other names: of several disks each has its own."""
        names = ("node-name", "backing")
        nodes = [
            {key: f"{prefix}{value}" if key in names and value else value for key, value in each}
            for each in map(Node.items, self.nodes)
        ]
        return replace(self, nodes=nodes)

    @classmethod
    def of_map(cls, chain: ConcatenationMap) -> Backing:
        """The map of a chain that QEMU does not read by itself."""
        least, most = _TABLE_CACHE
        cache = {"l2-cache-size": min(max(chain.table_bytes, least), most)}
        space = {"driver": "vmdk", "file": _file(chain.path), "read-only": True}
        disk = {"driver": "qcow2", "node-name": "layers", "read-only": True, "file": space, **cache}
        return cls([disk], chain.file_name, "qcow2", chain.files)


@dataclass(frozen=True)
class OtherDisk:
    """A disk of a machine beside that which it starts from.

    Attributes:
        node: its name; the names of its backing's nodes begin with it.
        backing: it as the backup holds it.
        session_disk: a qcow2 child of that; takes what the guest writes.
        sector_size: that the guest sees, in bytes.
    """

    node: str
    backing: Backing
    session_disk: Path
    sector_size: int


@dataclass(frozen=True)
class Uefi:
    """The firmware that a machine with UEFI has: its code, and its own variables."""

    code: Path
    variables: Path


@dataclass(frozen=True)
class Kernel:
    """A kernel that QEMU starts itself; both files lie in the session's folder."""

    image: Path
    initramfs: Path | None
    command_line: str


@dataclass(frozen=True)
class Background:
    """What a machine gets that runs beside other work, and that nobody looks at.

    It has one processor, and takes time and disk only where nobody else wants them.

    Attributes:
        agent_fd: a connected socket that QEMU inherits, for the guest's agent.
    """

    agent_fd: int


@dataclass(frozen=True)
class Machine:
    """A virtual machine as QEMU's command line describes it.

    Attributes:
        title: the window's.
        identity: of the machine, unlike that of any other.
        backing: the disk as the backup holds it.
        session_disk: a qcow2 child of that; takes what the guest writes.
        sector_size: that the guest sees, in bytes.
        hardware: of the guest.
        uefi: its firmware; None with a BIOS.
        kernel: what is started; None where the firmware boots the disk.
        network: it gets a network card.
        accelerator: what runs its instructions.
        display: "none", or what `window` returned.
        console: the file that takes what the guest writes to its first serial port.
        monitor_fd: a connected socket that QEMU inherits, for QMP.
        control_fd: a listening one, on which other programs speak with it.
        background: None for a machine that somebody waits for.
        others: its other disks.
        boot_disk: which of all its disks the firmware starts from, from 0.
    """

    title: str
    identity: uuid.UUID
    backing: Backing
    session_disk: Path
    sector_size: int
    hardware: Hardware
    uefi: Uefi | None
    kernel: Kernel | None
    network: bool
    accelerator: Accelerator
    display: str
    console: Path
    monitor_fd: int = -1
    control_fd: int = -1
    background: Background | None = None
    others: Sequence[OtherDisk] = ()
    boot_disk: int = 0

    @property
    def descriptors(self) -> list[int]:
        """The file descriptors that QEMU inherits."""
        return [
            self.monitor_fd,
            self.control_fd,
            *([self.background.agent_fd] if self.background else []),
        ]

    def command(self) -> list[str]:
        """The argument list; the guest waits for QMP's `cont`, so that no event is missed."""
        arguments = {
            "-name": f"guest={_escaped(self.title)}",
            "-uuid": str(self.identity),
            "-machine": self._machine(),
            "-smp": str(1 if self.background else min(2, os.cpu_count() or 1)),
            "-m": str(self.hardware.memory_mib),
            "-rtc": "base=utc",
            "-action": "panic=pause",
            "-display": self.display,
            "-serial": "chardev:console",
            "-sandbox": "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            **self._start(),
            **({"-netdev": "user,id=network"} if self.network else {"-nic": "none"}),
        }
        chardevs = [
            f"file,id=console,path={_escaped(str(self.console))}",
            f"socket,id=monitor,fd={self.monitor_fd}",
            f"socket,id=control,fd={self.control_fd},server=on,wait=off",
        ]
        if self.background:
            chardevs.append(f"socket,id=agent,fd={self.background.agent_fd}")
        return [
            *(_last_in_line() if self.background else ()),
            *more_files(self.backing.files + sum(each.backing.files for each in self.others)),
            find(SYSTEM),
            *processor(self.accelerator),
            *("-S", "-nodefaults", "-no-user-config"),
            *(word for option in arguments.items() for word in option),
            *(word for chardev in chardevs for word in ("-chardev", chardev)),
            *("-mon", "chardev=monitor,mode=control", "-mon", "chardev=control,mode=control"),
            *(word for node in self._blockdevs() for word in ("-blockdev", json.dumps(node))),
            *(word for device in self._devices() for word in ("-device", json.dumps(device))),
        ]

    def _machine(self) -> str:
        kind = self.hardware.machine.value
        return f"{kind},pflash0=code,pflash1=variables" if self.uefi else kind

    def _start(self) -> dict[str, str]:
        """What is started; a firmware that has nothing else shall not look for it either."""
        if self.kernel is None:
            return {"-boot": "strict=on"}
        files = {"-kernel": str(self.kernel.image), "-append": self.kernel.command_line}
        if self.kernel.initramfs is not None:
            files["-initrd"] = str(self.kernel.initramfs)  # no list: a comma is one
        return files

    def _devices(self) -> list[dict[str, Any]]:
        # with a boot entry of its own, the firmware goes by that
        first = self.kernel is None and self.hardware.loader is None
        disks = [("disk", self.sector_size), *((o.node, o.sector_size) for o in self.others)]
        found = devices(self.hardware, disks, first=self.boot_disk if first else None)
        if self.network and self.hardware.network_card is not None:
            # 52:54:00 is QEMU's; the original's address may be in use on the same network
            tail = self.identity.bytes[-3:].hex(":")
            found.append(network_card(self.hardware.network_card, f"52:54:00:{tail}"))
        if self.background:
            found.append({"driver": "virtio-serial-pci"})
            found.append({"driver": "virtserialport", "chardev": "agent", "name": PORT})
        return found

    def _blockdevs(self) -> list[Node]:
        others = (node for o in self.others for node in _written(o.node, o.backing, o.session_disk))
        return [*self._firmware(), *_written("disk", self.backing, self.session_disk), *others]

    def _firmware(self) -> list[Node]:
        if self.uefi is None:
            return []
        code = {"driver": "raw", "node-name": "code", "read-only": True}
        return [
            code | {"file": _file(self.uefi.code)},
            {"driver": "raw", "node-name": "variables", "file": _file(self.uefi.variables)},
        ]


def _written(name: str, backing: Backing, session_disk: Path) -> list[Node]:
    """A disk that takes what the guest writes, after what it lies on."""
    disk = {
        "driver": "qcow2",
        "node-name": name,
        "discard": "unmap",
        "backing": backing.nodes[-1]["node-name"],
        "file": _file(session_disk) | {"discard": "unmap"},
    }
    return [*backing.nodes, disk]


def find(program: str) -> str:
    """The path of one of QEMU's programs; raises RecoveryError where it is not installed."""
    path = shutil.which(program)
    if path is None:
        raise ProgramMissing(
            tr("QEMU is not installed: there is no {program}.", program=program),
            tr("Install it with: sudo apt install qemu-system-x86 qemu-utils"),
        )
    return path


def more_files(count: int) -> list[str]:
    """What starts a program of QEMU's so that it may open `count` files of a chain; often nothing.

    The limit that programs start with is 1,024 as a rule, and may be raised by anybody up to the
    hard one; that more are needed than that `gathered` has seen to.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + OTHER_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return []
    return ["prlimit", f"--nofile={needed}:"]  # of util-linux, as setpriv is: on every Linux


def _last_in_line() -> list[str]:
    """What starts a program so that it gives way to all others; ionice is not everywhere.

    It gets a tenth of a processor that others want whole. At nice 19 a sixtieth: beside two busy
    processes on two cores a Debian at its login, which needs 0.003 of a processor, then waits 0.36
    of the time for that, and is seen at rest in 65 % of the looks instead of 95; at nice 10 it
    waits 0.07, and rests in 92 % (`boot_test/readiness.py` wants 70).
    """
    idle_io = ["ionice", "-c", "3"] if shutil.which("ionice") else []
    return ["nice", "-n", "10", *idle_io]


def processor(accelerator: Accelerator) -> list[str]:
    """The options for what runs the guest: all that this computer's processor, or QEMU, can do."""
    return ["-accel", accelerator, "-cpu", "host" if accelerator is Accelerator.KVM else "max"]


def environment() -> dict[str, str]:
    """QEMU's environment: this process's, without a session bus.

    Where none runs, the window's libraries would start one, and the sandbox kills QEMU for that.
    """
    return os.environ | {"DBUS_SESSION_BUS_ADDRESS": "disabled:", "NO_AT_BRIDGE": "1"}


def window() -> str:
    """QEMU's display that opens a window here; raises RecoveryError where none can."""
    if not (os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")):
        raise NoDisplay(
            tr("There is no screen to open the virtual machine's window on."),
            tr("Start it from a desktop session, or without a window."),
            remedy=Remedy.NO_DISPLAY,
        )
    command = [find(SYSTEM), "-display", "help"]
    known = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    for display in ("gtk", "sdl"):
        if display in known:
            return display
    raise ProgramMissing(
        tr("QEMU is installed without its window."),
        tr("Install it with: sudo apt install qemu-system-gui"),
    )


def create_session_disk(path: Path, backing: Backing, size: int) -> None:
    """Make an empty qcow2 child of `backing`, a disk of `size` bytes; reads no other file."""
    parent = ["-F", backing.driver, "-b", backing.file_name, "-u"]
    command = [find(IMAGE), "create", "-q", "-f", "qcow2", *parent, str(path), str(size)]
    done = _run(command)
    if done.returncode != 0:
        raise SessionsFolder(
            tr("The session's disk {path} could not be made.", path=path),
            first_complaint(done.stderr),
        )


def name_backing(path: Path, backing: Backing) -> None:
    """Write into a session's disk what its backing is called now, for whoever opens it by itself.

    QEMU is told what it lies on when a machine starts; the files may have got other names since.
    """
    parent = ["-u", "-F", backing.driver, "-b", backing.file_name]
    command = [find(IMAGE), "rebase", "-q", "-f", "qcow2", *parent, str(path)]
    done = _run(command)
    if done.returncode != 0:
        raise SessionsFolder(
            tr("The session's disk {path} could not be opened again.", path=path),
            first_complaint(done.stderr),
        )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one of QEMU's programs to its end, in a group that Ctrl-C in our terminal is not for."""
    return subprocess.run(command, capture_output=True, text=True, check=False, process_group=0)


def first_complaint(output: str) -> str:
    """The first line in which one of QEMU's programs says what is wrong, as a sentence."""
    for line in output.splitlines():
        program, _, complaint = line.partition(": ")
        if complaint and not complaint.startswith("warning:"):
            return tr(
                "{program} says: {complaint}.",
                program=Path(program).name,
                complaint=complaint.rstrip("."),
            )
    return ""


def _file(path: Path) -> Node:
    return {"driver": "file", "filename": str(path), "aio": "threads"}


def _escaped(text: str) -> str:
    """`text` as the value of an option that is a list: a comma there is written twice."""
    return text.replace(",", ",,")
