"""`python -m tests.storm` in short: one backup that reads all, one that reads what is marked."""

from __future__ import annotations

import pytest

from tests import storm

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.long]


@pytest.mark.parametrize("kind", storm.KINDS)
def test_a_disk_in_a_storm_is_backed_up_as_it_was_while_frozen(tmp_path, kind):
    tally = storm.Tally()
    storm.rounds_of_a_set(tmp_path, kind, 2, tally)
    assert tally.rounds + tally.given_up == 2
    assert not tally.failed, tally.said
