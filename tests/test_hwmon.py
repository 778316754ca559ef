"""The chassis sensors: what a file says, in our units, and None for what is no reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.hwmon import HwmonSensors
from facility.ports import NodeSensors


def read_power_w(path: Path, text: str) -> float | None:
    path.write_text(text)
    return HwmonSensors(node_power_file=str(path)).read().node_power_w


def read_inlet_c(path: Path, text: str) -> float | None:
    path.write_text(text)
    return HwmonSensors(inlet_temperature_file=str(path)).read().inlet_temperature_c


def test_microwatts_and_millidegrees_become_watts_and_degrees(tmp_path: Path) -> None:
    power, inlet = tmp_path / "power1_average", tmp_path / "temp1_input"
    power.write_text("6512000000\n")
    inlet.write_text("23500\n")
    sensors = HwmonSensors(node_power_file=str(power), inlet_temperature_file=str(inlet))
    reading = sensors.read()
    assert reading.node_power_w == pytest.approx(6_512.0)
    assert reading.inlet_temperature_c == pytest.approx(23.5)


def test_a_node_without_sensors_has_no_readings() -> None:
    assert HwmonSensors().read() == NodeSensors(None, None)


@pytest.mark.parametrize(
    ("text", "power_w"),
    [
        ("999999", None),
        ("1000000", 1.0),
        ("500000000000", 500_000.0),
        ("500000000001", None),
        ("0", None),
        ("-5", None),
        (str(2**63), None),
    ],
)
def test_power_outside_what_a_node_can_draw_is_missing(
    tmp_path: Path, text: str, power_w: float | None
) -> None:
    assert read_power_w(tmp_path / "power", text) == power_w


@pytest.mark.parametrize(
    ("text", "inlet_c"),
    [
        ("-40000", -40.0),
        ("-40001", None),
        ("0", 0.0),
        ("100000", 100.0),
        ("100001", None),
        ("127875", None),
        ("-128000", None),
    ],
)
def test_temperature_outside_what_air_can_be_is_missing(
    tmp_path: Path, text: str, inlet_c: float | None
) -> None:
    assert read_inlet_c(tmp_path / "temp", text) == inlet_c


@pytest.mark.parametrize("text", ["", "\n", "n/a", "nan", "23.5", "0x10", "9" * 10_000])
def test_a_file_without_a_whole_number_is_missing(tmp_path: Path, text: str) -> None:
    assert read_power_w(tmp_path / "power", text) is None


def test_bytes_that_are_no_text_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "power"
    path.write_bytes(b"\xff\xfe\x00")
    assert HwmonSensors(node_power_file=str(path)).read().node_power_w is None


def test_a_file_that_cannot_be_read_is_missing_and_leaves_the_other_alone(tmp_path: Path) -> None:
    inlet = tmp_path / "temp1_input"
    inlet.write_text("21000")
    for power in (tmp_path / "gone", tmp_path):
        sensors = HwmonSensors(node_power_file=str(power), inlet_temperature_file=str(inlet))
        assert sensors.read() == NodeSensors(None, 21.0)


def test_a_sensor_that_comes_back_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "power"
    sensors = HwmonSensors(node_power_file=str(path))
    assert sensors.read().node_power_w is None
    path.write_text("5000000000")
    assert sensors.read().node_power_w == pytest.approx(5_000.0)


def test_a_pattern_finds_the_one_file_whatever_its_number(tmp_path: Path) -> None:
    (tmp_path / "hwmon7").mkdir()
    (tmp_path / "hwmon7" / "power1_average").write_text("4000000000")
    sensors = HwmonSensors(node_power_file=str(tmp_path / "hwmon*" / "power1_average"))
    assert sensors.read().node_power_w == pytest.approx(4_000.0)


def test_a_pattern_that_matches_two_files_or_none_is_missing(tmp_path: Path) -> None:
    sensors = HwmonSensors(node_power_file=str(tmp_path / "hwmon*" / "power1_average"))
    assert sensors.read().node_power_w is None
    for name in ("hwmon1", "hwmon2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "power1_average").write_text("4000000000")
    assert sensors.read().node_power_w is None
