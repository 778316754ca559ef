"""The shipped workloads have the statistics of their sources, and the document says which."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from simulator.loads.formats import shipped
from simulator.loads.named import NAMES, WorkloadName, workload_named
from simulator.loads.stream import Stream
from simulator.loads.trace import read_azure, read_mooncake
from simulator.loads.workload import Workload

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "loads.md"
PERCENTILES: Final = (10, 25, 50, 75, 90, 95, 99)
SHIPPED_BYTES_MAX: Final = 1_200_000


@dataclass(frozen=True, slots=True)
class Known:
    """What the source's own rows say, measured apart from this code."""

    mean_per_s: float
    prompt: tuple[int, ...]
    generated: tuple[int, ...]


KNOWN: Final[dict[WorkloadName, Known]] = {
    "azure-2023-code": Known(
        2.57, (147, 578, 1469, 2744, 5188, 7303, 7436), (7, 9, 13, 24, 55, 90, 251)
    ),
    "azure-2023-conv": Known(
        5.53, (207, 396, 1020, 1189, 2734, 4083, 4142), (54, 85, 129, 395, 424, 451, 601)
    ),
    "azure-2024-week": Known(
        45.1, (289, 521, 899, 2335, 3761, 4853, 6394), (1, 14, 33, 102, 332, 442, 648)
    ),
    "servegen-m-large": Known(
        195.8, (74, 245, 595, 1045, 2377, 2407, 5623), (1, 8, 61, 302, 470, 573, 917)
    ),
    "mooncake": Known(
        3.91, (30, 277, 11587, 23175, 38611, 48905, 66456), (4, 11, 69, 250, 389, 519, 768)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_mean_rate_and_quantiles_of_lengths_are_those_of_the_source(name: WorkloadName) -> None:
    workload, known = workload_named(name), KNOWN[name]
    lengths = workload.lengths()
    assert workload.envelope.mean_per_s == pytest.approx(known.mean_per_s, rel=0.005)
    for tokens, expected in (
        (lengths.prompt_tokens, known.prompt),
        (lengths.generated_tokens, known.generated),
    ):
        assert np.percentile(tokens, PERCENTILES) == pytest.approx(expected, rel=0.01, abs=2.0)


@pytest.mark.parametrize(
    ("name", "cv"), [("azure-2023-code", 13.2), ("azure-2023-conv", 1.09), ("mooncake", 1.01)]
)
def test_drawn_gaps_vary_as_the_recorded_ones(name: WorkloadName, cv: float) -> None:
    path = {
        "azure-2023-code": "azure/AzureLLMInferenceTrace_code.csv.gz",
        "azure-2023-conv": "azure/AzureLLMInferenceTrace_conv.csv.gz",
        "mooncake": "mooncake/synthetic_trace.jsonl.gz",
    }[name]
    read = read_mooncake if name == "mooncake" else read_azure
    workload = workload_named(name)
    drawn = Stream(workload, scale=1.0, seed=1).until(workload.envelope.period_s).at_s
    assert variation(read(path, shipped(path)).at_s) == pytest.approx(cv, abs=0.06)
    assert variation(drawn) == pytest.approx(cv, rel=0.08)


def variation(at_s: np.ndarray) -> float:
    gaps = np.diff(at_s)
    return float(gaps.std() / gaps.mean())


def test_minutes_of_the_code_service_are_as_wild_as_recorded() -> None:
    """152 requests a minute, give or take 158, from 0 to 632."""
    drawn = Stream(workload_named("azure-2023-code"), scale=1.0, seed=1).until(3_420.0).at_s
    minutes = np.bincount((drawn // 60.0).astype(int), minlength=57)
    assert minutes.mean() == pytest.approx(152.0, rel=0.05)
    assert minutes.std() == pytest.approx(158.0, rel=0.1)
    assert minutes.max() == pytest.approx(632.0, rel=0.1)
    assert minutes.min() < 5


def test_the_week_of_2024_has_its_quantiles_over_time() -> None:
    rate = workload_named("azure-2024-week").envelope.rate_per_s
    assert np.percentile(rate, (1, 50, 99)) == pytest.approx([21.3, 46.1, 74.0], rel=0.01)


def test_fourteen_days_of_servegen_have_their_quantiles_over_time() -> None:
    rate = workload_named("servegen-m-large").envelope.rate_per_s
    assert len(rate) == 2_016
    assert np.percentile(rate, (5, 50, 95, 100)) == pytest.approx([84, 187, 342, 583], rel=0.01)


def test_long_answers_go_with_what_they_went_with_a_year_before() -> None:
    """Of Azure's week only margins are known: shares of short and long, in per cent of requests."""
    lengths = workload_named("azure-2024-week").lengths()
    prompt, generated = lengths.prompt_tokens, lengths.generated_tokens
    assert 100.0 * (prompt < 256).mean() == pytest.approx(7.8, abs=0.5)
    assert 100.0 * (prompt < 1024).mean() == pytest.approx(51.5, abs=0.5)
    assert 100.0 * (generated < 100).mean() == pytest.approx(74.7, abs=0.5)
    assert 100.0 * (generated < 350).mean() == pytest.approx(90.9, abs=0.5)
    medium_short = (prompt >= 256) & (prompt < 1024) & (generated < 100)
    assert 100.0 * medium_short.mean() == pytest.approx(35.7, abs=2.5)
    long_long = (prompt >= 1024) & (generated >= 350)
    assert 100.0 * long_long.mean() == pytest.approx(7.3, abs=1.5)


def row(name: str, workload: Workload) -> str:
    """The line of the document's table."""
    lengths, envelope = workload.lengths(), workload.envelope

    def shown(tokens: np.ndarray) -> str:
        return "/".join(f"{value:.0f}" for value in np.percentile(tokens, (10, 50, 90, 99)))

    return (
        f"| `{name}` | {envelope.mean_per_s:.2f} | {envelope.peak_per_s:.1f} |"
        f" {envelope.period_s / 3_600.0:.2f} | {workload.cv:.1f} |"
        f" {lengths.prompt_mean:.0f} | {shown(lengths.prompt_tokens)} |"
        f" {lengths.generated_mean:.0f} | {shown(lengths.generated_tokens)} |"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_document_says_what_a_workload_is(name: WorkloadName) -> None:
    assert row(name, workload_named(name)) in DOCUMENT.read_text()


def test_shipped_recordings_are_small_and_each_has_its_licence_beside_it() -> None:
    data = Path(str(resources.files("simulator").joinpath("data")))
    files = [path for path in data.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < SHIPPED_BYTES_MAX
    for folder in {path.parent for path in files} - {data}:
        assert (folder / "LICENSE").is_file()
        assert "Origin: <https://" in (folder / "README.md").read_text()
