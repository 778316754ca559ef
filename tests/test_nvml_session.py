"""Opening and losing the driver, and other processes on the same GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from collectors.nvml import NvmlHost
from facility.ports import (
    DriverLost,
    GpuDenied,
    GpuError,
    GpuLost,
    GpuPort,
)
from tests.libnvml import FakeNvml, build

pytest_plugins = ["tests.libnvml.fixtures"]

ROOT = Path(__file__).parent.parent
MARGIN = "nvmlDeviceGetMarginTemperature"


def refusals(gpu: GpuPort) -> dict[str, str]:
    return gpu.identity().refusals


# --- the session --------------------------------------------------------------------------------


def test_after_a_driver_reload_handles_are_void_and_counters_and_locks_are_gone(
    fake: FakeNvml, host: NvmlHost, gpus: Sequence[GpuPort]
) -> None:
    gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    fake.elapse(10.0)
    before_j = gpus[0].read_medium().energy_j
    fake.reload_driver()
    for call in (gpus[0].read_fast, gpus[0].read_medium, gpus[0].reset_clocks):
        with pytest.raises(DriverLost):
            call()
    again = host.open()
    assert [gpu.identity().uuid for gpu in again] == [gpu.identity().uuid for gpu in gpus]
    after_j = again[0].read_medium().energy_j
    assert after_j is not None
    assert before_j is not None
    assert after_j < before_j
    assert fake.truth(0).ceiling_mhz == 1980


def test_a_driver_that_is_not_loaded_yet_cannot_be_opened(fake: FakeNvml, host: NvmlHost) -> None:
    host.open()
    fake.reload_driver(down_s=60.0)
    with pytest.raises(DriverLost):
        host.open()
    fake.reload_driver()
    assert len(host.open()) == 8


@pytest.mark.parametrize(
    ("code", "kind"), [(4, GpuDenied), (17, GpuDenied), (9, DriverLost), (999, DriverLost)]
)
def test_init_failures_say_whether_waiting_may_help(
    fake: FakeNvml, host: NvmlHost, code: int, kind: type[GpuError]
) -> None:
    fake.refuse_init(code)
    with pytest.raises(GpuError, match="nvmlInit") as raised:
        host.open()
    assert type(raised.value) is kind
    fake.refuse_init(0)
    assert len(host.open()) == 8


def test_a_gpu_lost_before_opening_keeps_its_place_and_its_name(
    fake: FakeNvml, host: NvmlHost
) -> None:
    fake.lose(3)
    gpus = host.open()
    assert len(gpus) == 8
    assert gpus[3].identity().uuid == "unknown-3"
    assert "lost" in refusals(gpus[3])["open"]
    for call in (gpus[3].read_fast, gpus[3].read_medium, gpus[3].read_slow, gpus[3].reset_clocks):
        with pytest.raises(GpuLost):
            call()
    with pytest.raises(GpuLost):
        gpus[3].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    fake.heal(3)
    assert host.open()[3].identity().uuid == fake.gpu_uuid(3)
    fake.lose(3)
    assert host.open()[3].identity().uuid == fake.gpu_uuid(3)


def test_one_denied_gpu_does_not_blind_us_to_the_others(fake: FakeNvml, host: NvmlHost) -> None:
    fake.refuse(0, "nvmlDeviceGetHandleByIndex_v2", 17)
    gpus = host.open()
    with pytest.raises(GpuDenied):
        gpus[0].read_fast()
    assert gpus[1].read_fast().power_w > 0


def test_a_host_where_no_gpu_answers_cannot_be_opened(fake: FakeNvml, host: NvmlHost) -> None:
    fake.lose(None)
    with pytest.raises(GpuLost):
        host.open()


def test_a_closed_host_gives_nothing_and_may_be_closed_again(
    host: NvmlHost, gpus: Sequence[GpuPort]
) -> None:
    host.close()
    host.close()
    with pytest.raises(DriverLost):
        gpus[0].read_fast()
    assert host.open()[0].read_fast().power_w > 0


def test_the_unofficial_binding_is_refused_by_name(
    host: NvmlHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "pynvml-11.5.3.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(GpuError, match=r"pynvml-11\.5\.3.*uninstall pynvml"):
        host.open()


# --- other processes ----------------------------------------------------------------------------

CHILD = """
import json, sys
from collectors.nvml import NvmlHost
assert "pynvml" not in sys.modules, "the binding is loaded by open alone"
host = NvmlHost()
gpu = host.open()[0]
fast, medium = gpu.read_fast(), gpu.read_medium()
gpu.lock_clocks(clock_mhz_min=210, ceiling_mhz=1110)
heavy = sorted({"numpy", "scipy", "asyncio"} & set(sys.modules))
json.dump([fast.power_w, medium.margin_c, sorted(gpu.identity().refusals), heavy], sys.stdout)
"""


def child(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_another_process_finds_the_same_gpus_by_library_path(fake: FakeNvml) -> None:
    before = fake.truth(0)
    done = child(CHILD, fake.environment())
    assert done.returncode == 0, done.stderr
    power_w, margin_c, refused, heavy = json.loads(done.stdout)
    assert power_w == pytest.approx(before.power_w, rel=0.02)
    assert margin_c is not None
    assert refused == []
    assert heavy == []
    assert fake.truth(0).ceiling_mhz == 1110


def test_a_driver_without_the_margin_symbol_gives_the_same_margin_otherwise(
    tmp_path: Path, fake: FakeNvml
) -> None:
    (tmp_path / "old").mkdir()
    old = build(tmp_path / "old", omit=(MARGIN, "nvmlDeviceGetTemperatureV"))
    done = child(CHILD, fake.environment() | {"LD_LIBRARY_PATH": str(old.parent)})
    assert done.returncode == 0, done.stderr
    _, margin_c, refused, _ = json.loads(done.stdout)
    assert margin_c == 87 - int(fake.truth(0).temperature_c)
    assert refused == [MARGIN, "nvmlDeviceGetTemperatureV"]


def test_a_process_without_a_driver_says_so(fake: FakeNvml) -> None:
    code = "from collectors.nvml import NvmlHost\nNvmlHost().open()"
    done = child(code, fake.environment() | {"AMPACITY_NVML_STATE": "/nowhere"})
    assert done.returncode == 1
    assert "DriverLost: nvmlInit" in done.stderr


def test_a_client_that_dies_inside_a_call_does_not_lock_out_the_others(fake: FakeNvml) -> None:
    code = (
        "import os, sys, pathlib; from tests.libnvml import FakeNvml\n"
        "fake = FakeNvml(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "with fake.held(0): os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(fake.path), str(fake.library)]
    assert subprocess.run(command, cwd=ROOT, timeout=30, check=False).returncode == 9
    assert fake.truth(0).power_w > 0


def test_nvitop_exporter_reads_the_same_gpus(fake: FakeNvml, free_port: Callable[[], int]) -> None:
    exporter = Path(sys.executable).with_name("nvitop-exporter")
    port = free_port()
    command = [str(exporter), "-B", "127.0.0.1", "-p", str(port), "--interval", "1"]
    process = subprocess.Popen(
        command,
        env=os.environ | fake.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        text = scrape(f"http://127.0.0.1:{port}/metrics", "gpu_power_usage_W{", 15.0)
    finally:
        process.terminate()
        process.wait(10)
    watts = {
        line.split('uuid="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("gpu_power_usage_W{")
    }
    assert set(watts) == {fake.gpu_uuid(index) for index in range(8)}
    assert watts[fake.gpu_uuid(0)] == pytest.approx(fake.truth(0).power_w, rel=0.4)


def scrape(url: str, wanted: str, deadline_s: float) -> str:
    """The page once it holds a wanted word."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(url, timeout=1) as page:
                text: str = page.read().decode()
            if wanted in text:
                return text
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"no {wanted!r} at {url} within {deadline_s:g} s")
