"""A trace is read whole or refused with every bad row named; scaled, it keeps its mean rate."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulator.loads.blocks import BLOCK_S
from simulator.loads.formats import built_in_trace, load_trace, parse_trace
from simulator.loads.replay import Load
from simulator.loads.rows import TraceError

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"


def refused(text: str) -> str:
    with pytest.raises(TraceError) as error:
        parse_trace("load.csv", text.encode())
    return str(error.value)


def test_the_built_in_trace_is_the_hour_of_azure_conversations() -> None:
    trace = built_in_trace()
    assert len(trace.at_s) == 19_366
    assert trace.rate_per_s == pytest.approx(5.53, abs=0.01)
    assert np.median(trace.context_tokens) == pytest.approx(1020, abs=5)
    assert np.median(trace.generated_tokens) == pytest.approx(129, abs=2)
    assert (np.diff(trace.at_s) >= 0.0).all()


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_plain_and_gzip_files_read_the_same(tmp_path: Path, line_end: str) -> None:
    data = (HEADER + GOOD).replace("\n", line_end).encode()
    (tmp_path / "plain.csv").write_bytes(data)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(data))
    plain, packed = load_trace(tmp_path / "plain.csv"), load_trace(tmp_path / "packed.csv.gz")
    assert plain.at_s.tolist() == packed.at_s.tolist() == pytest.approx([0.0, 4.314579])
    assert plain.context_tokens.tolist() == [374, 396]
    assert plain.generated_tokens.tolist() == [44, 109]


def test_times_with_a_zone_as_in_the_traces_of_2024_are_read() -> None:
    rows = "2024-05-10 00:00:00.009930+00:00,10,5\n2024-05-10 00:00:01.009930+00:00,10,5\n"
    assert parse_trace("x", (HEADER + rows).encode()).at_s.tolist() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_trace_of_the_largest_size_is_read_and_a_larger_one_refused(
    pack: Callable[[bytes], bytes],
) -> None:
    text = (HEADER + GOOD).encode()
    assert len(parse_trace("x", pack(text), bytes_max=len(text)).at_s) == 2
    with pytest.raises(TraceError, match="more than 110 bytes, unpacked"):
        parse_trace("x", pack(text), bytes_max=len(text) - 1)


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(64_000_000), 1)
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match="more than 1,000,000 bytes"):
            parse_trace("x", bomb, bytes_max=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_of_many_bad_rows_the_first_are_named_and_the_rest_counted() -> None:
    said = refused(HEADER + GOOD + "x,1,1\n" * 500)
    assert "500 bad rows" in said
    assert said.count("\n") == 21
    assert said.endswith("and 480 more")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("yesterday,374,44", "row 4: TIMESTAMP is 'yesterday'; expected a time like"),
        ("2023-11-16 18:15:52,-1,44", "row 4: ContextTokens is '-1'; expected a whole number"),
        ("2023-11-16 18:15:52,0,44", "row 4: ContextTokens is '0'; expected a whole number from 1"),
        ("2023-11-16 18:15:52,374,nan", "row 4: GeneratedTokens is 'nan'; expected a whole"),
        ("2023-11-16 18:15:52,374,1e3", "row 4: GeneratedTokens is '1e3'; expected a whole"),
        ("2023-11-16 18:15:52,1000001,44", "row 4: ContextTokens is '1000001'; expected a whole"),
        ("2023-11-16 18:15:52,374", "row 4: 2 columns, expected 3"),
        ("2023-11-16 18:15:49,374,44", "row 4: TIMESTAMP is '2023-11-16 18:15:49'; expected no ea"),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong_and_what_is_allowed(row: str, said: str) -> None:
    text = refused(HEADER + GOOD + row + "\n")
    assert text.startswith("load.csv: 1 bad row\n")
    assert said in text


@pytest.mark.parametrize("tokens", ["1", "1000000"])
def test_token_counts_at_both_ends_are_accepted(tokens: str) -> None:
    rows = f"{GOOD}2023-11-16 18:15:52,{tokens},{tokens}\n"
    assert parse_trace("x", (HEADER + rows).encode()).context_tokens[-1] == int(tokens)


def test_all_bad_rows_are_counted_and_twenty_are_shown() -> None:
    text = refused(HEADER + GOOD + "bad,1,1\n" * 25)
    assert "load.csv: 25 bad rows" in text
    assert "row 23: " in text
    assert "row 24: " not in text
    assert text.endswith("and 5 more")


def test_two_faults_in_one_row_are_both_said() -> None:
    text = refused(HEADER + GOOD + "bad,x,1\n")
    assert "1 bad row\n" in text
    assert text.count("row 4: ") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 usable rows"),
        (HEADER, "0 usable rows"),
        (HEADER + GOOD.splitlines()[0], "1 usable rows"),
        ("a,b,c\n1,2,3\n", "row 1 is 'a,b,c'; expected the header TIMESTAMP,ContextTokens"),
    ],
)
def test_a_file_without_a_usable_trace_is_refused(text: str, said: str) -> None:
    assert said in refused(text)


def test_bytes_that_are_no_text_are_a_bad_row_too() -> None:
    with pytest.raises(TraceError, match="row 4: ContextTokens"):
        parse_trace("x", (HEADER + GOOD).encode() + b"2023-11-16 18:15:52,\xff\x00,4\n")


def test_broken_gzip_data_and_a_missing_file_are_said_with_the_file(tmp_path: Path) -> None:
    cut = gzip.compress((HEADER + GOOD).encode())[:-12]
    (tmp_path / "cut.csv.gz").write_bytes(cut)
    with pytest.raises(TraceError, match=r"cut\.csv\.gz: broken gzip data"):
        load_trace(tmp_path / "cut.csv.gz")
    with pytest.raises(TraceError, match=r"none\.csv: No such file"):
        load_trace(tmp_path / "none.csv")


def arrivals_per_s(load: Load, *, seconds: int) -> np.ndarray:
    return np.array([len(load.until(float(second + 1)).at_s) for second in range(seconds)])


@pytest.mark.parametrize("rate_per_s", [3.0, 40.0, 260.0])
def test_the_mean_rate_over_the_whole_trace_is_the_one_asked_for(rate_per_s: float) -> None:
    load = Load(built_in_trace(), rate_per_s=rate_per_s, rng=np.random.default_rng(1))
    assert arrivals_per_s(load, seconds=3502).mean() == pytest.approx(rate_per_s, rel=0.02)


def test_a_run_longer_than_the_trace_goes_round() -> None:
    trace = built_in_trace()
    load = Load(trace, rate_per_s=5.0, rng=np.random.default_rng(1))
    load.until(3.0 * trace.span_s)
    assert len(load.until(3.1 * trace.span_s).at_s) > 0


def test_arrivals_come_in_order_once_each_and_before_the_time_asked_for() -> None:
    one, other = (
        Load(built_in_trace(), rate_per_s=50.0, rng=np.random.default_rng(4)) for _ in range(2)
    )
    steps = [one.until(0.7 * (step + 1)) for step in range(100)]
    in_steps = np.concatenate([part.at_s for part in steps])
    at_once = other.until(70.0).at_s
    assert in_steps.tolist() == at_once.tolist()
    assert (np.diff(at_once) >= 0.0).all()
    assert at_once[0] >= 0.0
    assert at_once[-1] < 70.0
    assert BLOCK_S < 70.0


def test_a_small_spread_keeps_the_bursts_and_a_wide_one_evens_them_out() -> None:
    def swing(spread_s: float | None) -> float:
        rng = np.random.default_rng(2)
        load = Load(built_in_trace(), rate_per_s=220.0, rng=rng, spread_s=spread_s)
        minutes = arrivals_per_s(load, seconds=3480).reshape(-1, 60).sum(axis=1)
        return float(minutes.std() / minutes.mean())

    assert swing(20.0) == pytest.approx(0.25, abs=0.04)
    assert swing(None) < 0.10


@pytest.mark.parametrize("rate_per_s", [0.0, -1.0, float("nan"), 1e9])
def test_a_rate_that_cannot_be_made_is_refused(rate_per_s: float) -> None:
    with pytest.raises(ValueError, match="requests/s; expected above 0"):
        Load(built_in_trace(), rate_per_s=rate_per_s, rng=np.random.default_rng(1))
