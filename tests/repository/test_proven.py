"""A point is proven when all that can be proven of it is, and as long ago as the older proof."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vdbackup.repository.model import BootTest, Check, RecoveryPoint, SourceIdentity
from vdbackup.repository.naming import PointType
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import Scheme, SourceRef

EARLIER, LATER = "2026-11-01T10:00:00+02:00", "2026-11-01T09:00:00+00:00"
VERIFIED, BOOTS = Check(LATER, ok=True), BootTest(EARLIER, ok=True)
POINT = RecoveryPoint(
    id="8c26eeee-f7bd-4ff0-a91d-c6e4d2b2b0b1", sequence=1, created=EARLIER, type=PointType.FULL,
    parent=None, disk="1.qcow2", overlay="1-overlay.qcow2", digests="1.digests", disk_size=1,
    virtual_size=512, sector_size=512, stored_bytes=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("verified", "boot_tested", "proven"),
    [
        (None, None, ""),
        (VERIFIED, None, ""),
        (None, BOOTS, ""),
        (VERIFIED, BOOTS, EARLIER),  # though its hour is the greater number
        (replace(VERIFIED, ok=False), BOOTS, ""),
        (VERIFIED, replace(BOOTS, ok=False), ""),
    ],
)
def test_a_disk_is_proven_when_it_is_verified_and_boots(
    verified: Check | None, boot_tested: BootTest | None, proven: str
) -> None:
    assert replace(POINT, verified=verified, boot_tested=boot_tested).proven == proven


def test_chosen_files_have_nothing_to_boot() -> None:
    ref = SourceRef(Scheme.FILES, str(Choice(("/home",))))
    files = replace(POINT, captured_from=SourceIdentity("", "home", str(ref)))
    assert (files.is_of_files, files.proven) == (True, "")
    assert replace(files, verified=VERIFIED).proven == LATER
