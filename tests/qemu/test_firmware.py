"""A machine's UEFI and its variables, read back by virt-firmware."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from virt.firmware.efi.bootentry import BootEntry

from vdbackup.errors import RecoveryError
from vdbackup.qemu import firmware


def variables(store: Path) -> dict[str, bytes]:
    """What virt-firmware reads in a file of variables."""
    output = store.with_suffix(".json")
    command = [sys.executable, "-m", "virt.firmware.vars", "-i", store, "--output-json", output]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(output.read_text())["variables"]
    return {each["name"]: bytes.fromhex(each["data"]) for each in found}


def test_the_firmware_of_this_computer_is_found() -> None:
    found = firmware.find()
    assert found.code.stat().st_size > 1 << 20
    assert found.variables.stat().st_size > 1 << 16


def test_a_boot_entry_names_the_loader(tmp_path: Path) -> None:
    store = tmp_path / "variables.fd"
    firmware.write_variables(firmware.find(), store, "/EFI/debian/shimx64.efi")
    found = variables(store)
    assert found["BootOrder"] == bytes.fromhex("0090")
    entry = BootEntry(data=found["Boot9000"])
    assert str(entry.title) == "vdbackup"
    assert str(entry.devicepath) == "FilePath(\\EFI\\debian\\shimx64.efi)"
    assert store.stat().st_size == firmware.find().variables.stat().st_size


def test_without_a_loader_they_are_as_the_firmware_brings_them(tmp_path: Path) -> None:
    store = tmp_path / "variables.fd"
    firmware.write_variables(firmware.find(), store, None)
    assert store.read_bytes() == firmware.find().variables.read_bytes()


def test_variables_of_another_kind_are_refused(tmp_path: Path) -> None:
    template = tmp_path / "template.fd"
    template.write_bytes(b"QFI\xfb" + bytes(1000))
    odd = firmware.Uefi(template, template)
    with pytest.raises(RecoveryError, match="of a kind that vdbackup does not know"):
        firmware.write_variables(odd, tmp_path / "variables.fd", "/EFI/x.efi")


def test_descriptions_that_do_not_fit_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("1.json", "{"), ("2.json", "[1]"), ("3.json", '{"targets": 1}')):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(firmware, "_DESCRIPTIONS", (tmp_path,))
    with pytest.raises(RecoveryError, match="sudo apt install ovmf"):
        firmware.find()
