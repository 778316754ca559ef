"""Cooling zones: a hot aisle is slowed like an overloaded feeder, and only that aisle."""

from __future__ import annotations

import msgspec
import pytest

from facility.wire import Mode, NodeTelemetry
from tests.row import Row, ceilings, domain, site_of


@pytest.fixture
def row() -> Row:
    """Two aisles of four nodes, warm and busy, with room for power."""
    row = Row(site_of(ledger=False), load_ratio=0.4)
    row.run(80)
    return row


def aisle(row: Row, name: str) -> tuple[str, ...]:
    """The nodes of an aisle."""
    return row.site.domains[name].nodes


@pytest.mark.parametrize(("inlet_c", "slowed"), [(31.9, False), (32.1, True)])
def test_an_inlet_over_its_limit_slows_its_own_aisle(
    row: Row, inlet_c: float, slowed: bool
) -> None:
    before = row.step()
    row.inlets_c = dict.fromkeys(aisle(row, "aisle-1"), inlet_c)
    decision = row.run(60)
    inside = sum(ceilings(decision, aisle(row, "aisle-1")))
    assert (inside < sum(ceilings(before, aisle(row, "aisle-1")))) is slowed
    assert ceilings(decision, aisle(row, "aisle-2")) == ceilings(before, aisle(row, "aisle-2"))
    if slowed:
        state = domain(decision, "aisle-1")
        assert state.mode is Mode.SHAVING
        assert state.temperature_c == pytest.approx(inlet_c)
        assert "over its limit" in state.sentence


@pytest.mark.parametrize(("margin_c", "slowed"), [(5.1, False), (4.9, True)])
def test_gpus_close_to_slowing_themselves_slow_their_aisle_first(
    row: Row, margin_c: float, slowed: bool
) -> None:
    row.margins_c = dict.fromkeys(aisle(row, "aisle-1"), margin_c)
    decision = row.run(60)
    highest = row.site.nodes["n01"].model.gpu.clock_mhz_max
    assert (min(ceilings(decision, aisle(row, "aisle-1"))) < highest) is slowed


def test_one_hot_node_is_its_own_matter(row: Row) -> None:
    row.margins_c = {aisle(row, "aisle-1")[0]: 1.0}
    assert domain(row.run(30), "aisle-1").mode is Mode.NORMAL


def test_a_cooled_aisle_comes_back_slowly(row: Row) -> None:
    row.inlets_c = dict.fromkeys(aisle(row, "aisle-1"), 36.0)
    hot = row.run(60)
    row.inlets_c = {}
    soon, late = row.run(10), row.run(600)
    name = "aisle-1"
    assert domain(hot, name).capacity_w < domain(soon, name).capacity_w
    assert domain(soon, name).capacity_w < 0.9 * domain(late, name).capacity_w
    assert domain(late, name).capacity_w == pytest.approx(row.site.domains[name].capacity_w)


def test_without_any_temperature_an_aisle_is_not_raised() -> None:
    row = Row(site_of(ledger=False), load_ratio=0.4)
    blind = {"n01", "n02", "n03", "n04"} & set(row.site.domains["aisle-1"].nodes)
    frame = row.frame

    def without(node: str) -> NodeTelemetry:
        telemetry = frame(node)
        if node not in blind:
            return telemetry
        gpus = tuple(msgspec.structs.replace(gpu, margin_c=None) for gpu in telemetry.gpus)
        return msgspec.structs.replace(telemetry, gpus=gpus, inlet_temperature_c=None)

    row.frame = without  # type: ignore[method-assign]
    decision = row.run(60)
    safe = row.site.nodes["n01"].model.gpu.safe_ceiling_mhz
    assert max(ceilings(decision, blind)) <= safe + 60
    assert "no temperature" in domain(decision, "aisle-1").sentence


def test_a_lost_air_handler_lowers_its_aisle_at_once(row: Row) -> None:
    before = domain(row.step(), "aisle-1")
    row.order("contingency", contingency="air-handler-1-lost", on=True)
    after = domain(row.step(), "aisle-1")
    assert after.capacity_w == pytest.approx(0.9 * before.capacity_w)
    assert after.mode is Mode.EMERGENCY
    assert domain(row.step(), "aisle-2").mode is not Mode.EMERGENCY
