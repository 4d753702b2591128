"""What the power cuts cut off: each story prepares a repository, and does one thing with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.backup.lab import SIZE, Lab
from tests.backup.once import once
from tests.crash import damage, overlays
from tests.crash.folders import copy_tree
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import adopt, convert, merge, repair
from vdbackup.disks.formats import FORMATS
from vdbackup.jobs import Task
from vdbackup.repository import naming
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.files import PARTIAL
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository

MIB = 1 << 20
LARGE = 4 * MIB + SIZE
"""Bytes of a disk that takes several blocks of any format."""
_BLOCKS = ("vhd", "vhdx")
"""The formats whose blocks are larger than what a digest covers."""


@dataclass(frozen=True)
class Story:
    """One thing that may be cut off.

    Attributes:
        name: in words.
        act: does it; what it does is recorded.
        concerned: sequence numbers of the points that need not read right until it is finished.
        prepare: what comes before it.
        size: of the disk, in bytes.
        formats: in which it is told.
        clones: whether the storage shares extents.
        repairs: whether it is a repair: until one has been through, the points concerned may be
            refused, and in the end there are those that it finds, whatever cut it off before.
        kept: whether the files that `damage_one_of_each` damaged are kept, as they are.
    """

    name: str
    act: Callable[[Lab], None]
    concerned: frozenset[int] = frozenset()
    prepare: Callable[[Lab], object] = lambda lab: None
    size: int = SIZE
    formats: tuple[str, ...] = tuple(FORMATS)
    clones: bool = False
    repairs: bool = False
    kept: bool = False


@once
def five_points(lab: Lab) -> None:
    """1 <- 2 <- 3 <- 4, and a full 5 that nothing of it concerns."""
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.poke(5 * BLOCK, BLOCK)
    lab.backup()
    lab.poke(2 * BLOCK, noise(2 * BLOCK, 3))
    lab.poke(BLOCK, BLOCK)
    lab.poke(-512, noise(512, 4))
    lab.backup()
    lab.poke(12 * BLOCK + 5, noise(BLOCK, 5))
    lab.backup()
    lab.backup("full")


def then_changes(lab: Lab) -> None:
    """The five, and a disk that has changed since in many places."""
    five_points(lab)
    lab.poke(2 * BLOCK, noise(3 * BLOCK, 6))
    lab.poke(6 * BLOCK, BLOCK)
    lab.poke(10 * BLOCK, noise(10 * BLOCK, 7))


@once
def new_blocks(lab: Lab) -> None:
    """1 <- 2 <- 3 <- 4: in 2 and 3 there are blocks of 2 MiB that their parents lack."""
    for sequence, place in enumerate((0, 2 * MIB, 4 * MIB, 0), 1):
        lab.poke(place + sequence * BLOCK, noise(2 * BLOCK, sequence))
        lab.poke(-512 * sequence, noise(512, sequence))
        lab.backup()


def _backup(lab: Lab, kind: str = "incremental", policy: Policy | None = None) -> None:
    lab.backup(kind, policy=policy)


def _point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(point for point in lab.set.points if point.sequence == sequence)


def _merge(sequence: int) -> Callable[[Lab], None]:
    def act(lab: Lab) -> None:
        lab.merge(_point(lab, sequence))

    return act


def _delete(sequence: int) -> Callable[[Lab], None]:
    def act(lab: Lab) -> None:
        lab.delete(_point(lab, sequence))

    return act


def _first_backup(lab: Lab) -> None:
    lab.repository = Repository.create(lab.repository.path)
    lab.backup()


def _only_a_disk(lab: Lab) -> None:
    shutil.rmtree(lab.repository.path)
    lab.poke(0, noise(9 * BLOCK, 1))


def _convert(lab: Lab) -> None:
    names = list(FORMATS)
    other = names[(names.index(lab.disk_format) + 1) % len(names)]
    old = {point.sequence: point.id for point in lab.set.points}
    new = convert.run(convert.plan(lab.repository, "disk", other, "new"), Task())
    for point in new.points:
        lab.moments[point.id] = lab.moments[old[point.sequence]]


def _chain_elsewhere(lab: Lab) -> None:
    five_points(lab)
    copy_tree(lab.set_folder, lab.folder / "elsewhere")


def _adopt(lab: Lab) -> None:
    old = {point.sequence: point for point in lab.set.points}
    tip = lab.folder / "elsewhere" / old[4].disk
    with open_path(tip) as source:
        plan = adopt.plan(lab.repository, source, set_name="new")
        new = adopt.run(plan, Task())
    for point in new.points:
        lab.moments[point.id] = lab.moments[old[point.sequence].id]


def with_scratch(lab: Lab) -> None:
    """The five, and what a guest wrote above the third."""
    five_points(lab)
    overlays.guest_writes(lab, _point(lab, 3))


def retargeted(lab: Lab) -> None:
    """The same; the overlays of the third and the fourth hold something since."""
    with_scratch(lab)
    for sequence in (3, 4):
        overlays.retarget_by_patches(lab, _point(lab, sequence))


def session_on_retargeted(lab: Lab) -> None:
    """The five; the third was retargeted, then a guest wrote above it."""
    five_points(lab)
    overlays.retarget_by_patches(lab, _point(lab, 3))
    overlays.guest_writes(lab, _point(lab, 3))


def _to_second(act: Callable[[Lab, RecoveryPoint], None]) -> Callable[[Lab], None]:
    return lambda lab: act(lab, _point(lab, 2))


def _to_third(act: Callable[[Lab, RecoveryPoint], None]) -> Callable[[Lab], None]:
    return lambda lab: act(lab, _point(lab, 3))


def _repair(lab: Lab) -> None:
    repair.run(lab.repository.path, Task())


def _then(*damaged: Callable[[Lab], None]) -> Callable[[Lab], None]:
    """The five, and what happens to them."""

    def prepare(lab: Lab) -> None:
        five_points(lab)
        for each in damaged:
            each(lab)

    return prepare


def _half_published(lab: Lab) -> None:
    """The five, and a sixth whose backup was killed when two of its files had their names."""
    then_changes(lab)
    point = lab.backup()
    for name in (point.overlay, naming.manifest_name(point.disk)):
        (lab.set_folder / name).rename(lab.set_folder / (name + PARTIAL))


def _open(lab: Lab) -> None:
    merge.recover(lab.repository, Task())


_ALL = frozenset((1, 2, 3, 4, 5))
_REPAIRS = [
    Story(
        "repair without a catalogue",
        _repair,
        _ALL,
        _then(damage.lose_the_catalogue),
        repairs=True,
    ),
    Story(
        "repair one of each",
        _repair,
        _ALL,
        _then(damage.damage_one_of_each),
        repairs=True,
        kept=True,
    ),
    Story(
        "repair and finish a merge",
        _repair,
        frozenset((1, 2, 3, 4)),
        _then(damage.merge_half_beside_a_damaged_manifest),
        repairs=True,
    ),
    Story(
        "repair an identity",
        _repair,
        frozenset((2, 3, 4)),
        _then(_to_second(damage.open_by_another_program)),
        repairs=True,
    ),
]
_STORIES = [
    Story("first backup", _first_backup, prepare=_only_a_disk),
    Story("incremental", _backup, prepare=then_changes),
    Story("full", lambda lab: _backup(lab, "full"), prepare=then_changes),
    Story("merge into the full", _merge(2), frozenset((1, 2, 3, 4)), five_points),
    Story("merge into an incremental", _merge(3), frozenset((2, 3, 4)), five_points),
    Story("merge the newest", _merge(4), frozenset((3, 4)), five_points),
    Story(
        "merge new blocks into the full",
        _merge(2),
        frozenset((1, 2, 3, 4)),
        new_blocks,
        LARGE,
        _BLOCKS,
    ),
    Story("merge new blocks", _merge(3), frozenset((2, 3, 4)), new_blocks, LARGE, _BLOCKS),
    Story("delete a leaf", _delete(4), frozenset((4,)), five_points),
    Story("delete from the middle", _delete(3), frozenset((3, 4)), five_points),
    Story("merge under a retargeted overlay", _merge(3), frozenset((2, 3, 4)), retargeted),
    Story("promote", _to_third(overlays.promote_what_it_wrote), prepare=session_on_retargeted),
    Story("retarget", _to_third(overlays.retarget_by_scratch), prepare=with_scratch),
    Story("retarget anew", _to_third(overlays.retarget_by_scratch), prepare=retargeted),
    Story("empty an overlay", _to_third(overlays.empty), prepare=retargeted),
    Story("finish a backup", _open, prepare=_half_published),
    Story("convert", _convert, prepare=five_points),
    Story("adopt", _adopt, prepare=_chain_elsewhere),
    Story("adopt by clones", _adopt, prepare=_chain_elsewhere, clones=True),
    Story(
        "retention",
        lambda lab: _backup(lab, "differential", Policy(keep=2)),
        frozenset((1, 2, 3, 4, 5)),
        then_changes,
    ),
]
STORIES = [
    *_STORIES,
    *_REPAIRS,
    *(
        replace(story, name=f"{story.name} by clones", clones=True)
        for story in _STORIES
        if story.name.startswith("merge") or story.name == "retention"
    ),
]
