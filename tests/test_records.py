"""What is noted about a guest comes back as it was, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.errors import RecoveryError
from vdbackup.guest.choice import choose
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import DeviceName, File, Guest, Kernel, System
from vdbackup.records import from_json, to_json

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
