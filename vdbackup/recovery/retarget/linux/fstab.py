"""fstab and crypttab with names that stay (UUID=), and without devices that a boot waits for.

Pure functions: what stood there, what is to stand there. Formats: fstab(5), crypttab(5). Lines that
need no change stay as they are, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vdbackup.guest.linux.absent import is_calm, waiting
from vdbackup.guest.linux.device_names import mounts_in
from vdbackup.recovery.retarget.linux.names import Names, Use, device_of

_FIELD = re.compile(r"(\S+)(\s*)")
_UUID = re.compile(r"(?:UUID=|/dev/disk/by-uuid/)\"?([^\"]+)\"?", re.IGNORECASE)


def uses(fstab: str) -> Iterator[Use]:
    """The devices that fstab names in ways that depend on the hardware."""
    for line in fstab.splitlines():
        fields = _fields(line)
        if len(fields) >= 3 and (device := device_of(fields[0])) is not None:
            yield Use(device, fields[2], fields[1] == "/")


def by_uuid(fstab: str) -> frozenset[str]:
    """The UUIDs by which fstab calls volumes, in lower case."""
    names = (fields[0] for line in fstab.splitlines() if (fields := _fields(line)))
    return frozenset(match[1].lower() for name in names if (match := _UUID.fullmatch(name)))


Missing = Callable[[str, str], bool]
"""Whether what a name means, a file system of that kind, is not there."""


def stable_fstab(text: str, names: Names) -> str:
    """The fstab for a machine that has these disks alone, on whatever controller."""
    calm = calm_fstab(text, names.may_be_missing)
    return "".join(_renamed(line, 0, names) for line in calm.splitlines(keepends=True))


def stable_crypttab(text: str, names: Names) -> str:
    """The crypttab likewise: the device is its second field, the options are its fourth."""
    calm = calm_crypttab(text, names.may_be_missing)
    return "".join(_renamed(line, 1, names) for line in calm.splitlines(keepends=True))


def calm_fstab(text: str, missing: Missing) -> str:
    """The fstab of a system that waits for nothing that is missing."""
    lost = waiting(mounts_in(text), lambda each: missing(each.device, each.kind))
    in_vain = {each.line for each in lost}
    lines = enumerate(text.splitlines(keepends=True), 1)
    return "".join(
        _calmed(line, 3, "defaults,nofail") if number in in_vain else line for number, line in lines
    )


def calm_crypttab(text: str, missing: Missing) -> str:
    """The crypttab likewise."""
    return "".join(_calm_crypttab_line(line, missing) for line in text.splitlines(keepends=True))


def _fields(line: str) -> list[str]:
    return [] if line.lstrip().startswith("#") else line.split()


def _renamed(line: str, number: int, names: Names) -> str:
    """The line with a name that stays for the device, which is its field of that number."""
    fields = _fields(line)
    stable = names.stable(fields[number]) if len(fields) > number + 1 else ""
    return _with_field(line, number, stable) if stable else line


def _calm_crypttab_line(line: str, missing: Missing) -> str:
    fields = _fields(line)
    if len(fields) < 2 or is_calm(fields) or not missing(fields[1], ""):
        return line
    return _calmed(line, 3, "nofail" if len(fields) > 2 else "none nofail")


def _calmed(line: str, number: int, otherwise: str) -> str:
    """The line with `nofail` among its options, which are its field of that number."""
    fields = _fields(line)
    if len(fields) <= number:
        end = line[len(line.rstrip()) :]
        return f"{line.rstrip()} {otherwise}{end}"
    return _with_field(line, number, f"{fields[number]},nofail")


def _with_field(line: str, number: int, value: str) -> str:
    start = len(line) - len(line.lstrip())
    found = list(_FIELD.finditer(line, start))
    return line[: found[number].start(1)] + value + line[found[number].end(1) :]
