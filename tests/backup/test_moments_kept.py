"""Which moments of kept writes stay: against a model that looks at each of them by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vdbackup.backup.moments_kept import NS, MomentRules, Moments, kept_alone

TIMES = st.lists(st.integers(0, 4000), min_size=1, max_size=60, unique=True).map(sorted)
RULES = st.builds(
    MomentRules,
    st.none() | st.integers(0, 3000),
    st.integers(1, 900),
    st.integers(0, 4500).map(lambda s: s * NS),
)


def of_times(times: list[int]) -> Moments:
    return [(3 * place + 1, time * NS) for place, time in enumerate(times)]


def model(moments: Moments, rules: MomentRules) -> set[int]:
    """One by one, with no thought of how a log is made shorter."""
    end = moments[-1][1]
    stay = set()
    for number, time in moments:
        if time <= rules.forgotten:
            continue
        period = [n for n, t in moments if t // (rules.every * NS) == time // (rules.every * NS)]
        old = rules.within is not None and time <= end - rules.within * NS
        among = {n for n, t in moments if n in period and t <= end - (rules.within or 0) * NS}
        if not old or number == max(among):
            stay.add(number)
    return stay


def staying(moments: Moments, rules: MomentRules, thinned_until: int = -1) -> set[int]:
    """What is left of a log, as thinning has it: those by themselves, and all behind the last."""
    alone = kept_alone(moments, rules, thinned_until)
    behind = {number for number, _ in moments if not alone or number > alone[-1]}
    return behind | set(alone)


@given(TIMES, RULES)
def test_it_is_what_a_plain_model_says(times: list[int], rules: MomentRules) -> None:
    moments = of_times(times)
    wanted = model(moments, rules)
    assert staying(moments, rules) == (wanted or {moments[-1][0]}), "the newest is left at least"


@given(TIMES, RULES, RULES)
def test_what_was_thinned_before_is_thinned_on_and_nothing_comes_back(
    times: list[int], first: MomentRules, second: MomentRules
) -> None:
    moments = of_times(times)
    alone = kept_alone(moments, first, -1)
    left = [each for each in moments if each[0] in staying(moments, first)]
    wanted = model(left, second) or {left[-1][0]}
    assert staying(left, second, alone[-1] if alone else -1) == wanted
    again = kept_alone(left, first, alone[-1] if alone else -1)
    assert staying(left, first, alone[-1] if alone else -1) == {n for n, _ in left}, again


def test_without_a_rule_all_stay() -> None:
    moments = of_times([1, 2, 3])
    assert kept_alone(moments, MomentRules(None, 60), -1) == []
    assert kept_alone([], MomentRules(0, 60, 10 * NS), -1) == []
