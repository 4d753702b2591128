"""What a machine writes says how far it has come, and why it goes no further."""

from __future__ import annotations

import pytest

from vdbackup.recovery.boot_test import words
from vdbackup.repository.model import BootStage

SEABIOS = "SeaBIOS (version 1.16.2)\nBooting from Hard Disk...\n"
GRUB = SEABIOS + "GRUB loading.\nWelcome to GRUB!\n\n"
KERNEL = "[    0.000000] Linux version 6.1.0-56-amd64\n"
SYSTEM = (
    KERNEL + "[    2.100000] Run /init as init process\nBegin: Running /scripts/init-premount\n"
)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("", BootStage.FIRMWARE),
        (SEABIOS, BootStage.FIRMWARE),
        (GRUB, BootStage.LOADER),
        ("SYSLINUX 6.04 EDD\n", BootStage.LOADER),
        ("Loading Linux 6.1.0-56-amd64 ...\nLoading initial ramdisk ...\n", BootStage.LOADER),
        (GRUB + KERNEL, BootStage.KERNEL),
        (GRUB + SYSTEM, BootStage.SYSTEM),
        ("Welcome to Debian GNU/Linux 12 (bookworm)!\n", BootStage.SYSTEM),
    ],
)
def test_a_text_belongs_to_the_last_stage_that_shows_in_it(text: str, stage: BootStage) -> None:
    assert words.stage_of(text) is stage


@pytest.mark.parametrize(
    ("text", "stage", "said"),
    [
        (SEABIOS + "Boot failed\n\nNo bootable device.\n", "firmware", "nothing"),
        ("BdsDxe: No bootable option or device was found.\n", "firmware", "nothing"),
        ("UEFI Interactive Shell v2.2\nShell> ", "firmware", "nothing"),
        (GRUB + "error: no such partition.\nEntering rescue mode...\ngrub rescue> ", "boot loader",
         "error: no such partition."),
        ("GNU GRUB  version 2.06\n\ngrub> ", "boot loader", "grub>"),
        ("BOOTMGR is missing\nPress Ctrl+Alt+Del\n", "boot loader", "BOOTMGR is missing."),
        (SYSTEM + "[    3.0] Kernel panic - not syncing: no root\n[    3.1] CPU: 0\n", "kernel",
         "gave up: no root."),
        (SYSTEM + "ALERT!  /dev/sda1 does not exist.  Dropping to a shell!\n(initramfs) ", "system",
         "/dev/sda1 does not exist."),
        ("dracut-initqueue[300]: Warning: /dev/sda1 does not exist\n", "system", "/dev/sda1 does"),
        ("You are in emergency mode. After logging in, type\nGive root password for maintenance\n",
         "system", "emergency mode"),
    ],
)  # fmt: skip
def test_a_machine_that_gives_up_says_why(text: str, stage: str, said: str) -> None:
    failure = words.failure_in(text)
    assert failure is not None
    assert failure.stage.value == stage
    assert said in failure.reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        GRUB + SYSTEM,
        "[    0.0] Command line: root=/dev/sda1 panic=5 (initramfs) rescue\n[    0.1] next\n",
        "Debian GNU/Linux 12 debian ttyS0\n\ndebian login: ",
        "Welcome to GRUB!\n",
    ],
)
def test_a_machine_that_goes_on_has_not_failed(text: str) -> None:
    assert words.failure_in(text) is None


def test_a_login_is_asked_for_on_the_last_line() -> None:
    assert words.asks_for_login("Debian GNU/Linux 12 debian ttyS0\n\ndebian login: ")
    assert not words.asks_for_login("debian login: root\nPassword:")
    assert not words.asks_for_login("Last login: Thu\nroot@debian:~# ")


@pytest.mark.parametrize(
    "text", [SEABIOS, SEABIOS + "GRUB loading.\n", KERNEL, "Loading initial ramdisk ...\n"]
)
def test_after_some_lines_something_else_must_come(text: str) -> None:
    assert words.between_stages(text)
    assert not words.between_stages(text + "C:\\>")


@pytest.mark.parametrize(
    "line", ["ALERT! ", "error: ", "\ngrub> ", "dracut Warning: ", "login: ", "(initramfs) ", "[ 1"]
)
def test_no_text_of_a_guest_takes_long(line: str) -> None:
    """64 KiB that almost match: an unbounded pattern would take minutes."""
    text = (line * (1 << 16))[: 1 << 16]
    for look in (words.failure_in, words.asks_for_login, words.stage_of):
        look(text)
