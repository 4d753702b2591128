"""Boot menus of Limine and rEFInd, as their documentation writes them."""

from __future__ import annotations

import pytest

from vdbackup.guest.linux import menus

LIMINE = """# comments are lines of their own
timeout: 3
default_entry: {default}
remember_last_entry: no
${{LATEST}}=/vmlinuz-6.9
/+Arch Linux
    comment: unfolded by the plus
    //Linux
    protocol: linux
    kernel_path: boot():${{LATEST}}
    kernel_cmdline: root=UUID=1 rw
    module_path: boot():/initramfs.img#ca6914d2446b470a
    module_path: boot():/ucode.img
    //Fallback
    protocol: linux
    path: boot():/vmlinuz-lts
    cmdline: root=UUID=1 single
/Snapshots
    //Yesterday
    protocol: linux
    path: guid(736b5698-5ae1-4dff-be2c-ef8f44a61c52):/vmlinuz-old
    cmdline: root=UUID=1 subvol=old
/Other
    protocol: linux
    path: hdd(1:2):/vmlinuz-other
    cmdline: root=UUID=2
"""
LIMINE_2023 = """TIMEOUT=5
DEFAULT_ENTRY=2

:Void
PROTOCOL=linux
KERNEL_PATH=boot:///vmlinuz-void
CMDLINE=root=UUID=1

:Arch
PROTOCOL=linux
KERNEL_PATH=$boot:///vmlinuz-arch
MODULE_PATH=boot://2/initramfs.img
CMDLINE=root=UUID=2 quiet
"""


@pytest.mark.parametrize(
    ("default", "image"),
    [
        ("1", "/vmlinuz-6.9"),
        ("2", "/vmlinuz-6.9"),
        ("3", "/vmlinuz-lts"),
        ("4", "/vmlinuz-6.9"),
        ("5", "/vmlinuz-other"),
        ("6", "/vmlinuz-6.9"),
        ("0", "/vmlinuz-6.9"),
        ("Arch Linux", "/vmlinuz-6.9"),
        ("9" * 5000, "/vmlinuz-6.9"),
    ],
)
def test_limine_starts_the_line_of_its_menu_that_default_entry_counts(default: str, image: str):
    """A folder counts; what is in it does where it is unfolded; a folder itself starts nothing."""
    entries = menus.limine(LIMINE.format(default=default))
    assert entries[0].image == image
    assert sorted(entry.title for entry in entries) == ["Fallback", "Linux", "Other", "Yesterday"]


def test_limines_paths_lose_resource_and_hash_and_its_macros_are_put_in():
    first = menus.limine(LIMINE.format(default=1))[0]
    assert first.image == "/vmlinuz-6.9"
    assert first.initramfs == ["/initramfs.img", "/ucode.img"]
    assert first.command_line == "root=UUID=1 rw"


def test_limine_of_2023_has_a_default_entry_too():
    first, second = menus.limine(LIMINE_2023)
    assert (first.title, first.image, first.initramfs) == (
        "Arch", "/vmlinuz-arch", ["/initramfs.img"],
    )  # fmt: skip
    assert second.title == "Void"


REFIND = """menuentry Linux {
    icon EFI/refind/icons/os_linux.png
    volume 904404F8-B481-440C-A1E3-11A5A954E601
    loader bzImage-3.3.0-rc7
    initrd initrd-3.3.0.img
    options "ro root=UUID=5f96cafa-e0a7-4057-b18f-fa709db5b837"
    disabled
}
menuentry "Arch Linux" {
    icon     /EFI/refind/icons/os_arch.png
    volume   "Arch Linux"
    loader   /boot/vmlinuz-linux
    initrd   /boot/initramfs-linux.img
    options  "root=/dev/sda2 rw add_efi_memmap"
    submenuentry "Boot using fallback initramfs" {
        initrd /boot/initramfs-linux-fallback.img
    }
    submenuentry "Boot to terminal" {
        add_options "systemd.unit=multi-user.target"
    }
    submenuentry "Another kernel" {
        loader /boot/vmlinuz-lts
        options "root=/dev/sda3 ro"
    }
    submenuentry "Never" {
        disabled
    }
    graphics on
}
menuentry "Windows 7" {
    loader \\EFI\\Microsoft\\Boot\\bootmgfw.efi
}
"""


def test_refinds_submenus_take_from_their_entry_what_they_do_not_say():
    main, fallback, terminal, other = menus.refind(REFIND)
    options = "root=/dev/sda2 rw add_efi_memmap"
    assert (main.title, main.command_line, main.line) == ("Arch Linux", options, 14)
    assert fallback.initramfs == ["/boot/initramfs-linux-fallback.img"]
    assert (fallback.image, fallback.command_line) == ("/boot/vmlinuz-linux", options)
    assert terminal.command_line == f"{options} systemd.unit=multi-user.target"
    assert terminal.initramfs == ["/boot/initramfs-linux.img"]
    assert (other.image, other.command_line, other.line) == (
        "/boot/vmlinuz-lts", "root=/dev/sda3 ro", 23,
    )  # fmt: skip


def test_refinds_entry_that_is_disabled_behind_its_submenus_is_with_them():
    text = REFIND.replace("    graphics on\n", "    disabled\n")
    assert menus.refind(text) == []
