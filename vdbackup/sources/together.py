"""The rounds of several sources that are read as of one moment: those of a machine.

Those in use are frozen together in each round. What nobody writes to needs no freeze: it is as it
was in that moment, too, as long as it does not say that it has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np

from vdbackup.agent.client import Beside
from vdbackup.disks.extents import Ranges
from vdbackup.sources.live_rounds import LiveRounds, begun_together, rounds_of_all
from vdbackup.sources.source import Rounds

_NOTHING: Ranges = np.empty((0, 2), np.int64)


class RoundsTogether:
    """The rounds of several sources, begun and ended together. A context manager.

    Iteration gives for each of them, in their order, what has changed since it was read.
    """

    def __init__(self, rounds: Sequence[Rounds]) -> None:
        self._rounds = rounds
        self._live = [each for each in rounds if isinstance(each, LiveRounds)]
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            beside = stack.enter_context(Beside())
            for each in self._live:
                stack.callback(each.close)
                each.begin(beside)
            if self._live:
                begun_together(self._live)
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def __iter__(self) -> Iterator[list[Ranges]]:
        if not self._live:
            return
        for changed in rounds_of_all(self._live):
            of_live = dict(zip(map(id, self._live), changed, strict=True))
            yield [of_live.get(id(each), _NOTHING) for each in self._rounds]
