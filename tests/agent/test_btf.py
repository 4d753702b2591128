"""What the kernel says of its structures is understood, or refused: nothing else comes of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.agent import btf, marking
from vdbackup.errors import TrackingNotSupported

INT, PTR, STRUCT, UNION, TYPEDEF, CONST, PROTO = 1, 2, 4, 5, 8, 10, 13


class Kernel:
    """A description in the making. Each type that is added gets the next number."""

    def __init__(self) -> None:
        self.types, self.names, self.number = b"", b"\0", 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = len(self.names)
        self.names += text.encode() + b"\0"
        return at

    def add(
        self, kind: int, name: str = "", size: int = 0, rest: bytes = b"", many: int = 0
    ) -> int:
        self.types += struct.pack("<III", self.name(name), kind << 24 | many, size) + rest
        self.number += 1
        return self.number

    def structure(self, name: str, size: int, *members: tuple[str, int, int], kind=STRUCT) -> int:
        rest = b"".join(struct.pack("<III", self.name(n), t, 8 * at) for n, t, at in members)
        return self.add(kind, name, size, rest, len(members))

    def data(self) -> bytes:
        sizes = (0, len(self.types), len(self.types), len(self.names))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + self.types + self.names


def kernel(parameters: int = 2, size_of_operation: int = 4) -> bytes:
    """One that has what the program needs, some of it in unnamed structures and behind typedefs."""
    k = Kernel()
    u32 = k.add(INT, "unsigned int", 4, struct.pack("<I", 32))
    u64 = k.add(INT, "unsigned long", 8, struct.pack("<I", 64))
    sector = k.add(TYPEDEF, "sector_t", k.add(TYPEDEF, "u64", u64))
    disk = k.structure("gendisk", 64, ("major", u32, 4), ("first_minor", u32, 12))
    device = k.structure("block_device", 64, ("bd_disk", k.add(PTR, "", disk), 24))
    iterator = k.structure("bvec_iter", 20, ("bi_sector", sector, 0), ("bi_size", u32, 8))
    operation = {4: u32, 8: u64}[size_of_operation]
    inner = k.structure("", 16, ("bi_opf", operation, 8), kind=UNION)
    bio = k.structure(
        "bio", 128, ("bi_next", k.add(PTR, "", 0), 0), ("bi_bdev", k.add(PTR, "", device), 8),
        ("", inner, 16), ("bi_iter", iterator, 40),
    )  # fmt: skip
    queue = k.structure("request_queue", 256, ("disk", k.add(PTR, "", disk), 104))
    request = k.structure("request", 256, ("q", k.add(PTR, "", queue), 0), ("cmd_flags", u32, 24))
    anything = k.add(PTR, "", 0)
    for name, about in (("block_bio_queue", bio), ("block_rq_issue", request)):
        pointer = k.add(PTR, "", k.add(CONST, "", about))
        kinds = [anything, pointer, pointer][:parameters]
        rest = b"".join(struct.pack("<II", 0, kind) for kind in kinds)
        proto = k.add(PROTO, "", 0, rest, len(kinds))
        k.add(TYPEDEF, f"btf_trace_{name}", k.add(PTR, "", proto))
    return k.data()


GOOD = kernel()


def test_places_are_found_wherever_a_kernel_has_them():
    where = marking.layout(btf.Types(GOOD))
    assert (where.device, where.disk, where.major, where.first_minor) == (8, 24, 4, 12)
    assert (where.operation, where.sector, where.length) == (24, 40, 48)
    assert (where.queue, where.flags, where.disk_of_queue) == (0, 24, 104)


@pytest.mark.parametrize(
    "data", [kernel(parameters=1), kernel(parameters=3), kernel(size_of_operation=8)]
)
def test_a_kernel_that_is_built_otherwise_is_refused(data):
    with pytest.raises(TrackingNotSupported):
        marking.layout(btf.Types(data))


def test_a_kernel_that_does_not_describe_itself_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "vmlinux")
    with pytest.raises(TrackingNotSupported, match="does not describe"):
        btf.Types.of_this_kernel()


def understood_or_refused(data: bytes) -> None:
    try:
        marking.layout(btf.Types(data))
    except TrackingNotSupported:
        return


@given(st.integers(0, len(GOOD)))
def test_a_description_that_is_cut_off_is_refused(length):
    understood_or_refused(GOOD[:length])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_description_is_understood_or_refused(changes):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    understood_or_refused(bytes(data))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) // 4 - 1), st.integers(0, 40)), min_size=1))
def test_types_that_name_each_other_are_understood_or_refused(changes):
    words = list(struct.unpack(f"<{len(GOOD) // 4}I", GOOD[: len(GOOD) // 4 * 4]))
    for place, value in changes:
        words[place] = value
    understood_or_refused(struct.pack(f"<{len(words)}I", *words) + GOOD[len(words) * 4 :])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data):
    with pytest.raises(TrackingNotSupported):
        marking.layout(btf.Types(data))
