"""Every class of errors has a code by which another program knows it, and the manual lists it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import vdbackup
from tests.test_architecture import modules
from vdbackup import errors
from vdbackup.errors import VdbackupError
from vdbackup.sources import demo_disk

MANUAL = Path(__file__).resolve().parents[1] / "resources" / "manual" / "json.md"


def classes() -> list[type[VdbackupError]]:
    """The whole hierarchy, wherever a class of it stands."""
    for module in pkgutil.walk_packages(vdbackup.__path__, "vdbackup."):
        importlib.import_module(module.name)
    return list(descent(VdbackupError))


def codes() -> str:
    """The part of the manual that lists them."""
    return MANUAL.read_text(encoding="utf-8").partition("| code |")[2]


def descent(base: type[VdbackupError]) -> Iterator[type[VdbackupError]]:
    if base.__module__.startswith("vdbackup."):
        yield base
    for below in base.__subclasses__():
        yield from descent(below)


def test_every_class_of_errors_has_a_code_of_its_own():
    found = classes()
    assert len(found) > 50
    assert [each for each in found if "code" not in vars(each)] == []
    given = [each.code for each in found]
    assert [code for code in given if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)] == []
    assert [code for code, times in Counter(given).items() if times > 1] == []


def test_the_manual_lists_every_code_and_no_other():
    """What a program goes by must not change without anybody noticing."""
    listed = re.findall(r"^\| `([a-z-]+)` \|", codes(), re.MULTILINE)
    assert sorted(listed) == listed
    assert set(listed) == {each.code for each in classes()}


def test_every_class_of_errors_says_in_its_description_what_happened():
    assert [each for each in classes() if not (vars(each).get("__doc__") or "").strip()] == []


def test_no_error_is_of_a_whole_family():
    """The code of a family alone would say only that something of that family went wrong."""
    plain = re.compile(r"(raise|return) (Backup|Disk|Recovery|Repository|Source)Error\(")
    assert [each for each in modules() if plain.search(each.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (errors.NotMergeable, "backup-refused"),
        (errors.BackupError, "backup-refused"),
        (errors.TargetExists, "recovery-refused"),
        (errors.PartMissing, "disk-unusable"),
        (demo_disk.DemoDiskExists, "source-unusable"),
        (errors.NoSpace, "repository-unusable"),
        (errors.VdbackupError, "failed"),
    ],
)
def test_a_finer_code_comes_with_its_familys(error: type[errors.VdbackupError], family: str):
    assert error("It went wrong.").family == family
