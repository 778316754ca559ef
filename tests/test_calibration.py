"""The twin's constants: how far off measurements they are, and which data is not believed."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from simulator.calibrated import decode_calibrated, load_calibrated
from simulator.calibration import clocks, engines, heat, operators, serving
from simulator.calibration.__main__ import DOCUMENT, HERE, SHIPPED, main
from simulator.calibration.errors import Row, kelvins, relative
from simulator.calibration.files import DataError, DataFolder
from simulator.calibration.fit import fit
from simulator.calibration.report import placed, table
from simulator.calibration.twin import twin_rows

DATA = HERE / "data"
BOUNDS = {
    "a100 power ratio by clock": 5.0,
    "a100 time ratio by clock": 5.0,
    "a40 power ratio by clock": 5.0,
    "a40 time ratio by clock": 5.0,
    "prefill time by prompt": 15.0,
    "prefill time, prompts as a batch": 30.0,
    "decode time": 10.0,
    "A100 decode power": 10.0,
    "A100 decode power, long prompts": 20.0,
    "A100 prefill power": 10.0,
    "H100 serving power by batch": 10.0,
    "H100 inter-token latency by batch": 15.0,
    "B200 serving power by batch": 20.0,  # misses 10 %: engines change their mode
    "B200 inter-token latency by batch": 45.0,  # misses 15 %: as above
    "temperature by power, A40": 3.0,
    "temperature by power, A100-80G PCIe": 4.0,  # misses 3 K: jobs and pauses within an hour
    "temperature by power, H100 PCIe": 3.0,
    "temperature by power, A6000 Ada": 3.0,
    "temperature by power": 3.0,
    "fan power by server power": 15.0,
    "the twin's A100: power ratio": 5.0,
    "the twin's prefill: time ratio": 5.0,
    "the twin's H100: power ratio": 10.0,
    "the twin's H100 at its band's end: power ratio": 10.0,
    "the twin's engine of today: prefill time": 25.0,
}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    found = (*fit(DATA).rows, *twin_rows(DATA))
    return {row.quantity: row for row in found}


@pytest.fixture
def data() -> DataFolder:
    return DataFolder(DATA)


def planted(folder: Path, path: str, text: str) -> DataFolder:
    """A folder with one packed file."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(gzip.compress(text.encode("utf-8")))
    return DataFolder(folder)


# ---- errors on what was not fitted ---------------------------------------------------------------


@pytest.mark.parametrize("quantity", BOUNDS)
def test_the_error_on_what_was_not_fitted_is_within_its_bound(
    rows: dict[str, Row], quantity: str
) -> None:
    row = rows[quantity]
    assert row.bound == BOUNDS[quantity]
    assert row.p95 <= BOUNDS[quantity]
    assert row.median <= row.p95


def test_every_quantity_has_its_bound_here(rows: dict[str, Row]) -> None:
    assert rows.keys() == BOUNDS.keys()


def test_an_error_at_its_bound_holds_and_one_above_it_does_not() -> None:
    measured = np.full(3, 100.0)
    at = relative("x", "y", "z", model=measured * 1.05, measured=measured, bound=5.0 + 1e-9)
    above = relative("x", "y", "z", model=measured * 1.051, measured=measured, bound=5.0)
    assert (at.holds, above.holds) == (True, False)
    assert "MISSED" in table([above])
    assert kelvins("x", "y", "z", model=measured - 2.0, measured=measured, bound=3.0).p95 == 2.0


def test_a_check_on_nothing_is_refused() -> None:
    none = np.array([])
    with pytest.raises(ValueError, match="nothing to check against"):
        relative("x", "y", "z", model=none, measured=none, bound=1.0)


# ---- the command ---------------------------------------------------------------------------------


def test_the_shipped_constants_are_what_the_fit_yields(capsys: pytest.CaptureFixture[str]) -> None:
    before = (SHIPPED.read_bytes(), DOCUMENT.read_bytes())
    assert main(["--check"]) == 0
    assert "a100 power ratio by clock" in capsys.readouterr().out
    assert (SHIPPED.read_bytes(), DOCUMENT.read_bytes()) == before


@pytest.mark.parametrize(("factor", "status"), [(1.0001, 0), (1.001, 1)])
def test_a_changed_figure_fails_the_check_unless_it_is_rounding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, status: int
) -> None:
    constants = json.loads(SHIPPED.read_bytes())
    constants["parts"]["a100"]["compute_power_w"] *= factor
    other = tmp_path / "constants.json"
    other.write_text(json.dumps(constants))
    assert main(["--check", "--constants", str(other)]) == status
    assert ("compute_power_w" in capsys.readouterr().err) == (status == 1)


def test_it_writes_the_constants_and_the_table(tmp_path: Path) -> None:
    document = tmp_path / "calibration.md"
    shutil.copy(DOCUMENT, document)
    document.write_text(placed(document.read_text(), []))
    out = tmp_path / "constants.json"
    assert main(["--constants", str(out), "--document", str(document)]) == 0
    assert decode_calibrated(out.read_bytes()).schema_version == 1
    assert document.read_text() == DOCUMENT.read_text()


def test_missing_measurements_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "constants.json"
    assert main(["--data", str(tmp_path), "--constants", str(out)]) == 69
    assert "stage_profile" in capsys.readouterr().err
    assert not out.exists()


def test_a_file_without_its_columns_or_of_garbage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.csv\.gz: has no column b"):
        planted(tmp_path, "x.csv.gz", "a,c\n1,2\n").rows("x.csv.gz", "a", "b")
    (tmp_path / "y.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"y\.csv\.gz: not readable as gzip"):
        DataFolder(tmp_path).rows("y.csv.gz", "a")


def test_unpacked_files_are_read_too_and_sources_are_noted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    folder = DataFolder(tmp_path)
    assert folder.rows("x.csv.gz", "a") == [{"a": "1"}]
    assert [source.path for source in folder.sources] == ["x.csv"]
    assert len(folder.sources[0].sha256) == 64


def test_constants_of_another_version_or_shape_are_refused() -> None:
    text = SHIPPED.read_text()
    with pytest.raises(ValueError, match="schema_version is 2; this twin reads 1"):
        decode_calibrated(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ValueError, match="unknown field"):
        decode_calibrated(text.replace('"sensor"', '"sensors"'))


def test_every_source_that_was_fitted_is_in_the_file_with_its_folders_licence() -> None:
    sources = load_calibrated().sources
    folders = {source.path.split("/")[0] for source in sources}
    assert folders == {path.name for path in DATA.iterdir() if path.is_dir()}
    for folder in folders:
        assert list((DATA / folder).glob("LICENSE*"))


def test_every_uncertain_figure_lies_in_its_band_and_says_why() -> None:
    bands = load_calibrated().bands
    assert {"decode_clock_exponent", "trip_patience_ratio", "die_s", "sink_s"} <= bands.keys()
    for name, band in bands.items():
        assert band.low <= band.nominal <= band.high, name
        assert band.low < band.high, name
        assert band.source, name


# ---- traps in the data ---------------------------------------------------------------------------


def test_seven_of_eight_stages_are_copies_so_only_two_measurements_count(data: DataFolder) -> None:
    stages = clocks.read_sweeps(data, "a100", "forward")
    assert len(stages) == 8
    assert len(clocks.distinct(stages)) == 2


def test_the_top_clocks_of_the_a40_are_its_limit_not_a_cost_of_clock(data: DataFolder) -> None:
    sweep = clocks.read_sweeps(data, "a40", "forward")[0]
    clipped = sweep.clock_mhz >= 1500.0
    assert sweep.power_w[clipped] == pytest.approx(300.0, rel=0.02)
    assert np.ptp(sweep.power_w[clipped]) <= 0.02 * sweep.power_w[-1]
    curve = clocks.fit_curve(sweep)
    assert curve.power_at(np.array([1500.0 / 1740.0]))[0] == pytest.approx(1.0, abs=0.02)


def test_clocks_that_are_checked_are_never_fitted() -> None:
    fitted, checked = clocks.split(38)
    assert not (fitted & checked).any()
    assert (fitted | checked).all()
    assert fitted[-1]


PROFILE_HEAD = (
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,"
    "token_time,e2e_time,tensor_parallel\n"
)


def test_made_up_rows_bogus_power_and_a_batch_that_did_not_fit_are_no_data(tmp_path: Path) -> None:
    text = PROFILE_HEAD + (
        "llama2-70b,a100-80gb,512,1,128,1.0,0.74,196,55,7000,2\n"
        "llama2-70b,a100-80gb,8192,1,128,1.0,0.18,2990,57,10000,2\n"
        "llama2-70b,a100-80gb,512,64,128,0.0,0.0,794,67,159000,2\n"
        "llama2-70b,h100-80gb,512,1,128,0.0,0.0,54,30,3800,8\n"
        "llama2-70b,h100-80gb-pcap,512,1,128,0.0,0.0,70.2,30,3900,8\n"
    )
    found = engines.read_profiles(planted(tmp_path, engines.PROFILE, text))
    assert [profile.name for profile in found] == ["llama2-70b/a100/2", "llama2-70b/h100/8"]
    a100, h100 = found
    powers = {cell.prompt: cell.average_w for cell in a100.cells}
    assert powers == {512: pytest.approx(296.0), 8192: None}
    assert [cell.batch for cell in a100.cells] == [1, 1]
    assert [cell.average_w for cell in h100.cells] == [None]


def test_peaks_of_prompts_too_short_for_the_sensor_are_lower_bounds(data: DataFolder) -> None:
    part = load_calibrated().parts["a100"]
    for profile in engines.read_profiles(data):
        if profile.part != "a100":
            continue
        found = load_calibrated().engines[profile.name]
        for cell in profile.cells:
            if cell.peak_w is None or cell.batch > 1:
                continue
            model_w = engines.prefill_w(cell, found, part)
            if np.median(cell.prompt_s) >= engines.SENSOR_S:
                assert model_w == pytest.approx(cell.peak_w, rel=0.06)
            else:
                assert model_w >= 0.94 * cell.peak_w


def test_a_run_that_never_filled_its_batch_is_no_point_of_a_curve(tmp_path: Path) -> None:
    head = ",".join((*serving.KEY, "max_num_seqs", "avg_batch_size", "power_per_gpu_w"))
    key = "chat,m,H100,8,8,1,1,fp8"
    text = f"{head},median_itl_ms\n" + "".join(
        f"{key},{most},{mean},{400 + most},{10 + most}\n"
        for most, mean in ((8, 8.0), (16, 15.9), (32, 28.9), (64, 57.5), (128, 120.0))
    )
    [curve] = serving.read_curves(planted(tmp_path, serving.RUNS, text))
    assert curve.batch.tolist() == [8.0, 15.9, 28.9, 120.0]


CORNELL_HEAD = "\ufeffname\ttimestamp\tpowerave\tpowermin\tpowermax\ttempave\n"


def test_lines_after_the_table_are_skipped_and_hours_are_put_in_order(tmp_path: Path) -> None:
    text = CORNELL_HEAD + (
        "cbsugpu05\t2025-02-01 09:00:00.000\t70\t60\t90\t35.5\n"
        "cbsugpu05\t2025-02-01 08:00:00.000\t71\t61\t91\t36.5\n"
        "\n(2 rows affected)\n\n\nCompletion time: 2025-10-31T10:35:47.0119102-04:00\n"
    )
    server = heat.SERVERS[0]
    folder = planted(tmp_path, "cornell-biohpc/cbsugpu05_usage_stats.txt.gz", text)
    hours = heat.read_hours(folder, server)
    assert hours.temperature_c.tolist() == [36.5, 35.5]
    assert hours.fitted.all()


def test_the_least_power_is_unknown_where_its_counter_began(data: DataFolder) -> None:
    hours = heat.read_hours(data, heat.SERVERS[2])
    assert hours.least_w.max() == 100.0
    assert hours.mean_w.max() > 300.0
    seen = heat.instants(hours, heat.SERVERS[2].gpu_count)
    whole = sum(weight * watts for weight, watts in seen)
    assert whole == pytest.approx(hours.mean_w, abs=0.02)
    unknown = hours.least_w == 100.0
    (_, least), _, (_, between) = seen
    assert (least[unknown] == between[unknown]).all()
    assert (least[~unknown] == hours.least_w[~unknown]).all()


def test_the_rooms_offset_knows_only_the_past() -> None:
    residual_k = np.array([1.0, 1.0, 1.0, 5.0, 1.0])
    changed = residual_k.copy()
    changed[3] = -9.0
    assert (heat.drift(residual_k)[:4] == heat.drift(changed)[:4]).all()
    assert heat.drift(residual_k)[4] != heat.drift(changed)[4]
    # One hour moves it by about a 24th: it cannot copy the last hour.
    assert heat.drift(np.array([1.0, 0.0]))[1] == pytest.approx(0.041, abs=0.001)


def test_bad_rows_of_h200_are_dropped(tmp_path: Path) -> None:
    rows = [(16, 580.0), (64, 390.0), (65, 650.0), (257, 300.0), (2048, 690.0), (3, 200.0)]
    text = "m,n,k,latency,power\n" + "".join(f"{m},8192,8192,0.1,{w}\n" for m, w in rows)
    text += "8,8192,8192,0.02,100.0\n"  # too short for the sensor
    found = operators.h200_points(planted(tmp_path, operators.H200_PRODUCTS, text))
    assert {name: point.median_w for name, point in found.items()} == {
        "m up to 16": 580.0,
        "m 33 to 129": 650.0,
        "m from 1024": 690.0,
    }
