"""Which of a set's points stay, and what is done with a new one: what a person has said of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from vdbackup.errors import UsageError
from vdbackup.jobs import readable_size
from vdbackup.translation import grouped, tr

MAX_KEPT = 1_000_000
MAX_BYTES = 1 << 62
"""Hours, days or points that a rule may keep: more than a century of hours, and within every date
that there is."""
MAX_SECONDS = MAX_KEPT * 3600
WRITES_WITHIN, MOMENTS_EVERY = 3600, 60
"""Seconds, of what stays of kept writes where a rule about them is given, and nothing else said."""
READ_ALL_EVERY = 10
"""A tenth of what scans would cost; and what a tracker has missed is in ten points at the most."""


class BootTests(enum.StrEnum):
    """Which new points are boot-tested automatically."""

    OFF = "off"
    EACH = "each"


@dataclass(frozen=True)
class WritesPolicy:
    """Which moments of the kept writes of a set's machines stay (backup/moments_kept.py).

    Attributes:
        within: seconds before a log's end of which every write stays; None: of all of it.
        every: seconds of which, before that, one consistent moment stays.
        forgotten: seconds after which a moment goes; None: never.
    """

    within: int | None = None
    every: int = MOMENTS_EVERY
    forgotten: int | None = None

    @property
    def takes(self) -> bool:
        """Whether moments ever go by it."""
        return self.within is not None or self.forgotten is not None


@dataclass(frozen=True)
class Policy:
    """What a set does automatically.

    After a capture those points are merged or deleted that no rule keeps (backup/keeping.py); a
    rule that is None keeps none. Without any rule all stay.

    Attributes:
        keep: the newest so many stay.
        retarget: prepare each new point's overlay for booting, after the capture.
        boot_test: which new points are boot-tested, after their capture.
        read_all_every: of so many backups of a tracked source one reads everything, which proves
            the tracker; None: none does.
        keep_within: all stay that were captured in the last so many hours.
        daily, weekly, monthly, yearly: of so many days, weeks ... with points the newest stays.
        at_most: of those that stay by the other rules only so many of the newest do, the pinned
            ones not counted; None for all of them.
        at_most_bytes: and only so many of the newest as hold so many bytes together, the pinned
            ones counted.
        keep_writes: of a machine whose writes are kept every write stays of so many seconds before
            its log's end.
        moments_every: of what is older one consistent moment of so many seconds each.
        forget_moments: no moment that is older than so many seconds.
        index: note the names of the files in each new point, after its capture: searches then need
            not read it.

    Raises UsageError where not even the newest would be kept, or a number makes no sense.
    """

    keep: int | None = None
    retarget: bool = True
    boot_test: BootTests = BootTests.OFF
    read_all_every: int | None = READ_ALL_EVERY
    keep_within: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    at_most: int | None = None
    at_most_bytes: int | None = None
    keep_writes: int | None = None
    moments_every: int | None = None
    forget_moments: int | None = None
    index: bool = False

    @property
    def chooses(self) -> bool:
        """Whether there is a rule that keeps some points, so that others need not stay."""
        rules = (self.keep, self.keep_within, self.daily, self.weekly, self.monthly, self.yearly)
        return any(rule is not None for rule in rules)

    @property
    def takes(self) -> bool:
        """Whether points ever go by it."""
        return self.chooses or self.at_most is not None or self.at_most_bytes is not None

    @property
    def retention(self) -> Policy:
        """Which points stay, and nothing else of it: two that keep the same have the same one."""
        return Policy(
            self.keep,
            keep_within=self.keep_within,
            daily=self.daily,
            weekly=self.weekly,
            monthly=self.monthly,
            yearly=self.yearly,
            at_most=self.at_most,
            at_most_bytes=self.at_most_bytes,
        )

    @property
    def writes(self) -> WritesPolicy:
        """Which moments of kept writes stay; what is not said is as usual."""
        every = self.moments_every or MOMENTS_EVERY
        within = self.keep_writes
        if within is None and self.moments_every is not None:
            within = WRITES_WITHIN
        return WritesPolicy(within, every, self.forget_moments)

    def retaining(self, other: Policy) -> Policy:
        """The same but for which points stay: those that the other one keeps."""
        return replace(
            other,
            retarget=self.retarget,
            boot_test=self.boot_test,
            read_all_every=self.read_all_every,
            index=self.index,
        )

    def __post_init__(self) -> None:
        for name in ("keep_within", "daily", "weekly", "monthly", "yearly", "at_most"):
            number = getattr(self, name)
            if number is not None and not 1 <= number <= MAX_KEPT:
                raise UsageError(
                    tr(
                        "{name}: {number} makes no sense.",
                        name=name.replace("_", " "),
                        number=grouped(number),
                    ),
                    tr("Say 1 to {max_kept}, or leave it out.", max_kept=grouped(MAX_KEPT)),
                )
        self._check_writes()
        if self.at_most_bytes is not None and not 1 <= self.at_most_bytes < MAX_BYTES:
            raise UsageError(
                tr("No points can hold {size} at most.", size=readable_size(self.at_most_bytes)),
                tr("Say a size such as 500 GiB, or leave it out."),
            )
        if self.keep is not None and self.keep < 1:
            raise UsageError(
                tr(
                    "{keep} recovery points cannot be kept: the newest one always stays.",
                    keep=self.keep,
                ),
                tr("Keep 1 or more."),
            )
        if self.keep is not None and self.keep >= 1 << 63:  # as `records.number` reads
            raise UsageError(
                tr("{keep} recovery points are more than any set holds.", keep=grouped(self.keep)),
                tr("Keep all of them."),
            )
        if self.read_all_every is not None and not 1 <= self.read_all_every < 1 << 63:
            raise UsageError(
                tr(
                    "Of {read_all_every} backups no one can read everything.",
                    read_all_every=grouped(self.read_all_every),
                ),
                tr("Say 1 for each of them, a larger number, or never."),
            )

    def _check_writes(self) -> None:
        """Raise UsageError where a time of the rules about kept writes makes no sense."""
        for seconds in (self.keep_writes, self.moments_every, self.forget_moments):
            if seconds is not None and not 1 <= seconds <= MAX_SECONDS:
                raise UsageError(
                    tr("Kept writes: {number} s makes no sense.", number=grouped(seconds)),
                    tr("Say 1 s to {max_kept} s, or leave it out.", max_kept=grouped(MAX_SECONDS)),
                )
