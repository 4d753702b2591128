"""Names that depend on the hardware become names that stay; nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vdbackup.guest.linux.presence import Known, Presence
from vdbackup.recovery.retarget import identity
from vdbackup.recovery.retarget.linux import fstab, loaders
from vdbackup.recovery.retarget.linux.names import Device, Names, Use, device_of

ROOT, SWAP, HOME = "11111111-aaaa", "22222222-bbbb", "33333333-cccc"
VOLUMES = {1: Known("ext4", ROOT, "root"), 2: Known("swap", SWAP), 5: Known("ext4", HOME, "home")}
VAR = Known("xfs", "44444444-dddd")
OURS = Names(
    [VOLUMES],
    {"sda": 0},
    (VAR,),
    presence=Presence((*VOLUMES.values(), VAR), frozenset(("vg/data", "vg-data"))),
)

DEBIAN = """\
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda1 /               ext4    errors=remount-ro 0       1
/dev/sda2\tnone            swap    sw              0       0
/dev/sda5 /home ext4 defaults 0 2
/dev/sdb1 /srv            ext4    defaults        0       2
/dev/sr0 /media/cdrom0   udf,iso9660 user,noauto     0       0
tmpfs /tmp tmpfs defaults 0 0
server:/export /net nfs defaults 0 0
/dev/mapper/vg-data /data xfs defaults 0 0
"""


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("/dev/sda1", Device("sda", 1)),
        ("/dev/sda", Device("sda", 0)),
        ("/dev/vdb12", Device("vdb", 12)),
        ("/dev/nvme0n1p3", Device("nvme0n1", 3)),
        ("/dev/mmcblk0p1", Device("mmcblk0", 1)),
        ("/dev/disk/by-id/ata-X_1-part2", Device("disk/by-id/ata-X_1", 2)),
        ("/dev/mapper/vg-root", None),
        ("/dev/disk/by-uuid/1234", None),
        ("UUID=1234", None),
        ("/dev/sr0", None),
        ("/dev/sda1/../sdb", None),
    ],
)
def test_names_that_depend_on_the_hardware_are_known(name: str, device: Device | None) -> None:
    assert device_of(name) == device


def test_fstab_of_a_debian() -> None:
    assert fstab.stable_fstab(DEBIAN, OURS) == (
        DEBIAN.replace("/dev/sda1", f"UUID={ROOT}")
        .replace("/dev/sda2", f"UUID={SWAP}")
        .replace("/dev/sda5", f"UUID={HOME}")
        .replace("/srv            ext4    defaults ", "/srv            ext4    defaults,nofail ")
    )


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (f"UUID={HOME} /home ext4 defaults 0 2", None),
        (f'UUID="{HOME.upper()}" /home ext4 defaults 0 2', None),
        ("LABEL=home /home ext4 defaults", None),
        ("UUID=44444444-dddd /var xfs defaults", None),
        ("UUID=other /x ext4 ro,nofail 0 2", None),
        ("UUID=other /x ext4 noauto 0 2", None),
        ("UUID=other /x ext4 ro 0 2", "UUID=other /x ext4 ro,nofail 0 2"),
        ("LABEL=other /x ext4", "LABEL=other /x ext4 defaults,nofail"),
        ("/dev/disk/by-uuid/other /x ext4 ro", "/dev/disk/by-uuid/other /x ext4 ro,nofail"),
        ("UUID=other / ext4 ro 0 1", None),  # without its root it starts in no way
        ("UUID=other none swap sw 0 0", "UUID=other none swap sw,nofail 0 0"),
        ("/dev/sda9 /x ext4 ro", "/dev/sda9 /x ext4 ro,nofail"),
        ("#/dev/sda1 / ext4 defaults", None),
        ("nonsense", None),
        ("", None),
        ("/dev/sda1 / ext4 \udcff 0 1", f"UUID={ROOT} / ext4 \udcff 0 1"),
    ],
)
def test_line_of_fstab(line: str, wanted: str | None) -> None:
    for end in ("", "\n", "\r\n"):
        assert fstab.stable_fstab(line + end, OURS) == (wanted or line) + end


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("crypt /dev/sda5 none luks", f"crypt UUID={HOME} none luks"),
        ("crypt UUID=other none luks", "crypt UUID=other none luks,nofail"),
        ("crypt /dev/sdb1", "crypt /dev/sdb1 none nofail"),
        ("crypt /dev/sdb1 /key", "crypt /dev/sdb1 /key nofail"),
        ("# crypt /dev/sda5", None),
    ],
)
def test_line_of_crypttab(line: str, wanted: str | None) -> None:
    assert fstab.stable_crypttab(line + "\n", OURS) == (wanted or line) + "\n"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("  linux /vmlinuz root=/dev/sda1 ro quiet", f"  linux /vmlinuz root=UUID={ROOT} ro quiet"),
        ('GRUB_CMDLINE_LINUX="root=/dev/sda1"', f'GRUB_CMDLINE_LINUX="root=UUID={ROOT}"'),
        ("options root=/dev/sda1 resume=/dev/sda2", f"options root=UUID={ROOT} resume=UUID={SWAP}"),
        ("APPEND resume=/dev/sdb2 quiet", "APPEND noresume quiet"),
        ("APPEND resume=UUID=other quiet", "APPEND noresume quiet"),
        (f"APPEND root=UUID=other resume=UUID={SWAP}", None),
        ("root=/dev/sdb1", None),
        ("root=/dev/mapper/vg-root", None),
        ("set root='hd0,msdos1'", None),
        ("search --set=root --hint-bios=hd0", None),
        ("nfsroot=/dev/sda1", None),
        ("root=/dev/sda11", None),
    ],
)
def test_command_line(line: str, wanted: str | None) -> None:
    assert loaders.stable_command_lines(line, OURS) == (wanted or line)


def test_environment_block_keeps_its_length() -> None:
    block = "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro\n".ljust(1024, "#")
    changed = loaders.stable_command_lines(block, OURS)
    assert len(changed) == 1024
    assert f"kernelopts=root=UUID={ROOT} ro\n###" in changed


def uses(*lines: str) -> list[Use]:
    return [use for line in lines for use in fstab.uses(line)]


@pytest.mark.parametrize(
    ("found", "called"),
    [
        (uses("/dev/sda1 / ext4", "/dev/sdb1 /srv ext4"), {"sda"}),
        (uses("/dev/sdb1 / ext4", "/dev/sda1 /srv ext4"), {"sdb"}),
        # the root is called by its UUID, and the other names fit this disk, or do not
        (uses("/dev/sda2 none swap", "/dev/sda5 /home ext3"), {"sda"}),
        (uses("/dev/sda2 /srv ext4"), set()),
        (uses("/dev/sda7 /srv ext4"), set()),
        ([*loaders.uses("root=/dev/vda1"), *uses("/dev/vda2 none swap")], {"vda"}),
    ],
)
def test_this_disk_is_told_from_what_the_system_does_with_it(
    found: list[Use], called: set[str]
) -> None:
    assert set(Names.told_from(found, [VOLUMES], (0, 1)).called) == called


DATA, MORE = {1: Known("ext4", "55555555-eeee")}, {1: Known("ext4", "66666666-ffff")}
MACHINE = [VOLUMES, DATA, MORE]


@pytest.mark.parametrize(
    ("lines", "sources", "called"),
    [
        # one that is left
        (("/dev/sda1 / ext4", "/dev/sdb1 /srv ext4"), ("", ""), {"sda": 0, "sdb": 1}),
        # either may be meant, and a third is not there
        (("/dev/sda1 / ext4", "/dev/sdb1 /srv ext4"), ("", "", ""), {"sda": 0}),
        (("/dev/sda1 / ext4", "/dev/sdb1 /a ext4", "/dev/sdc1 /b ext4"), ("", ""), {"sda": 0}),
        # as they were called when they were backed up
        (
            ("/dev/sda1 / ext4", "/dev/sdc1 /srv ext4"),
            ("/dev/sda", "/dev/sdb", "/dev/sdc"),
            {"sda": 0, "sdc": 2},
        ),
        (
            ("/dev/sda1 / ext4", "/dev/sdb1 /a ext4", "/dev/sdc1 /b ext4"),
            ("/dev/sda", "", "/dev/sdb"),
            {"sda": 0, "sdb": 2, "sdc": 1},
        ),
        (("/dev/sda1 / ext4", "/dev/sdz1 /srv ext4"), ("/dev/sda", "/dev/sdb"), {"sda": 0}),
        # one disk has names of several kinds
        (
            ("/dev/sda1 / ext4", "/dev/disk/by-id/x-part2 none swap"),
            ("", ""),
            {"sda": 0, "disk/by-id/x": 0},
        ),
        # what another line calls by its UUID is not meant twice
        (
            ("/dev/sda1 / ext4", "UUID=55555555-EEEE /home ext4", "/dev/sdc1 /srv ext4"),
            ("", ""),
            {"sda": 0},
        ),
    ],
)
def test_which_of_several_disks_is_meant(
    lines: tuple[str, ...], sources: tuple[str, ...], called: dict[str, int]
) -> None:
    text = "\n".join(lines)
    names = Names.told_from(
        uses(*lines), MACHINE[: len(sources)], (0, 1), sources=sources, by_uuid=fstab.by_uuid(text)
    )
    assert names.called == called


def test_fstab_of_a_machine_names_what_lies_on_its_other_disks() -> None:
    text = (
        "/dev/sda1 / ext4\n/dev/sdb1 /srv ext4\nUUID=66666666-ffff /data ext4\n/dev/sdc1 /x xfs\n"
    )
    there = tuple(each for disk in MACHINE for each in disk.values())
    names = Names(MACHINE, {"sda": 0, "sdb": 1}, presence=Presence(there))
    assert fstab.stable_fstab(text, names) == (
        f"UUID={ROOT} / ext4\nUUID=55555555-eeee /srv ext4\nUUID=66666666-ffff /data ext4\n"
        "/dev/sdc1 /x xfs defaults,nofail\n"
    )


CLONE = {1: Known("ext4", ROOT.upper(), "root"), 3: Known("ext4", "77777777-abcd")}


def test_what_two_disks_share_is_no_name_of_either() -> None:
    """A disk and its clone: which of them a UUID means is for the kernel to say, time and again."""
    text = "/dev/sda1 / ext4\n/dev/sda2 none swap sw\n/dev/sdb1 /old ext4 ro\n/dev/sdb3 /x ext4\n"
    names = Names([VOLUMES, CLONE], {"sda": 0, "sdb": 1})
    assert names.is_cloned("/dev/sda1")
    assert fstab.stable_fstab(text, names) == (
        f"/dev/sda1 / ext4\nUUID={SWAP} none swap sw\n/dev/sdb1 /old ext4 ro,nofail\n"
        "UUID=77777777-abcd /x ext4\n"
    )
    assert loaders.stable_command_lines("root=/dev/sda1 ro", names) == "root=/dev/sda1 ro"


def test_one_file_system_on_two_disks_keeps_its_name() -> None:
    both = Known("btrfs", "88888888-abcd")
    names = Names([{1: both}, {1: both}], {"sda": 0, "sdb": 1})
    assert names.stable("/dev/sda1") == "UUID=88888888-abcd"


def test_rules_that_name_the_original_card_are_switched_off() -> None:
    rule = 'SUBSYSTEM=="net", ATTR{address}=="00:11:22:33:44:55", NAME="eth0"\n'
    rules = f'# PCI device\n{rule}KERNEL=="lo"\n'
    assert identity.without_card_rules(rules) == rules.replace(rule, f"# vdbackup: {rule}")
    assert identity.without_card_rules("# ATTR{address}==\n") == "# ATTR{address}==\n"


WAITS = "UUID=other /data ext4 defaults 0 2\n"


@pytest.mark.parametrize(
    "line",
    [
        f"UUID={HOME} /data/home ext4 defaults 0 2",  # mounted below what does not come
        "/data/srv /srv none bind 0 0",
        "/data/images/x.iso /media/x iso9660 loop,ro 0 0",
        "/data/swap none swap sw 0 0",
    ],
)
def test_what_needs_a_path_on_a_disk_that_is_not_there_is_not_waited_for_either(line: str) -> None:
    """Even where nothing waits for the disk itself: systemd does not start without such a line."""
    for first in (WAITS, WAITS.replace("defaults", "nofail"), WAITS.replace("defaults", "noauto")):
        text = first + line + "\n"
        options = line.split()[3]
        assert fstab.stable_fstab(text, OURS) == (
            first.replace("defaults", "defaults,nofail")
            + line.replace(f" {options} ", f" {options},nofail ")
            + "\n"
        )


def test_what_only_looks_as_if_it_needed_such_a_path_is_waited_for() -> None:
    text = (
        "UUID=other /data ext4 nofail 0 2\n"
        f"UUID={HOME} /database ext4 defaults 0 2\n/dat /srv none bind 0 0\n"
        f"UUID={ROOT} / ext4 defaults 0 1\n/ /data2 none bind 0 0\n"
    )
    assert fstab.stable_fstab(text, OURS) == text


def test_what_is_opened_of_a_disk_that_is_not_there_is_not_waited_for() -> None:
    crypttab = "far UUID=other none luks\nold /dev/sdb1 none luks\nown /dev/sda5 none luks\n"
    opened = dict(line.split()[:2] for line in crypttab.splitlines())
    names = replace(OURS, presence=replace(OURS.presence, opened=opened))
    lines = "".join(f"/dev/mapper/{name} /{name} ext4 defaults 0 2\n" for name in opened)
    changed = fstab.stable_fstab(lines, names).splitlines()
    assert [line for line in changed if "nofail" not in line] == [
        "/dev/mapper/own /own ext4 defaults 0 2"
    ]
    assert fstab.stable_crypttab(crypttab, names) == (
        "far UUID=other none luks,nofail\nold /dev/sdb1 none luks,nofail\n"
        f"own UUID={HOME} none luks\n"
    )
