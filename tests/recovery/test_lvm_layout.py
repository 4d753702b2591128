"""What a physical volume of LVM gives up fits, whatever lies on it: all on numbers, without LVM."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from vdbackup.recovery.volume_sizes import _Group, _last, _Piece
from vdbackup.volumes.lvm import LogicalVolume

EXTENT = 4 << 20
FIRST = 1 << 20


@dataclass(frozen=True)
class Layout:
    """A physical volume: whose each extent is, and each volume's stretches in its own order."""

    taken: dict[int, str]
    stretches: dict[str, list[tuple[int, int]]]
    behind: int

    @property
    def group(self) -> _Group:
        """As LVM reports it: a piece for each stretch."""
        pieces = [
            _Piece(start, count, name)
            for name, stretches in self.stretches.items()
            for start, count in stretches
        ]
        ordered = tuple(sorted(pieces, key=lambda piece: piece.start))
        return _Group("vg", EXTENT, FIRST, ordered, 0, self.behind)

    def volume(self, name: str) -> LogicalVolume:
        """As our reader has it."""
        runs = tuple(
            (FIRST + start * EXTENT, count * EXTENT) for start, count in self.stretches[name]
        )
        return LogicalVolume("vg", name, runs)

    def reduced(self, name: str, extents: int) -> dict[int, str]:
        """Whose each extent is once lvreduce has taken so many from the end of a volume."""
        own = [at for start, count in self.stretches[name] for at in range(start, start + count)]
        gone = set(own[len(own) - extents :])
        return {at: owner for at, owner in self.taken.items() if at not in gone}


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Up to five volumes in stretches anywhere, with gaps between; some are no file system's."""
    at, pieces = draw(st.integers(0, 3)), []
    for _ in range(draw(st.integers(1, 8))):
        count = draw(st.integers(1, 30))
        pieces.append((at, count))
        at += count + draw(st.sampled_from([0, 0, 1, 20]))
    names = ["root", "home", "[pool_tdata]", "[root_rimage_0]", "swap"]
    stretches: dict[str, list[tuple[int, int]]] = {}
    for piece in draw(st.permutations(pieces)):
        stretches.setdefault(draw(st.sampled_from(names)), []).append(piece)
    taken = {
        at: name
        for name, own in stretches.items()
        for start, count in own
        for at in range(start, start + count)
    }
    return Layout(taken, stretches, draw(st.sampled_from([0, 2 << 20])))


def last_of(layout: Layout) -> LogicalVolume | None:
    """What can give something up: root and home are file systems."""
    volumes = [layout.volume(name) for name in ("root", "home") if name in layout.stretches]
    return _last(layout.group, volumes)


@given(layouts(), st.integers(0, 40 * EXTENT), st.integers(-3 * EXTENT, 3 * EXTENT))
def test_what_is_given_up_is_what_lies_last_and_no_more_than_can_be_spared(
    layout: Layout, least: int, beside: int
) -> None:
    group, last = layout.group, last_of(layout)
    has = sum(length for _, length in last.runs) if last else 0
    spare = group.spare(has, least) if last else 0
    size = group.end(group.used - spare) + beside
    gives = group.beyond(size)
    if beside >= 0:
        assert gives <= spare  # what is promised to fit does
    else:
        assert gives > spare  # and nothing smaller is promised
    if last is None or gives > spare or not gives:
        return
    left = layout.reduced(last.name, gives)
    assert group.end(max(left, default=-1) + 1) <= size  # no extent lies beyond it
    assert {at for at in layout.taken if at not in left} == {
        at for at in layout.taken if at >= group.used - gives
    }  # the very last ones went, and they were all its own
    assert has - gives * EXTENT >= least or not spare


@given(layouts())
def test_only_a_file_system_whose_own_end_lies_last_gives_something_up(layout: Layout) -> None:
    last = last_of(layout)
    owner = layout.taken[max(layout.taken)]
    if last is None:
        ends_elsewhere = layout.stretches[owner][-1][0] + layout.stretches[owner][-1][1]
        assert owner not in ("root", "home") or ends_elsewhere - 1 != max(layout.taken)
    else:
        start, count = layout.stretches[last.name][-1]
        assert (last.name, start + count - 1) == (owner, max(layout.taken))


@given(layouts(), st.integers(0, 400 * EXTENT))
def test_as_many_extents_stay_as_fit(layout: Layout, size: int) -> None:
    group = layout.group
    stay = group.used - group.beyond(size)
    assert group.end(stay) <= size or stay <= 0
    assert stay == group.used or group.end(stay + 1) > size
