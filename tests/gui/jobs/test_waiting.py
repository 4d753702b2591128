"""A job of the window waits for whoever else works on the repository, and says for whom."""

from __future__ import annotations

import pytest

from tests.gui.user import User
from tests.repository.computers import held


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_waits_for_another_process_and_can_be_cancelled(with_source: User, cancelled: bool):
    user = with_source
    (worker,) = user.window.workers._writers
    with held(worker, "backing up sdx") as holder:
        user.asks_for("actionBackUp")
        user.agrees()
        row = user.reads(f"process {holder.pid} on ")
        assert row.sentence.startswith("Waiting: ")
        assert "backing up sdx" in row.sentence
        if cancelled:
            row._cancel.click()
        else:
            holder.kill()
        user.waits_until(lambda: row.ended)
    assert row.sentence == "Cancelled." if cancelled else "made" in row.sentence
    user.sees_points(1 if cancelled else 2)
