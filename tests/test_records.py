"""What is noted about a guest comes back as it was, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup import records
from vdbackup.errors import RecoveryError
from vdbackup.guest.choice import choose
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.model import DeviceName, File, Guest, Kernel, System
from vdbackup.records import exact, from_json, to_json, tolerant

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
