"""A virtual machine's screen, looked at by a program: does it change, and is there anything on it?

QEMU writes it as a PPM file (screendump in the QMP reference). It is compared in coarse tiles, so
that a cursor that blinks is no change. In the text mode of a PC the characters themselves lie at
B8000h, a byte each before one for the colour, in code page 437.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

TEXT_MEMORY = 0xB8000
TEXT_BYTES = 32 << 10
_COLUMNS, _LINES = 80, 25
_LINE_BYTES = _COLUMNS * 2
_EMPTY = np.array([0x00, 0x20, 0xFF], np.uint8)
"""Characters of which nothing is seen."""
_TEXT_SIZES = ((720, 400), (640, 400))
"""Pixels, width first, of 80 x 25 characters."""

_TILE = 16
_UNCHANGED = 4
"""Tiles that may differ between two pictures of a screen that is at rest: a cursor of 8 x 16 pixels
touches two or, where it stands between tiles, four."""
_DIFFERENCE = 8
"""Grey levels that the mean of a tile may differ by, of 255: a thin cursor is half a tile."""
_FEW_COLOURS = 16
_NEARLY_ALL = 0.97
_MOSTLY = 0.5
"""Shares of a screen's pixels."""
_HEADER = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s", re.ASCII)
_MAX_SIZE = 1 << 26


@dataclass(frozen=True)
class Frame:
    """What was on the screen.

    Attributes:
        pixels: height x width x 3, red, green and blue, uint8.
    """

    pixels: npt.NDArray[np.uint8]

    @classmethod
    def from_ppm(cls, data: bytes) -> Frame | None:
        """The picture in a PPM file; None where it holds none, or an empty one."""
        header = _HEADER.match(data)
        if header is None:
            return None
        width, height = int(header[1]), int(header[2])
        size = width * height * 3
        if not 0 < size <= _MAX_SIZE or len(data) < header.end() + size:
            return None
        pixels = np.frombuffer(data, np.uint8, size, header.end())
        return cls(pixels.reshape(height, width, 3))

    @property
    def is_text(self) -> bool:
        """Whether the screen is in the text mode of a PC, as far as its size says."""
        height, width, _ = self.pixels.shape
        return (width, height) in _TEXT_SIZES

    @cached_property
    def tiles(self) -> npt.NDArray[np.float32]:
        """The mean grey of each tile; what is left over at the edges is left out."""
        rows, columns = (length // _TILE for length in self.pixels.shape[:2])
        grey = self.pixels[: rows * _TILE, : columns * _TILE].mean(axis=2, dtype=np.float32)
        means: npt.NDArray[np.float32] = grey.reshape(rows, _TILE, columns, _TILE).mean(axis=(1, 3))
        return means

    @property
    def blank(self) -> bool:
        """Whether nothing is on it, but perhaps a cursor."""
        background = np.median(self.tiles) if self.tiles.size else 0
        return int((abs(self.tiles - background) > _DIFFERENCE).sum()) <= _UNCHANGED

    @cached_property
    def plain(self) -> bool:
        """Whether it is mostly black and has few colours: messages of a system, not a desktop.

        A logo may stand above them, such as Linux' penguin of 80 x 80 pixels.
        """
        colours = self.pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        counts = np.sort(np.unique(colours, return_counts=True)[1])
        few = counts[-_FEW_COLOURS:].sum() > _NEARLY_ALL * colours.size
        return bool(few) and float((colours == 0).mean()) > _MOSTLY

    def same_as(self, other: Frame) -> bool:
        """Whether nothing has changed between the two but a cursor."""
        if self.pixels.shape != other.pixels.shape:
            return False
        return int((abs(self.tiles - other.tiles) > _DIFFERENCE).sum()) <= _UNCHANGED

    def png(self) -> bytes:
        """The picture as a PNG file (the specification's chunks IHDR, IDAT, IEND)."""
        height, width, _ = self.pixels.shape
        rows = np.zeros((height, 1 + width * 3), np.uint8)  # a filter's type before each row: none
        rows[:, 1:] = self.pixels.reshape(height, width * 3)
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )


def text_of(frame: Frame, memory: bytes) -> str:
    """The lines of a screen in text mode; one that went on below is one line again.

    Where in the memory the screen begins, only the graphics card knows: a system moves that on line
    by line instead of moving the text. So it is looked for by which of the cells are empty.

    Args:
        frame: the screen at that moment.
        memory: what lies at TEXT_MEMORY, TEXT_BYTES long.
    """
    cells = np.frombuffer(memory[: len(memory) // _LINE_BYTES * _LINE_BYTES : 2], np.uint8)
    lines = cells.reshape(-1, _COLUMNS)
    drawn, written = _drawn(frame), ~np.isin(lines, _EMPTY)
    starts = range(len(lines) - _LINES + 1)
    start = min(starts, key=lambda at: int((written[at : at + _LINES] != drawn).sum()), default=0)
    shown = lines[start : start + _LINES]
    text = "".join(_printable(line) + ("" if line[-1] not in _EMPTY else "\n") for line in shown)
    return text.strip("\n")


def _drawn(frame: Frame) -> npt.NDArray[np.bool_]:
    """Which of the cells of a screen in text mode have something in them."""
    height, width, _ = frame.pixels.shape
    cell = (_LINES, height // _LINES, _COLUMNS, width // _COLUMNS)
    grey = frame.pixels.max(axis=2).reshape(cell)
    drawn: npt.NDArray[np.bool_] = grey.max(axis=(1, 3)) != grey.min(axis=(1, 3))
    return drawn


def _printable(line: npt.NDArray[np.uint8]) -> str:
    characters = line.tobytes().decode("cp437")
    return "".join(c if c.isprintable() else " " for c in characters).rstrip()
