"""Systems whose initramfs lies in no file of its own: nothing is changed there, and that is said.

The appliance starts the guest's kernel with the guest's initramfs, so it has to have both.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.guest.test_boot_entries import unified_image
from tests.guest.test_inspect import disk_of
from tests.guests import systems
from tests.volumes import volumes
from tests.volumes.volumes import MIB
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NotRetargeted
from vdbackup.guest.choice import choose
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.guest.inspect import inspect
from vdbackup.recovery.retarget import edits

DRIVERS = ("nvme", "virtio_pci", "virtio_blk")


def disk(tmp_path: Path, *, kernel_in: str) -> Path:
    """A Linux that calls its root /dev/nvme0n1p2, its kernel on the EFI partition or in /boot."""
    efi, tree = tmp_path / "efi", tmp_path / "tree"
    (efi / "EFI/Linux").mkdir(parents=True)
    tree.mkdir()
    systems.linux(tree, DRIVERS, root="/dev/nvme0n1p2")
    if kernel_in == "EFI":
        shutil.rmtree(tree / "boot")
        (efi / "EFI/Linux/arch.efi").write_bytes(unified_image("/dev/nvme0n1p2", DRIVERS))
    else:
        (tree / f"boot/initrd.img-{systems.VERSION}").unlink()
    volumes.fat(32, 64 * MIB, "-s", "1")(efi, tmp_path / "efi.img")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    parts = [tmp_path / "efi.img", tmp_path / "root.img"]
    return disk_of(tmp_path / "disk.img", parts, "gpt", bytes(440))


@pytest.mark.parametrize("kernel_in", ["EFI", "boot"])
def test_a_system_without_an_initramfs_of_its_own_is_not_changed(
    tmp_path: Path, kernel_in: str
) -> None:
    with Chain.open(disk(tmp_path, kernel_in=kernel_in), DiskFormat.RAW) as chain:
        guest = inspect(chain)
        assert [kernel.initramfs for kernel in guest.kernels] == [()]
        hardware = choose(guest, HardwareRequest(Controller.VIRTIO))
        assert "/etc/fstab" in [name.file.path for name in hardware.edit.names]
        with pytest.raises(NotRetargeted, match="no initramfs in a file of its own"):
            edits.find(Disk(chain), guest, hardware)
