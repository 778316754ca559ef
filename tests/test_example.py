"""The standard example is safe by its own numbers, reads well and loads clean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facility.compiler import compile_site
from facility.config import (
    BrokerConfig,
    ControlConfig,
    HaproxyConfig,
    StoreConfig,
    TripCurveConfig,
)
from facility.example import (
    H100_WORST_CASE_POWER_W,
    SAFE_ROOM_RATIO,
    agent_config,
    agent_yaml,
    controller_config,
    controller_yaml,
    row_site,
    site_yaml,
)
from facility.loader import load_agent, load_controller, load_site_config
from facility.topology import GpuModel, Site
from facility.yaml_text import to_yaml
from simulator.engine import Engine
from simulator.gpu import H100_SXM

UPS_A_LOST = frozenset({"ups-a-lost"})


def row(**changes: float) -> Site:
    return compile_site(row_site(**changes))  # type: ignore[arg-type]


def h100() -> GpuModel:
    return row().nodes["n01"].model.gpu


def law_w(clock_mhz: float, *, cores_ratio: float, memory_ratio: float) -> float:
    """The power law of an H100 with its context alive and 15 W of leakage, in W."""
    volts = 1.0 + 0.4 * max(0.0, (clock_mhz - 1150.0) / (1980.0 - 1150.0))
    square = (volts / 1.4) ** 2
    dynamic = clock_mhz / 1980.0 * square
    static = 67.0 + 15.0 + 150.0 * memory_ratio + 170.0 * memory_ratio * square
    return static + (55.0 + 684.0 * cores_ratio) * dynamic


def safe_sum_w(site: Site, ceiling_mhz: int) -> float:
    return sum(node.model.worst_case_w(ceiling_mhz) for node in site.nodes.values())


# ---- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(("cores_ratio", "memory_ratio"), [(1.0, 0.2), (0.4, 0.65), (0.0, 0.0)])
def test_the_worst_case_table_lies_above_the_power_law_at_every_clock(
    cores_ratio: float, memory_ratio: float
) -> None:
    gpu = h100()
    for clock_mhz in range(gpu.clock_mhz_min, gpu.clock_mhz_max + 1):
        law = law_w(clock_mhz, cores_ratio=cores_ratio, memory_ratio=memory_ratio)
        assert gpu.power_w_at(clock_mhz) >= min(law, 700.0), clock_mhz


def test_the_worst_case_table_is_not_far_above_the_law_either() -> None:
    for clock_mhz, power_w in H100_WORST_CASE_POWER_W:
        law = max(
            law_w(clock_mhz, cores_ratio=1.0, memory_ratio=0.2),
            law_w(clock_mhz, cores_ratio=0.4, memory_ratio=0.65),
        )
        assert power_w - min(law, 700.0) < 4.0, clock_mhz


@pytest.mark.parametrize("clock_mhz", range(345, 1981, 15))
def test_the_worst_case_table_lies_above_what_the_twins_engine_can_make_a_gpu_draw(
    clock_mhz: int,
) -> None:
    engine, batch = Engine(), np.array([1.0, 8.0, 32.0, 128.0])
    loads = [(float(engine.prefill_load(np.array([engine.chunk_tokens]))[0]), 0.18)]
    for context_tokens in (100.0, 1_000.0, 8_000.0):
        step = engine.decode_step(
            batch=batch,
            key_tokens=batch * context_tokens,
            clock_ratio=np.full(4, clock_mhz / 1980.0),
            byte_per_s=np.full(4, 8 * H100_SXM.memory_byte_per_s),
        )
        loads += zip(step.intensity.tolist(), step.bandwidth.tolist(), strict=True)
    drawn_w = max(
        H100_SXM.power_w_at(clock_mhz, intensity=a, bandwidth=m, temperature_c=65.0)
        for a, m in loads
    )

    assert min(drawn_w, 700.0) <= h100().power_w_at(clock_mhz)


def test_a_node_draws_8_4_kw_at_its_worst() -> None:
    assert row().nodes["n01"].model.power_w_max == pytest.approx(8_400.0)


def test_the_row_is_sold_1_3_times() -> None:
    site = row()
    worst_w = sum(node.model.power_w_max for node in site.nodes.values())

    ratio = worst_w / site.domains["row-1"].capacity_w
    assert ratio == pytest.approx(1.3, rel=1e-3)


def test_one_feed_carries_less_than_the_row_may() -> None:
    site = row()

    assert site.capacity_w("ups-b", UPS_A_LOST) == pytest.approx(
        0.8 * site.domains["row-1"].capacity_w, rel=1e-3
    )
    assert site.capacity_w("ups-a", UPS_A_LOST) == 0.0
    assert site.shares(UPS_A_LOST)["ups-b"]["n40"] == 1.0


def test_the_safe_ceiling_is_the_highest_that_fits_the_surviving_feed_with_room() -> None:
    site = row()
    gpu = h100()
    limit_w = SAFE_ROOM_RATIO * site.capacity_w("ups-b", UPS_A_LOST)

    assert gpu.safe_ceiling_mhz == 1005
    assert safe_sum_w(site, gpu.safe_ceiling_mhz) <= limit_w
    assert safe_sum_w(site, gpu.safe_ceiling_mhz + gpu.clock_mhz_step) > limit_w


@settings(max_examples=30)
@given(nodes=st.integers(1, 60), ratio=st.floats(0.9, 1.4))
def test_at_the_safe_ceiling_every_domain_fits_in_every_state(nodes: int, ratio: float) -> None:
    site = row(nodes=nodes, oversubscription_ratio=ratio)
    states = [frozenset[str](), *(frozenset({name}) for name in site.contingencies)]
    for state, domain in itertools.product(states, site.domains):
        load_w = sum(
            share * site.nodes[name].model.worst_case_w(site.nodes[name].model.gpu.safe_ceiling_mhz)
            for name, share in site.shares(state)[domain].items()
        )
        assert load_w <= site.capacity_w(domain, state), (state, domain)


def test_a_lost_air_handler_leaves_less_than_the_aisle_makes_at_full_clocks() -> None:
    site = row()
    heat_w = 20 * 8_400.0
    lost = frozenset({"air-handler-1-lost"})

    assert site.capacity_w("aisle-1", lost) < site.capacity_w("aisle-1", frozenset()) < heat_w
    assert site.capacity_w("aisle-2", lost) == site.capacity_w("aisle-2", frozenset())


def test_a_row_sold_beyond_help_goes_to_the_lowest_clock() -> None:
    gpu = row(oversubscription_ratio=2.0).nodes["n01"].model.gpu

    assert gpu.safe_ceiling_mhz == gpu.clock_mhz_min


# ---- the shape ----------------------------------------------------------------------------------


def test_forty_nodes_stand_in_ten_racks_and_two_aisles() -> None:
    site = row()

    assert list(site.nodes)[::39] == ["n01", "n40"]
    racks = [domain for domain in site.domains.values() if domain.kind == "rack"]
    assert [rack.name for rack in racks][::9] == ["rack-01", "rack-10"]
    assert {len(rack.nodes) for rack in racks} == {4}
    assert [len(site.domains[aisle].nodes) for aisle in ("aisle-1", "aisle-2")] == [20, 20]
    assert site.nodes["n01"].ancestors == ("ups-a", "ups-b", "row-1", "rack-01", "aisle-1")


def test_twenty_four_nodes_serve_chat_and_every_rack_serves_both() -> None:
    site = row()
    served = [node.service for node in site.nodes.values()]

    assert (served.count("chat"), served.count("batch")) == (24, 16)
    assert {node.priority for node in site.nodes.values() if node.service == "chat"} == {"high"}
    for domain in site.domains.values():
        assert {site.nodes[name].service for name in domain.nodes} == {"chat", "batch"}


@pytest.mark.parametrize(
    ("nodes", "first", "last", "racks"),
    [(1, "n01", "n01", 1), (5, "n01", "n05", 2), (99, "n01", "n99", 25), (100, "n001", "n100", 25)],
)
def test_any_number_of_nodes_makes_a_row(nodes: int, first: str, last: str, racks: int) -> None:
    site = row(nodes=nodes)

    assert (next(iter(site.nodes)), list(site.nodes)[-1]) == (first, last)
    assert sum(domain.kind == "rack" for domain in site.domains.values()) == racks
    assert all(domain.nodes for domain in site.domains.values())


@pytest.mark.parametrize("changes", [{"nodes": 0}, {"nodes": 4097}, {"oversubscription_ratio": 0}])
def test_a_row_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        row_site(**changes)  # type: ignore[arg-type]


# ---- the text -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(nodes=st.sampled_from([1, 3, 4, 9, 41]), ratio=st.floats(0.5, 2.0))
def test_a_row_goes_through_yaml_unchanged(nodes: int, ratio: float) -> None:
    config = row_site(nodes=nodes, oversubscription_ratio=ratio)

    assert load_site_config(site_yaml(config), "f")[0] == config
    assert load_site_config(to_yaml(config, defaults=True), "f")[0] == config


def test_the_text_is_for_people() -> None:
    text = site_yaml(row_site())
    lines = text.splitlines()

    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("  - {name: n") for line in lines) == 40
    assert "  - {name: ups-a, kind: feed, rating_w: 206800, trip_curve: ups-liebert-610}" in lines
    for section in ("gpu_models:", "domains:", "nodes:", "contingencies:", "control:"):
        place = lines.index(section)
        assert lines[place - 1].startswith("# "), section
    for place, line in enumerate(lines):
        assert line == line.rstrip(), place


@given(st.text(min_size=1, max_size=40))
def test_any_text_goes_through_yaml_unchanged(source: str) -> None:
    curve = TripCurveConfig(name="own", points=((1.1, 60.0),), source=source)
    config = row_site(nodes=1)
    changed = type(config)(
        **{
            name: getattr(config, name)
            for name in config.__struct_fields__
            if name != "trip_curves"
        },
        trip_curves=(curve,),
    )

    assert load_site_config(to_yaml(changed), "f")[0].trip_curves == (curve,)


@pytest.mark.parametrize("word", ["off", "010", "4e4", "10:30", "~", "null", "- x", "a: b", "#x"])
def test_a_text_that_looks_like_something_else_stays_text(word: str) -> None:
    config = controller_config(store=StoreConfig(org=word))

    assert load_controller(controller_yaml(config), "f").store.org == word


def test_control_settings_are_carried_over() -> None:
    control = ControlConfig(policy="polca", lease_s=6.0)

    assert compile_site(row_site(control=control)).control == control


def test_an_agent_file_is_made_from_the_site() -> None:
    site = row()
    config = agent_config(site, "n40", broker=BrokerConfig(host="broker"))

    assert config.domains == ("ups-a", "ups-b", "row-1", "rack-10", "aisle-2")
    assert config.contingencies == ("ups-a-lost", "ups-b-lost")
    assert (config.safe_ceiling_mhz, config.brake_ceiling_mhz) == (1005, 345)
    assert load_agent(agent_yaml(config), "f") == config


def test_an_agent_in_aisle_1_hears_of_its_air_handler() -> None:
    assert "air-handler-1-lost" in agent_config(row(), "n01").contingencies


def test_a_controller_file_goes_through_yaml_unchanged() -> None:
    haproxy = HaproxyConfig(socket="/run/haproxy/admin.sock", backends={"chat": "be:1"})
    config = controller_config(haproxy=haproxy)

    assert load_controller(controller_yaml(config), "f") == config
