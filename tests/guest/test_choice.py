"""The hardware that is chosen boots what the disk holds, or says what would have to be edited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.guest.choice import choose, edited
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest, MachineType, NetworkCard
from vdbackup.guest.model import (
    DeviceName,
    File,
    FileSystem,
    Firmware,
    Guest,
    Kernel,
    Loader,
    LoaderKind,
    System,
)

BIOS = Loader(LoaderKind.GRUB, Firmware.BIOS)
ROOT = FileSystem("p1", "ext4", uuid="1234-5678")
ALL = ("ahci", "nvme", "sd_mod", "virtio_blk", "virtio_net", "virtio_pci", "virtio_scsi")


def linux(
    *early: str,
    name: str = "",
    loaders: tuple[Loader, ...] = (BIOS,),
    alone: bool = False,
    command_line: str = "ro",
) -> Guest:
    """A Linux with these drivers early, all of ALL in /lib/modules, and `name` in its fstab."""
    kernel = Kernel(
        "6.1", File("p1", "/vmlinuz"), initramfs_drivers=early, modules=ALL,
        command_line=command_line,
    )  # fmt: skip
    names = (DeviceName(name, File("p1", "/etc/fstab"), 1),) if name else ()
    return Guest(
        System.LINUX, kernels=(kernel,), device_names=names, loaders=loaders, root=ROOT, alone=alone
    )


@pytest.mark.parametrize(
    ("early", "name", "controller"),
    [
        (("ahci", "sd_mod"), "/dev/sda1", Controller.AHCI),
        (("ahci", "sd_mod"), "", Controller.AHCI),
        (("ahci", "sd_mod", "virtio_pci", "virtio_blk"), "", Controller.VIRTIO),
        (("ahci", "sd_mod", "virtio_pci", "virtio_blk"), "/dev/sda1", Controller.AHCI),
        (("ahci", "sd_mod", "virtio_pci", "virtio_scsi"), "/dev/sda1", Controller.VIRTIO_SCSI),
        (("nvme", "virtio_pci", "virtio_blk"), "/dev/nvme0n1p2", Controller.NVME),
        (("nvme",), "", Controller.NVME),
        (("ata_piix", "sd_mod"), "/dev/sda1", Controller.IDE),
        (("vmw_pvscsi", "sd_mod"), "/dev/sda1", Controller.PVSCSI),
        (("sym53c8xx", "sd_mod"), "/dev/sda1", Controller.LSI),
        (("mptsas", "sd_mod"), "/dev/sda1", Controller.SAS),
    ],
)
def test_the_guest_gets_what_it_has_a_driver_for(
    early: tuple[str, ...], name: str, controller: Controller
) -> None:
    chosen = choose(linux(*early, name=name))
    assert chosen.controller is controller
    assert chosen.boots
    assert not chosen.edit.needed
    old = controller is Controller.IDE
    assert chosen.machine is (MachineType.PC if old else MachineType.Q35)


def test_names_are_edited_rather_than_drivers() -> None:
    chosen = choose(linux("nvme", name="/dev/sda1"))
    assert chosen.controller is Controller.NVME
    assert not chosen.edit.drivers
    assert [name.name for name in chosen.edit.names] == ["/dev/sda1"]
    assert not chosen.boots


def test_reasons_say_what_was_changed_once_it_has_been() -> None:
    reasons = {
        linux("nvme", name="/dev/sda1"): "NVMe: the system has its driver early; what called its "
        "disk /dev/sda1 was changed.",
        linux("xen_blkfront", name="/dev/xvda1"): "virtio: no driver was there early, so "
        "these were added: virtio_blk, virtio_pci.",
    }
    for guest, reason in reasons.items():
        before = choose(guest)
        after = edited(guest, HardwareRequest(), before)
        assert after.boots
        assert after.reasons == (reason, *before.reasons[1:])
        wish = HardwareRequest(Controller.VIRTIO)
        assert edited(guest, wish, choose(guest, wish)).reasons[0] == "virtio, as you asked for."


def test_a_second_disk_is_one_that_the_machine_will_not_have() -> None:
    assert choose(linux("ahci", "sd_mod", name="/dev/sdb1")).edit.needed


def test_drivers_that_are_missing_early_are_named() -> None:
    chosen = choose(linux("xen_blkfront", name="/dev/xvda1"))
    assert chosen.controller is Controller.VIRTIO
    assert chosen.edit.drivers == ("virtio_blk", "virtio_pci")
    assert chosen.edit.possible
    assert not any(problem.blocks for problem in chosen.problems)


def test_a_wish_is_followed_and_its_edits_are_named() -> None:
    chosen = choose(linux("ahci", "sd_mod", name="/dev/sda1"), HardwareRequest(Controller.VIRTIO))
    assert chosen.controller is Controller.VIRTIO
    assert chosen.edit.drivers == ("virtio_blk", "virtio_pci")
    assert len(chosen.edit.names) == 1


def test_a_driver_that_the_system_has_nowhere_is_a_problem() -> None:
    chosen = choose(linux("ahci", "sd_mod"), HardwareRequest(Controller.PVSCSI))
    assert not chosen.edit.possible
    assert [problem.blocks for problem in chosen.problems] == [True]


@pytest.mark.parametrize("controller", [Controller.SAS, Controller.LSI])
def test_controller_on_which_uefi_finds_no_disk_is_not_chosen_and_a_problem(
    controller: Controller,
) -> None:
    early = {Controller.SAS: "mptsas", Controller.LSI: "sym53c8xx"}[controller]
    guest = linux(early, "sd_mod", loaders=(Loader(LoaderKind.GRUB, Firmware.UEFI),))
    assert choose(guest).controller is not controller
    wished = choose(guest, HardwareRequest(controller))
    assert [problem.blocks for problem in wished.problems] == [True]
    assert not choose(guest, HardwareRequest(controller, Firmware.BIOS)).problems[1:]


def test_large_sectors_leave_out_what_has_none() -> None:
    chosen = choose(linux("ahci", "sd_mod", "nvme"), sector_size=4096)
    assert chosen.controller is Controller.NVME


@pytest.mark.parametrize("system", [System.OTHER, System.WINDOWS, System.LINUX, System.NONE])
def test_what_is_not_known_gets_the_most_usual(system: System) -> None:
    assert choose(Guest(system)).controller is Controller.AHCI
    assert choose(Guest(system), sector_size=4096).controller is Controller.NVME


@pytest.mark.parametrize(
    ("services", "controller"),
    [
        (("storahci",), Controller.AHCI),
        (("storahci", "viostor"), Controller.VIRTIO),
        (("intelide", "atapi"), Controller.IDE),
        (("stornvme",), Controller.NVME),
    ],
)
def test_windows_gets_what_it_starts_at_boot(
    services: tuple[str, ...], controller: Controller
) -> None:
    chosen = choose(Guest(System.WINDOWS, services=services, inactive_services=("stornvme",)))
    assert chosen.controller is controller
    assert chosen.memory_mib == 4096


def test_firmware_is_the_loaders_and_one_that_is_not_there_is_a_problem() -> None:
    program = File("p2", "/EFI/debian/shimx64.efi")
    uefi = Loader(LoaderKind.GRUB, Firmware.UEFI, program=program)
    guest = linux("ahci", "sd_mod", loaders=(uefi,))
    assert choose(guest).firmware is Firmware.UEFI
    assert choose(guest).loader == program
    refused = choose(guest, HardwareRequest(firmware=Firmware.BIOS))
    assert [problem.sentence for problem in refused.problems] == [
        "The disk has no boot loader for BIOS."
    ]
    fallback = Loader(LoaderKind.OTHER, Firmware.UEFI, program=program, fallback=True)
    assert choose(linux("ahci", "sd_mod", loaders=(fallback, uefi))).loader is None


def test_without_a_boot_loader_the_kernel_is_started() -> None:
    guest = linux("virtio_pci", "virtio_blk", loaders=(), command_line="root=/dev/sda1 ro quiet")
    direct = choose(guest).direct
    assert direct is not None
    assert direct.command_line.split() == [
        *("root=UUID=1234-5678", "ro", "quiet"),
        *("console=tty0", "console=ttyS0", "no_timer_check"),
    ]
    assert choose(guest).partition == 0


@pytest.mark.parametrize(
    ("name", "number"), [("", 1), ("/dev/sda1", 1), ("/dev/sda2", 2), ("/dev/sda7", 7)]
)
def test_a_volume_alone_gets_the_number_that_it_had(name: str, number: int) -> None:
    chosen = choose(linux("ahci", "sd_mod", name=name, loaders=(), alone=True))
    assert chosen.partition == number
    assert chosen.direct is not None
    assert chosen.boots


def test_memory_is_what_the_system_needs_and_half_of_what_is_there_at_most() -> None:
    assert choose(linux("ahci")).memory_mib == 1024
    assert choose(Guest(System.WINDOWS), host_memory_mib=4096).memory_mib == 2048
    assert choose(linux("ahci"), HardwareRequest(memory_mib=300)).memory_mib == 300


def test_a_network_card_has_a_driver() -> None:
    assert choose(linux("ahci"), HardwareRequest(network=True)).network_card is NetworkCard.VIRTIO
    assert (
        choose(Guest(System.OTHER), HardwareRequest(network=True)).network_card
        is NetworkCard.E1000E
    )


@given(
    early=st.sets(st.sampled_from([*ALL, "ata_piix", "mptsas", "sym53c8xx", "vmw_pvscsi"])),
    name=st.sampled_from(["", "/dev/sda1", "/dev/vda1", "/dev/nvme0n1p1", "/dev/hda1", "/dev/sdb"]),
    wish=st.builds(
        HardwareRequest,
        controller=st.none() | st.sampled_from(Controller),
        firmware=st.none() | st.sampled_from(Firmware),
    ),
    sector_size=st.sampled_from([512, 4096]),
)
def test_nothing_is_chosen_that_another_controller_would_boot(
    early: set[str], name: str, wish: HardwareRequest, sector_size: int
) -> None:
    """Where any controller boots the guest unedited, so does the one that is chosen."""
    guest = linux(*sorted(early), name=name)
    chosen = choose(guest, wish, sector_size=sector_size)
    assert isinstance(chosen, Hardware)
    assert all(chosen.reasons)
    if wish == HardwareRequest() and sector_size == 512:
        others = [choose(guest, HardwareRequest(controller)).edit for controller in Controller]
        if early and not all(edit.needed for edit in others):
            assert not chosen.edit.needed
