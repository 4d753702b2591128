"""What is restored is compared with what was captured, block by block, on its way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Int64s
from vdbackup.disks.transfer import Flags
from vdbackup.errors import Damaged, Remedy
from vdbackup.jobs import readable_size
from vdbackup.repository.digests import BLOCK, differ, is_zero
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.unit_digests import Known
from vdbackup.translation import grouped, tr

_MAX_REPORTED = 20


class Captured:
    """A point's digests, and what of its disk is not as they say.

    Attributes:
        digests: of the whole chain.
    """

    def __init__(
        self, layers: Sequence[RecoveryPoint], chain: Chain, digests: Known, go_on: bool
    ) -> None:
        """Of a point's layers, base first; `go_on` where damage is to be noted, not raised."""
        self.digests = digests
        self._layers = layers
        self._map = chain.map
        self._disks = {layer.disk for layer in self._layers}
        self._go_on = go_on
        self._damaged: list[tuple[int, str]] = []

    def look(self, blocks: Int64s, view: memoryview) -> Flags:
        """bool[blocks]: which of the blocks in `view` are all zeros; raises Damaged."""
        actual = self.digests.digest(view)
        known, sure = self.digests.as_far_as_known(blocks)
        for at in np.flatnonzero(differ(actual, known) | ~sure).tolist():
            block = int(blocks[at])
            part = view[at * BLOCK : (at + 1) * BLOCK]
            layer = self._layers[self._layer_at_fault(block, part)]
            self._note(block * BLOCK, layer.disk if sure[at] else layer.digests)
        return is_zero(actual)

    def damaged(self) -> Int64s:
        """The numbers of the blocks that were found to be damaged, each once, ascending."""
        return np.array(sorted({offset // BLOCK for offset, _ in self._damaged}), np.int64)

    def _layer_at_fault(self, block: int, view: memoryview) -> int:
        """Which of the layers holds a block, or holds something where none should."""
        layer, first = self.digests.layer_at_fault(block, view), block * BLOCK
        if layer >= 0:
            return layer
        return int(self._map.part(first, min(BLOCK, self._map.size - first)).layers.max())

    def _note(self, offset: int, file: str) -> None:
        if not self._go_on:
            problem = (
                tr("not as captured") if file in self._disks else tr("perhaps not as captured")
            )
            raise Damaged(
                tr(
                    "{file} is damaged: {offset} are {problem}.",
                    file=file,
                    offset=_place(offset),
                    problem=problem,
                ),
                tr("Restore another point."),
                remedy=Remedy.IGNORE_DAMAGE,
            )
        self._damaged.append((offset, file))

    def warnings(self) -> tuple[str, ...]:
        """What was damaged, a sentence each."""
        found = sorted(set(self._damaged))  # a block may be written a second time
        sentences = [
            tr("The {offset} are damaged in {file}.", offset=_place(offset), file=file)
            if file in self._disks
            else tr(
                "The {offset} could not be checked: {file} is damaged.",
                offset=_place(offset),
                file=file,
            )
            for offset, file in found[:_MAX_REPORTED]
        ]
        if len(found) > _MAX_REPORTED:
            sentences.append(
                tr("{count} more blocks are damaged.", count=len(found) - _MAX_REPORTED)
            )
        return tuple(sentences)


def _place(offset: int) -> str:
    """A block of the disk; its place is exact, for whoever goes there with another tool."""
    return tr(
        "{size} at byte {offset} of the disk", size=readable_size(BLOCK), offset=grouped(offset)
    )
