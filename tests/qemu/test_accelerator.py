"""The probe of KVM: its guest is what its listing says, and a guest that hangs is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests import listing
from vdbackup.errors import RecoveryError
from vdbackup.qemu import accelerator
from vdbackup.qemu.qemu import Accelerator

RESET = 0xFFF0


def test_guest_is_what_nasm_makes_of_the_listing_beside_it(tmp_path: Path) -> None:
    code = listing.assemble(accelerator, 0xFE00, tmp_path)
    assert len(accelerator.FIRMWARE) == 64 << 10
    assert accelerator.FIRMWARE[0xFE00:RESET] == code.ljust(RESET - 0xFE00, b"\0")


def test_guest_gets_to_its_end_in_software() -> None:
    assert accelerator.runs(Accelerator.TCG)


def test_guest_that_never_ends_does_not_run() -> None:
    halt = bytes.fromhex("F4 EB FD")
    firmware = accelerator.FIRMWARE[:RESET] + halt.ljust(16, b"\0")
    assert not accelerator.runs(Accelerator.TCG, firmware, time_limit=0.5)


def test_guest_that_qemu_cannot_start_does_not_run() -> None:
    assert not accelerator.runs(Accelerator.TCG, firmware=b"too short")


def test_choice_is_kvm_only_where_kvm_runs_and_else_says_why() -> None:
    choice = accelerator.choose()
    if choice.accelerator is Accelerator.KVM:
        assert choice.notice == ""
        assert accelerator.runs(Accelerator.KVM)
    else:
        assert choice.notice.startswith("The virtual machine runs slowly, in software: ")
        assert not accelerator.runs(Accelerator.KVM)
    assert accelerator.choose() is choice


def test_missing_kvm_is_the_reason_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_KVM", tmp_path / "kvm")
    choice = accelerator.choose.__wrapped__()
    assert choice.accelerator is Accelerator.TCG
    assert "there is no /dev/kvm" in choice.notice


def test_missing_qemu_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RecoveryError, match="sudo apt install qemu-system-x86 qemu-utils"):
        accelerator.choose.__wrapped__()
