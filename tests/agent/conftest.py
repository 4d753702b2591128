"""A disk that can be tracked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.trackers import own_trackers
from tests.sources.loops import loop
from vdbackup.agent import marking

MIB = 1 << 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bpffs(as_root: None, tmp_path: Path, stack: ExitStack) -> Path:
    """Where trackers are kept; they end with the test."""
    return stack.enter_context(own_trackers(tmp_path / "bpf"))


@pytest.fixture
def disk(bpffs: Path, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A loop device of 64 MiB over a file on the storage; no request is longer there."""
    monkeypatch.setattr(marking, "_MAX_WORDS", 64)  # see own_trackers
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    return stack.enter_context(loop(image))
