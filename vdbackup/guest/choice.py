"""Which virtual hardware a guest gets: a pure function of what its disk holds and of a request.

First what boots it unedited: a controller that it has a driver for before its root is mounted, on
which its disk is called what its configuration says. Paravirtual ones come first among those.
Where there is none, the least that has to be edited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vdbackup.guest import drivers
from vdbackup.guest.hardware import (
    ANYTHING,
    Controller,
    Direct,
    Edit,
    Hardware,
    HardwareRequest,
    MachineType,
    NetworkCard,
)
from vdbackup.guest.model import DeviceName, File, Firmware, Guest, Kernel, Problem, System
from vdbackup.text import printable
from vdbackup.translation import tr

_ORDER = (
    Controller.VIRTIO,
    Controller.VIRTIO_SCSI,
    Controller.AHCI,
    Controller.NVME,
    Controller.IDE,
    Controller.PVSCSI,
    Controller.SAS,
    Controller.LSI,
)
_FIRST_DISK = {
    Controller.VIRTIO: re.compile(r"/dev/vda\d*"),
    Controller.NVME: re.compile(r"/dev/nvme0n1(p\d+)?"),
}
_FIRST_SCSI_DISK = re.compile(r"/dev/sda\d*")
_NUMBER = re.compile(r"/dev/(?:[a-z]+|nvme\d+n\d+p)(\d+)")
_SECTORS_OF_512 = (Controller.AHCI, Controller.IDE)
_NOT_WITH_UEFI = (Controller.LSI, Controller.SAS)
"""OVMF finds no disk on them as distributions build it."""
_WORDS = {
    Controller.VIRTIO: "virtio",
    Controller.VIRTIO_SCSI: "virtio-scsi",
    Controller.AHCI: "AHCI",
    Controller.IDE: "IDE",
    Controller.NVME: "NVMe",
    Controller.PVSCSI: tr("VMware's SCSI (pvscsi)"),
    Controller.LSI: tr("LSI's SCSI of 1999 (53c895a)"),
    Controller.SAS: "LSI's SAS (1068)",
}
_LINUX_MIB, _DESKTOP_MIB, _OLD_WINDOWS_MIB, _WINDOWS_MIB, _LEAST_MIB = 1024, 2048, 2048, 4096, 512


@dataclass(frozen=True)
class _Candidate:
    """A controller, and what would have to be edited for it."""

    controller: Controller
    edit: Edit

    @property
    def cost(self) -> tuple[bool, bool, bool, bool]:
        """The less, the better: what is impossible last, drivers before names."""
        edit = self.edit
        named = any(name.essential for name in edit.names)
        return not edit.possible, bool(edit.fixed), bool(edit.drivers), named


def choose(
    guest: Guest,
    request: HardwareRequest = ANYTHING,
    *,
    sector_size: int = 512,
    host_memory_mib: int = 1 << 20,
) -> Hardware:
    """The hardware for a guest.

    Args:
        guest: what its disk holds.
        request: what the user wants; followed where it needs edits, too: the result names them.
        sector_size: of the disk that the guest sees, in bytes.
        host_memory_mib: this computer's; the guest gets no more than half of it automatically.
    """
    firmware, about_firmware, problems = _firmware(guest, request)
    partition = _partition(guest)
    candidate, about_controller = _controller(guest, request, firmware, sector_size)
    memory, about_memory = _memory(guest, request, host_memory_mib)
    machine = MachineType.PC if candidate.controller is Controller.IDE else MachineType.Q35
    direct = _direct(guest, request.directly or _makes_stale(guest, candidate.edit))
    reasons = [about_controller, about_firmware, about_memory]
    if direct is not None:
        reasons.append(_why_direct(guest))
    if partition:
        reasons.append(
            tr(
                "The volume stands alone, so it becomes partition {partition} of a disk.",
                partition=partition,
            )
        )
    if request.network:
        card, about_card = _network_card(guest)
        reasons.append(about_card)
    else:
        card, _ = _network_card(guest)
    return Hardware(
        controller=candidate.controller,
        machine=machine,
        firmware=firmware,
        memory_mib=memory,
        network_card=card,
        loader=_boot_entry(guest, firmware) if direct is None else None,
        direct=direct,
        partition=partition,
        reasons=tuple(reason for reason in reasons if reason),
        edit=replace(candidate.edit, absent=guest.absent),
        problems=(
            *guest.problems,
            *problems,
            *_no_driver(guest, candidate),
            *(_no_such_name(candidate) if direct is None else ()),
            *(_no_firmware(candidate, firmware) if direct is None else ()),
            *_waits(guest.absent),
        ),
    )


def edited(guest: Guest, request: HardwareRequest, hardware: Hardware) -> Hardware:
    """The hardware once all that it needed has been changed: its reasons say what had to be.

    Args:
        guest: what its disk held before.
        request: what the user wanted.
        hardware: what `choose` found for these two.
    """
    about_controller, *others = hardware.reasons
    if request.controller is None:
        about_controller = _why_edited(guest, hardware) or about_controller
    waited = _waits(hardware.edit.absent)
    return replace(
        hardware,
        edit=Edit(),
        reasons=(about_controller, *others),
        problems=tuple(each for each in hardware.problems if each not in waited),
    )


# ------------------------------------------------------------------------------ the controller


def _controller(
    guest: Guest, request: HardwareRequest, firmware: Firmware, sector_size: int
) -> tuple[_Candidate, str]:
    if request.controller is not None:
        candidate = _Candidate(request.controller, _edit(guest, request.controller))
        return candidate, tr("{words}, as you asked for.", words=_WORDS[request.controller])
    possible = [
        controller
        for controller in _ORDER
        if not (sector_size != 512 and controller in _SECTORS_OF_512)
        and not (firmware is Firmware.UEFI and controller in _NOT_WITH_UEFI)
    ]
    if not _knows_drivers(guest):
        return _unknown(guest, possible)
    candidates = [_Candidate(controller, _edit(guest, controller)) for controller in possible]
    best = min(candidates, key=lambda candidate: candidate.cost)  # the first of equals
    return best, _why(guest, best)


def _no_driver(guest: Guest, candidate: _Candidate) -> tuple[Problem, ...]:
    if candidate.edit.possible:
        return ()
    return (
        Problem(
            tr(
                "{guest} has no driver for a disk on {words}.",
                guest=guest.name or tr("The system"),
                words=_WORDS[candidate.controller],
            ),
            tr("Choose other hardware, or install the driver and back it up again."),
        ),
    )


def _no_such_name(candidate: _Candidate) -> tuple[Problem, ...]:
    if not candidate.edit.fixed:
        return ()
    first = candidate.edit.fixed[0]
    image, name = printable(first.file.path), printable(first.name)
    return (
        Problem(
            tr(
                "{image} starts Linux with root={name}, and no disk on {words} is called so. That "
                "stands in one program with the kernel, which may be signed: it is not changed.",
                image=image,
                name=name,
                words=_WORDS[candidate.controller],
            ),
            tr(
                "Choose hardware whose first disk is called so; or let the original name its root "
                "by UUID, make its kernel image anew, and back it up again."
            ),
        ),
    )


def _no_firmware(candidate: _Candidate, firmware: Firmware) -> tuple[Problem, ...]:
    if firmware is not Firmware.UEFI or candidate.controller not in _NOT_WITH_UEFI:
        return ()
    return (
        Problem(
            tr("UEFI finds no disk on {words}.", words=_WORDS[candidate.controller]),
            tr("Choose other hardware, such as ahci."),
        ),
    )


def _waits(absent: tuple[DeviceName, ...]) -> tuple[Problem, ...]:
    """What is said of a machine that is started all the same."""
    essential = [each for each in absent if each.essential]
    if not essential:
        return ()
    first = essential[0]
    return (
        Problem(
            tr(
                "{path} wants {name}, which is on none of the disks in this backup: the system "
                "waits for it when it starts, and then gets no further than its emergency mode.",
                path=printable(first.file.path),
                name=printable(first.name),
            ),
            tr("Retarget the point: then its machine does not wait for that."),
            blocks=False,
        ),
    )


def _unknown(guest: Guest, possible: list[Controller]) -> tuple[_Candidate, str]:
    """What nearly every system of the last fifteen years has a driver for, if it has that name."""
    order = [Controller.AHCI, Controller.NVME, *possible]
    names = [name for name in _names(guest) if name.essential]
    controller = next(
        (
            controller
            for controller in order
            if controller in possible and all(_fits(name.name, controller) for name in names)
        ),
        next(controller for controller in order if controller in possible),
    )
    why = tr(
        "{name}: which drivers the system has could not be found out, and this one is the most "
        "usual.",
        name=_WORDS[controller],
    )
    return _Candidate(controller, _renamed(guest, controller)), why


def _why(guest: Guest, best: _Candidate) -> str:
    name, edit = _WORDS[best.controller], best.edit
    if edit.drivers:
        missing = ", ".join(edit.drivers)
        if not edit.possible:
            return tr("{name}: the system has no driver for any controller of QEMU's.", name=name)
        return tr(
            "{name}: no driver is there early; {missing} would have to be added.",
            name=name,
            missing=missing,
        )
    system = tr("Windows starts") if guest.system is System.WINDOWS else tr("the system has")
    essential = [each for each in _names(guest) if each.essential]
    if edit.fixed:
        return tr("{name}: {system} its driver early.", name=name, system=system)
    if any(each.essential for each in edit.names):
        return tr(
            "{name}: {system} its driver early, but names {name_2}.",
            name=name,
            system=system,
            name_2=printable(edit.names[0].name),
        )
    if essential:
        return tr(
            "{name}: {system} its driver early and calls its disk {essential}.",
            name=name,
            system=system,
            essential=printable(essential[0].name),
        )
    return tr("{name}: {system} its driver early.", name=name, system=system)


def _why_edited(guest: Guest, hardware: Hardware) -> str:
    """The same afterwards; "" where what is said of the controller holds as it did."""
    name, edit = _WORDS[hardware.controller], hardware.edit
    names = ", ".join(dict.fromkeys(printable(each.name) for each in edit.names if each.essential))
    if edit.drivers:
        return tr(
            "{name}: no driver was there early, so these were added: {drivers}.",
            name=name,
            drivers=", ".join(edit.drivers),
        )
    if names and _knows_drivers(guest):
        return tr(
            "{name}: the system has its driver early; what called its disk {names} was changed.",
            name=name,
            names=names,
        )
    return ""


def _knows_drivers(guest: Guest) -> bool:
    services = guest.services or guest.inactive_services
    return bool(services) or (guest.kernel is not None and bool(guest.kernel.early))


def _edit(guest: Guest, controller: Controller) -> Edit:
    """What would have to be edited for a guest to find its disk on a controller."""
    edit = _renamed(guest, controller)
    if guest.system is System.WINDOWS:
        early, there = frozenset(guest.services), frozenset(guest.inactive_services)
        groups = drivers.WINDOWS.get(controller, ())
    elif guest.kernel is not None:
        early, there = guest.kernel.early, frozenset(guest.kernel.modules)
        groups = drivers.LINUX[controller]
    else:
        return edit
    if not (early or there):
        return edit
    if not groups:
        return replace(edit, drivers=(controller.value,), possible=False)
    missing = min(
        (group - early for group in groups), key=lambda group: (not group <= there, group)
    )
    return replace(edit, drivers=tuple(sorted(missing)), possible=missing <= there)


def _renamed(guest: Guest, controller: Controller) -> Edit:
    """What would have to be called otherwise on a controller."""
    unfit = [name for name in _names(guest) if not _fits(name.name, controller)]
    return Edit(
        names=tuple(name for name in unfit if not name.fixed),
        fixed=tuple(name for name in unfit if name.fixed and name.essential),
    )


def _names(guest: Guest) -> tuple[DeviceName, ...]:
    """The names that matter: a boot loader that is not used relies on none."""
    if _direct(guest) is None:
        return guest.device_names
    return tuple(
        name
        for name in guest.device_names
        if name.file.path.rpartition("/")[2] in ("fstab", "crypttab")
    )


def _fits(name: str, controller: Controller) -> bool:
    """Whether the first disk on a controller, or a partition of it, has that name in Linux."""
    return _FIRST_DISK.get(controller, _FIRST_SCSI_DISK).fullmatch(name) is not None


# ------------------------------------------------------------------- firmware, kernel, partition


def _firmware(guest: Guest, request: HardwareRequest) -> tuple[Firmware, str, tuple[Problem, ...]]:
    if request.firmware is None:
        firmware = guest.firmware[0] if guest.firmware else Firmware.BIOS
        return firmware, guest.firmware_reason, ()
    reason = tr("{firmware}, as you asked for.", firmware=request.firmware.upper())
    if guest.firmware and request.firmware not in guest.firmware:
        problem = Problem(
            tr("The disk has no boot loader for {firmware}.", firmware=request.firmware.upper()),
            tr("Start it with {firmware} instead.", firmware=guest.firmware[0].upper()),
        )
        return request.firmware, reason, (problem,)
    return request.firmware, reason, ()


def _boot_entry(guest: Guest, firmware: Firmware) -> File | None:
    """The program that a boot entry has to name, where the firmware finds none by itself."""
    if firmware is not Firmware.UEFI:
        return None
    of_uefi = [loader for loader in guest.loaders if loader.firmware is Firmware.UEFI]
    if not of_uefi or of_uefi[0].fallback:
        return None
    return of_uefi[0].program


def _stands_alone(guest: Guest) -> bool:
    """Whether it is a volume of a disk, and has a kernel that can be started without the rest."""
    return guest.system is System.LINUX and guest.alone and guest.kernel is not None


def _partition(guest: Guest) -> int:
    """The number that the volume had on its disk, as far as anything on it says so; 0: a disk."""
    if not _stands_alone(guest):
        return 0
    numbers = [
        int(match[1])
        for name in _names(guest)
        if name.essential and (match := _NUMBER.fullmatch(name.name))
    ]
    return numbers[0] if numbers and 1 <= numbers[0] <= 128 else 1


def _direct(guest: Guest, past_loader: bool = False) -> Direct | None:
    kernel = guest.kernel
    if kernel is None or (guest.loaders and not (past_loader or _stands_alone(guest))):
        return None
    return Direct(kernel.image, kernel.initramfs, _command_line(guest, kernel))


def _makes_stale(guest: Guest, edit: Edit) -> bool:
    """Whether what has to be changed is what its boot loader has noted the sectors of."""
    return guest.by_sectors and bool(edit.drivers or edit.fixed)


def _why_direct(guest: Guest) -> str:
    if guest.by_sectors and not _stands_alone(guest):
        return tr(
            "LILO would not find what has to be changed for this hardware, so its kernel is "
            "started directly."
        )
    return tr("There is no boot loader, so its kernel is started directly.")


def _command_line(guest: Guest, kernel: Kernel) -> str:
    """What the boot loader would have said, with a name of the root that holds here."""
    words = [word for word in kernel.command_line.split() if not word.startswith("root=")]
    root = guest.root
    if root is not None:
        name = f"/dev/mapper/{root.volume}" if root.logical else f"UUID={root.uuid}"
        words.insert(0, f"root={name}")
        if root.subvolume and not any(word.startswith("rootflags=") for word in words):
            words.append(f"rootflags=subvol={root.subvolume}")
    if "ro" not in words and "rw" not in words:
        words.append("ro")
    if not any(word.startswith("console=") for word in words):
        words += ["console=tty0", "console=ttyS0"]
    if "no_timer_check" not in words:  # a busy computer delays the timer, and Linux gives up
        words.append("no_timer_check")
    return printable(" ".join(words))


# ----------------------------------------------------------------------------- memory, network


def _memory(guest: Guest, request: HardwareRequest, host_mib: int) -> tuple[int, str]:
    if request.memory_mib is not None:
        return request.memory_mib, ""
    if guest.system is System.WINDOWS:
        wanted, why = _WINDOWS_MIB, "Windows"
        if guest.version.startswith(("5.", "6.")):
            wanted = _OLD_WINDOWS_MIB
    elif guest.graphical:
        wanted, why = _DESKTOP_MIB, tr("a desktop")
    else:
        wanted, why = _LINUX_MIB, tr("a system without a desktop")
    memory = max(_LEAST_MIB, min(wanted, host_mib // 2))
    return memory, tr("{memory} MiB of memory, for {why}.", memory=memory, why=why)


def _network_card(guest: Guest) -> tuple[NetworkCard, str]:
    kernel = guest.kernel
    if kernel is not None:
        there = kernel.early | frozenset(kernel.modules)
        for card, needs in drivers.LINUX_NETWORK.items():
            if needs <= there:
                return card, tr(
                    "A network card of the kind {card}, which it has a driver for.", card=card
                )
    if guest.version.startswith("5."):
        return NetworkCard.RTL8139, tr("A network card that Windows XP has a driver for (rtl8139).")
    return NetworkCard.E1000E, tr("A network card that most systems have a driver for (e1000e).")
