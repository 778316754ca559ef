"""The operators' orders on a running site: what is done, what is refused, who is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live_site import (
    NODES,
    SITE,
    Answer,
    LiveSite,
    Shell,
    Terminal,
    at_broker,
    wait_until,
)

pytestmark = pytest.mark.integration

BRAKE_MHZ = 345


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    """One running site for all tests of this file; each undoes what it does."""
    with LiveSite(tmp_path_factory.mktemp("live")) as site:
        yield site


@pytest.fixture
def ampacity(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def site(live: LiveSite, ampacity: Shell) -> LiveSite:
    """The same site with every node on a lease and every domain at peace."""
    wait_until(lambda: at_peace(ampacity("status", "--json", *live.where)), "every node on a lease")
    return live


def at_peace(answer: Answer) -> bool:
    if answer.code != 0:
        return False
    modes = {domain["mode"] for domain in answer.json["domains"]}
    leases = answer.json["nodes"]["by_reason"] == {"lease": len(NODES)}
    return leases and modes <= {"normal", "shaving"}


def mode(answer: Answer, domain: str) -> Any:
    return next(one["mode"] for one in answer.json["domains"] if one["domain"] == domain)


# --- orders ---------------------------------------------------------------------------------------


def test_contingency_lowers_capacities_and_agents_act_until_it_is_off(
    site: LiveSite, ampacity: Shell
) -> None:
    on = ampacity("contingency", "ups-a-lost", "on", *site.where)
    assert (on.code, on.out, on.err) == (0, "contingency ups-a-lost is on\n", "")

    def status() -> Answer:
        return ampacity("status", "--json", *site.where)

    wait_until(
        lambda: status().json["nodes"]["by_reason"] == {"contingency:ups-a-lost": 2}, "agents act"
    )
    wait_until(lambda: mode(status(), "ups-b") == "emergency", "an emergency")
    seen = status()
    assert seen.code == 1
    assert "ups-a-lost" in next(
        one["contingencies"] for one in seen.json["domains"] if one["domain"] == "row-1"
    )
    assert seen.json["headline"].startswith("EMERGENCY: ")

    off = ampacity("contingency", "ups-a-lost", "off", *site.where)
    assert (off.code, off.out) == (0, "contingency ups-a-lost is off\n")
    wait_until(lambda: at_peace(status()), "peace")


def test_brake_takes_every_node_to_its_brake_ceiling_until_release(
    site: LiveSite, ampacity: Shell
) -> None:
    assert site.agents is not None
    braked = ampacity("brake", "row-1", "--json", *site.where)
    assert braked.code == 0
    assert braked.json["data"] == {"domain": "row-1", "nodes": 2, "dry_run": False}
    assert (braked.json["status"], braked.json["site"], braked.err) == ("ok", SITE, "")
    agents = site.agents
    wait_until(lambda: all(agents.ceilings_mhz(node) == {BRAKE_MHZ} for node in NODES), "brake")
    wait_until(lambda: mode(ampacity("status", "--json", *site.where), "row-1") == "brake", "brake")

    released = ampacity("release", "row-1", *site.where)
    assert (released.code, released.out) == (0, "release row-1: its 2 nodes rise step by step\n")
    # Again is no mistake: a node may remember a brake that the controller does not.
    assert ampacity("release", "row-1", *site.where).code == 0


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    site: LiveSite, ampacity: Shell
) -> None:
    tried = ampacity("brake", "row-1", "--dry-run", *site.where)
    assert tried.out == "brake row-1: its 2 nodes would go to the brake ceiling\n"
    assert tried.code == 0
    assert mode(ampacity("status", "--json", *site.where), "row-1") != "brake"


def test_a_cap_lowers_a_capacity_and_only_that(site: LiveSite, ampacity: Shell) -> None:
    capped = ampacity("cap", "rack-01", "12000", *site.where)
    assert (capped.code, capped.out) == (0, "cap rack-01: capacity is 12,000 W\n")
    wait_until(
        lambda: explained(ampacity, site, "rack-01")["domain"]["capacity_w"] == 12_000.0, "the cap"
    )
    assert any("lowered from" in text for text in explained(ampacity, site, "rack-01")["sentences"])

    cleared = ampacity("cap", "rack-01", "--clear", "--json", *site.where)
    nominal_w = cleared.json["data"]["capacity_w"]
    over = ampacity("cap", "rack-01", str(nominal_w + 100.0), *site.where)
    assert over.code == 1
    assert "a cap only lowers a capacity" in over.err
    assert ampacity("cap", "rack-01", str(nominal_w), "--dry-run", *site.where).code == 0


def explained(ampacity: Shell, site: LiveSite, name: str) -> Any:
    return ampacity("explain", name, "--json", *site.file).json


def test_a_drained_node_gets_no_new_requests_until_off(site: LiveSite, ampacity: Shell) -> None:
    drained = ampacity("drain", "n02", *site.where)
    assert (drained.code, drained.out) == (0, "drain n02: it gets no new requests\n")
    back = ampacity("drain", "n02", "--off", "--json", *site.where)
    assert back.json["data"] == {"node": "n02", "drained": False, "dry_run": False}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("brake", "rwo-1"), "no domain is named 'rwo-1'; did you mean 'row-1'?"),
        (("contingency", "ups-a-los", "on"), "did you mean 'ups-a-lost'?"),
        (("drain", "n2"), "did you mean 'n02'?"),
    ],
)
def test_a_refusal_goes_to_stderr_with_exit_1(
    site: LiveSite, ampacity: Shell, words: tuple[str, ...], said: str
) -> None:
    plain = ampacity(*words, *site.where)
    assert (plain.code, plain.out) == (1, "")
    assert said in plain.err
    document = ampacity(*words, "--json", *site.where)
    assert document.code == 1
    assert (document.json["status"], document.json["data"]) == ("error", {})
    assert said in document.json["error"]


@pytest.mark.parametrize(
    "words",
    [
        ("cap", "row-1"),
        ("cap", "row-1", "many"),
        ("cap", "row-1", "inf"),
        ("cap", "row-1", "0"),
        ("cap", "row-1", "5", "--clear"),
        ("contingency", "ups-a-lost"),
        ("contingency", "ups-a-lost", "maybe"),
        ("brake", "row-1", "--timeout-s", "0"),
        ("brake", "row-1", "--site", "No Name"),
        ("brake", "row-1", "--broker", "host:0"),
        ("brake", "row-1", "--broker", "host:http"),
        ("brake", "row\udcff"),
    ],
)
def test_wrong_usage_sends_nothing_and_exits_2(ampacity: Shell, words: tuple[str, ...]) -> None:
    answer = ampacity(*words, *(() if {"--site", "--broker"} & {*words} else at_broker(9)))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err


# --- asking a person ------------------------------------------------------------------------------


def test_a_person_at_a_terminal_is_asked_before_a_domain_is_slowed(
    site: LiveSite, ampacity: Shell
) -> None:
    assert site.agents is not None
    terminal = Terminal("brake", "row-1", *site.where)
    terminal.until("its 2 nodes would go to the brake ceiling. Go on? [y/N]")
    terminal.type("n\n")
    assert terminal.ended() == 1
    assert "nothing was done" in terminal.seen
    # Again is no mistake: a node may remember a brake that the controller does not.
    assert ampacity("release", "row-1", *site.where).code == 0

    terminal = Terminal("brake", "row-1", *site.where)
    terminal.until("Go on? [y/N]")
    terminal.type("y\n")
    assert terminal.ended() == 0
    assert ampacity("release", "row-1", *site.where).code == 0


def test_yes_and_what_slows_nothing_are_not_asked_about(site: LiveSite) -> None:
    for words in (("brake", "row-1", "--yes"), ("release", "row-1")):
        terminal = Terminal(*words, *site.where)
        assert terminal.ended() == 0
        assert "Go on?" not in terminal.seen


# --- explaining -----------------------------------------------------------------------------------


def test_explain_tells_a_nodes_lease_its_ceilings_and_what_is_above_it(
    site: LiveSite, ampacity: Shell
) -> None:
    why = ampacity("explain", "n01", "--json", *site.file).json
    assert (why["status"], why["controllable"], why["reason"]) == ("ready", True, "lease")
    assert why["lease"]["state"] == "valid"
    assert 0.0 < why["lease"]["remaining_s"] <= why["lease"]["lease_s"]
    assert set(why["lease"]["contingency_ceilings_mhz"]) >= {"ups-a-lost", "ups-b-lost"}
    assert len(why["gpus"]) == 8
    assert why["lease"]["granted_mhz"] > 0
    wait_until(
        lambda: all(
            gpu["accepted_mhz"] == gpu["requested_mhz"]
            for gpu in ampacity("explain", "n01", "--json", *site.file).json["gpus"]
        ),
        "what was asked for is accepted, in between two writes",
    )
    assert set(why["ancestors"]) == {"ups-a", "ups-b", "row-1", "rack-01", "aisle-1"}
    assert {one["domain"] for one in why["domains"]} == set(why["ancestors"])
    assert any("by its lease" in text for text in why["sentences"])

    text = ampacity("explain", "n01", *site.file)
    assert text.code == 0
    assert "prepared for: " in text.out
    assert "row-1 is in " in text.out


def test_explain_works_with_the_broker_alone_and_says_what_it_lacks(
    site: LiveSite, ampacity: Shell
) -> None:
    node = ampacity("explain", "n01", "--json", *site.where).json
    assert (node["ancestors"], node["domains"]) == (None, [])
    assert any("name the controller's file" in text for text in node["sentences"])
    row = ampacity("explain", "row-1", *site.where)
    assert row.out.startswith("row-1 is in ")


def test_explain_tells_who_is_below_a_domain_and_above_it(site: LiveSite, ampacity: Shell) -> None:
    rack = explained(ampacity, site, "rack-01")
    assert (rack["parents"], rack["nodes"]) == (["row-1"], ["n01", "n02"])
    assert rack["nodes_by_reason"] == {"lease": 2}
    assert any(text.startswith("Above it, row-1 is in ") for text in rack["sentences"])


def test_explain_of_an_unknown_name_offers_the_nearest(site: LiveSite, ampacity: Shell) -> None:
    answer = ampacity("explain", "rack-O1", *site.where)
    assert (answer.code, answer.out) == (1, "")
    assert "did you mean 'rack-01'?" in answer.err
    assert ampacity("explain", "#", *site.where).code == 1


# --- events ---------------------------------------------------------------------------------------


def test_events_come_from_the_running_controllers_history(site: LiveSite, ampacity: Shell) -> None:
    ampacity("cap", "rack-01", "1", "--dry-run", "--by", "night shift", *site.where)

    def recent() -> list[Any]:
        answer = ampacity("events", "--json", "--limit", "1000", *site.file)
        found: list[Any] = answer.json["events"]
        return found

    wait_until(lambda: any(one["source"] == "night shift" for one in recent()), "the order")
    times = [one["at_s"] for one in recent()]
    assert times == sorted(times)
    last = ampacity("events", "--limit", "1", *site.file)
    assert (last.code, last.out.count("\n")) == (0, 1)
    critical = ampacity("events", "--json", "--severity", "critical", *site.file).json["events"]
    assert all(one["severity"] == "critical" for one in critical)


def test_events_follow_until_interrupted(site: LiveSite, ampacity: Shell) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "daemon.main", "events", "--follow", "--json", *site.where],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        assert "past events are in the controller's history" in child.stderr.readline()
        assert "Ctrl-C ends" in child.stderr.readline()
        ampacity("drain", "n02", "--dry-run", "--by", "the follower", *site.where)
        heard = json.loads(child.stdout.readline())
        while heard["source"] != "the follower":
            heard = json.loads(child.stdout.readline())
        assert heard["event"] == "operator-request"
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.communicate()


# --- the whole site -------------------------------------------------------------------------------


def test_status_shows_who_leads_every_domain_and_the_nodes(site: LiveSite, ampacity: Shell) -> None:
    view = ampacity("status", "--json", *site.where)
    assert view.code == 0
    assert view.json["ok"] is True
    (controller,) = view.json["controllers"]
    assert (controller["state"], controller["leader"], controller["live"]) == ("ready", True, True)
    assert controller["age_s"] < 10.0
    kinds = [one["kind"] for one in view.json["domains"]]
    assert sorted(kinds) == ["feed", "feed", "rack", "row", "zone"]
    assert all(one["live"] and one["capacity_w"] > 0.0 for one in view.json["domains"])
    assert view.json["nodes"]["by_status"] == {"ready": 2}

    text = ampacity("status", *site.file)
    assert text.code == 0
    assert "ok: 5 domains live, none in emergency" in text.out
    assert "controller controller: ready, leader, epoch" in text.out
    assert "\033[" not in text.out


def test_top_draws_the_site_until_interrupted(site: LiveSite) -> None:
    terminal = Terminal("top", *site.where)
    terminal.until("rack-01")
    terminal.until("none in emergency")
    terminal.signal(signal.SIGINT)
    assert terminal.ended() == 0
    assert "Traceback" not in terminal.seen


def test_top_without_a_terminal_names_status(site: LiveSite, ampacity: Shell) -> None:
    answer = ampacity("top", *site.where)
    assert (answer.code, answer.out) == (2, "")
    assert "`ampacity status`" in answer.err


def test_doctor_finds_a_controllers_host_well(site: LiveSite, ampacity: Shell) -> None:
    answer = ampacity("doctor", "--json", *site.file)
    checks = {one["name"]: one for one in answer.json["checks"]}
    assert answer.code == 0, answer
    assert {checks[name]["grade"] for name in ("config", "libraries", "state", "broker")} == {"ok"}
    assert checks["clock"]["grade"] == "ok"
    assert checks["gpus"]["grade"] in ("ok", "warn")
