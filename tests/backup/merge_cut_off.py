"""A merge whose steps are other ones: cut off before one of them, or in another order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from vdbackup.backup import merge_steps
from vdbackup.backup.merge_steps import Merging


def instead_of(patch: pytest.MonkeyPatch, name: str, run: Callable[[Merging], None]) -> None:
    """Have `run` in the place of what the step of that name does."""
    assert name in [step.name for step in merge_steps.STEPS]
    steps = (replace(s, run=run) if s.name == name else s for s in merge_steps.STEPS)
    patch.setattr(merge_steps, "STEPS", tuple(steps))


def run_of(name: str) -> Callable[[Merging], None]:
    """What the step of that name does."""
    return next(step.run for step in merge_steps.STEPS if step.name == name)


def cut_off_before(patch: pytest.MonkeyPatch, name: str) -> None:
    """End the process, as it were, before that step."""

    def cut(_: Merging) -> None:
        raise KeyboardInterrupt

    instead_of(patch, name, cut)
