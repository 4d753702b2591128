"""What a finished job tells the user: one sentence, and details for whoever wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a job's work returns.

    Attributes:
        sentence: what happened.
        details: lines that are shown when asked for.
        warnings: what was not as it should have been, a sentence each; shown at once.
        value: what the next step needs to know.
    """

    sentence: str
    details: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    value: Any = None
