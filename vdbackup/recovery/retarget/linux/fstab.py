"""fstab and crypttab with names that stay (UUID=), and without devices that a boot waits for.

Pure functions: what stood there, what is to stand there. Formats: fstab(5), crypttab(5). Lines that
need no change stay as they are, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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


def stable_fstab(text: str, names: Names) -> str:
    """The fstab for a machine that has these disks alone, on whatever controller."""
    lost = waiting(mounts_in(text), lambda each: names.may_be_missing(each.device, each.kind))
    in_vain = {each.line for each in lost}
    lines = enumerate(text.splitlines(keepends=True), 1)
    return "".join(_fstab_line(line, names, calm=number in in_vain) for number, line in lines)


def stable_crypttab(text: str, names: Names) -> str:
    """The crypttab likewise: the device is its second field, the options are its fourth."""
    return "".join(_crypttab_line(line, names) for line in text.splitlines(keepends=True))


def _fields(line: str) -> list[str]:
    return [] if line.lstrip().startswith("#") else line.split()


def _fstab_line(line: str, names: Names, *, calm: bool) -> str:
    fields = _fields(line)
    if len(fields) < 3:
        return line
    if calm:
        line = _calmed(line, fields, 3, "defaults,nofail")
    stable = names.stable(fields[0])
    return _with_field(line, 0, stable) if stable else line


def _crypttab_line(line: str, names: Names) -> str:
    fields = _fields(line)
    if len(fields) < 2:
        return line
    if stable := names.stable(fields[1]):
        return _with_field(line, 1, stable)
    if is_calm(fields) or not names.may_be_missing(fields[1]):
        return line
    return _calmed(line, fields, 3, "nofail" if len(fields) > 2 else "none nofail")


def _calmed(line: str, fields: list[str], number: int, otherwise: str) -> str:
    """The line with `nofail` among its options, which are its field of that number."""
    if len(fields) <= number:
        end = line[len(line.rstrip()) :]
        return f"{line.rstrip()} {otherwise}{end}"
    return _with_field(line, number, f"{fields[number]},nofail")


def _with_field(line: str, number: int, value: str) -> str:
    start = len(line) - len(line.lstrip())
    found = list(_FIELD.finditer(line, start))
    return line[: found[number].start(1)] + value + line[found[number].end(1) :]
