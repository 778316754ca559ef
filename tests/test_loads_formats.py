"""Recorded loads: a format is known by its content, and what is wrong in a file is named by row."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from simulator.loads.formats import load_file, load_trace, parse_file, shipped
from simulator.loads.rates import Rates, read_aggregate, read_clients, read_week, together
from simulator.loads.rows import TraceError
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload

MOONCAKE = (
    '{"timestamp": 1000, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 4500, "input_length": 13, "output_length": 1, "hash_ids": []}\n'
)
CLIENTS = (
    "client,t_s,rate_rps,cv,pattern,param1,param2\n"
    "0,0,1.5,2,Weibull,0.4,0.4\n"
    "0,600,2.5,1,Gamma,1,2\n"
    "7,0,0.5,1,Gamma,1,2\n"
    "7,1200,4,1,Gamma,1,2\n"
)
AGGREGATE = (
    "t_s,active_clients,rate_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens,"
    "token_pdf_rate_coverage\n"
    "0,4,200,1,800,100,0.5\n"
    "600,4,100,1,,,0.0\n"
    "1200,4,300,1,200,300,0.5\n"
)
WEEK = (
    "time_utc,req_per_min_mid,req_per_min_lo,req_per_min_hi,req_per_min_mid_normalised\n"
    "2024-05-12T06:00:00Z,590,500,680,600.0\n"
    "2024-05-13T18:00:00Z,1190,1000,1300,1200.0\n"
)


def refused(text: str) -> str:
    with pytest.raises(TraceError) as error:
        parse_file("load", text.encode())
    return str(error.value)


def test_mooncake_lines_are_requests_with_milliseconds() -> None:
    trace = parse_file("x", MOONCAKE.encode())
    assert isinstance(trace, Trace)
    assert trace.at_s.tolist() == [0.0, 3.5]
    assert trace.context_tokens.tolist() == [6955, 13]
    assert trace.generated_tokens.tolist() == [52, 1]


def test_rates_of_clients_are_added_window_by_window_and_a_silent_window_is_0() -> None:
    rates = read_clients("x", CLIENTS)
    assert rates.envelope.rate_per_s.tolist() == [2.0, 2.5, 4.0]
    assert rates.envelope.at_s.tolist() == [300.0, 900.0, 1500.0]
    assert rates.envelope.period_s == 1800.0
    gap = read_clients("x", CLIENTS + "3,3000,1,1,Gamma,1,1\n")
    assert gap.envelope.rate_per_s.tolist() == [2.0, 2.5, 4.0, 0.0, 0.0, 1.0]


def test_an_aggregate_has_rates_and_means_weighted_by_what_they_were_taken_from() -> None:
    rates = read_aggregate("x", AGGREGATE)
    assert rates.envelope.rate_per_s.tolist() == [200.0, 100.0, 300.0]
    assert rates.prompt_mean == pytest.approx((800 * 200 + 200 * 300) / 500)
    assert rates.generated_mean == pytest.approx((100 * 200 + 300 * 300) / 500)
    assert rates.cv == 1.0


def test_a_week_begins_at_midnight_and_is_repeated_after_whole_days() -> None:
    envelope = read_week("x", WEEK).envelope
    assert envelope.at_s.tolist() == [6 * 3600.0, 42 * 3600.0]
    assert envelope.rate_per_s.tolist() == [10.0, 20.0]
    assert envelope.period_s == 2 * 86_400.0


def test_files_of_rates_are_workloads_with_the_lengths_of_their_source() -> None:
    found = {
        name: parse_file(name, text.encode())
        for name, text in (("clients", CLIENTS), ("aggregate", AGGREGATE), ("week", WEEK))
    }
    assert all(isinstance(one, Workload) for one in found.values())
    means = {
        name: (one.lengths().prompt_mean, one.lengths().generated_mean)
        for name, one in found.items()
        if isinstance(one, Workload)
    }
    assert means["clients"] == pytest.approx((958.0, 180.0), rel=0.01)
    assert means["aggregate"] == pytest.approx((440.0, 220.0), rel=0.01)
    assert means["week"] == pytest.approx((1603.0, 100.0), rel=0.01)


@pytest.mark.parametrize("text", [MOONCAKE, CLIENTS, AGGREGATE, WEEK])
def test_a_format_is_known_by_its_content_whatever_the_file_is_called(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "load").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    found = load_file(tmp_path / "load")
    assert type(found) is type(parse_file("x", text.encode()))


def test_the_multimodal_day_is_read_too() -> None:
    path = "servegen/multimodal-mm-image_aggregate_600s.csv"
    rates = read_aggregate(path, shipped(path))
    assert rates.envelope.mean_per_s == pytest.approx(9.5, abs=0.05)
    assert rates.envelope.peak_per_s == pytest.approx(13.3, abs=0.05)
    assert rates.prompt_mean == pytest.approx(615, abs=1)
    assert rates.generated_mean == pytest.approx(128.5, abs=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MOONCAKE + "{", "row 3: Input data was truncated; expected an object with timestamp"),
        (MOONCAKE + "[1]", "row 3: Expected `object`, got `array`"),
        (MOONCAKE + '{"timestamp": 5}', "row 3: Object missing required field `input_length`"),
        (
            MOONCAKE + '{"timestamp": 5.5, "input_length": 1, "output_length": 1}',
            "row 3: Expected `int`, got `float` - at `$.timestamp`; expected an object with"
            " timestamp, input_length, output_length, whole milliseconds and tokens from 1",
        ),
        (
            MOONCAKE + '{"timestamp": 4499, "input_length": 1, "output_length": 1}',
            "row 3: timestamp is 4499; expected no earlier than the row before",
        ),
        (
            MOONCAKE + '{"timestamp": 4500, "input_length": 0, "output_length": 1}',
            "row 3: Expected `int` >= 1 - at `$.input_length`",
        ),
        (
            MOONCAKE + '{"timestamp": 4500, "input_length": 1, "output_length": 1000001}',
            "row 3: Expected `int` <= 1000000 - at `$.output_length`",
        ),
        (CLIENTS + "0,600,1,1,Gamma,1,2\n", "row 6: client 0 has the window at 600 s twice"),
        (CLIENTS + "x,600,1,1,Gamma,1,2\n", "row 6: client is 'x'; expected a whole number from 0"),
        (CLIENTS + "1,-1,1,1,Gamma,1,2\n", "row 6: t_s is '-1'; expected a whole number from 0"),
        (CLIENTS + "1,0,nan,1,Gamma,1,2\n", "row 6: rate_rps is 'nan'; expected a number from 0"),
        (CLIENTS + "1,0,-1,1,Gamma,1,2\n", "row 6: rate_rps is '-1'; expected a number from 0"),
        (CLIENTS + "1,0,1,1e9,Gamma,1,2\n", "row 6: cv is '1e9'; expected a number from 0 to 1000"),
        (CLIENTS + "1,0,1\n", "row 6: 3 columns, expected 7"),
        (CLIENTS + "1,701,1,1,Gamma,1,2\n", "t_s 600 is off the grid of 101 s windows"),
        (AGGREGATE + "2400,4,1,1,,,0\n", "row 5: t_s is '2400'; expected 1800, the next window"),
        (AGGREGATE + "1800,4,1,1,x,5,0\n", "row 5: mean_input_tokens is 'x'; expected a number"),
        (AGGREGATE + "1800,4,1,1,5,5,2\n", "row 5: token_pdf_rate_coverage is '2'; expected a"),
        (AGGREGATE[: AGGREGATE.index("600,")] + "0,4,1,1,,,0\n", "row 3: t_s is '0'; expected la"),
        (
            WEEK + "2024-05-14,1,1,1,1\n",
            "row 4: time_utc is '2024-05-14'; expected a time with its",
        ),
        (WEEK + "2024-05-12T06:00:00Z,1,1,1,1\n", "expected later than the row before"),
        (WEEK + "2024-05-14T06:00:00Z,1,1,1,-1\n", "row 4: req_per_min_mid_normalised is '-1'"),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong_and_what_is_allowed(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize("text", [CLIENTS, AGGREGATE, WEEK])
def test_a_bad_row_does_not_make_those_after_it_bad(text: str) -> None:
    header, first, *rest = text.splitlines()
    bad = ",".join([*first.split(",")[:-1], "-"]) if text is WEEK else first.replace(",", ",x", 2)
    assert "1 bad row\n" in refused("\n".join([header, first, bad, *rest[1:]]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "".join(f'{{"timestamp": {i // 20}, "input_length": 9, "output_length": 9}}\n'
                    for i in range(100)),
            "expected at most 10,000: are the times in another unit?",
        ),
        (CLIENTS.replace("00,", "00000,"), "windows of 600,000 s; expected at most 86,400: is t_s"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n1700158546.68,10,5\n",
            "TIMESTAMP is '1700158546.68'; expected a time like",
        ),
    ],
    ids=["seconds for milliseconds", "milliseconds for seconds", "seconds since 1970"],
)  # fmt: skip
def test_times_in_another_unit_are_refused(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 usable rows; expected at least two at two times"),
        ("\n", "0 usable rows"),
        (MOONCAKE.splitlines()[0], "1 usable rows; expected at least two at two times"),
        (CLIENTS.splitlines()[0], "0 usable rows; expected windows at two times at least"),
        (AGGREGATE.splitlines()[0] + "\n", "0 usable rows; expected at least two windows"),
        (WEEK.splitlines()[0], "0 usable rows; expected at least two"),
        (CLIENTS.replace("0,600,2.5", "0,1200,0").replace("1.5", "0").replace("0.5", "0")
         .replace("1200,4,", "600,0,"), "no window with a rate above 0"),
        ("tokens,cdf_percent\n0,0\n10,100\n", "a distribution of lengths says nothing about arriv"),
    ],
)  # fmt: skip
def test_a_file_without_a_load_is_refused(text: str, said: str) -> None:
    assert said in refused(text)


def test_an_unknown_format_is_refused_with_all_that_are_known() -> None:
    said = refused("time,tokens\n1,2\n")
    assert "row 1 is 'time,tokens'; expected the header TIMESTAMP,ContextTokens" in said
    for name in ("Azure 2023", "ServeGen per client", "ServeGen aggregate", "Azure 2024", "Moonc"):
        assert name in said


def test_where_requests_are_needed_a_file_of_rates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text(CLIENTS)
    with pytest.raises(TraceError, match="a recording of rates; expected one of requests"):
        load_trace(tmp_path / "rates.csv")


def test_many_who_come_rarely_are_together_a_poisson_stream() -> None:
    rare = np.full(1_000, 0.01)
    assert together(rare, np.full(1_000, 8.0)) == 1.0


def test_one_who_comes_often_keeps_its_bursts() -> None:
    assert together(np.array([1_000.0]), np.array([3.0])) == pytest.approx(3.0, rel=0.01)


def test_many_equal_clients_are_as_bursty_as_counted_one_by_one() -> None:
    one_by_one = together(np.full(40, 5.0), np.full(40, 3.0))
    assert together(np.array([5.0]), np.array([3.0]), np.array([40.0])) == one_by_one


def test_an_aggregate_is_less_bursty_than_its_clients_as_it_does_not_know_the_large_ones() -> None:

    def rates(kind: str) -> Rates:
        path = f"servegen/language-m-large_{kind}.csv.gz"
        read = read_clients if "client" in kind else read_aggregate
        return read(path, shipped(path))

    clients, aggregate = rates("per_client_rate_600s_2d"), rates("aggregate_600s")
    assert clients.cv == pytest.approx(3.0, abs=0.1)
    assert aggregate.cv == pytest.approx(2.06, abs=0.05)
    two_days = aggregate.envelope.rate_per_s[:288]
    assert clients.envelope.rate_per_s == pytest.approx(two_days, rel=1e-3)
