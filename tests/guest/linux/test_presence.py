"""Which names of fstab mean what none of a machine's disks has: said only where it is sure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vdbackup.guest.linux.presence import Known, Presence

THERE = Presence(
    (
        Known("ext4", "0a0b0c0d-0000-4000-8000-000000000001", "root disk"),
        Known("swap", "0a0b0c0d-0000-4000-8000-000000000002"),
        Known("fat32", "ABCD-1234"),
        Known("ntfs", "01D0A1B2C3D4E5F6"),
        Known("lvm", ""),
        Known("", ""),
    ),
    frozenset(("vg/my-data", "vg-my--data")),
)
NOWHERE = "0a0b0c0d-0000-4000-8000-0000000000ff"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("UUID=0A0B0C0D-0000-4000-8000-000000000001", "ext3"),
        ('UUID="abcd-1234"', "vfat"),
        ("/dev/disk/by-uuid/01D0A1B2C3D4E5F6", "ntfs-3g"),
        ("LABEL=root\\040disk", "ext4"),
        ("/dev/disk/by-label/root\\x20disk", "auto"),
        ("LABEL=anything", "vfat"),  # of a FAT nobody knows its label for sure
        ("LABEL=anything", "ntfs"),
        ("LABEL=anything", "auto"),
        ("/dev/mapper/vg-my--data", "xfs"),
        ("/dev/vg/my-data", "xfs"),
        # names of which nothing is known here
        ("PARTUUID=0a0b0c0d-01", "ext4"),
        ("/dev/sdb1", "ext4"),
        ("/dev/disk/by-id/usb-Drive-part1", "ext4"),
        ("/dev/mapper/mpatha", "ext4"),
        ("/dev/mapper/data-part1", "ext4"),
        ("/dev/zvol/tank/home", "ext4"),
        ("/srv/data", "none"),
        ("server:/export", "nfs"),
        ("tank/home", "zfs"),
        ("tmpfs", "tmpfs"),
    ],
)
def test_what_is_there_or_may_be_is_not_called_absent(name: str, kind: str) -> None:
    assert not THERE.lacks(name, kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"UUID={NOWHERE}", "ext4"),
        (f"/dev/disk/by-uuid/{NOWHERE}", "auto"),
        ("UUID=ABCD-1234", "ext4"),  # the FAT that is called so is no ext4
        ("LABEL=backups", "ext4"),
        ("LABEL=ROOT\\040DISK", "ext4"),
        ("/dev/mapper/other-data", "xfs"),
        ("/dev/other/my-data", "xfs"),
        ("/dev/md0", "ext4"),
        ("/dev/md/home", "ext4"),
    ],
)
def test_what_none_of_the_disks_has_is_absent_unless_they_hide_something(
    name: str, kind: str
) -> None:
    assert THERE.lacks(name, kind)
    assert not replace(THERE, hides=True).lacks(name, kind)


def test_a_file_system_that_is_not_read_may_be_called_anything() -> None:
    unread = replace(THERE, volumes=(*THERE.volumes, Known("f2fs", "")))
    assert not unread.lacks(f"UUID={NOWHERE}", "f2fs")
    assert not unread.lacks(f"UUID={NOWHERE}", "auto")
    assert unread.lacks(f"UUID={NOWHERE}", "ext4")


def test_an_array_may_be_what_is_mapped() -> None:
    array = replace(THERE, has_array=True)
    assert not any(array.lacks(name) for name in ("/dev/md0", "/dev/mapper/isw_abc_home"))


def test_what_is_opened_is_there_if_what_it_lies_in_is() -> None:
    opened = {"far": f"UUID={NOWHERE}", "deep": "/dev/mapper/far", "near": "UUID=ABCD-1234"}
    crypt = replace(THERE, opened={**opened, "round": "/dev/mapper/about", "about": "/dev/sda9"})
    assert crypt.lacks("/dev/mapper/far", "ext4")
    assert crypt.lacks("/dev/mapper/deep", "ext4")
    assert not crypt.lacks("/dev/mapper/near", "ext4")
    assert not crypt.lacks("/dev/mapper/round", "ext4")


def test_what_is_opened_of_itself_keeps_nobody() -> None:
    assert THERE.opens("/dev/mapper/x") == "/dev/mapper/x"
    crypt = replace(THERE, opened={"a": "/dev/mapper/b", "b": "/dev/mapper/a"})
    assert crypt.lacks("/dev/mapper/a", "ext4")
