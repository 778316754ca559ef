"""Fixtures over the fake driver: the library once per run, and eight busy GPUs per test.

A test module names this one in `pytest_plugins`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from collectors.nvml import NvmlHost
from facility.ports import GpuPort
from tests.libnvml.handle import FakeNvml, shared_library


@pytest.fixture(scope="session")
def nvml_library() -> Path:
    """The library, built once."""
    return shared_library()


@pytest.fixture
def fake(tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Eight H100s at a fair load, whose physics moves by `elapse` alone.

    The handle has loaded the library, and the binding finds it by its name.
    """
    made = FakeNvml.create(tmp_path / "state", nvml_library, write_s=0.0, frozen=True)
    made.load(None, a=0.4, m=0.3, c=1.0)
    made.elapse(1.0)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def host(fake: FakeNvml) -> Iterator[NvmlHost]:
    """The adapter, not opened yet."""
    del fake  # it must exist when the host opens
    made = NvmlHost()
    yield made
    made.close()


@pytest.fixture
def gpus(host: NvmlHost) -> Sequence[GpuPort]:
    """The adapter's GPUs, opened."""
    return host.open()
