"""What tests of devices stand on: no run is disturbed by one that was killed before it."""

from __future__ import annotations

import pytest

from tests.sources.loops import (
    add_partition,
    attached,
    delete_partition,
    delete_partitions_of_unused,
    own_name,
)

MIB = 1 << 20


@pytest.mark.usefixtures("as_root")
def test_partitions_that_a_killed_run_left_are_in_nobodys_way(tmp_path):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    with own_name() as device:
        with attached(device, image):
            add_partition(device, 1, 0, MIB)
        delete_partitions_of_unused()
        with attached(device, image):
            add_partition(device, 1, MIB, MIB)
            delete_partition(device, 1)
