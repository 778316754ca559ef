"""A configuration file loads whole, or not at all and with every problem on its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facility.config import AgentConfig, ControllerConfig, OperatorConfig, SiteConfig
from facility.example import (
    agent_config,
    agent_yaml,
    controller_config,
    controller_yaml,
    row_site,
    site_yaml,
)
from facility.loader import (
    ConfigError,
    ConfigProblem,
    dotted,
    load_agent,
    load_any,
    load_controller,
    load_site,
    load_site_config,
)

SITE = site_yaml(row_site(nodes=4))
AGENT = agent_yaml(agent_config(load_site(SITE, "site.yaml"), "n01"))
CONTROLLER = controller_yaml(controller_config())


def problems(text: str, load: Callable[[str, str], object] = load_site) -> list[str]:
    """Every problem of `text` as an operator reads it, without the path."""
    with pytest.raises(ConfigError) as caught:
        load(text, "f")
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def changed(*swaps: tuple[str, str], text: str = SITE) -> str:
    """The example with each first occurrence swapped; every swap must find its place."""
    for old, new in swaps:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def line_of(piece: str, text: str = SITE) -> int:
    return text[: text.index(piece)].count("\n") + 1


# ---- the types ----------------------------------------------------------------------------------


def test_the_examples_load() -> None:
    assert load_site(SITE, "f").name == "demo"
    assert load_agent(AGENT, "f").node == "n01"
    assert load_controller(CONTROLLER, "f").site_file == "/etc/ampacity/site.yaml"


def test_every_problem_of_a_file_is_reported_at_once_in_the_order_of_its_lines() -> None:
    text = changed(
        ("version: 1", "version: 2"),
        ("idle_power_w: 72", "idle_power_w: -72"),
        ("[1005, 321]", "[1005]"),
        ("kind: feed", "kind: fed"),
        ("rating_w: 32300", "rating_w: '32kW'"),
        ("name: n03", "name: 3"),
        ("policy: ampacity", "policy: polka"),
        ("shadow: false", "shadow: no"),
        ("cycle_s: 1", "cycles_s: 1"),
    )

    def at(piece: str, rest: str) -> str:
        return f"{line_of(piece, text)}: {rest}"

    expected = [
        at("version: 2", "version: 2 is not allowed; expected 1"),
        at(
            "idle_power_w",
            "gpu_models.h100-sxm.idle_power_w: -72 is not allowed;"
            " expected a number of at least 0 and at most 1e+09",
        ),
        at(
            "[1005]",
            "gpu_models.h100-sxm.worst_case_power_w[1]: a list of 1 is not allowed; expected"
            " [a whole number of at least 1 and at most 10000,"
            " a number above 0 and at most 1e+09]",
        ),
        at(
            "kind: fed",
            "domains[0].kind: 'fed' is not allowed;"
            " expected one of feed, pdu, rack, row, zone; did you mean 'feed'?",
        ),
        at(
            "'32kW'",
            "domains[2].rating_w: '32kW' is not allowed; expected a number above 0"
            " and at most 1e+09; write the number alone, its unit is in the key",
        ),
        at(
            "name: 3,",
            "nodes[2].name: 3 is not allowed; expected a name: lower case letters, digits and"
            " inner dashes, at most 63 characters; put it in quotes",
        ),
        at(
            "policy: polka",
            "control.policy: 'polka' is not allowed; expected one of ampacity, brake-only, none,"
            " one-threshold-all, one-threshold-low, polca, uniform; did you mean 'polca'?",
        ),
        at("shadow: no", "control.shadow: 'no' is not allowed; expected true or false"),
        at(
            "cycles_s",
            "control.cycles_s: unknown key; allowed are policy, shadow, cycle_s, telemetry_s,"
            " lease_s, stale_s, clock_skew_s, horizon_s, actuation_s, target_ratio,"
            " history_target_ratio, release_ratio, raise_ratio_per_s, easy_ratios,"
            " forecast_quantile, spike_ratio, missing_ratio_max,"
            " automatic_steps_per_minute_max, escalation_settle_s, escalation_calm_s,"
            " escalation_batch_ratio, ledger, ignored_locks_max, reaction;"
            " did you mean 'cycle_s'?",
        ),
    ]
    assert problems(text) == expected


def test_a_missing_key_is_reported_where_it_should_stand() -> None:
    text = changed(("rating_w: 20700, trip", "derating_ratio: 1, trip"))

    assert problems(text) == [
        f"{line_of('name: ups-a')}: domains[0].rating_w: is missing;"
        " expected a number above 0 and at most 1e+09"
    ]


def test_a_missing_section_is_reported_at_the_top() -> None:
    text = changed(("node_models:", "nodes_models:"))
    found = problems(text)

    top = line_of("version: 1")
    assert found[0].startswith(f"{top}: node_models: is missing; expected a mapping (entries: at")
    assert "unknown key" in found[1]
    assert found[1].endswith("did you mean 'node_models'?")


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ("[rack-01]", "rack-01", "nodes[0].parents", "'rack-01' is not allowed; expected a list"),
        ("[rack-01]", "[]", "nodes[0].parents", "a list of 0 is not allowed; expected a list"),
        ("lease_s: 4", "lease_s: '4'", "control.lease_s", "leave the quotes out"),
        ("lease_s: 4", "lease_s:", "control.lease_s", "an empty value is not allowed"),
        ("lease_s: 4", "lease_s: true", "control.lease_s", "true is not allowed"),
        ("lease_s: 4", "lease_s: [4]", "control.lease_s", "a list of 1 is not allowed"),
        ("gpu_count: 8", "gpu_count: 8.5", "node_models.dgx-h100.gpu_count", "a whole number"),
        ("aisle-1: 0.9", "Aisle: 0.9", "contingencies[2].capacity_ratio.Aisle", "a name: lower"),
        ("aisle-1: 0.9", "aisle-1: 1.1", "contingencies[2].capacity_ratio.aisle-1", "at most 1"),
        ("name: n01", 'name: "n01\\n"', "nodes[0].name", "a name: lower case letters"),
        ("site: demo", f"site: {'x' * 64}", "site", "a name: lower case letters"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(
    old: str, new: str, key: str, expected: str
) -> None:
    text = changed((old, new))
    (problem,) = problems(text)

    assert problem.startswith(f"{line_of(old)}: {key}: ")
    assert expected in problem


def test_a_value_with_a_bad_scalar_is_reported_once() -> None:
    line = line_of("lease_s: 4")

    assert problems(changed(("lease_s: 4", "lease_s: .nan"))) == [
        f"{line}: control.lease_s: .nan is not allowed; expected a finite number"
    ]


def test_a_bad_scalar_hides_no_other_problem() -> None:
    text = changed(("lease_s: 4", "lease_s: .nan"), ("shadow: false", "shadow: 3"))

    assert len(problems(text)) == 2


@pytest.mark.parametrize("text", ["12", "text", "[1, 2]", "true"])
def test_a_file_that_is_no_mapping_is_told_so(text: str) -> None:
    (problem,) = problems(text)

    assert "is not allowed; expected a mapping with at least version, site" in problem


# ---- what keys say about each other -------------------------------------------------------------


def test_a_reference_to_nothing_is_told_on_its_line_with_a_guess() -> None:
    text = changed(("[row-1]", "[rwo-1]"), ("service: batch", "service: bach"))

    assert problems(text) == [
        f"{line_of('[row-1]')}: domains[3].parents[0]: no domain is named 'rwo-1';"
        " did you mean 'row-1'?",
        f"{line_of('service: batch')}: nodes[1].service: no service is named 'bach';"
        " did you mean 'batch'?",
    ]


def test_an_agent_may_not_brake_above_its_safe_ceiling() -> None:
    safe = re.search(r"safe_ceiling_mhz: (\d+)", AGENT)
    assert safe is not None
    equal = changed(("brake_ceiling_mhz: 345", f"brake_ceiling_mhz: {safe[1]}"), text=AGENT)
    above = changed(
        ("brake_ceiling_mhz: 345", f"brake_ceiling_mhz: {int(safe[1]) + 1}"), text=AGENT
    )

    assert load_agent(equal, "f").brake_ceiling_mhz == int(safe[1])
    assert "must not be above safe_ceiling_mhz" in problems(above, load_agent)[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("domains: [ups-a, ups-b", "domains: [ups-a, ups-a", "domains[1]: 'ups-a' is there twice"),
        ("contingencies: [", "contingencies: [brake, ", "contingencies[0]: 'brake' is always"),
        ("sample_hz: 10", "sample_hz: 0.5", "sample_hz: 0.5 Hz gives no sample"),
        ("  port: 1883", "  port: 1883\n  key_file: k", "broker.key_file: is of no use without"),
        ("  port: 1883", "  port: 1883\n  password_file: p", "without username"),
    ],
)
def test_an_agent_file_that_contradicts_itself_is_refused(
    old: str, new: str, expected: str
) -> None:
    assert expected in problems(changed((old, new), text=AGENT), load_agent)[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: sqlite", "kind: influxdb", "store.url: is missing; kind influxdb needs"),
        ("kind: sqlite", "kind: sqlite\n  url: ftp://x", "store.url: 'ftp://x' is no URL"),
        (
            "http:\n",
            "haproxy: {socket: /s, backends: {chat: 'be; shutdown'}}\nhttp:\n",
            "haproxy.backends.chat: 'be; shutdown' is no HAProxy name",
        ),
        (
            "http:\n",
            "haproxy: {socket: /s, backends: {chat: be}, requests_per_server_max: {chta: 9}}\n"
            "http:\n",
            "haproxy.requests_per_server_max.chta: no backend serves 'chta'",
        ),
        ("site_file: /etc", "sitefile: /etc", "unknown key"),
    ],
)
def test_a_controller_file_that_contradicts_itself_is_refused(
    old: str, new: str, expected: str
) -> None:
    found = problems(changed((old, new), text=CONTROLLER), load_controller)

    assert any(expected in problem for problem in found), found


def test_an_influxdb_with_its_url_is_accepted() -> None:
    text = changed(
        ("kind: sqlite", "kind: influxdb\n  url: http://127.0.0.1:8428"), text=CONTROLLER
    )

    assert load_controller(text, "f").store.kind == "influxdb"


# ---- kinds of file ------------------------------------------------------------------------------


def test_the_kinds_of_file_are_told_apart_by_their_keys() -> None:
    site = load_any(SITE, "f")

    assert isinstance(site, tuple)
    assert isinstance(site[0], SiteConfig)
    assert isinstance(load_any(AGENT, "f"), AgentConfig)
    assert isinstance(load_any(CONTROLLER, "f"), ControllerConfig)
    operator = load_any("version: 1\nsite: lab\noperator: ann\n", "f")
    assert operator == OperatorConfig(version=1, site="lab", operator="ann")


@pytest.mark.parametrize("text", ["version: 1\n", "[]\n", "domains: []\nwhat: 1\n", "a: 1\n"])
def test_a_file_of_no_known_kind_says_what_each_kind_has(text: str) -> None:
    assert problems(text, load_any) == [
        "1: cannot tell what kind of file this is; a site file has `domains` and `nodes`,"
        " an agent file `node`, a controller file `site_file`, an operator file `operator`"
    ]


def test_a_file_with_a_syntax_error_is_not_also_of_an_unknown_kind() -> None:
    (problem,) = problems("a: [", load_any)

    assert problem.startswith("1: not valid YAML")


def test_a_key_is_written_as_people_write_it() -> None:
    assert dotted(("domains", 3, "parents", 1)) == "domains[3].parents[1]"
    assert dotted(("gpu_models", "h100", "safe_ceiling_mhz")) == "gpu_models.h100.safe_ceiling_mhz"
    assert dotted(()) == ""


def test_a_strange_key_stays_on_one_line() -> None:
    assert dotted(("a\nb\x1b", 0)) == "'a\\nb\\x1b'[0]"
    assert all("\n" not in problem for problem in problems('"a\\nb": 1\n'))


def test_config_with_defaults_and_site_come_from_one_reading() -> None:
    config, site = load_site_config(SITE, "f")

    assert config == row_site(nodes=4)
    assert list(site.nodes) == [node.name for node in config.nodes]


# ---- properties ---------------------------------------------------------------------------------

_LINES = SITE.splitlines()
_PIECES = st.sampled_from(
    ["", " ", "x", "-1", "0", "1e9", ".nan", "true", "[]", "{}", "*a", "&a", "!!x", "'", '"', ":",
     "#", "\t", "\n", "\n- ", "{a: ", "name: n01", "parents: [ups-a]", "\u2028", "\x85", "\0"]
)  # fmt: skip


def lines_exist(text: str, load: Callable[[str, str], object]) -> None:
    """`text` loads, or gives problems on lines that it has."""
    found: tuple[ConfigProblem, ...] | None = None
    try:
        load(text, "f")
    except ConfigError as error:
        found = error.problems
    assert found != ()
    last = max(1, len(text.removesuffix("\n").split("\n")))
    for problem in found or ():
        assert 1 <= problem.line <= last, problem
        assert "\n" not in str(problem)


@given(st.text(max_size=300))
def test_arbitrary_text_gives_problems_and_nothing_else(text: str) -> None:
    lines_exist(text, load_any)


@given(st.lists(_PIECES | st.sampled_from(_LINES), max_size=20))
def test_arbitrary_yaml_like_text_gives_problems_and_nothing_else(pieces: list[str]) -> None:
    for load in (load_site, load_agent, load_controller):
        lines_exist("".join(pieces), load)


@given(st.integers(0, len(SITE)), st.integers(0, 40), _PIECES)
def test_a_damaged_site_file_loads_or_gives_problems_on_its_lines(
    place: int, cut: int, piece: str
) -> None:
    lines_exist(SITE[:place] + piece + SITE[place + cut :], load_site)


@given(st.integers(0, len(_LINES) - 1), st.integers(0, len(_LINES) - 1))
def test_a_site_file_with_a_line_moved_loads_or_gives_problems(taken: int, place: int) -> None:
    lines = list(_LINES)
    lines.insert(place, lines.pop(taken))

    lines_exist("\n".join(lines) + "\n", load_site)


_BUILTINS: Any = msgspec.to_builtins(row_site(nodes=1))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(_BUILTINS)), _VALUES)
def test_any_value_for_any_section_loads_or_gives_problems(section: str, value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(_BUILTINS | {section: value}), indent=2)

    lines_exist(text.decode(), load_site)
