"""What is noted about a guest comes back as it was, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup import records
from vdbackup.errors import RecoveryError, UsageError
from vdbackup.guest.choice import choose
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.model import DeviceName, File, Guest, Kernel, System
from vdbackup.records import exact, from_json, lenient, to_json, tolerant

GUEST = Guest(
    System.LINUX,
    name="Debian",
    kernels=(Kernel("6.1", File("p1", "/vmlinuz"), initramfs_drivers=("ahci", "sd_mod")),),
    device_names=(DeviceName("/dev/sda1", File("p1", "/etc/fstab"), 1),),
)
STORED = json.dumps(to_json(GUEST))
CHOICE = json.dumps(to_json(choose(GUEST)))


def test_a_guest_and_its_hardware_come_back() -> None:
    assert from_json(Guest, json.loads(STORED)) == GUEST
    assert from_json(Hardware, json.loads(CHOICE)) == choose(GUEST)


def without(data: Any, name: str) -> Any:
    """The JSON value as it was before a field of that name was written."""
    if isinstance(data, list):
        return [without(item, name) for item in data]
    if isinstance(data, dict):
        return {key: without(value, name) for key, value in data.items() if key != name}
    return data


def test_what_was_noted_before_a_field_was_there_comes_back() -> None:
    hardware = choose(GUEST, HardwareRequest(Controller.VIRTIO))
    assert hardware.edit.names  # each of the classes that have the field is there
    for value in (GUEST, hardware):
        assert from_json(type(value), without(to_json(value), "fixed")) == value
    with pytest.raises(RecoveryError, match="is damaged"):
        from_json(Hardware, without(to_json(hardware), "names"))


@given(st.builds(Guest, system=st.sampled_from(System), kernels=st.just(()), root=st.none(),
                 boot=st.none(), efi=st.none(), loaders=st.just(()), problems=st.just(()),
                 device_names=st.just(()), sector_size=st.integers(0, 4096)))  # fmt: skip
def test_every_guest_comes_back(guest: Guest) -> None:
    assert from_json(Guest, json.loads(json.dumps(to_json(guest)))) == guest


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key."""
    keys = data.keys() if isinstance(data, dict) else range(len(data))
    found = [(data, key) for key in keys]
    for key in keys:
        if isinstance(data[key], dict | list):
            found += places(data[key])
    return found


@given(
    where=st.integers(0, 1000),
    what=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_whatever_stands_in_the_file_is_a_guest_or_an_error(where: int, what: Any) -> None:
    data = json.loads(STORED)
    found = places(data)
    holder, key = found[where % len(found)]
    holder[key] = what
    try:
        guest = from_json(Guest, data)
    except RecoveryError:
        return
    choose(guest)


@pytest.mark.parametrize("data", [None, [], {}, {"system": "linux"}, "x" * 10])
def test_what_is_no_guest_is_refused(data: Any) -> None:
    with pytest.raises(RecoveryError, match="is damaged"):
        from_json(Guest, data)


@dataclass(frozen=True)
class Written:
    """As another version may write it."""

    name: str
    runs: tuple[tuple[int, int], ...] = ()
    later: str = ""


def test_what_another_version_says_more_or_less_is_no_damage() -> None:
    assert tolerant(Written, {"name": "a"}) == Written("a")
    said = {"name": "a", "runs": [[1, 2], [3, 4]], "of_tomorrow": {"x": 1}}
    assert tolerant(Written, said) == Written("a", ((1, 2), (3, 4)))
    with pytest.raises((TypeError, ValueError)):
        exact(Written, said)
    assert exact(Written, to_json(Written("a", ((1, 2),)))) == Written("a", ((1, 2),))


@pytest.mark.parametrize(
    "said",
    [
        None, [], "name", {}, {"name": 1}, {"name": None}, {"name": "a", "later": None},
        {"name": "a", "runs": "no"}, {"name": "a", "runs": [[1]]},
        {"name": "a", "runs": [[1, 2, 3]]},
        {"name": "a", "runs": [[True, 2]]}, {"name": "a", "runs": [[1, -2]]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_of_another_kind_is_refused(said: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        tolerant(Written, said)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (records.text, ["", "Büro"], [None, 1, b"x", ["x"]]),
        (records.number, [0, 2**63 - 1], [True, -1, 2**63, 1.0, "1", None]),
        (records.flag, [True, False], [0, 1, "true", None]),
        (
            records.moment,
            ["2026-11-28T14:00:00+00:00"],
            ["", "yesterday", 1, None, "0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59"],
        ),
    ],
)
def test_a_value_is_what_it_has_to_be_or_refused(
    check: Callable[[object], object], right: list[Any], wrong: list[Any]
) -> None:
    assert [check(value) for value in right] == right
    for value in wrong:
        with pytest.raises((TypeError, ValueError)):
            check(value)


def even(value: int) -> int:
    if value % 2:
        raise UsageError(f"{value} is odd.", "Give another.")
    return value


@dataclass(frozen=True)
class Inner:
    """A record in another."""

    half: Annotated[int, even]
    note: str | None = None


@dataclass(frozen=True)
class Look:
    """One without which nothing is lost."""

    size: Annotated[int, even] = 2
    note: str = "usual"


@dataclass(frozen=True)
class Reference:
    """One that is a text in JSON."""

    kind: str
    rest: str

    @classmethod
    def parse(cls, said: str) -> Reference:
        return cls(*said.split(":", 1))

    def __str__(self) -> str:
        return f"{self.kind}:{self.rest}"


@dataclass(frozen=True)
class Outer:
    """One with a field of each type."""

    folder: Path
    at: datetime
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    inner: Inner | None = None
    class_of: System = field(default=System.LINUX, metadata=records.written_as("class"))
    machine: dict[str, Any] = field(default_factory=dict)
    look: Look = field(default=Look(), metadata=records.LENIENT)
    reference: Reference = field(
        default=Reference("a", "b"), metadata=records.written_as("of", Reference.parse)
    )


AT = datetime(2026, 11, 28, 14, 0, 7, tzinfo=UTC)
OUTER = Outer(
    Path("/mnt/\udcff"), AT, {"size": ("1",)}, 1.5, Inner(4), System.WINDOWS, {"a": [{"b": [1]}]}
)  # fmt: skip
OUTER_TEXT = (
    '{"folder": "/mnt/\\udcff", "at": "2026-11-28T14:00:07+00:00", "facts": {"size": ["1"]}, '
    '"seconds": 1.5, "inner": {"half": 4, "note": null}, "class": "windows", '
    '"machine": {"a": [{"b": [1]}]}, "look": {"size": 2, "note": "usual"}, "of": "a:b"}'
)


@pytest.mark.parametrize("read", [exact, tolerant, lenient])
def test_every_type_is_written_in_one_way_and_comes_back(read: Callable[..., Outer]) -> None:
    assert json.dumps(to_json(OUTER)) == OUTER_TEXT
    assert read(Outer, json.loads(OUTER_TEXT)) == OUTER


def test_what_is_missing_has_its_default_and_never_that_of_another_record() -> None:
    first, second = (tolerant(Outer, {"folder": "/", "at": "2026-11-28"}) for _ in range(2))
    assert first == Outer(Path("/"), datetime(2026, 11, 28, tzinfo=UTC))
    assert first.machine is not second.machine


def test_what_a_later_version_says_in_a_record_inside_is_passed_over() -> None:
    said = json.loads(OUTER_TEXT)
    said["inner"]["of_tomorrow"] = 1
    assert tolerant(Outer, said) == OUTER
    with pytest.raises((TypeError, ValueError)):
        exact(Outer, said)


HOSTILE: list[tuple[str, str]] = [
    ("folder", '""'), ("folder", '"a\\u0000b"'), ("folder", "1"), ("folder", "null"),
    ("at", '"0001-01-01T00:00:00+23:59"'), ("at", "20261128"), ("at", '"\\u0000"'),
    ("facts", '{"size": "1"}'), ("facts", '{"size": [1]}'), ("facts", "[]"), ("facts", "null"),
    ("seconds", "NaN"), ("seconds", "Infinity"), ("seconds", "-0.5"), ("seconds", "true"),
    ("seconds", "9" * 4000), ("seconds", '"1"'), ("seconds", "1e999"),
    ("inner", '{"half": 3}'), ("inner", '{"half": 1e1}'), ("inner", "{}"), ("inner", "[4]"),
    ("inner", "9" * 4000), ("inner", "[" * 900 + "]" * 900),
    ("class", '"Windows"'), ("class", "[]"), ("class", "{}"), ("class", "null"),
    ("machine", "[]"), ("machine", '"{}"'), ("of", "null"), ("of", "[]"), ("of", '"ab"'),
]  # fmt: skip


@pytest.mark.parametrize(("key", "said"), HOSTILE, ids=lambda value: str(value)[:20])
def test_hostile_values_are_refused_by_their_name_or_passed_over(key: str, said: str) -> None:
    data = json.loads(OUTER_TEXT)
    data[key] = json.loads(said)
    for read in (exact, tolerant):
        with pytest.raises((TypeError, ValueError), match=f"^{key}: ") as caught:
            read(Outer, data)
        assert len(str(caught.value)) < 300  # it goes into a sentence
    otherwise = {"folder": Path("/other"), "at": AT}
    default = Outer(**otherwise)
    name = {"class": "class_of", "of": "reference"}.get(key, key)
    assert lenient(Outer, data, **otherwise) == replace(OUTER, **{name: getattr(default, name)})


@pytest.mark.parametrize("said", [None, [], 1, {"size": 3, "note": 7}], ids=str)
def test_a_lenient_field_in_a_strict_record_costs_only_itself(said: object) -> None:
    data = json.loads(OUTER_TEXT)
    assert tolerant(Outer, data | {"look": said}) == OUTER
    half = tolerant(Outer, data | {"look": {"size": 3, "note": "kept"}})
    assert half == replace(OUTER, look=Look(2, "kept"))


def test_of_a_key_that_stands_twice_the_last_one_counts_and_is_checked() -> None:
    twice = OUTER_TEXT.replace('"seconds": 1.5', '"seconds": 1.5, "seconds": 2')
    assert tolerant(Outer, json.loads(twice)) == replace(OUTER, seconds=2.0)
    with pytest.raises(ValueError, match=r"^seconds: "):
        tolerant(Outer, json.loads(twice.replace(": 2,", ": -2,", 1)))


def test_no_text_and_no_list_is_longer_than_a_file_of_ours() -> None:
    for said in ("x" * (records.MAX_LETTERS + 1), [[1, 2]] * (records.MAX_ITEMS + 1)):
        with pytest.raises(ValueError, match="too long"):
            tolerant(
                Written, {"name": "a", "runs": said} if isinstance(said, list) else {"name": said}
            )
