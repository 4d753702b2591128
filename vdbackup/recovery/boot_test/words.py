"""What firmware, boot loaders and systems write when they boot, and when they give up.

The words are those of SeaBIOS, OVMF, GRUB, SYSLINUX, Windows' boot manager, Linux, initramfs-tools,
dracut and systemd, as their sources have them. They are looked for on the serial console and on a
screen in text mode; the screen of a graphical boot has none that could be read. Both are external:
what may repeat in a pattern is bounded, so that no text takes long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vdbackup.repository.model import BootStage
from vdbackup.translation import tr

_MAX_LINE = 300
"""Characters that are quoted."""

_STAGES = (
    (
        BootStage.SYSTEM,
        r"Run \S+ as init process|^Begin: |systemd\[1\]:|dracut|^Welcome to (?!GRUB).{0,80}!",
    ),
    (BootStage.KERNEL, r"Linux version \d|^\[ *\d+\.\d{6}\]|Decompressing Linux"),
    (
        BootStage.LOADER,
        r"\bGRUB\b|(?:SYS|ISO|EXT)LINUX |systemd-boot|^Loading (?:Linux|init)|Booting `|EFI stub:",
    ),
)
_STAGES_COMPILED = [(stage, re.compile(pattern, re.MULTILINE)) for stage, pattern in _STAGES]

_LOGIN = re.compile(r"^.{0,80}\blogin: *\Z", re.MULTILINE)
_BETWEEN = re.compile(
    r"^(?:\[ *\d+\.\d{6}\]|Begin: |Booting from |Booting `|Loading (?:Linux|initial ramdisk)"
    r"|SeaBIOS |iPXE |GRUB loading|Welcome to GRUB|Decompressing|EFI stub:|SYSLINUX |\W*Press \S+ )"
)
"""How a line begins after which something else must come."""


@dataclass(frozen=True)
class Failure:
    """Why a machine does not come up.

    Attributes:
        stage: that it has got to, and not beyond.
        reason: in a sentence.
    """

    stage: BootStage
    reason: str


_NOTHING_TO_START = (
    r"(?P<said>(?:BOOTMGR|NTLDR) is missing|BOOTMGR image is corrupt|Missing operating system"
    r"|Operating [Ss]ystem not found|No DEFAULT or UI .{0,80} found|Could not find kernel image)"
)
_FAILURES = (
    (
        BootStage.KERNEL,
        r"Kernel panic - not syncing: (?P<said>.{0,300})",
        tr("The kernel gave up: {said}."),
    ),
    (
        BootStage.SYSTEM,
        r"ALERT! +(?P<said>.{0,300}does not exist)\. +Dropping to a shell|^\(initramfs\) *\Z",
        tr("The initramfs did not find the root file system: {said}."),
    ),
    (
        BootStage.SYSTEM,
        r"dracut.{0,40}Warning: (?P<said>.{0,300}does not exist)|^(?:dracut)?:/# *\Z",
        tr("The initramfs did not find the root file system: {said}."),
    ),
    (
        BootStage.SYSTEM,
        r"Give root password for maintenance|You are in (?:emergency|rescue) mode",
        tr("The system went into its emergency mode."),
    ),
    (
        BootStage.LOADER,
        r"^(?P<said>error: .{0,300})\n(?:.{0,300}\n){0,8}grub rescue> *\Z|^grub(?: rescue)?> *\Z",
        tr("GRUB does not find what it should start: {said}."),
    ),
    (
        BootStage.LOADER,
        _NOTHING_TO_START,
        tr("The boot loader does not find what it should start: {said}."),
    ),
    (
        BootStage.FIRMWARE,
        r"No bootable device|BdsDxe: No bootable option|UEFI Interactive Shell|^Shell> *\Z",
        tr("The firmware found nothing on the disk that it could start."),
    ),
)
_FAILURES_COMPILED = [
    (stage, re.compile(pattern, re.MULTILINE), reason) for stage, pattern, reason in _FAILURES
]


def stage_of(text: str) -> BootStage:
    """The last stage that such words come from."""
    found = (stage for stage, pattern in _STAGES_COMPILED if pattern.search(text))
    return next(found, BootStage.FIRMWARE)


def failure_in(text: str) -> Failure | None:
    """Why it goes no further, if the words say that it does not."""
    for stage, pattern, reason in _FAILURES_COMPILED:
        if match := pattern.search(text):
            words = (match.groupdict().get("said") or last_line(text)).strip(" .")
            return Failure(stage, reason.format(said=words[:_MAX_LINE]))
    return None


def lacked_time(text: str) -> bool:
    """Whether a kernel gave up only because this computer was too busy to translate it.

    Without KVM the guest's timer has to tick while the kernel counts a few loops; on a computer
    with other work it may not, and Linux takes it for broken (check_timer in arch/x86/kernel/apic/
    io_apic.c; seen here at a load of 6 on 2 processors). The next try succeeds as a rule.
    """
    return "IO-APIC + timer doesn't work" in text


def asks_for_login(text: str) -> bool:
    """Whether the last line asks who somebody is."""
    return _LOGIN.search(text.rstrip(" \r\n")) is not None


def between_stages(text: str) -> bool:
    """Whether the last line is one after which something else must come."""
    return _BETWEEN.match(last_line(text)) is not None


def last_line(text: str) -> str:
    """The last line with anything in it, "" where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MAX_LINE] if lines else ""
