"""What a Linux waits for when it starts, and what none of its disks has: the drive of its backups.

systemd waits 90 seconds for a device that fstab(5) names without `nofail`. If a file system has
not come by then, it starts its emergency mode and nothing else; without swap, or without something
encrypted that nothing is mounted from, it goes on (systemd-fstab-generator(8),
systemd-cryptsetup-generator(8)). What is mounted below such a one, or from a path in it, fails with
it (RequiresMountsFor= in systemd.unit(5)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from vdbackup.guest.disk import Disk
from vdbackup.guest.linux.boot_menu import Menu
from vdbackup.guest.linux.device_names import Mount, mounts_in
from vdbackup.guest.linux.presence import Presence
from vdbackup.guest.model import DeviceName, Kernel
from vdbackup.guest.tree import Tree

CALM = frozenset(("nofail", "noauto"))
"""Options with which nothing waits."""
_CALM_MOUNT = CALM | {"x-systemd.automount", "comment=systemd.automount"}
_RESUME = re.compile(r"(?:^|\s)resume=(\S+)")


def absent(
    disk: Disk, root: Tree, menu: Menu | None, kernel: Kernel | None
) -> Iterator[DeviceName]:
    """The devices that a start waits for in vain, by the names that fstab and others give them."""
    crypttab = root.text("/etc/crypttab")
    presence = Presence.on(disk, crypttab)
    fstab = root.file("/etc/fstab")
    lines = mounts_in(root.text("/etc/fstab"))
    for mount in waiting(lines, lambda each: presence.lacks(each.device, each.kind)):
        yield DeviceName(mount.device, fstab, mount.line, essential=mount.kind != "swap")
    for number, line in enumerate(crypttab.splitlines(), 1):
        words = line.split()
        if len(words) < 2 or words[0].startswith("#") or is_calm(words):
            continue
        if presence.lacks(words[1]):
            yield DeviceName(words[1], root.file("/etc/crypttab"), number, essential=False)
    if menu is not None and kernel is not None:
        yield from _resumed(presence, menu, kernel)


def _resumed(presence: Presence, menu: Menu, kernel: Kernel) -> Iterator[DeviceName]:
    """What an initramfs waits for to see whether the system was hibernated there."""
    for entry in menu.entries:
        if entry.command_line == kernel.command_line:
            for name in _RESUME.findall(entry.command_line):
                if presence.lacks(name, "swap"):
                    yield DeviceName(name, menu.file, entry.line, essential=False)
            return


def is_calm(crypttab_line: Sequence[str]) -> bool:
    """Whether nothing waits for what a line of crypttab opens."""
    options = crypttab_line[3].split(",") if len(crypttab_line) > 3 else []
    return not CALM.isdisjoint(options)


def waiting(lines: Sequence[Mount], is_absent: Callable[[Mount], bool]) -> list[Mount]:
    """The lines of fstab that a start waits for, and whose file system does not come.

    Those that need a path below such a one are among them. The root never is: without it nothing
    starts.
    """
    others = [each for each in lines if each.point != "/"]
    lost = [each for each in others if is_absent(each)]
    while more := [
        each for each in others if each not in lost and any(_needs(each, one) for one in lost)
    ]:
        lost += more
    return [each for each in others if each in lost and _CALM_MOUNT.isdisjoint(each.options)]


def _needs(mount: Mount, lost: Mount) -> bool:
    """Whether a line of fstab is mounted below another one, or from a path in that."""
    if not lost.point.startswith("/"):
        return False  # swap
    inside = lost.point.rstrip("/") + "/"
    below = mount.point.startswith(inside)
    from_there = f"{mount.device.rstrip('/')}/".startswith(inside)
    return below or from_there
