"""In the window one says which points stay, sees which go before it is so, and pins others."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QModelIndex
from PySide6.QtWidgets import QPushButton, QTableView

from tests.gui.user import User
from vdbackup.backup.forecast import Outcome
from vdbackup.gui.pin_dialog import PinDialog
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.policy_dialog import PolicyDialog
from vdbackup.gui.settings_dialog import SettingsDialog
from vdbackup.operations.policy import ALL, OFF, Change
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk


def with_points(user: User, disk: Path, count: int) -> User:
    for number in range(2, count + 1):
        demo_disk.change(disk, f"state {number}", {})
        user.backs_up(number)
    return user


def rules(user: User, **numbers: int) -> PolicyDialog:
    """The dialog with these rules in it, once it shows what they mean."""
    user.asks_for("choosePolicy")
    dialog = user.sees(PolicyDialog, "policyDialog")
    for name, number in numbers.items():
        dialog.fields[name].setValue(number)
    user.waits_until(lambda: str(dialog.said.text).startswith(("Kept:", "All points stay")))
    return dialog


def test_what_would_go_is_seen_in_the_list_and_on_the_timeline_and_then_goes(
    with_source: User, disk: Path, repository: Path
) -> None:
    user = with_points(with_source, disk, 3)
    dialog = rules(user, daily=7)
    timeline = user.window.panel.timeline
    user.waits_until(lambda: len(timeline.facts.going) == 3)
    assert [fate.outcome for fate in dialog.fates] == [Outcome.GOES] * 3
    assert "would go with the next backup" in timeline.hint(0)
    shown = dialog.findChild(QTableView, "policyFates").model()
    cells = [str(shown.index(row, 2, QModelIndex()).data()) for row in range(3)]
    assert cells == ["goes", "goes", "goes"]
    user.agrees("policyDialog", "policySave")
    assert not timeline.facts.going
    plan = user.sees(PlanDialog, "planDialog")
    assert len(plan.plan.invalidates) == 3
    user.agrees()
    user.sees_job_end("Policy of laptop")
    assert Repository.open(repository).set().settings.policy.retention == Policy(daily=7)
    demo_disk.change(disk, "state 4", {})
    user.backs_up(1)


def test_how_much_the_points_may_hold_is_chosen_and_seen_on_the_timeline(
    with_source: User, disk: Path, repository: Path
) -> None:
    user = with_points(with_source, disk, 3)
    opened = Repository.open(repository)
    with opened.lock("a test"):
        opened.set_policy("laptop", Policy(at_most_bytes=1000))
    catalogue = user.window.catalogue
    catalogue.refresh()
    user.waits_until(lambda: catalogue.entries[0].backup_set.settings.policy.at_most_bytes)
    dialog = rules(user)
    assert dialog.fields["at_most_bytes"].text() == "1 GiB"  # and no more than it is shows as 0
    assert dialog.change == Change()
    timeline = user.window.panel.timeline
    user.waits_until(lambda: timeline.facts.going)
    assert "1 KiB together at most" in dialog.said.text
    dialog.fields["at_most_bytes"].setValue(7)
    user.waits_until(lambda: not timeline.facts.going)
    assert dialog.change == Change(at_most_bytes=7 << 30)
    user.agrees("policyDialog", "policySave")
    assert "The next backup takes none yet" in user.sees(PlanDialog, "planDialog").plan.summary
    user.agrees()
    user.sees_job_end("Policy of laptop")
    assert opened.set().settings.policy.at_most_bytes == 7 << 30


def test_a_dialog_that_is_left_changes_nothing(with_source: User, repository: Path) -> None:
    dialog = rules(with_source, keep=1, monthly=2)
    with_source.waits_until(lambda: with_source.window.panel.timeline.facts.going)
    dialog.reject()
    assert not with_source.window.panel.timeline.facts.going
    assert not Repository.open(repository).set().settings.policy.takes


def test_each_rule_is_changed_and_ended_by_itself(with_source: User) -> None:
    dialog = rules(with_source)
    assert dialog.change == Change()
    dialog.fields["keep_within"].setValue(2)
    dialog.fields["weekly"].setValue(8)
    assert dialog.change == Change(keep_within=48, weekly=8)
    dialog._present = Policy(keep_within=48, weekly=8, yearly=1)
    assert dialog.change == Change(yearly=OFF)
    dialog._present = Policy(keep=3, weekly=2)
    assert dialog.change == Change(keep=ALL, keep_within=48, weekly=8)
    for field in dialog.fields.values():
        field.setValue(0)
    assert dialog.change == Change(keep=ALL)
    dialog.reject()


def test_a_rule_that_no_field_can_show_stays_as_it_is(with_source: User, repository: Path) -> None:
    """Said at the command line, to the second or for centuries."""
    exact = Policy(at_most=70_000, keep_writes=90, moments_every=4_000_000, forget_moments=100)
    opened = Repository.open(repository)
    with opened.lock("a test"):
        opened.set_policy("laptop", exact)
    catalogue = with_source.window.catalogue
    catalogue.refresh()
    with_source.waits_until(lambda: catalogue.entries[0].backup_set.settings.policy == exact)
    with_source.asks_for("choosePolicy")
    dialog = with_source.sees(PolicyDialog, "policyDialog")
    assert dialog.change == Change()
    dialog.fields["forget_moments"].setValue(2)
    assert dialog.change == Change(forget_moments=2 * 86400)
    dialog.reject()


def test_the_settings_leave_other_rules_alone(with_source: User, repository: Path) -> None:
    opened = Repository.open(repository)
    with opened.lock("a test"):
        opened.set_policy("laptop", Policy(daily=7, at_most=40))
    with_source.window.catalogue.refresh()
    entries = with_source.window.catalogue
    with_source.waits_until(lambda: entries.entries[0].backup_set.settings.policy.daily == 7)
    with_source.asks_for("actionSettings")
    assert with_source.sees(SettingsDialog, "settingsDialog").keep == []
    with_source.agrees("settingsDialog", "settingsSave")
    assert opened.set().settings.policy == Policy(daily=7, at_most=40)


def test_a_point_is_pinned_with_a_note_marked_and_unpinned(
    with_source: User, repository: Path
) -> None:
    user = with_source
    assert not user.window.actions_["actionUnpin"].isEnabled()
    user.clicks("detailsPin")
    user.sees(PinDialog, "pinDialog").note.setText("before the upgrade")
    user.agrees("pinDialog", "pinAccept")
    timeline = user.window.panel.timeline
    user.waits_until(lambda: timeline.facts.pinned)
    assert "pinned" in timeline.hint(0)
    assert user.window.details.fact("pinned").startswith("before the upgrade (since today")
    assert [pin.note for pin in Repository.open(repository).set().settings.pins] == [
        "before the upgrade"
    ]
    assert not user.window.details.findChild(QPushButton, "detailsPin").isVisible()
    user.asks_for("actionDelete")
    row = user.reads("Point 1 is pinned (before the upgrade)")
    assert "Unpin" in row.sentence
    user.clicks("detailsUnpin")
    user.waits_until(lambda: not timeline.facts.pinned)
    assert Repository.open(repository).set().settings.pins == ()


def test_what_stays_of_kept_writes_is_said_beside_the_points(
    with_source: User, repository: Path
) -> None:
    dialog = rules(with_source, keep_writes=2, forget_moments=7)
    assert dialog.change == Change(keep_writes=7200, forget_moments=7 * 86400)
    with_source.waits_until(lambda: "nothing older than 7 days" in str(dialog.said.text))
    with_source.agrees("policyDialog", "policySave")
    plan = with_source.sees(PlanDialog, "planDialog").plan
    assert "every write of the last 2 hours" in plan.summary
    with_source.agrees()
    with_source.sees_job_end("Policy of laptop")
    opened = Repository.open(repository)
    assert opened.set().settings.policy == Policy(keep_writes=7200, forget_moments=7 * 86400)
    with opened.lock("a test"):
        opened.set_policy("laptop", Policy(keep_writes=90))
    with_source.window.catalogue.refresh()
    entries = with_source.window.catalogue
    with_source.waits_until(lambda: entries.entries[0].backup_set.settings.policy.keep_writes == 90)
    dialog = rules(with_source)
    assert dialog.change == Change(), "what was said in seconds stays so"
    dialog.fields["keep_writes"].setValue(0)
    assert dialog.change == Change(keep_writes=OFF)
    dialog.reject()
