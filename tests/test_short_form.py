"""The short form says things less often, and nothing less."""

from __future__ import annotations

import pytest

from tests import short_form
from tests.short_form import leave_to_the_long_form

pytest_plugins = ["pytester"]

TESTS = """
import pytest

formats = pytest.mark.parametrize("disk_format", ["vmdk", "vhd", "vhdx", "qcow2"])

@formats
@pytest.mark.parametrize("word", ["i", "ii", "iii", "iv"])
def test_of_the_engine(word, disk_format):
    pass

@formats
@pytest.mark.each_format
def test_of_a_formats_own_code(disk_format):
    pass

@pytest.mark.parametrize("disk_format", ["vmdk", "vhd"])
def test_of_two_that_were_chosen(disk_format):
    pass

def test_of_none():
    pass
"""


@pytest.fixture
def kept(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tests of the short form."""
    monkeypatch.setattr(short_form, "TESTS", pytester.path)
    monkeypatch.setattr(short_form, "ENGINE", {"test_it.py"})
    pytester.makeini("[pytest]\nmarkers = each_format\n long")
    items, _ = pytester.inline_genitems(pytester.makepyfile(test_it=TESTS))
    leave_to_the_long_form(items)
    return [item.name for item in items if not any(item.iter_markers("long"))]


def test_each_case_is_there_once_and_of_four_cases_each_is_of_another_format(kept):
    cases = [name for name in kept if name.startswith("test_of_the_engine")]
    words, formats = zip(
        *(name.rstrip("]").split("[")[1].split("-") for name in cases), strict=True
    )
    assert sorted(words) == ["i", "ii", "iii", "iv"]
    assert sorted(formats) == ["qcow2", "vhd", "vhdx", "vmdk"]


def test_all_formats_stay_of_what_rests_on_their_own_code(kept):
    assert len([name for name in kept if name.startswith("test_of_a_formats_own_code")]) == 4


def test_what_names_some_formats_or_none_stays_as_it_is(kept):
    assert len([name for name in kept if name.startswith("test_of_two_that_were_chosen")]) == 2
    assert "test_of_none" in kept


def test_it_is_the_same_in_every_run(kept):
    """The hash of the test's name chooses, which is not that of Python's strings."""
    assert "test_of_the_engine[i-vhdx]" in kept
