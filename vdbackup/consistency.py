"""As of which moment a copy of a source is: what a source says of it, and a point keeps."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from vdbackup import records
from vdbackup.translation import tr


class How(enum.StrEnum):
    """What makes a copy one moment's, or that nothing does."""

    FROZEN = "frozen"
    SNAPSHOT = "snapshot"
    UNMOUNTED = "unmounted"
    AS_IS = "as-is"


@dataclass(frozen=True)
class Consistency:
    """As of which moment a copy of a source is, as a manifest keeps it.

    Attributes:
        how: what makes it one moment.
        at: that moment (UTC, ISO 8601); None where all the time while it was read is as good, and
            where it is no single moment.
        frozen_ms: for how long whoever writes to the source was held back, in milliseconds.
        rounds: how often was read again what had changed meanwhile.
        left_out: what of the source that moment says nothing of, a few words each.
    """

    how: How
    at: records.Moment | None = None
    frozen_ms: int = 0
    rounds: int = 0
    left_out: tuple[records.Sentence, ...] = ()

    @classmethod
    def frozen(
        cls, at: datetime, seconds: float, rounds: int, left_out: tuple[str, ...]
    ) -> Consistency:
        """Of a copy that is as of a freeze: when all were frozen, and for how long."""
        moment = at.isoformat(timespec="milliseconds")
        return cls(How.FROZEN, moment, round(seconds * 1000), rounds, left_out)

    @classmethod
    def snapshot(cls, at: datetime) -> Consistency:
        """Of a copy that was read from a snapshot, and when that was made."""
        return cls(How.SNAPSHOT, at.isoformat(timespec="milliseconds"))

    @property
    def sentence(self) -> str:
        """What makes it one moment, for a person, in local time; "" where nothing was done."""
        if self.how not in (How.FROZEN, How.SNAPSHOT) or self.at is None:
            return ""
        at = datetime.fromisoformat(self.at).astimezone().strftime("%H:%M:%S")
        if self.how is How.SNAPSHOT:
            return tr("Consistent, read from a snapshot of {at}.", at=at)
        frozen = tr(
            "all file systems frozen together for {frozen_ms} ms at {at}",
            frozen_ms=self.frozen_ms,
            at=at,
        )
        left_out = (
            tr(" Left out of that: {left_out}.", left_out="; ".join(self.left_out))
            if self.left_out
            else ""
        )
        return tr("Consistent, {frozen}.{left_out}", frozen=frozen, left_out=left_out)
