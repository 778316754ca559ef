"""What the word of a UPS means: triggers, quiet, and not knowing. No clock, no network."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.node_local import LocalBook, LocalTrigger
from controllers.node_ups import UpsWatch
from facility.config import UpsConfig
from facility.nut import NutReading

GONE = NutReading("unreachable", detail="refused")
STALE = NutReading("stale", detail="DATA-STALE")


def config(**changes: Any) -> UpsConfig:
    keys: dict[str, Any] = {
        "name": "ups-a",
        "source": "ups-a@127.0.0.1",
        "contingency": "ups-a-lost",
        "quiet_s": 10.0,
        "missing_s": 5.0,
    }
    return UpsConfig(**(keys | changes))


def says(words: str) -> NutReading:
    return NutReading("fresh", frozenset(words.split()))


class Bench:
    """A watch, and what it told."""

    def __init__(self, **changes: Any) -> None:
        self.watch = UpsWatch(config(**changes))
        self.told: list[str] = []

    def see(self, now_s: float, reading: NutReading) -> None:
        self.told += [notice.event for notice in self.watch.see(now_s, reading)]


# --- what begins it ------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["OB", "LB", "OVER", "FSD"])
def test_each_word_begins_it_at_the_first_look(word: str) -> None:
    bench = Bench()
    bench.see(0.0, says(f"OL {word}"))
    assert bench.watch.is_on
    assert bench.watch.cause == word
    assert bench.watch.triggers == {word: 1}
    assert bench.told == ["ups-alarm"]


@pytest.mark.parametrize("words", ["OL", "OL CHRG", "OL BOOST", "OL RB"])
def test_other_words_begin_nothing(words: str) -> None:
    bench = Bench()
    for second in range(30):
        bench.see(second, says(words))
    assert bench.watch.is_on is False
    assert bench.told == []


def test_a_word_that_is_no_trigger_here_begins_nothing() -> None:
    bench = Bench(triggers=("LB",))
    bench.see(0.0, says("OL OVER"))
    assert not bench.watch.is_on
    bench.see(1.0, says("OB LB"))
    assert bench.watch.is_on


def test_what_goes_on_is_told_once_and_what_comes_on_top_once_more() -> None:
    bench = Bench()
    for second in range(5):
        bench.see(second, says("OB DISCHRG"))
    assert bench.told == ["ups-alarm"]
    bench.see(5.0, says("OB LB DISCHRG"))
    bench.see(6.0, says("OB DISCHRG"))
    assert bench.told == ["ups-alarm", "ups-alarm"]
    assert bench.watch.triggers == {"OB": 1, "LB": 1}


# --- what ends it --------------------------------------------------------------------------------


def test_it_ends_after_a_quiet_while_on_line() -> None:
    bench = Bench()
    bench.see(0.0, says("OB"))
    bench.see(1.0, says("OL"))
    bench.see(10.9, says("OL"))
    assert bench.watch.is_on
    bench.see(11.0, says("OL"))
    assert bench.watch.is_on is False
    assert bench.told == ["ups-alarm", "ups-clear"]


@pytest.mark.parametrize("between", [says("OB"), GONE, STALE, says("OFF")])
def test_quiet_means_nothing_but_on_line(between: NutReading) -> None:
    bench = Bench()
    bench.see(0.0, says("OB"))
    bench.see(1.0, says("OL"))
    bench.see(9.0, between)
    bench.see(11.5, says("OL"))
    assert bench.watch.is_on
    bench.see(21.5, says("OL"))
    assert bench.watch.is_on is False


# --- not knowing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [GONE, STALE, says("OFF"), says("BYPASS")])
def test_a_ups_last_seen_on_line_is_an_alarm_and_no_emergency(reading: NutReading) -> None:
    bench = Bench()
    for second in range(11):
        bench.see(second, says("OL"))
    bench.see(11.0, reading)
    bench.see(15.9, reading)
    assert bench.told == []
    bench.see(16.0, reading)
    assert bench.told == ["ups-missing"]
    bench.see(500.0, reading)
    assert bench.watch.is_on is False
    assert bench.told == ["ups-missing"]
    bench.see(501.0, says("OL"))
    assert bench.told == ["ups-missing", "ups-back"]


@pytest.mark.parametrize("reading", [GONE, STALE, says("OFF")])
def test_a_ups_last_seen_on_battery_stays_there(reading: NutReading) -> None:
    bench = Bench()
    bench.see(0.0, says("OB"))
    for second in range(1, 1_000):
        bench.see(second, reading)
    assert bench.watch.is_on
    assert bench.told == ["ups-alarm", "ups-missing"]


def test_a_file_may_say_that_not_knowing_is_an_emergency() -> None:
    bench = Bench(missing_is="emergency")
    bench.see(0.0, GONE)
    bench.see(4.9, GONE)
    assert bench.watch.is_on is None
    bench.see(5.0, GONE)
    assert bench.watch.is_on
    assert bench.watch.cause == "missing"
    bench.see(6.0, says("OL"))
    bench.see(16.0, says("OL"))
    assert bench.watch.is_on is False


def test_a_ups_that_was_never_seen_claims_nothing() -> None:
    bench = Bench()
    bench.see(0.0, GONE)
    bench.see(60.0, GONE)
    assert bench.watch.is_on is None
    assert bench.told == ["ups-missing"]


def test_a_ups_seen_on_line_from_the_start_claims_that_after_the_quiet_while() -> None:
    bench = Bench()
    bench.see(0.0, says("OL"))
    assert bench.watch.is_on is None
    bench.see(10.0, says("OL"))
    assert bench.watch.is_on is False
    assert bench.told == []


# --- what the actuator keeps ---------------------------------------------------------------------


def trigger(on: bool, ups: str = "ups-a") -> LocalTrigger:
    return LocalTrigger(ups=ups, on=on, cause="OB" if on else "")


def test_two_upss_may_hold_the_same_contingency_and_both_must_let_go() -> None:
    book = LocalBook((config(), config(name="ups-b")), ())
    assert book.hear(trigger(True)) == "ups-a-lost"
    assert book.hear(trigger(True, "ups-b")) == "ups-a-lost"
    book.hear(trigger(False))
    assert book.active == ("ups-a-lost",)
    book.hear(trigger(False, "ups-b"))
    assert not book.active


def test_a_ups_that_the_file_does_not_name_is_not_heard() -> None:
    book = LocalBook((config(),), ("ups-z",))
    assert book.hear(trigger(True, "ups-z")) is None
    assert not book.active
    assert not book.records


def test_a_ups_taken_out_of_the_file_lets_go() -> None:
    book = LocalBook((config(),), ("ups-a",))
    assert book.active == ("ups-a-lost",)
    book.reconfigure(())
    assert not book.active
