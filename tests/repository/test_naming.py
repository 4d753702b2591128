"""Names of a point's files: what is made can be taken apart, and nothing else can."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.repository import naming
from vdbackup.repository.naming import PointType

numbers = st.integers(1, 10**18 - 1)
kinds = st.sampled_from(PointType)
formats = st.sampled_from(BACKUP_FORMATS)


def test_file_names_are_those_that_repositories_have_always_had():
    layer = naming.layer_name(2, PointType.INCREMENTAL, DiskFormat.VMDK)
    assert layer == "0002-incremental.vmdk"
    assert naming.overlay_name(2, DiskFormat.VMDK) == "0002-overlay.vmdk"
    assert naming.others_of(layer) == (
        "0002-incremental.json",
        "0002-incremental.digests",
        "0002-overlay.vmdk",
        "0002-overlay.retarget.json",
        "0002-boot.png",
    )
    assert naming.picture_name(12345) == "12345-boot.png"


@given(numbers, kinds, formats)
def test_each_file_name_that_is_made_can_be_taken_apart(number, kind, disk_format):
    layer = naming.layer_name(number, kind, disk_format)
    manifest, digests, overlay, report, picture = naming.others_of(layer)
    assert naming.layer_of(layer) == (number, kind, disk_format)
    assert naming.overlay_of(overlay) == (number, disk_format)
    assert naming.overlay_name(number, disk_format) == overlay
    assert naming.number_of_manifest(manifest) == number
    assert naming.overlay_reported_in(report) == naming.stem_of(overlay)
    assert naming.manifest_beside(Path("set", layer)) == Path("set", manifest)
    assert naming.digests_beside(Path("set", layer)) == Path("set", digests)
    assert naming.report_name(overlay) == report
    assert naming.picture_name(number) == picture
    assert naming.belong_together(manifest, layer, digests, overlay)
    for name in (layer, manifest, digests, overlay, report, picture):
        assert naming.number_of(name) == number
    for name in (layer, digests, overlay):
        assert naming.can_be_a_points(name)


@pytest.mark.parametrize(
    "name",
    [
        "1-full.vmdk", "0001-full.raw", "0001-FULL.vmdk", "0001-full.vmdk\n",
        "0001-full.vmdk.partial", "../0001-full.vmdk", "\u0661\u0661\u0661\u0661-full.vmdk",
        "0001-full", "0001-overlay.json", "0001-boot.jpg",
        f"{10**18}-full.vmdk", "set.json", "",
    ],
)  # fmt: skip
def test_a_name_that_we_do_not_make_is_no_file_of_ours(name):
    assert naming.layer_of(name) is None
    assert naming.number_of(name) is None
    assert naming.overlay_of(name) is None
    assert naming.number_of_manifest(name) is None
    assert naming.overlay_reported_in(name) is None


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../0001-full.vmdk", "0001-full.vmdk/x", "set.json"]
)
def test_a_manifest_names_nothing_outside_and_nothing_else(name):
    assert not naming.can_be_a_points(name)


@pytest.mark.parametrize("at", range(3))
def test_files_of_two_points_do_not_belong_together(at):
    names = ["0001-full.vmdk", "0001-full.digests", "0001-overlay.vmdk"]
    names[at] = names[at].replace("0001", "0002")
    assert not naming.belong_together("0001-full.json", *names)
