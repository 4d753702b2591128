"""The formats' names: light to load, the same text in files, known to whoever keys on them."""

from __future__ import annotations

import json

import pytest

from vdbackup.disks.contents import decide
from vdbackup.disks.formats import FORMATS, check_format, probe
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.disks.raw import RawDisk
from vdbackup.errors import UsageError


def test_the_text_of_a_format_is_what_files_and_json_have_always_held():
    assert [str(each) for each in DiskFormat] == ["raw", "vmdk", "vhd", "vhdx", "qcow2"]
    assert json.dumps(list(BACKUP_FORMATS)) == '["vmdk", "vhd", "vhdx", "qcow2"]'


def test_each_format_that_a_backup_can_be_kept_in_can_be_opened():
    assert tuple(FORMATS) == BACKUP_FORMATS


def test_a_file_s_format_is_one_of_the_names(tmp_path):
    path = tmp_path / "disk.img"
    RawDisk.create(path, 1 << 20).close()
    assert probe(path) is decide(path).disk_format is DiskFormat.RAW


@pytest.mark.parametrize("name", ["raw", "vdi", "", "VMDK"])
def test_a_backup_is_kept_in_no_other_format(name):
    with pytest.raises(UsageError, match="There is no disk format"):
        check_format(name)
