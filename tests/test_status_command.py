"""What the commands say when there is little to see: no site, controller or broker, old news."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec import Struct

from daemon.bus import Bus
from daemon.operator.overview import STALE_S, overview
from daemon.operator.picture import Picture
from daemon.operator.words import overview_lines
from facility.config import BrokerConfig
from facility.topics import STATE, Topics
from facility.wire import (
    Applied,
    ControllerStatus,
    DomainState,
    GpuApplied,
    GpuIdentity,
    Mode,
    NodeInfo,
    NodeStatus,
    encode,
)
from tests.buses import account, at
from tests.live_site import SITE, Answer, Shell, at_broker
from tests.servers import HOST, Mosquitto, find_program, take_free_port

TOPICS = Topics(SITE)
NOW_S = 1_800_000_000.0
MANY = 1_500


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker without any site on it; each test uses a site name of its own."""
    with Mosquitto(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture
def ampacity(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def domain(
    name: str = "row-1",
    *,
    at_s: float,
    mode: Mode = Mode.NORMAL,
    epoch: int = 7,
    sentence: str = "nothing held back",
) -> DomainState:
    return DomainState(
        domain=name, kind="row", decision_id=f"{epoch}-1", at_s=at_s, power_w=9_000.0,
        forecast_w=9_500.0, exposure_w=9_900.0, capacity_w=10_000.0, mode=mode, sentence=sentence,
        nodes_count=2, nodes_missing_count=0,
    )  # fmt: skip


def controller(state: str = "ready", *, epoch: int = 7) -> ControllerStatus:
    return ControllerStatus(
        controller="c1",
        state=state,  # type: ignore[arg-type]
        leader=state == "ready",
        epoch=epoch,
        session="c-1",
    )


def keep(
    server: Mosquitto,
    site: str,
    messages: Mapping[str, Struct | bytes],
    *,
    config: BrokerConfig | None = None,
) -> None:
    """Have the broker keep messages, by their topic under the site."""

    async def publish() -> None:
        async with Bus(config or at(server), identifier=f"keeper-{site}") as bus:
            await bus.wait_connected(timeout_s=10.0)
            for topic, message in messages.items():
                payload = message if isinstance(message, bytes) else encode(message)
                bus.publish(f"{Topics(site).prefix}/{topic}", payload, STATE)
            assert await bus.flush(timeout_s=10.0)

    asyncio.run(publish())


def picture_of(*messages: tuple[str, Struct]) -> Picture:
    picture = Picture(SITE, clock=lambda: 0.0)
    for topic, message in messages:
        picture.receive(f"{TOPICS.prefix}/{topic}", encode(message), True)
    return picture


# --- what is old is not live ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "live"),
    [(0.0, True), (STALE_S, True), (STALE_S + 0.1, False), (-STALE_S, True), (-10.1, False)],
)
def test_a_domain_is_live_up_to_ten_seconds_either_way(age_s: float, live: bool) -> None:
    picture = picture_of(("domain/row-1/state", domain(at_s=NOW_S - age_s)))
    view = overview(picture, broker="b", wall_s=NOW_S)
    (row,) = view.domains
    assert (row.live, view.live, view.ok) == (live, live, live)
    assert row.power_w == (9_000.0 if live else None)
    assert row.mode == ("normal" if live else None)


@pytest.mark.parametrize(
    ("mode", "ok"),
    [(Mode.NORMAL, True), (Mode.SHAVING, True), (Mode.EMERGENCY, False), (Mode.BRAKE, False)],
)
def test_emergency_and_brake_are_not_well(mode: Mode, ok: bool) -> None:
    picture = picture_of(("domain/row-1/state", domain(at_s=NOW_S, mode=mode)))
    assert overview(picture, broker="b", wall_s=NOW_S).ok is ok


def test_an_old_emergency_is_stale_and_not_an_emergency() -> None:
    picture = picture_of(
        ("domain/row-1/state", domain(at_s=NOW_S - 60.0, mode=Mode.EMERGENCY)),
        ("domain/row-2/state", domain("row-2", at_s=NOW_S)),
    )
    view = overview(picture, broker="b", wall_s=NOW_S)
    assert view.ok
    assert view.headline == "ok: 1 domain live, 1 STALE, none in emergency"
    assert "stale, not shown as live: row-1" in view.alarms


def test_what_needs_somebody_stands_first_and_names_count_as_people_do() -> None:
    picture = picture_of(
        *(
            (f"domain/{name}/state", domain(name, at_s=NOW_S, mode=mode))
            for name, mode in (
                ("row-10", Mode.NORMAL),
                ("row-9", Mode.NORMAL),
                ("row-3", Mode.EMERGENCY),
                ("row-4", Mode.BRAKE),
            )
        )
    )
    domains = overview(picture, broker="b", wall_s=NOW_S).domains
    assert [one.domain for one in domains] == ["row-4", "row-3", "row-9", "row-10"]


def test_a_controller_is_as_old_as_its_own_last_word() -> None:
    picture = picture_of(
        ("controller/c1/status", controller(epoch=7)),
        ("domain/row-1/state", domain(at_s=NOW_S - 30.0, epoch=7)),
        ("domain/row-2/state", domain("row-2", at_s=NOW_S, epoch=8)),
    )
    view = overview(picture, broker="b", wall_s=NOW_S)
    assert (view.controllers[0].age_s, view.controllers[0].live) == (30.0, False)
    assert any("says it is ready, but its last word is 30 s old" in text for text in view.alarms)


def test_nodes_are_counted_by_what_holds_them_and_the_odd_ones_named() -> None:
    def applied(node: str, *, session: str, cause: str = "") -> Applied:
        gpu = GpuApplied(requested_mhz=1_200, accepted_mhz=1_200, observed_mhz=1_980, cause=cause)
        return Applied(
            node=node, session=session, decision_id="7-1", epoch=7, sequence=1, reason="lease",
            applied_at_s=NOW_S, gpus={"GPU-0": gpu},
        )  # fmt: skip

    info = NodeInfo(
        node="n3", session="s", agent_version="1", started_at_s=NOW_S, gpus=(),
        safe_ceiling_mhz=1_000, brake_ceiling_mhz=345, telemetry_s=1.0, can_actuate=False,
        cannot_actuate_because="no permission",
    )  # fmt: skip
    picture = picture_of(
        ("node/n1/status", NodeStatus(node="n1", session="s", state="ready")),
        ("node/n1/applied", applied("n1", session="s", cause="foreign-limit")),
        ("node/n2/status", NodeStatus(node="n2", session="new", state="ready")),
        ("node/n2/applied", applied("n2", session="old")),
        ("node/n3/status", NodeStatus(node="n3", session="s", state="ready")),
        ("node/n3/info", info),
        ("node/n4/status", NodeStatus(node="n4", session="s", state="lost")),
    )
    nodes = overview(picture, broker="b", wall_s=NOW_S).nodes
    assert nodes.by_status == {"ready": 3, "lost": 1}
    assert nodes.by_reason == {"lease": 1, "not reported": 2}  # n2's is of an earlier life
    assert nodes.away == ("n4",)
    assert nodes.uncontrollable == {"n3": "no permission"}
    assert nodes.deviating == {"n1": "foreign-limit on 1"}


def test_a_picture_that_may_lack_something_says_so() -> None:
    picture = picture_of(("domain/row-1/state", domain(at_s=NOW_S)))
    told = [line.text for line in overview_lines(overview(picture, broker="b", wall_s=NOW_S))]
    assert not any("may not be all" in text for text in told)
    picture.complete = False
    told = [line.text for line in overview_lines(overview(picture, broker="b", wall_s=NOW_S))]
    assert any("may not be all" in text for text in told)


# --- over a real broker ---------------------------------------------------------------------------


def where(server: Mosquitto, site: str) -> tuple[str, ...]:
    return ("--site", site, "--broker", f"{HOST}:{server.port}")


@pytest.mark.integration
def test_a_dead_site_is_marked_loudly_and_exits_1(broker: Mosquitto, ampacity: Shell) -> None:
    keep(
        broker,
        "old",
        {
            "domain/row-1/state": domain(at_s=time.time() - 60.0),
            "controller/c1/status": controller("lost"),
            "domain/row-9/state": b"\xff{",
        },
    )
    text = ampacity("status", *where(broker, "old"))
    assert text.code == 1
    assert "NOTHING IS LIVE: no controller speaks for this site" in text.out
    assert "? stale" in text.out
    assert re.search(r"NOT LIVE, last word 6\d s ago: nothing held back", text.out)
    assert "9.0" not in text.out  # no figure of a minute ago
    assert "no controller leads" in text.out
    document = ampacity("status", "--json", *where(broker, "old"))
    assert document.code == 1
    assert (document.json["ok"], document.json["messages_invalid_count"]) == (False, 1)
    assert document.json["controllers"][0]["state"] == "lost"
    why = ampacity("explain", "row-1", *where(broker, "old"))
    assert re.search(r"row-1 is STALE: its last word is 6\d s old", why.out)


@pytest.mark.integration
def test_an_unknown_site_is_not_well(broker: Mosquitto, ampacity: Shell) -> None:
    answer = ampacity("status", *where(broker, "nowhere"))
    assert answer.code == 1
    assert "nothing is known of this site here: is its name right" in answer.out
    assert (
        "nothing is known of site 'nowhere'"
        in ampacity("explain", "row-1", *where(broker, "nowhere")).err
    )


@pytest.mark.integration
def test_status_waits_until_every_retained_message_is_there(
    broker: Mosquitto, ampacity: Shell
) -> None:
    keep(
        broker,
        "large",
        {
            f"node/n{place}/status": NodeStatus(node=f"n{place}", session="s", state="ready")
            for place in range(MANY)
        },
    )
    began_s = time.monotonic()
    document = ampacity("status", "--json", *where(broker, "large")).json
    assert document["nodes"]["by_status"] == {"ready": MANY}
    assert document["complete"] is True
    assert time.monotonic() - began_s < 4.0  # it ended with the last message, not with its timeout


@pytest.mark.integration
def test_a_broker_that_drops_messages_is_told_of(tmp_path: Path, ampacity: Shell) -> None:
    gpu = GpuIdentity(uuid="GPU-0", index=0, model="x", clocks_mhz=tuple(range(9_000, 10_000)))
    info = NodeInfo(
        node="n1", session="s", agent_version="1", started_at_s=NOW_S, gpus=(gpu,) * 8,
        safe_ceiling_mhz=1_000, brake_ceiling_mhz=345, telemetry_s=1.0, can_actuate=True,
    )  # fmt: skip
    with Mosquitto(tmp_path, extra="max_queued_messages 1") as server:
        keep(server, SITE, {f"node/n{place}/info": info for place in range(400)})
        answer = ampacity("status", "--json", *at_broker(server.port))
    assert answer.json["nodes"]["count"] < 400
    assert answer.json["complete"] is False


@pytest.mark.integration
def test_an_account_that_may_only_read_sees_the_site_all_the_same(
    tmp_path: Path, ampacity: Shell
) -> None:
    access = tmp_path / "access"
    access.write_text("topic read #\nuser keeper\ntopic readwrite #\n")
    passwords = tmp_path / "passwords"
    subprocess.run(
        [find_program("mosquitto_passwd", "mosquitto"), "-b", "-c", passwords, "keeper", "secret"],
        check=True,
        capture_output=True,
    )
    extra = f"allow_anonymous true\npassword_file {passwords}\nacl_file {access}"
    with Mosquitto(tmp_path / "broker", extra=extra) as server:
        speaker = account(server, tmp_path, "secret", username="keeper")
        keep(server, SITE, {"domain/row-1/state": domain(at_s=time.time())}, config=speaker)
        answer = ampacity("status", "--json", *at_broker(server.port))
        assert (answer.code, answer.json["live"]) == (0, True)
        assert answer.json["complete"] is False
        order = ampacity("brake", "row-1", "--timeout-s", "0.5", *at_broker(server.port))
        assert order.code == 69


@pytest.mark.integration
def test_an_order_that_nobody_answers_says_why_it_may_be(
    broker: Mosquitto, ampacity: Shell
) -> None:
    def order() -> Answer:
        return ampacity("brake", "row-1", "--timeout-s", "0.3", *where(broker, "mute"))

    never = order()
    assert (never.code, never.out) == (69, "")
    assert "took the request, but no controller of site 'mute' answered within 0.3 s" in never.err
    assert "none has ever been on this broker" in never.err
    keep(broker, "mute", {"controller/c1/status": controller("lost")})
    assert "c1 is lost" in order().err
    keep(broker, "mute", {"controller/c1/status": controller("ready")})
    assert "c1 should: it hangs, or this account may not send requests" in order().err


COMMANDS = (
    ("status",),
    ("explain", "row-1"),
    ("events", "--follow"),
    ("brake", "row-1"),
    ("contingency", "ups-a-lost", "on", "--json"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_broker_that_is_not_there_is_named_with_the_reason(
    ampacity: Shell, words: tuple[str, ...]
) -> None:
    port = take_free_port()
    answer = ampacity(*words, *at_broker(port))
    assert (answer.code, answer.out) == (69, "")
    assert f"the broker at {HOST}:{port} cannot be reached: Connection refused" in answer.err


@pytest.mark.integration
def test_a_broker_that_hangs_is_given_up_in_time(tmp_path: Path, ampacity: Shell) -> None:
    with Mosquitto(tmp_path) as server:
        server.pause()
        answer = ampacity("status", "--timeout-s", "0.3", *at_broker(server.port))
        server.resume()
    assert answer.code == 69
    assert "cannot be reached: no answer" in answer.err
