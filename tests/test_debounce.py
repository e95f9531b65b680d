"""The first request goes at once, bursts wait a little, rejects slow things down only after several."""

from __future__ import annotations

from habitab_server.debounce import MOST_MS, QUIET_MS, REJECTS_IN_A_ROW, Debounce


def reject(debounce: Debounce, times: int) -> None:
    for _ in range(times):
        debounce.rejected()


def test_the_first_request_after_a_pause_goes_at_once() -> None:
    debounce = Debounce()
    assert debounce.delay(0) == 0
    for _ in range(10):
        debounce.superseded()
    assert debounce.delay(10) > 0
    assert debounce.delay(11 + QUIET_MS) == 0


def test_steady_typing_that_the_engine_keeps_up_with_never_waits() -> None:
    debounce = Debounce()
    for key in range(50):
        assert debounce.delay(key * 120.0) == 0
        debounce.answered()


def test_superseded_requests_make_the_wait_longer_up_to_a_bound_and_an_answer_ends_it() -> None:
    debounce = Debounce()
    waits = []
    for key in range(10):
        waits.append(debounce.delay(key * 10.0))
        debounce.superseded()
    assert waits == sorted(waits)
    assert waits[1] > 0 and waits[-1] == MOST_MS
    debounce.answered()
    assert debounce.delay(110) == 0


def test_a_few_rejects_do_not_slow_suggestions_down() -> None:
    debounce = Debounce()
    reject(debounce, REJECTS_IN_A_ROW - 1)
    assert debounce.delay(0) == 0


def test_several_rejects_in_a_row_do_and_each_makes_it_half_as_long_again() -> None:
    debounce = Debounce(50, 3000)
    reject(debounce, REJECTS_IN_A_ROW)
    first = debounce.delay(0)
    assert first == 50 * 1.5**REJECTS_IN_A_ROW
    debounce.rejected()
    assert debounce.delay(1) == first * 1.5


def test_the_pause_stays_within_its_bounds() -> None:
    debounce = Debounce(50, 3000)
    reject(debounce, 100)
    assert debounce.delay(0) == 3000
    debounce.set_bounds(50, 200)
    assert debounce.delay(1) == 200


def test_an_accept_shows_at_once_again_and_shortens_the_pause_that_later_rejects_bring() -> None:
    slow, eased = Debounce(50, 3000), Debounce(50, 3000)
    reject(slow, 6)
    reject(eased, 6)
    eased.accepted()
    assert eased.delay(0) == 0
    reject(slow, REJECTS_IN_A_ROW)
    reject(eased, REJECTS_IN_A_ROW)
    assert eased.delay(1) == slow.delay(1) * 0.8
