"""The program that runs in the kernel: it marks the blocks that a write, discard or the like names.

It hangs on the tracepoint block_bio_queue, which fires in the context of whoever submits the
request, before the data reach the device: hence a harvest counts only while nothing is under way.
It is attached by its type (tp_btf): classic tracepoint programs are passed over whenever any other
program runs on the processor (measured: 496 of 1,024 writes lost). Of partitions' requests it sees
the whole disk's number, and sectors counted from its beginning.

Three copies of it are loaded. A program is not run while it runs on the same processor already,
which happens if an interrupt comes while it does: in a task, in a soft and in a hard interrupt is
as deep as that goes, so that one of three sees each request.

A fourth program hangs on block_rq_issue, and marks nothing: it raises a flag when a command is sent
to the disk that is no request of the block layer, and may write (SG_IO and the like). Its place on
the disk only the drive knows.

Source of the instructions: the kernel's Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field

from vdbackup.agent.block_devices import SECTOR
from vdbackup.agent.btf import Types
from vdbackup.agent.changes import BLOCK
from vdbackup.errors import TrackingNotSupported

COPIES = 3
PROGRAMS = COPIES + 1
_SECTORS_SHIFT = 9
_BLOCK_SHIFT = (BLOCK // SECTOR).bit_length() - 1

GENERATION, FLAGS = 0, 8
COUNTED = (64, 128, 192)
"""Where in the state's map each copy counts the sectors that it has seen, each in a cache line."""

F_LONG, F_RANGE, F_PASSED = 1, 2, 4
"""A request was longer than any that the kernel makes; lay beyond the end of the disk; a command
was passed to the drive beside the block layer."""
_PASSED_OUT = 35
"""REQ_OP_DRV_OUT, in the lowest byte of a request's flags (the kernel's linux/blk_types.h)."""
_MAX_WORDS = 1100
"""The longest request, of 4 GiB - 512, lies in 1,025 words of 64 blocks."""


@dataclass(frozen=True)
class Layout:
    """Where the kernel has what the programs read: places in bytes, and the tracepoints' types."""

    queued: int
    issued: int
    flags: int
    queue: int
    disk_of_queue: int
    device: int
    operation: int
    sector: int
    length: int
    disk: int
    major: int
    first_minor: int


@functools.cache
def layout_of_this_kernel() -> Layout:
    """Of the one that runs; raises TrackingNotSupported."""
    return layout(Types.of_this_kernel())


def layout(types: Types) -> Layout:
    """By the kernel's own description; raises TrackingNotSupported where it is built otherwise."""
    queued, bio = _tracepoint(types, "block_bio_queue")
    issued, request = _tracepoint(types, "block_rq_issue")
    queue, queue_type = types.member(request, "q")
    disk_of_queue, _ = types.member(types.target(queue_type), "disk")
    device, device_type = types.member(bio, "bi_bdev")
    disk, disk_type = types.member(types.target(device_type), "bd_disk")
    iterator, iterator_type = types.member(bio, "bi_iter")
    return Layout(
        queued=queued,
        issued=issued,
        flags=_number(types, request, "cmd_flags", 4),
        queue=queue,
        disk_of_queue=disk_of_queue,
        device=device,
        operation=_number(types, bio, "bi_opf", 4),
        sector=iterator + _number(types, iterator_type, "bi_sector", 8),
        length=iterator + _number(types, iterator_type, "bi_size", 4),
        disk=disk,
        major=_number(types, types.target(disk_type), "major", 4),
        first_minor=_number(types, types.target(disk_type), "first_minor", 4),
    )


def _tracepoint(types: Types, name: str) -> tuple[int, int]:
    """The number of its type, and that of what it is about.

    Its own data come first. Before Linux 5.13 there was the queue, too.
    """
    number = types.typedef(f"btf_trace_{name}")
    parameters = types.parameters(number)
    if len(parameters) != 2:
        raise TrackingNotSupported(
            "This kernel reports writes in another way than is known here.",
            "Changes are tracked by Linux 5.15 and later; until then everything is read.",
        )
    return number, types.target(parameters[1])


def _number(types: Types, structure: int, name: str, size: int) -> int:
    place, kind = types.member(structure, name)
    if types.size(kind) != size:
        raise TrackingNotSupported(
            f"This kernel has another kind of number in {name} than is known here.",
            "Everything is read at each backup instead.",
        )
    return place


@dataclass
class _Code:
    """Instructions in the making; a jump names where it leads to, and is filled in at the end."""

    lines: list[tuple[int, int, int, int | str, int]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, code: int, to: int = 0, of: int = 0, off: int | str = 0, imm: int = 0) -> None:
        """One instruction: its code, two registers, a place or where it jumps to, a number."""
        self.lines.append((code, to, of, off, imm))

    def wide(self, to: int, kind: int, value: int) -> None:
        """Load 64 bits: a number (kind 0), a map (1), or the address of a map's only value (2)."""
        self.add(0x18, to, kind, 0, value & 0xFFFFFFFF)
        self.add(0, 0, 0, 0, value >> 32)

    def here(self, name: str) -> None:
        """Where jumps of that name lead to."""
        self.places[name] = len(self.lines)

    def assembled(self) -> bytes:
        """What bpf(2) takes."""
        return b"".join(
            struct.pack(
                "<BBhI",
                code, to | of << 4,
                self.places[off] - at - 1 if isinstance(off, str) else off,
                imm & 0xFFFFFFFF,
            )
            for at, (code, to, of, off, imm) in enumerate(self.lines)
        )  # fmt: skip


def program(
    where: Layout,
    number: tuple[int, int],
    sectors: int,
    words: int,
    state: int,
    bits: int,
    copy: int,
) -> bytes:
    """The instructions that mark what is written to one disk.

    Args:
        where: the kernel's layout.
        number: the disk's, major and minor.
        sectors: its size.
        words: of 64 blocks each, how many a half of the bitmap has.
        state: descriptor of the map with the generation, flags and counts.
        bits: descriptor of the bitmap: the program marks in the half `generation & 1`.
        copy: which of COPIES this is.
    """
    code = _Code()
    _of_this_disk(code, where, number)
    _counted(code, where, sectors, state, copy)
    _marked(code, words, bits)
    code.here("long")
    _raise_flag(code, state, F_LONG)
    code.here("range")
    _raise_flag(code, state, F_RANGE)
    return _ended(code)


def _ended(code: _Code) -> bytes:
    code.here("end")
    code.add(0xB7, 0)  # return 0
    code.add(0x95)
    return code.assembled()


def watch(where: Layout, number: tuple[int, int], state: int) -> bytes:
    """The instructions of the fourth program; arguments as of `program`."""
    code = _Code()
    code.add(0x79, 6, 1)  # r6 = the only argument
    code.add(0x61, 0, 6, where.flags)
    code.add(0x57, 0, imm=0xFF)
    code.add(0x55, 0, off="end", imm=_PASSED_OUT)
    code.add(0x79, 2, 6, where.queue)
    code.add(0x79, 2, 2, where.disk_of_queue)
    _number_is(code, where, number)
    _raise_flag(code, state, F_PASSED)
    return _ended(code)


def _of_this_disk(code: _Code, where: Layout, number: tuple[int, int]) -> None:
    """Leave but for what changes something on this disk: r6 is the request from here on."""
    code.add(0x79, 6, 1)  # r6 = the only argument
    code.add(0x61, 0, 6, where.operation)
    code.add(0x57, 0, imm=1)  # operations that change data have odd numbers (op_is_write)
    code.add(0x15, 0, off="end")
    code.add(0x79, 2, 6, where.device)
    code.add(0x79, 2, 2, where.disk)
    _number_is(code, where, number)


def _number_is(code: _Code, where: Layout, number: tuple[int, int]) -> None:
    """Leave if the disk at r2 has another number."""
    for place, wanted in ((where.major, number[0]), (where.first_minor, number[1])):
        code.add(0x61, 3, 2, place)
        code.add(0x55, 3, off="end", imm=wanted)


def _counted(code: _Code, where: Layout, sectors: int, state: int, copy: int) -> None:
    """Count its sectors; then r7 is its first block, and r8 its last."""
    code.add(0x79, 7, 6, where.sector)
    code.add(0x61, 8, 6, where.length)
    code.add(0x77, 8, imm=_SECTORS_SHIFT)
    code.add(0x15, 8, off="end")  # a flush writes nothing
    code.wide(9, 2, state)
    code.add(0xDB, 9, 8, COUNTED[copy])  # atomically
    code.add(0x0F, 8, 7)  # behind its end
    code.add(0xAD, 8, 7, "range")  # which is before its beginning
    code.wide(1, 0, sectors)
    code.add(0x2D, 8, 1, "range")
    code.add(0x17, 8, imm=1)
    code.add(0x77, 7, imm=_BLOCK_SHIFT)
    code.add(0x77, 8, imm=_BLOCK_SHIFT)
    code.add(0x79, 6, 9, GENERATION)


def _marked(code: _Code, words: int, bits: int) -> None:
    """Set the bits of all its blocks, word by word, and leave."""
    code.add(0x57, 6, imm=1)
    code.add(0x27, 6, imm=words)  # r6: where the half begins
    code.add(0xB7, 9)  # r9: how many words were done
    code.here("word")
    code.add(0xBF, 1, 7)
    code.add(0x77, 1, imm=6)
    code.add(0x0F, 1, 6)
    code.add(0x63, 10, 1, -4)
    code.wide(1, 1, bits)
    code.add(0xBF, 2, 10)
    code.add(0x07, 2, imm=-4)
    code.add(0x85, imm=1)  # r0 = the word's address (bpf_map_lookup_elem)
    code.add(0x15, 0, off="range")
    code.add(0xB7, 1, imm=-1)
    code.add(0xBF, 2, 7)
    code.add(0x57, 2, imm=63)
    code.add(0x6F, 1, 2)  # r1: from its first block on
    code.add(0xBF, 2, 7)
    code.add(0x47, 2, imm=63)
    code.add(0x3D, 8, 2, "whole")
    code.add(0xB7, 2, imm=63)
    code.add(0xBF, 3, 8)
    code.add(0x57, 3, imm=63)
    code.add(0x1F, 2, 3)
    code.add(0xB7, 3, imm=-1)
    code.add(0x7F, 3, 2)
    code.add(0x5F, 1, 3)  # and up to its last
    code.here("whole")
    code.add(0x79, 2, 0)
    code.add(0x5F, 2, 1)
    code.add(0x1D, 2, 1, "next")  # marked already: no processor waits for another one's cache
    code.add(0xDB, 0, 1, imm=0x40)  # atomically
    code.here("next")
    code.add(0x47, 7, imm=63)
    code.add(0x07, 7, imm=1)
    code.add(0x2D, 7, 8, "end")
    code.add(0x07, 9, imm=1)
    code.add(0xA5, 9, off="word", imm=_MAX_WORDS)


def _raise_flag(code: _Code, state: int, flag: int) -> None:
    code.wide(9, 2, state)
    code.add(0xB7, 1, imm=flag)
    code.add(0xDB, 9, 1, FLAGS, 0x40)
    code.add(0x05, off="end")
