"""Text from outside: one answer to what cannot be shown, in a terminal and in the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.gui import words
from vdbackup.text import printable

HOSTILE = {
    "red \x1b[31m": r"red \x1b[31m",
    "two\nlines\r": r"two\nlines\r",
    "photo\u202egpj.exe": r"photo\u202egpj.exe",
    "no UTF-8 \udcff": r"no UTF-8 \udcff",
    "a title \x9d0;x\x07": r"a title \x9d0;x\x07",
    "nothing\u200b": r"nothing\u200b",
    "\U000e0041 tag": r"\U000e0041 tag",
}


@pytest.mark.parametrize(("name", "seen"), HOSTILE.items(), ids=ascii)
def test_a_hostile_name_is_written_out_alike_in_the_terminal_and_in_the_window(name, seen):
    assert printable(name) == seen
    assert printable(name) == seen
    assert words.shown_lines(name.replace("\n", "").replace("\u200b", "")).isprintable()


@pytest.mark.parametrize("name", ["Büro 漢字.img", "a & <b> 'c' \"d\"", "C:\\disk", ""])
def test_a_name_that_can_be_shown_stays_as_it_is(name):
    assert printable(name) == printable(name) == name


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_shown_in_one_line_and_shown_again_stays_the_same(text):
    seen = printable(text)
    assert seen.isprintable()
    assert printable(seen) == seen
    seen.encode()


def test_our_own_line_ends_stay_where_they_are_meant():
    assert printable("a\nb\x1b", but="\n") == "a\nb\\x1b"
