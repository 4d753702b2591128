"""What we write, letter by letter: earlier versions read it, and people do without us."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vdbackup.agent.changes import Token
from vdbackup.consistency import Consistency, How
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import DamagedMetadata, Remedy
from vdbackup.recovery.sessions.files import SessionFiles
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.record import Origin, SessionRecord
from vdbackup.repository.journal import Journal
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import (
    BootStage,
    BootTest,
    ChangesFrom,
    Check,
    Pin,
    PointType,
    Promotion,
    Reading,
    RecoveryPoint,
    SetSettings,
    SourceIdentity,
)
from vdbackup.repository.policy import READ_ALL_EVERY, BootTests, Policy
from vdbackup.repository.repository import Repository
from vdbackup.settings import HiddenSet, KnownSource, Settings, ThemeChoice, WindowState
from vdbackup.sources.reference import SourceRef

SOURCE = SourceIdentity(
    "wwn:5000c500a1b2c3d4",
    "Büro \udcff",  # a name that is no text
    "/dev/sda",
    {"size": ("1073741824",), "paths": ("/dev/sda", "/dev/disk/by-id/wwn-5000c500a1b2c3d4")},
)
FULL = RecoveryPoint(
    id="695e7aeb-caa2-4836-a2f4-a5261a47a3c8",
    sequence=1,
    created="2026-11-28T16:46:10.336+00:00",
    type=PointType.FULL,
    parent=None,
    disk="0001-full.vmdk",
    overlay="0001-overlay.vmdk",
    digests="0001-full.digests",
    disk_size=589824,
    virtual_size=1 << 30,
    sector_size=512,
    stored_bytes=524288,
)
INCREMENTAL = RecoveryPoint(
    id="756e238c-dbf0-43e5-9aa6-c456133738bb",
    sequence=2,
    created="2026-11-28T16:46:30.847+00:00",
    type=PointType.INCREMENTAL,
    parent=FULL.id,
    disk="0002-incremental.vmdk",
    overlay="0002-overlay.vmdk",
    digests="0002-incremental.digests",
    disk_size=65536,
    virtual_size=1 << 30,
    sector_size=512,
    stored_bytes=0,
    verified=Check("2026-11-28T16:46:55+00:00", ok=True),
    boot_tested=BootTest(
        "2026-11-28T16:47:00+00:00", False, 4.5, BootStage.KERNEL, 'It says "no root" → stopped.'
    ),
    merged=("e0440a15-9016-420a-8bdf-6a33cf5c52b8", "4cf26c4a-3867-4dc8-b928-ff874c9a05fa"),
    merged_before=10_000,
    warnings=("Files that were written meanwhile may be missing.",),
    unreadable=((4096, 512), (1 << 29, 65536)),
    promoted_from=Promotion("20261128-164612-b358e8", "disk #1", "2026-11-28T16:46:12+00:00"),
    captured_from=SOURCE,
    exact_size=(1 << 30) - 100,
    reading=Reading(
        Consistency(How.FROZEN, "2026-11-28T16:46:29.500+00:00", 41, 3, ("swap (/dev/sda3)",)),
        ChangesFrom.SCAN,
        1 << 30,
        "tracking was begun anew",
        Token("5d41402abc4b2a76b9719d911017c592", 7, 1 << 20, 1 << 30),
        3,
        all_blocks=False,
        not_read=((1 << 20, 1 << 19),),
        about_free=("Free space of ext4 is not read: 512 KiB.",),
    ),
)
SET = SetSettings(
    SOURCE,
    1 << 30,
    512,
    DiskFormat.VMDK,
    Policy(
        keep=7,
        retarget=False,
        boot_test=BootTests.EACH,
        read_all_every=None,
        keep_within=48,
        daily=14,
    ),
    last_sequence=2,
    continues="disk-vhd",
    source_format="raw",
    pins=(Pin(1, "before the upgrade", "2026-11-28T16:50:00+00:00"),),
)

FULL_TEXT = """\
{
  "id": "695e7aeb-caa2-4836-a2f4-a5261a47a3c8",
  "sequence": 1,
  "created": "2026-11-28T16:46:10.336+00:00",
  "type": "full",
  "parent": null,
  "disk": "0001-full.vmdk",
  "overlay": "0001-overlay.vmdk",
  "digests": "0001-full.digests",
  "disk_size": 589824,
  "virtual_size": 1073741824,
  "sector_size": 512,
  "stored_bytes": 524288,
  "verified": null,
  "boot_tested": null,
  "merged": [],
  "merged_before": 0,
  "warnings": [],
  "unreadable": [],
  "promoted_from": null,
  "captured_from": null,
  "exact_size": null,
  "reading": null,
  "moment": null
}
"""
SOURCE_TEXT = """\
{
    "id": "wwn:5000c500a1b2c3d4",
    "name": "Büro \\udcff",
    "path": "/dev/sda",
    "facts": {
      "size": [
        "1073741824"
      ],
      "paths": [
        "/dev/sda",
        "/dev/disk/by-id/wwn-5000c500a1b2c3d4"
      ]
    }
  }"""
INCREMENTAL_TEXT = (
    """\
{
  "id": "756e238c-dbf0-43e5-9aa6-c456133738bb",
  "sequence": 2,
  "created": "2026-11-28T16:46:30.847+00:00",
  "type": "incremental",
  "parent": "695e7aeb-caa2-4836-a2f4-a5261a47a3c8",
  "disk": "0002-incremental.vmdk",
  "overlay": "0002-overlay.vmdk",
  "digests": "0002-incremental.digests",
  "disk_size": 65536,
  "virtual_size": 1073741824,
  "sector_size": 512,
  "stored_bytes": 0,
  "verified": {
    "at": "2026-11-28T16:46:55+00:00",
    "ok": true
  },
  "boot_tested": {
    "at": "2026-11-28T16:47:00+00:00",
    "ok": false,
    "seconds": 4.5,
    "stage": "kernel",
    "sentence": "It says \\"no root\\" → stopped."
  },
  "merged": [
    "e0440a15-9016-420a-8bdf-6a33cf5c52b8",
    "4cf26c4a-3867-4dc8-b928-ff874c9a05fa"
  ],
  "merged_before": 10000,
  "warnings": [
    "Files that were written meanwhile may be missing."
  ],
  "unreadable": [
    [
      4096,
      512
    ],
    [
      536870912,
      65536
    ]
  ],
  "promoted_from": {
    "session": "20261128-164612-b358e8",
    "title": "disk #1",
    "ended": "2026-11-28T16:46:12+00:00"
  },
  "captured_from": """
    + SOURCE_TEXT
    + """,
  "exact_size": 1073741724,
  "reading": {
    "consistency": {
      "how": "frozen",
      "at": "2026-11-28T16:46:29.500+00:00",
      "frozen_ms": 41,
      "rounds": 3,
      "left_out": [
        "swap (/dev/sda3)"
      ]
    },
    "changes_from": "scan",
    "read_bytes": 1073741824,
    "scan_reason": "tracking was begun anew",
    "tracker": {
      "nonce": "5d41402abc4b2a76b9719d911017c592",
      "generation": 7,
      "start": 1048576,
      "size": 1073741824
    },
    "unproven": 3,
    "all_blocks": false,
    "not_read": [
      [
        1048576,
        524288
      ]
    ],
    "about_free": [
      "Free space of ext4 is not read: 512 KiB."
    ]
  },
  "moment": null
}
"""
)
SET_TEXT = (
    """\
{
  "source": """
    + SOURCE_TEXT
    + """,
  "virtual_size": 1073741824,
  "sector_size": 512,
  "format": "vmdk",
  "policy": {
    "keep": 7,
    "retarget": false,
    "boot_test": "each",
    "read_all_every": null,
    "keep_within": 48,
    "daily": 14,
    "weekly": null,
    "monthly": null,
    "yearly": null,
    "at_most": null,
    "at_most_bytes": null,
    "keep_writes": null,
    "moments_every": null,
    "forget_moments": null,
    "index": false
  },
  "last_sequence": 2,
  "continues": "disk-vhd",
  "source_format": "raw",
  "pins": [
    {
      "sequence": 1,
      "note": "before the upgrade",
      "since": "2026-11-28T16:50:00+00:00"
    }
  ]
}
"""
)


def indented(text: str) -> str:
    """A record's text as it stands one level down in another."""
    return text.rstrip("\n").replace("\n", "\n  ")


def test_a_manifest(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "backups")
    folder = repository.create_set("disk", SET).folder
    for point, text in ((FULL, FULL_TEXT), (INCREMENTAL, INCREMENTAL_TEXT)):
        repository.save_point("disk", point)
        assert manifest_path(folder, point).read_text() == text
    assert repository.set("disk").points == (FULL, INCREMENTAL)


def test_the_settings_of_a_set(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "backups")
    file = repository.create_set("disk", SET).folder / "set.json"
    assert file.read_text() == SET_TEXT
    assert repository.settings("disk") == SET
    repository.save_settings("disk", SET)
    assert file.read_text() == SET_TEXT


def test_what_earlier_versions_did_not_write_is_as_it_is_usually() -> None:
    settings = json.loads(SET_TEXT)
    del settings["policy"]["read_all_every"]
    assert SetSettings.from_json(settings).policy.read_all_every == READ_ALL_EVERY
    manifest = json.loads(INCREMENTAL_TEXT)
    del manifest["reading"]["unproven"]
    reading = RecoveryPoint.from_json(manifest).reading
    assert reading is not None
    assert reading.unproven == 0


def test_the_marker_of_a_repository(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "backups")
    text = f'{{\n  "layout": 1,\n  "id": "{repository.id}"\n}}\n'
    assert (repository.path / "vdbackup.json").read_text() == text
    assert Repository.open(repository.path).id == repository.id


def test_the_journal_of_a_merge(tmp_path: Path) -> None:
    for result in (None, INCREMENTAL):
        journal = Journal(FULL, INCREMENTAL, result)
        journal.save(tmp_path)
        assert (tmp_path / "journal.json").read_text() == (
            f'{{\n  "operation": "merge",\n  "phase": "{"relink" if result else "copy"}",\n'
            f'  "parent": {indented(FULL_TEXT)},\n  "child": {indented(INCREMENTAL_TEXT)},\n'
            f'  "result": {indented(INCREMENTAL_TEXT) if result else "null"}\n}}\n'
        )
        assert Journal.load(tmp_path) == journal


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("result",), None),
        (("phase",), 7),
        (("parent",), []),
        (("child", "disk"), "../0002-incremental.vmdk"),
        (("child", "exact_size"), 1),
    ],
)
def test_a_journal_that_makes_no_sense_is_refused_with_the_way_to_mend_it(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    Journal(FULL, INCREMENTAL, INCREMENTAL).save(tmp_path)
    file = tmp_path / "journal.json"
    record = within = json.loads(file.read_text())
    for key in place[:-1]:
        within = within[key]
    if value is None:
        del within[place[-1]]
    else:
        within[place[-1]] = value
    file.write_text(json.dumps(record))
    with pytest.raises(DamagedMetadata, match=r"journal\.json is not valid: ") as refusal:
        Journal.load(tmp_path)
    assert refusal.value.remedy is Remedy.REPAIR


SETTINGS = Settings(
    repositories=(Path("/mnt/usb"), Path("/srv/Büro \udcff")),
    sources=(
        KnownSource(SourceRef.parse("/dev/sda"), Path("/mnt/usb"), "laptop-sda"),
        KnownSource(SourceRef.parse("/srv/vm.img"), Path("/srv/Büro \udcff")),
    ),
    theme=ThemeChoice.DARK,
    sessions_folder=Path("/var/tmp/sessions"),
    memory_mib=2048,
    headless=True,
    ask_before_backup=False,
    all_blocks=True,
    limit_mib=30,
    rests_on_battery=True,
    remind_after_days=3,
    animations=False,
    window=WindowState(
        (1200, 800), True, (200, 700, 300), (600, 200), True, (3, False), ("/mnt/usb", "/a", "b")
    ),
    tray=True,
    hidden=(HiddenSet(Path("/mnt/usb"), "old"),),
)
SETTINGS_TEXT = """\
{
  "repositories": [
    "/mnt/usb",
    "/srv/B\\u00fcro \\udcff"
  ],
  "sources": [
    {
      "path": "/dev/sda",
      "repository": "/mnt/usb",
      "set": "laptop-sda"
    },
    {
      "path": "/srv/vm.img",
      "repository": "/srv/B\\u00fcro \\udcff",
      "set": null
    }
  ],
  "theme": "dark",
  "sessions_folder": "/var/tmp/sessions",
  "memory_mib": 2048,
  "headless": true,
  "ask_before_backup": false,
  "all_blocks": true,
  "limit_mib": 30,
  "rests_on_battery": true,
  "remind_after_days": 3,
  "animations": false,
  "window": {
    "size": [
      1200,
      800
    ],
    "maximized": true,
    "columns": [
      200,
      700,
      300
    ],
    "rows": [
      600,
      200
    ],
    "table": true,
    "sort": [
      3,
      false
    ],
    "source": [
      "/mnt/usb",
      "/a",
      "b"
    ]
  },
  "tray": true,
  "mail_to": "",
  "trouble_command": "",
  "hidden": [
    {
      "repository": "/mnt/usb",
      "set": "old"
    }
  ]
}"""
DEFAULT_SETTINGS_TEXT = """\
{
  "repositories": [],
  "sources": [],
  "theme": "auto",
  "sessions_folder": null,
  "memory_mib": 0,
  "headless": false,
  "ask_before_backup": true,
  "all_blocks": false,
  "limit_mib": 0,
  "rests_on_battery": false,
  "remind_after_days": 7,
  "animations": true,
  "window": {
    "size": [],
    "maximized": false,
    "columns": [],
    "rows": [],
    "table": false,
    "sort": [
      0,
      true
    ],
    "source": []
  },
  "tray": false,
  "mail_to": "",
  "trouble_command": "",
  "hidden": []
}"""


def test_what_the_window_and_the_command_line_remember(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    for settings, text in ((SETTINGS, SETTINGS_TEXT), (Settings(), DEFAULT_SETTINGS_TEXT)):
        settings.save(file)
        assert file.read_text() == text
        assert Settings.load(file) == settings


STARTED = datetime(2026, 11, 28, 16, 46, 12, 345678, UTC)
ORIGIN = Origin(
    Path("/mnt/usb"), "262963e8-78b7-4dcc-8be2-6587c02014e0", "disk", FULL.id, "sha256:00ff"
)
SESSION_TEXT = """\
{
  "id": "20261128-164612-b358e8",
  "title": "B\\u00fcro #1",
  "started": "2026-11-28T16:46:12+00:00",
  "overlay": "/mnt/usb/disk/0001-overlay.vmdk",
  "pid": 4711,
  "ended": true,
  "origin": {
    "repository": "/mnt/usb",
    "repository_id": "262963e8-78b7-4dcc-8be2-6587c02014e0",
    "set": "disk",
    "point": "695e7aeb-caa2-4836-a2f4-a5261a47a3c8",
    "overlay_contents": "sha256:00ff"
  },
  "machine": {
    "hardware": {
      "controller": "ahci",
      "partition": 0
    },
    "network": false
  },
  "others": [],
  "attached": []
}
"""
NEW_SESSION_TEXT = """\
{
  "id": "20261128-164612-b358e8",
  "title": "disk",
  "started": "2026-11-28T16:46:12+00:00",
  "overlay": "/tmp/overlay.vmdk",
  "pid": null,
  "ended": false,
  "origin": null,
  "machine": {},
  "others": [],
  "attached": []
}
"""


def test_a_session(tmp_path: Path) -> None:
    path = tmp_path / "20261128-164612-b358e8"
    path.mkdir()
    machine = {"hardware": {"controller": "ahci", "partition": 0}, "network": False}
    overlay = Path("/mnt/usb/disk/0001-overlay.vmdk")
    kept = SessionRecord("Büro #1", STARTED, overlay, 4711, True, ORIGIN, machine)
    new = SessionRecord("disk", STARTED, Path("/tmp/overlay.vmdk"))
    for said, text in ((kept, SESSION_TEXT), (new, NEW_SESSION_TEXT)):
        with SessionFolder(SessionFiles(path), said, os.open(path, os.O_RDONLY)) as folder:
            folder.write_record(said.pid, ended=said.ended)
        assert (path / "session.json").read_text() == text
        read = SessionRecord.from_json(json.loads(text), "", datetime.now(UTC))
        assert read == SessionRecord(**vars(said) | {"started": STARTED.replace(microsecond=0)})
