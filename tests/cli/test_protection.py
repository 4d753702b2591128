"""Every write of a machine, from the terminal: kept, listed, restored, promoted, forgotten."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.guests import boot_sector

RECORDS = 6
WATCHED = ("--headless", "--timeout", 240, "--hardware", "ide", "--until", "all written")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk whose machine writes records, and has each written out."""
    instructions = boot_sector.records(RECORDS) + boot_sector.say("all written")
    return boot_sector.make(tmp_path / "writer.img", instructions)


@pytest.fixture
def repository(tmp_path: Path, vdbackup: Vdbackup, disk: Path) -> Path:
    folder = tmp_path / "backups"
    assert vdbackup("backup", disk, "-r", folder).status == 0
    return folder


@pytest.fixture
def protected(vdbackup: Vdbackup, repository: Path) -> str:
    """The id of a session every write of which was kept; it is gone itself."""
    said = vdbackup("boot", 1, "-r", repository, "--protect", *WATCHED)
    assert said.status == 0, said.err
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    assert (log["writes"], log["ended"] is None) == (2 * RECORDS, False)
    return str(log["session"])


def expected(disk: Path, write: int) -> bytes:
    """The disk after a write: the counter, and the records that it counts."""
    after = bytearray(disk.read_bytes())
    for number in range(1, write + 1):
        record, is_record = (number + 1) // 2, number % 2 == 0
        at = boot_sector.COUNTER_AT + (512 * record if is_record else 0)
        after[at : at + 512] = record.to_bytes(4, "little") * 128
    return bytes(after)


def restored(vdbackup: Vdbackup, repository: Path, tmp_path: Path, point: object) -> bytes:
    target = tmp_path / "restored.raw"
    target.unlink(missing_ok=True)
    said = vdbackup("restore", point, target, "-r", repository)
    assert said.status == 0, said.err
    return target.read_bytes()


def test_moments_are_listed_and_restored_by_write_and_by_time(
    vdbackup: Vdbackup, repository: Path, protected: str, disk: Path, tmp_path: Path
) -> None:
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    assert [each["write"] for each in log["moments"]] == list(range(0, 2 * RECORDS + 1, 2))
    for write in (0, 3, 4, 2 * RECORDS):
        named = f"1@w{write}"
        assert restored(vdbackup, repository, tmp_path, named) == expected(disk, write)
    assert f"1@w{2 * RECORDS}" in vdbackup("moments", "-r", repository).out
    later = datetime.now(UTC) + timedelta(hours=1)
    whole = restored(vdbackup, repository, tmp_path, f"1@{later:%Y-%m-%dT%H:%M:%S+00:00}")
    assert whole == expected(disk, 2 * RECORDS)
    earlier = datetime.now(UTC) - timedelta(days=1)
    said = vdbackup("restore", f"1@{earlier:%Y-%m-%d}", tmp_path / "x", "-r", repository)
    assert said.status == 1
    assert "as early as that" in said.err
    assert (
        vdbackup("moments", "-r", repository, "--to", f"{earlier:%Y-%m-%d}", "--json").json[0][
            "moments"
        ]
        == []
    )


def test_what_makes_no_sense_behind_a_point_is_said(
    vdbackup: Vdbackup, repository: Path, protected: str, tmp_path: Path
) -> None:
    for named, words in (
        ("1@w99", "has done 12 writes"), ("1@yesterday", "neither a time"),
        ("1@", "neither a time"), ("2@w1", "matches no"), (f"1@{'0' * 8}.w1", "No writes of the"),
    ):  # fmt: skip
        said = vdbackup("restore", named, tmp_path / "x", "-r", repository)
        assert (said.status, words in said.err) == (1, True), said.err


def test_a_moment_becomes_a_point_and_the_writes_stay(
    vdbackup: Vdbackup, repository: Path, protected: str, disk: Path, tmp_path: Path
) -> None:
    planned = vdbackup("promote", "1@w5", "-r", repository, "--dry-run")
    assert "like a power cut" in planned.out
    assert vdbackup("promote", "1@w6", "-r", repository, "--json").json["sequence"] == 2
    assert vdbackup("promote", "1@w6", "-r", repository, "--json").json["sequence"] == 2
    assert restored(vdbackup, repository, tmp_path, 2) == expected(disk, 6)
    assert vdbackup("verify", "-r", repository).status == 0
    planned = vdbackup("unprotect", "--forget", protected[-6:], "-r", repository, "--dry-run")
    assert f"{RECORDS + 1} moments of point 1" in planned.out
    assert f"writes-{protected}.log" in planned.out
    assert vdbackup("moments", "-r", repository, "--json").json[0]["writes"] == 2 * RECORDS
    assert vdbackup("unprotect", "--forget", protected[-6:], "-r", repository).status == 0
    assert restored(vdbackup, repository, tmp_path, 2) == expected(disk, 6)
    assert vdbackup("moments", "-r", repository).out == "No writes are kept.\n"
    assert not list(repository.rglob("writes-*"))


def test_a_point_with_kept_writes_is_not_taken_away_and_a_moment_is_no_point(
    vdbackup: Vdbackup, repository: Path, protected: str
) -> None:
    said = vdbackup("delete", 1, "-r", repository, "--yes")
    assert (said.status, "every write of the session" in said.err) == (1, True), said.err
    assert f"unprotect --forget {protected}" in said.err
    assert vdbackup("moments", "-r", repository, "--json").json[0]["session"] == protected
    said = vdbackup("delete", "1@w4", "-r", repository, "--yes")
    assert (said.status, "vdbackup promote 1@w4" in said.err) == (1, True), said.err


def test_a_session_on_a_moment_holds_the_writes_and_is_promoted(
    vdbackup: Vdbackup, repository: Path, protected: str, disk: Path, tmp_path: Path
) -> None:
    said = vdbackup("boot", "1@w4", "-r", repository, "--keep", *WATCHED)
    assert said.status == 0, said.err
    (session,) = vdbackup("sessions", "list", "--json").json
    assert session["title"].endswith("#1@w4")
    said = vdbackup("unprotect", "--forget", protected, "-r", repository)
    assert (said.status, "runs from a moment of them" in said.err) == (1, True), said.err
    again = ("--headless", "--timeout", 240, "--until", "all written")
    assert vdbackup("sessions", "reopen", session["id"], *again).status == 0
    assert vdbackup("sessions", "promote", session["id"], "--json").json["sequence"] == 2
    assert restored(vdbackup, repository, tmp_path, 2) == expected(disk, 2 * RECORDS)
    assert vdbackup("unprotect", "--forget", protected, "-r", repository).status == 0


def test_a_session_that_is_opened_again_says_that_its_writes_are_kept(
    vdbackup: Vdbackup, repository: Path
) -> None:
    said = vdbackup("boot", 1, "-r", repository, "--protect", "--keep", *WATCHED)
    assert said.status == 0, said.err
    (session,) = vdbackup("sessions", "list", "--json").json
    again = ("--headless", "--timeout", 240, "--until", "all written")
    said = vdbackup("sessions", "reopen", session["id"], *again)
    assert f"its log goes on behind write {2 * RECORDS}." in said.out
    result = vdbackup("sessions", "reopen", session["id"], *again, "--json").json
    assert result["keeps_writes"] is True
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    assert (log["writes"], log["trouble"]) == (6 * RECORDS, None)
    assert [each["write"] for each in log["marks"]] == [2 * RECORDS, 4 * RECORDS]


def test_a_point_of_a_protected_session_leaves_its_moments_or_takes_them_along(
    vdbackup: Vdbackup, repository: Path, disk: Path, tmp_path: Path
) -> None:
    for forget in ((), ("--forget-writes",)):
        said = vdbackup("boot", 1, "-r", repository, "--protect", "--keep", *WATCHED)
        assert said.status == 0, said.err
        (session,) = vdbackup("sessions", "list", "--json").json
        planned = vdbackup("sessions", "promote", session["id"], *forget, "--dry-run", "--json")
        plan = planned.json
        logs = [each for each in plan["replaces"] if each.startswith(f"writes-{session['id']}")]
        assert (len(logs), bool(plan["invalidates"])) == ((3, True) if forget else (0, False))
        assert ("7 moments of point 1" in plan["summary"]) is True
        result = vdbackup("sessions", "promote", session["id"], *forget, "--json").json
        assert (result["forgotten_bytes"] > 0) is bool(forget)
        assert restored(vdbackup, repository, tmp_path, result["sequence"]) == expected(
            disk, 2 * RECORDS
        )
        (log,) = vdbackup("moments", "-r", repository, "--json").json
        assert (log["session"] == session["id"]) is (not forget)
        assert len(log["moments"]) == RECORDS + 1
        for write in (0, 3, 2 * RECORDS):
            assert restored(vdbackup, repository, tmp_path, f"1@w{write}") == expected(disk, write)
    assert vdbackup("delete", 1, "-r", repository, "--yes").status == 1


def test_kept_writes_are_thinned_and_gone_on_with(
    vdbackup: Vdbackup, repository: Path, disk: Path, tmp_path: Path
) -> None:
    assert vdbackup("boot", 1, "-r", repository, "--protect", "--keep", *WATCHED).status == 0
    (session,) = vdbackup("sessions", "list", "--json").json
    thin = ("unprotect", "--thin", session["id"], "-r", repository)
    whole = (*thin, "--all-within", "1h")
    assert "Nothing of the kept writes" in vdbackup(*whole).out
    every = (*thin, "--all-within", 0, "--every", "1d")
    planned = vdbackup(*every, "--dry-run")
    assert f"of {RECORDS + 1} consistent moments go" in planned.out
    result = vdbackup(*every, "--json")
    assert result.status == 0, result.err
    assert json.loads(result.out.splitlines()[-1])["forgotten_bytes"] > 0
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    there = [each["write"] for each in log["moments"]]
    assert (there[0], there[-1]) == (0, 2 * RECORDS)
    assert len(there) in (2, 3), "midnight may lie between"
    for write in there:
        assert restored(vdbackup, repository, tmp_path, f"1@w{write}") == expected(disk, write)
    said = vdbackup("restore", "1@w3", tmp_path / "x", "-r", repository)
    assert (said.status, "were thinned" in said.err) == (1, True)
    again = ("--headless", "--timeout", 240, "--until", "all written")
    said = vdbackup("sessions", "reopen", session["id"], *again)
    assert f"its log goes on behind write {2 * RECORDS}." in said.out
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    assert (log["writes"], log["trouble"]) == (4 * RECORDS, None)
    assert [each["write"] for each in log["moments"]][: len(there)] == there
    assert restored(vdbackup, repository, tmp_path, f"1@w{4 * RECORDS}") == expected(
        disk, 2 * RECORDS
    )
    for wrong in (("--thin", session["id"], "--every", "soon"), ("--forget", "x", "--every", "1m")):
        assert vdbackup("unprotect", *wrong, "-r", repository).status == 2


def test_a_log_that_is_damaged_is_listed_holds_every_point_and_is_forgotten(
    vdbackup: Vdbackup, repository: Path, protected: str
) -> None:
    (record,) = repository.rglob("writes-*.json")
    record.write_text("{")
    listed = vdbackup("moments", "-r", repository, "--json")
    assert listed.status == 3
    (log,) = listed.json
    assert (log["session"], log["point"], log["moments"]) == (protected, None, [])
    assert record.name in log["trouble"]
    said = vdbackup("moments", "-r", repository)
    assert (said.status, record.name in said.err) == (3, True)
    said = vdbackup("delete", 1, "-r", repository, "--yes")
    assert said.status == 1
    assert (record.name in said.err, f"unprotect --forget {protected}" in said.err) == (True, True)
    assert vdbackup("unprotect", "--forget", protected, "-r", repository).status == 0
    assert vdbackup("moments", "-r", repository, "--json").json == []
    assert vdbackup("delete", 1, "-r", repository, "--yes").status == 0


def test_without_protection_there_is_no_moment(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path
) -> None:
    said = vdbackup("restore", "1@w1", tmp_path / "x", "-r", repository, "--json")
    assert json.loads(said.err)["code"] == "no-writes-kept"
    said = vdbackup("unprotect", "--forget", "abcdef", "-r", repository)
    assert (said.status, "no session whose writes are kept" in said.err) == (1, True)


def test_a_policy_of_writes_is_shown_asked_about_and_done_with_the_next_backup(
    vdbackup: Vdbackup, repository: Path, protected: str, disk: Path, tmp_path: Path
) -> None:
    wanted = ("policy", "-r", repository, "--keep-writes", "1s", "--moments-every", "1d")
    planned = vdbackup(*wanted, "--dry-run", "--json").json
    (log,) = planned["logs"]
    assert (log["session"], log["moments"]) == (protected, RECORDS + 1)
    assert (planned["keep_writes_seconds"], planned["moments_every_seconds"]) == (1, 86400)
    said = vdbackup(*wanted, "--dry-run")
    assert (said.status, protected in said.out) == (0, True)
    if log["going"]:  # unless the machine was quicker than a second
        assert vdbackup(*wanted).status == 1, "nobody is there to be asked"
    assert vdbackup(*wanted, "--yes").status == 0
    shown = vdbackup("policy", "-r", repository)
    assert "of kept writes every write of the last 1 second" in shown.out
    done = vdbackup("backup", disk, "-r", repository, "--forget-moments", "7d")
    assert done.status == 0, done.err
    there = [each["write"] for each in vdbackup("moments", "-r", repository, "--json").json[0][
        "moments"
    ]]  # fmt: skip
    assert len(there) == RECORDS + 1 - log["going"]
    for write in there:
        assert restored(vdbackup, repository, tmp_path, f"1@w{write}") == expected(disk, write)
    shown = vdbackup("policy", "-r", repository, "--json").json["sets"][0]
    assert shown["forget_moments_seconds"] == 7 * 86400
    for wrong in ("soon", "0h", "-1s"):
        assert vdbackup("policy", "-r", repository, f"--keep-writes={wrong}").status == 2


def test_a_point_of_a_session_is_made_and_what_led_there_is_thinned(
    vdbackup: Vdbackup, repository: Path, disk: Path, tmp_path: Path
) -> None:
    said = vdbackup("boot", 1, "-r", repository, "--protect", "--keep", *WATCHED)
    assert said.status == 0, said.err
    (session,) = vdbackup("sessions", "list", "--json").json
    assert vdbackup("policy", "-r", repository, "--moments-every", "1d", "--yes").status == 0
    named = ("sessions", "promote", session["id"], "--thin-writes")
    plan = vdbackup(*named, "--dry-run", "--json").json
    assert plan["replaces"][-1] == f"writes-{session['id']}.index"
    assert "consistent moments" in plan["invalidates"][0]
    result = vdbackup(*named, "--json").json
    assert result["forgotten_bytes"] > 0
    assert restored(vdbackup, repository, tmp_path, 2) == expected(disk, 2 * RECORDS)
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    there = [each["write"] for each in log["moments"]]
    assert (there[0], there[-1]) == (0, 2 * RECORDS)
    assert len(there) in (2, 3), "midnight may lie between"
    for write in there:
        assert restored(vdbackup, repository, tmp_path, f"1@w{write}") == expected(disk, write)
    both = ("sessions", "promote", "x", "--thin-writes", "--forget-writes")
    assert vdbackup(*both).status == 2
    planned = vdbackup("promote", f"1@w{there[-1]}", "-r", repository, "--thin-writes", "--dry-run")
    assert "Nothing of the kept writes" in planned.out
