"""Whatever is wrong is said: what, where and what is allowed; and nothing is half-applied."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from facility.config import BrokerConfig, HttpConfig, StoreConfig
from facility.example import controller_config, controller_yaml, row_site, site_yaml
from tests.servers import HOST, Mosquitto, take_free_port
from tests.system.conftest import on_mosquitto
from tests.system.processes import Process, ampacity, answer, wait_until
from tests.system.rig import CONTROL, Rig
from tests.system.web import get

pytestmark = pytest.mark.integration

SITE: Final = site_yaml(row_site(site="lab", nodes=3, control=CONTROL))
LEASES_MORE: Final = 8
BAD_TRACE: Final = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,many,109
2023-11-16 18:15:51.2221670,879,-3
yesterday,91,16
2023-11-16 18:15:52.2221670,91,16
"""


class Place:
    """A folder with a controller's two files, good ones to begin with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "site.yaml"
        self.site.write_text(SITE)
        self.store = directory / "store"
        self.broker_port = take_free_port()
        self.http_port = take_free_port()
        self.config = directory / "controller.yaml"
        config = controller_config(
            site_file="site.yaml",
            broker=BrokerConfig(port=self.broker_port),
            store=StoreConfig(directory=str(self.store)),
            http=HttpConfig(port=self.http_port),
        )
        self.config.write_text(controller_yaml(config))

    def refusal(self) -> str:
        """What the controller says when it does not start for a reason of configuration."""
        said = answer("controller", "--config", self.config)
        assert said.code == 78, said.err
        assert said.out == ""
        assert "Traceback" not in said.err
        return said.err


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_missing_site_file_is_named(place: Place) -> None:
    place.site.unlink()
    assert f"{place.site}:1: cannot be read: No such file or directory" in place.refusal()


def test_a_directory_is_no_site_file(place: Place) -> None:
    place.site.unlink()
    place.site.mkdir()
    assert f"{place.site}:1: cannot be read: Is a directory" in place.refusal()


def test_a_site_file_without_permission_is_named(place: Place) -> None:
    place.site.chmod(0)
    command = ampacity("controller", "--config", place.config)
    if os.geteuid() == 0:  # root reads everything, unless it gives that up
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert said.returncode == 78, said.stderr
    assert f"{place.site}:1: cannot be read: Permission denied" in said.stderr


def test_broken_yaml_is_told_with_its_line(place: Place) -> None:
    place.site.write_text(SITE + "oops: [1, 2\n")
    said = place.refusal()
    last = SITE.count("\n")
    assert any(f"{place.site}:{line}: " in said for line in (last + 1, last + 2)), said


def test_an_unknown_policy_in_the_file_is_told_with_its_line_and_the_known_ones(
    place: Place,
) -> None:
    place.site.write_text(SITE.replace("policy: ampacity", "policy: polka"))
    line = SITE[: SITE.index("policy: ampacity")].count("\n") + 1
    said = place.refusal()
    assert f"{place.site}:{line}: " in said
    assert "did you mean 'polca'?" in said
    assert "brake-only" in said


def unproved() -> str:
    """A site that not even its safe ceilings keep within what one feed carries."""
    return site_yaml(row_site(site="lab", nodes=4, oversubscription_ratio=1.6, control=CONTROL))


def test_a_site_whose_lease_proof_fails_is_not_actuated(place: Place) -> None:
    place.site.write_text(unproved())
    said = place.refusal()
    line = next(n for n, text in enumerate(unproved().splitlines(), 1) if "name: ups-b" in text)
    assert f"{place.site}:{line}: domains[1]: FAIL: ups-b, ups-a-lost: " in said
    assert "would pass with at most 3 of its servers" in said


def test_a_site_whose_lease_proof_fails_may_be_watched(place: Place) -> None:
    place.site.write_text(unproved().replace("shadow: false", "shadow: true"))
    command = ampacity("controller", "--config", place.config)
    controller = Process("controller", command, place.directory, None)
    controller.start()
    try:
        wait_until(lambda: "event=started" in controller.tail(), "started", but=controller.tail)
        assert "shadow=True" in controller.tail()
    finally:
        controller.end()


def test_an_unknown_policy_of_the_demo_is_wrong_usage() -> None:
    said = answer("demo", "--policy", "polka")
    assert said.code == 2
    assert "polka" in said.err
    assert "brake-only" in said.err


def test_a_trace_with_bad_rows_names_each_of_them(tmp_path: Path) -> None:
    trace = tmp_path / "bad.csv"
    trace.write_text(BAD_TRACE)
    said = answer("demo", "--trace", trace, "--port", 0, "--json")
    assert said.code == 1
    assert said.out == ""
    assert str(trace) in said.err
    assert all(f"row {row}" in said.err for row in (3, 4, 5)), said.err
    assert not any(f"row {row}" in said.err for row in (2, 6)), said.err


def test_a_damaged_epoch_file_stops_the_controller_and_says_what_to_do(place: Place) -> None:
    place.store.mkdir()
    epoch = place.store / "epoch"
    epoch.write_text("17 or so\n")
    said = place.refusal()
    assert f"{epoch} holds '17 or so', not an epoch" in said
    assert epoch.read_text() == "17 or so\n"


def test_a_store_that_cannot_be_opened_is_named(place: Place) -> None:
    history = place.store / "history.db"
    history.mkdir(parents=True)
    assert str(history) in place.refusal()


def test_a_taken_http_port_is_named_and_nothing_starts(place: Place) -> None:
    with socket.create_server((HOST, place.http_port)):
        said = answer("controller", "--config", place.config)
    assert said.code == 69, said.err
    assert f"{HOST}:{place.http_port} is taken" in said.err
    assert "Traceback" not in said.err


def test_a_taken_port_of_the_demo_is_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        said = answer("demo", "--port", port)
    assert said.code == 69, said.err
    assert f"{HOST}:{port} is taken" in said.err


@pytest.fixture
def lonely(place: Place) -> Iterator[Process]:
    """A controller whose broker is not there."""
    command = ampacity("controller", "--config", place.config)
    with Process("controller", command, place.directory, None) as process:
        yield process


def test_a_service_waits_for_its_broker_and_says_so(place: Place, lonely: Process) -> None:
    url = f"http://{HOST}:{place.http_port}/readyz"
    wait_until(lambda: get(url)[0] == 503, "it is not ready", but=lonely.tail)

    def check(name: str) -> str:
        reason = msgspec.json.decode(get(url)[1])["checks"][name]
        assert isinstance(reason, str)
        return reason

    assert "refused" in check("broker")
    assert "event=broker-unreachable" in lonely.log
    assert str(place.broker_port) in lonely.log
    with Mosquitto(place.directory / "broker", port=place.broker_port):
        wait_until(lambda: check("broker") == "", "it has its broker", but=lonely.tail)
        assert check("snapshot") == "no node has been heard yet"
    wait_until(lambda: check("broker") != "", "the broker has gone again", but=lonely.tail)
    assert lonely.terminate() == 0


def test_a_command_does_not_wait_for_a_broker_that_refuses(place: Place) -> None:
    said = answer("contingency", "ups-a-lost", "on", "--config", place.config)
    assert said.code == 69, said.err
    assert f"{HOST}:{place.broker_port}" in said.err
    assert said.out == ""


@on_mosquitto
def test_a_full_disk_costs_history_and_no_lease(rig: Rig) -> None:
    """No file of the controller may grow from here on, as on a disk without room."""
    pid = rig.controller.pid
    wait_until(lambda: (rig.store / "history.db-wal").exists(), "history is written")
    size = (rig.store / "history.db-wal").stat().st_size
    without = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (min(size, 4_096), without[1]))
    try:
        ready = f"http://{HOST}:{rig.http_port}/readyz"
        wait_until(
            lambda: msgspec.json.decode(get(ready)[1])["checks"]["store"],
            "the store's trouble is shown",
            but=rig.story,
        )
        before = len(rig.listener.messages("lease"))
        wait_until(
            lambda: len(rig.listener.messages("lease")) >= before + LEASES_MORE * len(rig.hosts),
            "leases go on",
            but=rig.story,
        )
        assert all(rig.leased(name) for name in rig.hosts)
        assert all(host.ceilings_mhz == {rig.top_mhz} for host in rig.hosts.values())
        events = rig.api("/api/v1/events?severity=warning&limit=200")
        assert any(event["source"] == "history" for event in events), events
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, without)
    assert rig.controller.pid == pid
    wait_until(lambda: get(ready)[0] == 200, "the store works again", but=rig.story)
