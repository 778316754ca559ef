"""One library, and one running site for each kind of broker, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.libnvml.handle import build
from tests.servers import Mosquitto, Nats
from tests.system.rig import Rig


@pytest.fixture(scope="package")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake driver's library, built once."""
    return build(tmp_path_factory.mktemp("libnvml"))


@pytest.fixture(scope="package", params=[Mosquitto, Nats], ids=["mosquitto", "nats"])
def shared_rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Rig]:
    """A site that runs, over each broker in turn."""
    directory = tmp_path_factory.mktemp("site")
    with request.param(directory / "broker") as broker, Rig(directory, broker, library) as rig:
        yield rig.start()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """The same site, made well again after whatever the test before did to it."""
    shared_rig.heal()
    return shared_rig
