"""A screen, looked at by a program."""

from __future__ import annotations

import numpy as np
import pytest

from vdbackup.recovery.boot_test.screen import TEXT_BYTES, Frame, text_of


def screen(width: int = 1280, height: int = 800, colour: int = 0) -> Frame:
    return Frame(np.full((height, width, 3), colour, np.uint8))


def with_messages() -> Frame:
    """White on black, with a small picture of many colours above it."""
    frame = screen()
    frame.pixels[100:700:8, :600] = 170
    frame.pixels[:80, :80] = np.random.default_rng(7).integers(0, 255, (80, 80, 3), np.uint8)
    return frame


def with_desktop() -> Frame:
    """Each pixel another colour, nearly."""
    frame = screen()
    frame.pixels[:, :, 0] = np.arange(1280) % 256
    frame.pixels[:, :, 2] = (np.arange(800) % 256)[:, None]
    return frame


def test_messages_of_a_system_are_told_from_a_desktop_in_spite_of_a_logo() -> None:
    assert with_messages().plain
    assert not with_desktop().plain


def test_a_cursor_is_no_change_and_a_line_is_one() -> None:
    before, cursor, line = (screen(720, 400) for _ in range(3))
    cursor.pixels[24:40, 12:20] = 255  # across four tiles
    line.pixels[40:56, :400] = 200
    assert cursor.same_as(before)
    assert cursor.blank
    assert not line.same_as(before)
    assert not line.blank


def test_a_screen_of_another_size_has_changed() -> None:
    assert not screen(720, 400).same_as(screen(640, 480))


@pytest.mark.parametrize(
    "data", [b"", b"P6", b"P5 2 2 255 " + bytes(12), b"P6 0 9 255 ", b"P6 2 2 255 " + bytes(11)]
)
def test_what_is_no_picture_is_none(data: bytes) -> None:
    assert Frame.from_ppm(data) is None


def test_a_text_is_read_where_the_screen_stands_in_its_memory() -> None:
    written = {0: "what was there before", 60: "No bootäble", 61: "x" * 80, 62: "goes on"}
    memory = bytearray(b" \x07" * (TEXT_BYTES // 2))
    frame = screen(720, 400)
    for number, line in written.items():
        memory[number * 160 : number * 160 + len(line) * 2 : 2] = line.encode("cp437")
        if number >= 60:
            for column in (at for at, character in enumerate(line) if character != " "):
                frame.pixels[(number - 60) * 16 + 3, column * 9 + 2] = 170
    assert text_of(frame, bytes(memory)) == "No bootäble\n" + "x" * 80 + "goes on"
