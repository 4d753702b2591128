"""What is kept of jobs that have ended, so that it can be read after a restart: a file of records.

It is nobody's backup: one that makes no sense is said, put aside, and begun anew.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from vdbackup import durable, records
from vdbackup.errors import VdbackupError
from vdbackup.text import printable
from vdbackup.translation import marked, tr

MAX_JOBS = 500
"""That are kept: a year and more of one a day."""
MAX_LINES = 60
"""That are kept of a job, of its details and of its steps each: somebody may extract 10,000 files.
"""
T = TypeVar("T")
_NO_SENSE = (OSError, VdbackupError, ValueError, TypeError, RecursionError)


class DamagedHistory(VdbackupError):
    """What is kept of earlier jobs cannot be understood."""

    code = "history-damaged"


class End(enum.StrEnum):
    """How a job ended."""

    DONE = marked("done")
    WARNED = marked("done, with warnings")
    FAILED = marked("failed")
    CANCELLED = marked("cancelled")


@dataclass(frozen=True)
class Step:
    """A phase of a job.

    Attributes:
        at: when it was begun, UTC.
        phase: a word for a person.
        done: bytes that were through when it was left; 0 where nothing was counted.
    """

    at: records.Moment
    phase: records.Sentence
    done: int = 0


def _first(items: tuple[T, ...]) -> tuple[T, ...]:
    return items[:MAX_LINES]


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended.

    Attributes:
        began, ended: UTC, ISO 8601.
        sentence: what came of it.
        details: lines for whoever wants them.
        steps: its phases, in their order.
    """

    title: records.Sentence
    began: records.Moment
    ended: records.Moment
    end: End
    sentence: records.Sentence = ""
    details: Annotated[tuple[records.Sentence, ...], _first] = ()
    steps: Annotated[tuple[Step, ...], _first] = ()


@dataclass(frozen=True)
class _Record:
    jobs: tuple[EndedJob, ...] = ()


class JobFile:
    """The file; used by one thread at a time.

    Attributes:
        path: where it lies, and need not be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[EndedJob, ...]:
        """The jobs, the newest last.

        Raises DamagedHistory where the file is there and makes no sense; it is put aside then.
        """
        try:
            return records.tolerant(_Record, json.loads(durable.read_own(self.path))).jobs
        except FileNotFoundError:
            return ()
        except _NO_SENSE as error:
            aside = self.path.with_suffix(".unreadable.json")
            with suppress(OSError):  # what cannot be moved is written over, if that can be done
                self.path.rename(aside)
            raise DamagedHistory(
                tr(
                    "What was kept of earlier jobs makes no sense: {error}",
                    error=printable(_why(error)),
                ),
                tr("It is put aside as {aside}, and begun anew.", aside=aside),
            ) from error

    def save(self, jobs: Sequence[EndedJob]) -> None:
        """Keep the newest; a reader sees what was kept before or this. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(records.to_json(_Record(tuple(jobs[-MAX_JOBS:]))), indent=1) + "\n"
        durable.replace(self.path, text.encode("ascii"))


def _why(error: BaseException) -> str:
    said = error.title if isinstance(error, VdbackupError) else str(error)
    return said if said.endswith(".") else f"{said}."
