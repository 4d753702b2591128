"""Damage in a repository: it is named, what can be proven is mended, and the backups go on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.noise import noise
from vdbackup import cli
from vdbackup.backup import repair
from vdbackup.backup.quarantine import QUARANTINE
from vdbackup.disks.chain import Chain
from vdbackup.errors import Damaged, VdbackupError
from vdbackup.jobs import Task
from vdbackup.recovery import verify
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return five_points(Lab(tmp_path, disk_format=disk_format))


@once
def five_points(lab: Lab) -> None:
    """1 <- 2 <- 3, a differential 4 on 1, a full 5."""
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.backup()
    lab.poke(2 * BLOCK, noise(BLOCK, 3))
    lab.backup()
    lab.backup("differential")
    lab.backup("full")


def point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(each for each in lab.set.points if each.sequence == sequence)


def repaired(lab: Lab) -> list[str]:
    said = repair.run(lab.repository.path, Task())
    return [*said.done, *map(str, said.undone)]


def verdicts(lab: Lab) -> dict[int, tuple[verify.Finding, ...]]:
    found = verify.run(verify.plan(lab.repository, "disk"), Task())
    return {verdict.point.sequence: verdict.findings for verdict in found}


def put_aside(lab: Lab) -> set[str]:
    return {path.name for path in (lab.set_folder / QUARANTINE).iterdir()}


def place_of(chain: Chain, offset: int) -> int:
    """Where in its file a layer keeps byte `offset` of its disk."""
    run = chain.map.run_at(offset)
    assert chain.map.layers[run] == 0
    return int(chain.map.hosts[run]) + offset - int(chain.map.starts[run])


def damage(lab: Lab, layer: Path, offset: int) -> None:
    """Other bytes where the layer keeps byte `offset` of its disk."""
    with Chain.alone(layer, lab.disk_format) as chain:
        host = place_of(chain, offset)
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.seek(host)
        file.write(b"damage")
    layer.chmod(0o444)


def ruin(layer: Path) -> None:
    """It is no disk any more."""
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.truncate(100)


# ------------------------------------------------------------------------------------- what is said


def test_verify_names_the_file_the_offset_and_every_point_that_shows_it(lab):
    damage(lab, lab.layer(point(lab, 1)), 5 * BLOCK)
    damage(lab, lab.layer(point(lab, 2)), 2 * BLOCK)  # which 3 hides
    found = verdicts(lab)
    assert {
        number: [(finding.file, finding.offset) for finding in findings]
        for number, findings in found.items()
    } == {
        1: [(lab.file("0001-full"), 5 * BLOCK)],
        2: [(lab.file("0001-full"), 5 * BLOCK), (lab.file("0002-incremental"), 2 * BLOCK)],
        3: [(lab.file("0001-full"), 5 * BLOCK)],
        4: [(lab.file("0001-full"), 5 * BLOCK)],
        5: [],
    }


def test_verify_on_the_command_line_names_the_file_the_offset_and_every_point(lab, capfd):
    damage(lab, lab.layer(point(lab, 2)), BLOCK)
    assert cli.main(["verify", "-r", str(lab.repository.path)]) == 1
    said = capfd.readouterr()
    where = f"  {lab.file('0002-incremental')} at {BLOCK}: the block is not as it was captured\n"
    assert f"Point 1: ok\nPoint 2: DAMAGED\n{where}Point 3: DAMAGED\n{where}Point 4: ok" in said.out
    assert "Damaged: points 2, 3." in said.err


def test_a_block_of_a_layer_that_the_storage_cannot_read_is_named(lab, monkeypatch):
    layer = lab.layer(point(lab, 2))
    with Chain.alone(layer, lab.disk_format) as chain:
        host = place_of(chain, 2 * BLOCK)
    inode, preadv = layer.stat().st_ino, os.preadv

    def failing(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        end = offset + sum(len(buffer) for buffer in buffers)
        if os.fstat(fd).st_ino == inode and offset <= host < end:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", failing)
    found = verdicts(lab)
    (finding,) = found[2]
    assert (finding.file, finding.offset) == (lab.file("0002-incremental"), 2 * BLOCK)
    assert finding.problem == "the block cannot be read: Input/output error"
    assert [number for number in found if found[number]] == [2]


# --------------------------------------------------------------------------- a layer that is broken


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "cut off": ruin,
    "lost": lambda layer: layer.unlink(),
}


@pytest.mark.parametrize("name", BREAKAGES)
@pytest.mark.parametrize("whose", [1, 2])
@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_broken_parent_spoils_no_other_chain(lab, capfd, name, whose, with_manifest):
    layer = lab.layer(point(lab, whose))
    BREAKAGES[name](layer)
    if with_manifest:
        layer.with_suffix(".json").unlink()
    check_that_the_rest_is_right(lab, capfd, whose)
    repaired(lab)
    check_that_the_rest_is_right(lab, capfd, whose)


def check_that_the_rest_is_right(lab: Lab, capfd: pytest.CaptureFixture[str], whose: int) -> None:
    """All points are listed and verified; those that read through the broken one are refused."""
    numbers = [each.sequence for each in lab.set.points]
    assert cli.main(["list", "-r", str(lab.repository.path)]) == 0
    rows = [line.split()[0] for line in capfd.readouterr().out.splitlines()[2:]]
    assert rows == [str(number) for number in numbers]
    found = verdicts(lab)
    good = {1: [5], 2: [1, 4, 5]}[whose]
    assert [number for number in numbers if not found[number]] == good
    for number in numbers:
        if number in good:
            lab.check_ours(point(lab, number))
        else:
            with pytest.raises(VdbackupError, match=r"missing|cut off"):
                lab.check_ours(point(lab, number))


@pytest.mark.parametrize("name", BREAKAGES)
def test_after_the_newest_chain_broke_the_next_backup_is_a_full_with_a_warning(lab, name):
    lab.delete(point(lab, 5))
    lab.delete(point(lab, 4))
    BREAKAGES[name](lab.layer(point(lab, 1)))
    for each in range(2):
        if each:
            repaired(lab)
        result = lab.capture()
        assert result.point.type == "full"
        assert "It has to be a full" in result.warnings[0]
        assert result.point.warnings == result.warnings
        lab.check_ours(result.point)
        lab.delete(result.point)


def test_a_backup_onto_a_broken_chain_warns_on_the_command_line_and_ends_with_3(lab, capfd):
    lab.delete(point(lab, 5))
    lab.delete(point(lab, 4))
    lab.layer(point(lab, 1)).unlink()
    arguments = ["backup", str(lab.image), "-r", str(lab.repository.path), "--set", "disk"]
    assert cli.main(arguments) == 3
    assert "It has to be a full" in capfd.readouterr().err
    assert cli.main(arguments) == 0


def test_a_broken_layer_is_put_aside_whole_and_comes_back_with_a_good_copy(lab):
    layer = lab.layer(point(lab, 2))
    copy = Path(shutil.copy2(layer, lab.folder / "copy"))
    ruin(layer)
    (sentence,) = repaired(lab)
    assert layer.name in sentence
    assert "quarantine" in sentence
    assert put_aside(lab) == {
        layer.name, "0002-incremental.json", "0002-incremental.digests", lab.file("0002-overlay"),
    }  # fmt: skip
    assert (lab.set_folder / QUARANTINE / layer.name).stat().st_size == 100
    shutil.copy2(copy, layer)
    repaired(lab)
    assert [each.sequence for each in lab.set.points] == [1, 2, 3, 4, 5]
    shutil.rmtree(lab.set_folder / QUARANTINE)
    lab.check_all()


def test_putting_a_file_of_one_name_aside_twice_keeps_both(lab):
    layer = lab.layer(point(lab, 5))
    for _ in range(2):
        ruin(layer) if layer.exists() else layer.write_bytes(b"again")
        repaired(lab)
    assert {layer.name, f"{layer.name}.2"} <= put_aside(lab)


def test_the_number_of_a_point_that_was_put_aside_is_not_given_again(lab):
    ruin(lab.layer(point(lab, 5)))
    (lab.set_folder / "set.json").unlink()
    repaired(lab)
    assert lab.backup().sequence == 6


def test_a_damaged_overlay_is_put_aside_and_made_again(lab):
    overlay = lab.overlay(point(lab, 3))
    overlay.write_bytes(b"no disk")
    (sentence,) = repaired(lab)
    assert "overlay" in sentence
    assert put_aside(lab) == {overlay.name}
    shutil.rmtree(lab.set_folder / QUARANTINE)
    lab.check_all()


# --------------------------------------------------------------------- an identity that was changed


def reidentify(lab: Lab, layer: Path) -> None:
    """What another program does that opens a layer for writing, and changes nothing in it."""
    layer.chmod(0o600)
    disk = lab.open(layer, writable=True)
    content_id = {"vmdk": "12345678", "vhd": "1a2b3c4d"}.get(lab.disk_format, str(uuid.uuid4()))
    disk.adopt(
        str(uuid.uuid4()), content_id.replace("-", "") if lab.disk_format == "qcow2" else content_id
    )
    disk.close()


@pytest.mark.parametrize("sequence", [1, 2, 3, 5])
def test_a_layer_that_got_another_identity_gets_its_own_back(lab, sequence):
    layer = lab.layer(point(lab, sequence))
    before = {each.sequence: each for each in lab.set.points}
    reidentify(lab, layer)
    (sentence,) = repaired(lab)
    assert layer.name in sentence
    assert "holds what was captured" in sentence
    assert {each.sequence: each for each in lab.set.points} == before
    lab.check_all()
    assert repaired(lab) == []


def test_qemu_that_writes_to_a_vmdk_what_is_there_already_does_no_harm_that_lasts(tmp_path):
    """QEMU changes the CID at the first write, and then no child is readable."""
    lab = Lab(tmp_path)
    lab.poke(0, noise(9 * BLOCK, 1))
    first = lab.backup()
    lab.poke(BLOCK, noise(BLOCK, 2))
    second = lab.backup()
    (tmp_path / "same").write_bytes(noise(9 * BLOCK, 1)[:4096])
    lab.layer(first).chmod(0o600)
    write = f"write -s {tmp_path / 'same'} 0 4096"
    subprocess.run(
        ["qemu-io", "-f", "vmdk", "-c", write, lab.layer(first)], check=True, capture_output=True
    )
    with pytest.raises(VdbackupError, match="no longer the disk"):
        lab.check_ours(second)
    (sentence,) = repaired(lab)
    assert "holds what was captured" in sentence
    lab.check_all()


def test_a_layer_with_other_contents_does_not_get_its_identity_back(lab):
    layer = lab.layer(point(lab, 1))
    damage(lab, layer, 5 * BLOCK)
    reidentify(lab, layer)
    before = lab.files
    (sentence,) = repaired(lab)
    assert "was altered and stays as it is" in sentence
    assert lab.files == before
    found = verdicts(lab)
    assert [number for number in found if found[number]] == [1, 2, 3, 4]


def test_a_layer_that_holds_more_than_was_captured_does_not_get_its_identity_back(lab):
    layer = lab.layer(point(lab, 2))
    layer.chmod(0o600)
    disk = lab.open(layer, writable=True)
    disk.write(12 * BLOCK, memoryview(noise(BLOCK, 9)))
    disk.flush()
    disk.close()
    reidentify(lab, layer)
    assert any("was altered and stays" in sentence for sentence in repaired(lab))
    assert verdicts(lab)[3]


# -------------------------------------------------------------------------------- a whole catalogue


def test_everything_but_the_layers_may_be_lost_and_is_rebuilt(lab):
    before = [(each.id, each.sequence, each.parent, each.created) for each in lab.set.points]
    for path in [*lab.set_folder.iterdir(), lab.repository.path / "vdbackup.json"]:
        if path.stat().st_mode & 0o777 != 0o444:
            path.unlink()
    repaired(lab)
    assert [(e.id, e.sequence, e.parent, e.created) for e in lab.set.points] == before
    lab.check_all()
    assert not any(verdicts(lab).values())


def test_a_set_whose_merge_cannot_be_finished_keeps_no_other_set_from_being_repaired(lab):
    other = lab.repository.path / "other"
    shutil.copytree(lab.set_folder, other)
    (other / "0005-full.json").unlink()
    (lab.set_folder / "journal.json").write_text("{}")
    (lab.set_folder / "0003-incremental.digests").write_bytes(b"")
    sentences = repaired(lab)
    assert any("disk: an interrupted merge cannot be finished" in each for each in sentences)
    assert any("other: the manifest of point 5 was rebuilt" in each for each in sentences)


@pytest.mark.parametrize(("disk_format", "order"), [("vhdx", "little"), ("qcow2", "big")])
def test_a_layer_whose_disk_has_another_size_is_damaged(lab: Lab, order: str) -> None:
    """The size that these formats note is guarded by no checksum."""
    newest = lab.set.points[-1]
    layer = lab.layer(newest)
    data, size = layer.read_bytes(), newest.virtual_size
    place = data.index(size.to_bytes(8, order))
    layer.chmod(0o644)
    with layer.open("r+b") as file:
        file.seek(place)
        file.write((size + BLOCK).to_bytes(8, order))
    with pytest.raises(Damaged, match="says that its disk has"):
        lab.set.open_chain(newest)
    verdicts = verify.run(verify.plan(lab.repository, "disk"), Task())
    assert [verdict.point.id for verdict in verdicts if not verdict.ok] == [newest.id]
