"""A boot loader's configuration with names that stay: root=/dev/sda1 becomes root=UUID=...

Pure functions, for whatever holds a kernel's command line: grub.cfg, /etc/default/grub, the entries
of systemd-boot and of the Boot Loader Specification, syslinux and extlinux, /etc/kernel/cmdline,
and GRUB's environment block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vdbackup.recovery.retarget.linux.names import Names, Use, device_of

_ARGUMENT = re.compile(r"(?<![\w./-])((?:root|resume)=)((?:/dev/|UUID=|LABEL=)[\w./:+-]+)")
_BLOCK = "# GRUB Environment Block\n"
_BLOCK_SIZE = 1024


def uses(text: str) -> Iterator[Use]:
    """The devices that a kernel's command line names in ways that depend on the hardware."""
    for match in _ARGUMENT.finditer(text):
        if (device := device_of(match[2])) is not None:
            yield Use(device, "", match[1] == "root=")


def stable_command_lines(text: str, names: Names) -> str:
    """The same configuration, with names that stay.

    `resume=` of a device that is not on this disk goes: an initramfs may wait for it.
    """

    def stable(match: re.Match[str]) -> str:
        if found := names.stable(match[2]):
            return match[1] + found
        if match[1] == "resume=" and names.is_elsewhere(match[2], "swap"):
            return "noresume"
        return match[0]

    changed = _ARGUMENT.sub(stable, text)
    return _refilled(changed) if text.startswith(_BLOCK) else changed


def without_vain_resume(text: str, missing: Callable[[str, str], bool]) -> str:
    """The same configuration, where nothing is looked for that is missing."""

    def calm(match: re.Match[str]) -> str:
        return "noresume" if match[1] == "resume=" and missing(match[2], "swap") else match[0]

    changed = _ARGUMENT.sub(calm, text)
    return _refilled(changed) if text.startswith(_BLOCK) else changed


def _refilled(block: str) -> str:
    """An environment block, which GRUB wants to have 1024 bytes, filled with "#"."""
    size = len(block.encode(errors="surrogateescape"))
    space = size - len(block.rstrip("#"))
    if size > _BLOCK_SIZE:
        return block[: len(block) - min(space, size - _BLOCK_SIZE)]
    return block + "#" * (_BLOCK_SIZE - size)
