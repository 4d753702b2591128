"""Which facts make a source the one that is known: the table of what happens to people's disks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vdbackup.sources.identity import Attached, Facts, Kind, Verdict, compare

SATA = Facts(
    paths=("/dev/sda",),
    size="4000787030016",
    kind=Kind.DISK,
    attached=Attached.DIRECTLY,
    model="WDC WD40EFRX",
    serial="WD-A",
    wwn="0x50014ee2b1",
    table="11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
    partitions=("22222222-aaaa-4aaa-8aaa-aaaaaaaaaaaa",),
    contents=("33333333-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "AAAA-BBBB"),
)
IN_DOCK = replace(
    SATA,
    paths=("/dev/sdb",),
    attached=Attached.BRIDGE,
    model="USB3.0 DOCK",
    serial="058F63666485",
    wwn="",
)
STICK = Facts(
    paths=("/dev/sdb",),
    size="31037849600",
    kind=Kind.DISK,
    attached=Attached.BRIDGE,
    model="SanDisk Ultra",
    serial="4C53",
    table="0badcafe",
    contents=("1234-ABCD",),
)
PART = Facts(
    paths=("/dev/sda1",),
    size="1073741824",
    kind=Kind.PARTITION,
    attached=Attached.DIRECTLY,
    model="WDC WD40EFRX",
    serial="WD-A",
    wwn="0x50014ee2b1",
    partition="22222222-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
    contents=("33333333-aaaa-4aaa-8aaa-aaaaaaaaaaaa",),
)
LV = Facts(
    paths=("/dev/dm-3", "/dev/mapper/vg-data"),
    size="10737418240",
    kind=Kind.VOLUME,
    volume="LVM-vgid-lvid-data",
    contents=("44444444-aaaa-4aaa-8aaa-aaaaaaaaaaaa",),
)
VIRTIO = Facts(
    paths=("/dev/vdb",),
    size="10737418240",
    kind=Kind.DISK,
    attached=Attached.DIRECTLY,
    table="55555555-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
    contents=("66666666-aaaa-4aaa-8aaa-aaaaaaaaaaaa",),
)
IMAGE = Facts(
    paths=("/vm/web.qcow2",),
    size="10737418240",
    kind=Kind.FILE,
    file="c743c39d:1:dfc02000",
    table="77777777-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
    contents=("88888888-aaaa-4aaa-8aaa-aaaaaaaaaaaa",),
)
NOISE = Facts(paths=("/vm/noise.raw",), size="4194304", kind=Kind.FILE, file="c743c39d:1:1")
LOOP = replace(IMAGE, paths=("/dev/loop0",), kind=Kind.LOOP)

REPARTITIONED = {
    "table": "99999999-bbbb-4bbb-8bbb-bbbbbbbbbbbb",
    "partitions": ("aaaaaaaa-bbbb-4bbb-8bbb-bbbbbbbbbbbb",),
    "contents": ("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb",),
}
REFORMATTED = {"contents": ("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb",)}
NO_CONTENTS = {"table": "", "partitions": (), "contents": ()}

SAME = {
    "as it was": (SATA, SATA),
    "under another device's name": (SATA, replace(SATA, paths=("/dev/sdc",))),
    "repartitioned": (SATA, replace(SATA, **REPARTITIONED)),
    "wiped": (SATA, replace(SATA, **NO_CONTENTS)),
    "a partition reformatted": (PART, replace(PART, **REFORMATTED)),
    "its file systems reformatted": (SATA, replace(SATA, **REFORMATTED)),
    "out of the dock, into the computer": (IN_DOCK, SATA),
    "in the same dock again": (IN_DOCK, replace(IN_DOCK, paths=("/dev/sdf",))),
    "the firmware tells a WWN now": (replace(SATA, wwn=""), SATA),
    "the firmware tells no WWN any more": (SATA, replace(SATA, wwn="")),
    "a volume that was grown": (LV, replace(LV, size="21474836480")),
    "a volume reformatted": (LV, replace(LV, **REFORMATTED)),
    "a volume under another number": (LV, replace(LV, paths=("/dev/dm-7", "/dev/mapper/vg-data"))),
    "a volume renamed": (LV, replace(LV, paths=("/dev/dm-3", "/dev/mapper/vg-home"))),
    "a virtual disk grown, with a number": (
        replace(VIRTIO, serial="data"),
        replace(VIRTIO, serial="data", size="21474836480"),
    ),
    "a virtual disk without any number": (VIRTIO, VIRTIO),
    "an image that was moved": (IMAGE, replace(IMAGE, paths=("/moved/web.qcow2",))),
    "an image of noise that was renamed": (NOISE, replace(NOISE, paths=("/vm/new.raw",))),
    "an image that was written anew in its place": (IMAGE, replace(IMAGE, file="c743c39d:1:ffff")),
    "an image of noise that was written anew": (NOISE, replace(NOISE, file="c743c39d:1:ffff")),
    "an image that was grown": (IMAGE, replace(IMAGE, size="21474836480")),
    "an empty image that has a system now": (NOISE, replace(NOISE, table="0badcafe")),
    "an image through another loop device": (LOOP, replace(LOOP, paths=("/dev/loop5",))),
    "an old set of a partition": (Facts.of_old_id(f"partuuid:{PART.partition}", "/dev/sda1"), PART),
    "an old set of an image": (Facts.of_old_id("file:/vm/web.qcow2", "/vm/web.qcow2"), IMAGE),
    "an old set of a disk by its table": (
        Facts.of_old_id(f"ptuuid:{VIRTIO.table}", "/dev/vdb"),
        VIRTIO,
    ),
    "an old set of a volume by its file system": (
        Facts.of_old_id(f"uuid:{LV.contents[0]}", "/dev/dm-3"),
        LV,
    ),
}

OTHER = {
    "another stick under the same path": (IN_DOCK, STICK),
    "another disk in the same dock": (
        IN_DOCK,
        replace(IN_DOCK, table="0badcafe", partitions=(), contents=("1111-2222",)),
    ),
    "the same by its serial number, which the dock gives every disk, where no bus is known": (
        replace(IN_DOCK, attached=""),
        replace(IN_DOCK, attached="", table="0badcafe", partitions=(), contents=()),
    ),
    "its clone on other hardware": (SATA, replace(SATA, serial="WD-B", wwn="0x50014ee2b2")),
    "its larger clone": (SATA, replace(SATA, serial="S4", wwn="0x5002538e", size="8001563222016")),
    "its clone without a WWN": (
        replace(SATA, wwn=""),
        replace(SATA, wwn="", serial="WD-B"),
    ),
    "the same partition of a clone": (PART, replace(PART, serial="WD-B", wwn="0x50014ee2b2")),
    "another partition of the same disk": (
        PART,
        replace(PART, paths=("/dev/sda2",), partition="2222-2", contents=()),
    ),
    "another volume under the same number": (
        LV,
        replace(LV, paths=("/dev/dm-3", "/dev/mapper/vg-tmp"), volume="LVM-vgid-other-tmp"),
    ),
    "a snapshot of the volume": (LV, replace(LV, volume="LVM-vgid-snap-snap")),
    "a virtual disk with one number and another table": (
        replace(VIRTIO, serial="QM00001"),
        replace(VIRTIO, serial="QM00001", **REPARTITIONED),
    ),
    "another table at the same path": (VIRTIO, replace(VIRTIO, **REPARTITIONED)),
    "another image at the same path": (IMAGE, replace(IMAGE, file="c743c39d:1:f", **REPARTITIONED)),
    "another disk copied into the same image": (IMAGE, replace(IMAGE, **REPARTITIONED)),
    "another image": (IMAGE, replace(NOISE, size=IMAGE.size)),
    "an image instead of a disk": (SATA, NOISE),
    "the whole disk instead of a partition": (
        PART,
        replace(VIRTIO, table="0badcafe", contents=()),
    ),
    "another file behind the same loop device": (
        LOOP,
        replace(LOOP, file="c743c39d:1:ffff", **REPARTITIONED),
    ),
    "an old set of another image": (Facts.of_old_id("file:/vm/db.qcow2", "/vm/db.qcow2"), IMAGE),
}

UNSURE = {
    "its clone is attached, too, and nothing else tells them apart": (
        VIRTIO,
        replace(VIRTIO, twins=("/dev/vdc",)),
    ),
    "out of the dock, and its clone is attached, too": (
        IN_DOCK,
        replace(SATA, twins=("/dev/sdb",)),
    ),
    "into a dock, or its clone is": (SATA, IN_DOCK),
    "into another dock, or its clone is in that": (IN_DOCK, replace(IN_DOCK, serial="0000000033")),
    "a larger clone in the same dock": (IN_DOCK, replace(IN_DOCK, size="8001563222016")),
    "a machine from the same template": (VIRTIO, replace(VIRTIO, paths=("/dev/vdc",))),
    "an image from the same template": (
        IMAGE,
        replace(IMAGE, paths=("/vm/db.qcow2",), file="c743c39d:1:e"),
    ),
    "a loop device over a copy": (
        LOOP,
        replace(LOOP, paths=("/dev/loop1",), file="c743c39d:1:e"),
    ),
    "the whole disk that the only partition lies on": (PART, SATA),
    "the image through a loop device": (IMAGE, LOOP),
    "nothing is known of the set": (Facts(), IMAGE),
    "an old set's partition under another name": (
        Facts.of_old_id(f"partuuid:{PART.partition}", "/dev/sdb1"),
        PART,
    ),
}

PROVABLE = {
    "an old set of a dock's disk": (
        Facts.of_old_id("serial:058F63666485", "/dev/sdb"),
        replace(IN_DOCK, paths=("/dev/sdc",)),
    ),
    "an old set of a disk": (Facts.of_old_id("wwn:0x50014ee2b1", "/dev/sdc"), SATA),
    "an encrypted disk in a dock": (
        replace(IN_DOCK, **NO_CONTENTS),
        replace(IN_DOCK, **NO_CONTENTS),
    ),
    "a device of which nothing is known but its path and size": (
        replace(VIRTIO, **NO_CONTENTS),
        replace(VIRTIO, **NO_CONTENTS),
    ),
    "an old set of a volume by its path": (Facts.of_old_id("device:/dev/dm-3", "/dev/dm-3"), LV),
    "a set that was rebuilt from its layers": (
        Facts(size=IMAGE.size, table=IMAGE.table, contents=IMAGE.contents),
        IMAGE,
    ),
    "a set of which nothing is known": (Facts(), SATA),
}


def cases(*tables: dict[str, tuple[Facts, Facts]]) -> pytest.MarkDecorator:
    named = {name: pair for table in tables for name, pair in table.items()}
    return pytest.mark.parametrize(("known", "now"), named.values(), ids=named.keys())


@cases(SAME)
def test_facts_that_prove_the_same_source(known, now):
    assert compare(known, now).verdict is Verdict.SAME


@cases(OTHER)
def test_facts_that_prove_another_source(known, now):
    assert compare(known, now).verdict is Verdict.OTHER


@cases(UNSURE, PROVABLE)
def test_facts_that_leave_open_whether_it_is_the_same_source(known, now):
    assert compare(known, now).verdict is Verdict.UNSURE


@cases(PROVABLE)
def test_equal_contents_prove_the_same_source_where_no_fact_contradicts(known, now):
    assert compare(known, now).provable


@cases({name: pair for name, pair in UNSURE.items() if pair[0] != Facts()}, OTHER, SAME)
def test_equal_contents_prove_nothing_where_a_clone_is_attached(known, now):
    assert not compare(known, now).provable


@cases(SAME)
def test_what_was_kept_of_a_source_says_the_same_of_it_later(known, now):
    record = {name: tuple(values) for name, values in known.record().items()}
    assert compare(Facts.of_record(record), now) == compare(known, now)


def test_a_newer_versions_facts_are_passed_over():
    record = SATA.record() | {"colour": ("blue",), "serial": ()}
    assert Facts.of_record(record) == replace(SATA, serial="")


def test_who_else_was_attached_is_not_kept():
    assert replace(SATA, twins=("/dev/sdb",)).record() == SATA.record()


def test_a_comparison_says_why():
    found = compare(IN_DOCK, replace(IN_DOCK, table="0badcafe", partitions=(), contents=()))
    assert found.reasons == (
        "the same path, size, kind of device, model and serial number, "
        "but not the same ids of partitions and file systems"
    )


def test_a_disk_is_named_by_what_a_person_knows_of_it():
    assert str(SATA) == "WDC WD40EFRX, serial WD-A, 3.6 TiB (/dev/sda)"
    assert str(IMAGE) == "/vm/web.qcow2, 10 GiB"
    assert str(Facts()) == "an unknown source"
