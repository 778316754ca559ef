"""One library, and one running site for each kind of broker, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.libnvml.handle import shared_library
from tests.servers import Mosquitto, Nats
from tests.system.rig import Rig


@pytest.fixture(scope="package")
def library() -> Path:
    """The fake driver's library, built once."""
    return shared_library()


@pytest.fixture(scope="package", params=[Mosquitto, Nats], ids=["mosquitto", "nats"])
def shared_rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Rig]:
    """A site that runs, over each broker in turn."""
    directory = tmp_path_factory.mktemp("site")
    with request.param(directory / "broker") as broker, Rig(directory, broker, library) as rig:
        yield rig.start()


on_mosquitto = pytest.mark.parametrize("shared_rig", [Mosquitto], indirect=True, ids=["mosquitto"])
"""For what cannot depend on the broker."""


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """The same site, made well again after whatever the test before did to it."""
    shared_rig.calm()
    return shared_rig
