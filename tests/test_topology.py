"""The compiled site: who feels whose power, what is dark, and every doubt on the safe side."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facility.compiler import compile_site
from facility.config import ContingencyConfig, ServiceConfig
from facility.example import row_site
from facility.topology import Site
from tests.small_sites import feed, lost, node, pdu, problems, site_of, zone

NONE: frozenset[str] = frozenset()

# ---- power and clocks ---------------------------------------------------------------------------

_CLOCKS = st.floats(300.0, 2100.0)


@given(_CLOCKS)
def test_worst_case_power_rises_with_the_ceiling(clock_mhz: float) -> None:
    model = compile_site(row_site(nodes=1)).nodes["n01"].model.gpu

    assert 266.0 <= model.power_w_at(clock_mhz) <= model.power_w_at(clock_mhz + 10.0) <= 700.0


@given(_CLOCKS)
def test_a_snapped_clock_is_on_the_grid_and_never_above_what_was_asked(clock_mhz: float) -> None:
    model = compile_site(row_site(nodes=1)).nodes["n01"].model.gpu
    snapped_mhz = model.snap_mhz(clock_mhz)

    assert model.clock_mhz_min <= snapped_mhz <= model.clock_mhz_max
    assert (snapped_mhz - model.clock_mhz_min) % model.clock_mhz_step == 0
    assert snapped_mhz <= max(clock_mhz, model.clock_mhz_min)
    assert min(clock_mhz, model.clock_mhz_max) - snapped_mhz < model.clock_mhz_step


@given(st.floats(0.0, 800.0))
def test_the_ceiling_for_a_power_is_the_highest_that_keeps_it(power_w: float) -> None:
    model = compile_site(row_site(nodes=1)).nodes["n01"].model.gpu
    ceiling_mhz = model.ceiling_mhz_for(power_w)

    assert model.snap_mhz(ceiling_mhz) == ceiling_mhz
    if ceiling_mhz > model.clock_mhz_min:
        assert model.power_w_at(ceiling_mhz) <= power_w
    if ceiling_mhz < model.clock_mhz_max:
        assert model.power_w_at(ceiling_mhz + model.clock_mhz_step) > power_w


# ---- the tree -----------------------------------------------------------------------------------


def test_a_nodes_ancestors_are_all_that_feel_it_in_the_order_of_the_file() -> None:
    config = site_of(
        zone("z"), pdu("p", "q"), pdu("q", "a", "b"), feed("a"), feed("b"), feed("c"),
        node("n", "p", "a", zone="z"), node("m", "c"),
    )  # fmt: skip
    site = compile_site(config)

    assert site.nodes["n"].ancestors == ("p", "q", "a", "b", "z")
    assert site.domains["a"].nodes == ("n",)
    assert site.domains["z"].nodes == ("n",)
    assert site.domains["c"].nodes == ("m",)


def test_priority_is_the_nodes_own_then_its_services_then_high() -> None:
    services = (
        ServiceConfig(name="s", priority="low"),
        ServiceConfig(name="t", priority="high", routable=False),
    )
    config = site_of(
        feed("a"),
        node("n1", "a", service="s", priority="high"),
        node("n2", "a", service="s"),
        node("n3", "a", service="t"),
        node("n4", "a"),
        services=services,
    )
    nodes = compile_site(config).nodes.values()

    assert [item.priority for item in nodes] == ["high", "low", "high", "high"]
    assert [item.routable for item in nodes] == [True, True, False, False]


def test_capacity_is_the_derated_rating() -> None:
    assert compile_site(site_of(feed("a", derating_ratio=0.8), node("n", "a"))).domains[
        "a"
    ].capacity_w == pytest.approx(80_000.0)


def test_two_feeds_share_a_load_and_the_survivor_takes_it_all() -> None:
    site = compile_site(
        site_of(feed("a"), feed("b"), pdu("p", "a", "b"), node("n", "p"), lost("a", domain="p"))
    )

    assert site.shares(NONE) == {"a": {"n": 0.5}, "b": {"n": 0.5}, "p": {"n": 1.0}}
    assert site.shares(frozenset({"k"})) == {"a": {}, "b": {"n": 1.0}, "p": {"n": 1.0}}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_hangs_on_a_lost_feed_alone_is_dark_in_any_order_of_the_file(
    order: tuple[int, ...],
) -> None:
    domains = (feed("a"), pdu("p", "a"), pdu("q", "p"))
    config = site_of(
        *(domains[place] for place in order), node("n", "q", zone="z"), zone("z"), lost("a")
    )
    site = compile_site(config)
    active = frozenset({"k"})

    assert site.lost(active) == {"a", "p", "q"}
    assert all(site.capacity_w(name, active) == 0.0 for name in ("a", "p", "q"))
    assert site.shares(active) == {"a": {}, "p": {}, "q": {}, "z": {"n": 1.0}}


def test_losses_of_capacity_add_up_and_stop_at_nothing() -> None:
    cuts = [
        ContingencyConfig(name=name, domain="a", capacity_ratio={"a": ratio})
        for name, ratio in (("k1", 0.9), ("k2", 0.8), ("k3", 0.1))
    ]
    site = compile_site(site_of(feed("a"), node("n", "a"), *cuts))

    def capacity_w(*active: str) -> float:
        return site.capacity_w("a", frozenset(active))

    assert capacity_w("k1") == pytest.approx(90_000.0)
    assert capacity_w("k1", "k2") == pytest.approx(70_000.0)
    assert capacity_w("k1", "k2", "k3") == 0.0


def test_a_lost_feed_touches_those_on_it_and_those_on_its_survivor_only() -> None:
    config = site_of(
        feed("a"), feed("b"), feed("c"), pdu("p", "a", "b"),
        node("both", "p"), node("survivor-only", "b"), node("lost-only", "a"), node("apart", "c"),
        lost("a", domain="a"),
    )  # fmt: skip
    found = problems(config)

    assert "node 'survivor-only' must act" in found["contingencies", 0, "domain"]


def test_a_tree_of_many_diamonds_compiles_in_no_time() -> None:
    """Every level doubles the number of paths: whoever walks paths never comes back."""
    levels = 40
    domains = [feed("a0"), feed("b0")]
    for level in range(1, levels):
        above = (f"a{level - 1}", f"b{level - 1}")
        domains += [pdu(f"a{level}", *above), pdu(f"b{level}", *above)]
    last = levels - 1
    began_s = time.monotonic()
    site = compile_site(
        site_of(*domains, node("n", f"a{last}", f"b{last}"), lost("b0", domain="a0"))
    )

    assert site.shares(frozenset({"k"}))["a0"] == {"n": pytest.approx(1.0)}
    assert time.monotonic() - began_s < 5.0


def test_a_very_long_chain_compiles() -> None:
    chain = [feed("d0"), *(pdu(f"d{place}", f"d{place - 1}") for place in range(1, 3_000))]
    site = compile_site(site_of(*chain, node("n", "d2999")))

    assert site.shares(NONE)["d0"] == {"n": 1.0}


@st.composite
def random_sites(draw: st.DrawFn) -> Site:
    """A tree of up to four feeds and ten others in any order, with one or two failures."""
    feeds = [f"f{place}" for place in range(draw(st.integers(1, 4)))]
    names = list(feeds)
    domains = [feed(name) for name in feeds]
    for place in range(draw(st.integers(0, 10))):
        parents = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        domains.append(pdu(f"p{place}", *parents))
        names.append(f"p{place}")
    nodes = [
        node(
            f"n{place}",
            *draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)),
        )
        for place in range(draw(st.integers(1, 5)))
    ]
    top = zone("top")
    nodes = [replace(item, zone="top") for item in nodes]
    gone = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    failures = [lost(*draw(gone), domain="top", name=name) for name in ("k1", "k2")]
    order = draw(st.permutations(domains))
    return compile_site(site_of(*order, top, *nodes, *failures))


@given(random_sites(), st.sets(st.sampled_from(["k1", "k2"])))
def test_power_is_neither_lost_nor_doubled_on_its_way_up(site: Site, active: set[str]) -> None:
    state = frozenset(active)
    shares, gone = site.shares(state), site.lost(state)
    roots = [item.name for item in site.domains.values() if not item.parents and not item.is_zone]
    for item in site.nodes.values():
        dark = gone.issuperset(item.parents)
        at_roots = sum(shares[name].get(item.name, 0.0) for name in roots)
        assert at_roots == pytest.approx(0.0 if dark else 1.0)
    for name in gone:
        assert shares[name] == {}
        assert site.capacity_w(name, state) == 0.0
    for domain in site.domains.values():
        assert set(shares[domain.name]) <= set(domain.nodes)
        if domain.parents and domain.name not in gone:
            assert not gone.issuperset(domain.parents)


@given(random_sites())
def test_a_contingency_touches_exactly_the_nodes_above_which_something_changes(site: Site) -> None:
    def felt(name: str, state: frozenset[str]) -> tuple[float, Mapping[str, float]]:
        return site.capacity_w(name, state), site.shares(state)[name]

    for contingency, item in itertools.product(site.contingencies, site.nodes.values()):
        state = frozenset({contingency})
        changes = any(felt(name, NONE) != felt(name, state) for name in item.ancestors)
        assert site.touches(contingency, item.name) == changes
