"""Every story of one operation and some of its single faults; the long form tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.exhaustive import OPERATIONS, tell

EVERY = 23
"""One fault in so many: about a second a story on a quiet machine."""


@pytest.mark.parametrize("word", OPERATIONS)
def test_no_single_fault_makes_a_point_wrong_in_silence(
    tmp_path: Path, word: str, disk_format: str
) -> None:
    figures, wrong = tell(word, disk_format, tmp_path / "story", every=EVERY)
    assert wrong == []
    assert figures.states > 0
