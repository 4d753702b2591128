"""The window finds the first point at which something does not work any more."""

from __future__ import annotations

from pathlib import Path

from tests.gui.user import User
from vdbackup.gui.bisect_dialog import BisectDialog, Way
from vdbackup.sources import demo_disk


def test_the_first_point_that_a_command_calls_bad_is_found(with_source: User, disk: Path) -> None:
    for number in (2, 3):
        demo_disk.change(disk, f"day {number}", {f"DAY{number}.TXT": b"today"})
        with_source.backs_up(number)
    with_source.asks_for("actionBisect")
    dialog = with_source.sees(BisectDialog, "bisectDialog")
    assert dialog.find_button.isEnabled()
    dialog.way.setCurrentIndex(dialog.way.findData(Way.COMMAND))
    assert not dialog.find_button.isEnabled(), "no command is said yet"
    dialog.what.setText("sh -c 'test ! -e")
    assert not dialog.find_button.isEnabled(), "a quote is open"
    dialog.what.setText("""sh -c 'test ! -e "$0/p1/DAY2.TXT"'""")
    with_source.clicks("bisectAccept")
    row = with_source.sees_job_end("Find when")
    assert row.sentence.startswith("The first point that fails is #2, ")


def test_nothing_can_be_found_from_a_later_point_to_an_earlier_one(with_source: User) -> None:
    with_source.backs_up(2)
    with_source.asks_for("actionBisect")
    dialog = with_source.sees(BisectDialog, "bisectDialog")
    assert (dialog.first.currentText()[:2], dialog.last.currentText()[:2]) == ("#1", "#2")
    dialog.first.setCurrentIndex(1)
    dialog.last.setCurrentIndex(0)
    assert not dialog.find_button.isEnabled()
    dialog.way.setCurrentIndex(dialog.way.findData(Way.TEXT))
    dialog.first.setCurrentIndex(0)
    dialog.what.setText("login:")
    assert (dialog.find_button.isEnabled(), dialog.text, dialog.command) == (True, "login:", ())
    dialog.way.setCurrentIndex(dialog.way.findData(Way.INSIDE))
    dialog.what.setText("systemctl is-active nginx")
    assert dialog.find_button.isEnabled()
    assert (dialog.is_inside, dialog.command) == (True, ("systemctl", "is-active", "nginx"))
    dialog.close()
