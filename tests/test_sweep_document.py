"""A sweep's document loads whole, as its model reads it, or not at all and with every problem."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from facility.loader import ConfigError
from simulator.experiments.model import load_sweep
from tests.toy_sweep import TOY, ToySweep

SWEEP = """
version: 1
kind: sweep
scenario: toy-row
model: toy
policies:
  polca: {policy: polca, actuation: oob}
  ampacity: {policy: ampacity, control: {lease_s: 6}}
sweep: {added_ratio: [0, 0.1]}
headline: {added_ratio: 0.1}
checks:
  - {name: no brake, policy: ampacity, metric: brakes, max: 0}
curves:
  - {metric: brakes, against: added_ratio, title: Brakes, y_label: count, policies: [polca]}
"""


def load(text: str = SWEEP, changes: Mapping[str, str] | None = None) -> ToySweep:
    role, scenario = load_sweep(text, "toy.yaml", changes or {}, TOY)
    assert role == "tests.toy_sweep"
    assert isinstance(scenario, ToySweep)
    return scenario


def problems(text: str = SWEEP, changes: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, changes)
    return str(caught.value).splitlines()


def test_a_model_reads_its_own_keys() -> None:
    scenario = load()
    assert scenario.policies["polca"].actuation == "oob"
    assert scenario.policies["ampacity"].control == {"lease_s": 6}
    assert scenario.sweep.added_ratio == (0.0, 0.1)


def test_set_reaches_every_key_lists_and_competitors_included() -> None:
    scenario = load(
        changes={
            "sweep.added_ratio": "[0, 0.2, 0.4]",
            "policies.polca.actuation": "in-band",
            "checks[0].max": "7",
            "policies.ampacity.control.lease_s": "8",
        }
    )
    assert scenario.sweep.added_ratio == (0.0, 0.2, 0.4)
    assert scenario.policies["polca"].actuation == "in-band"
    assert scenario.checks[0].max == 7.0
    assert scenario.policies["ampacity"].control == {"lease_s": 8}


@pytest.mark.parametrize("key", ["checks[1].max", "checks.max", "scenario.name", "checks[x].max"])
def test_a_place_that_is_not_there_is_refused_not_ignored(key: str) -> None:
    assert "no such place" in problems(changes={key: "1"})[0]


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("actuation: oob", "actuation: bob", 7, "policies.polca.actuation: 'bob' is not allowed"),
        ("policy: polca,", "policy: polka,", 7, "did you mean 'polca'"),
        ("[0, 0.1]", "[0, x]", 9, "sweep.added_ratio[1]: 'x' is not allowed"),
        ("headline:", "head:", 10, "head: unknown key"),
        ("model: toy", "model: toys", 5, "model: 'toys' is no model; allowed are toy; did you"),
        ("policy: ampacity, m", "policy: ampa, m", 12, "'ampa' is none of the policies"),
        ("policies: [polca]", "policies: [pola]", 14, "did you mean 'polca'"),
        (", max: 0", "", 12, "a check needs min or max"),
    ],
)
def test_problems_name_their_line(old: str, new: str, line: int, expected: str) -> None:
    assert SWEEP.count(old) == 1
    found = problems(SWEEP.replace(old, new))[0]
    assert found.startswith(f"toy.yaml:{line}:")
    assert expected in found


def test_a_model_may_be_chosen_by_set() -> None:
    assert "'flood' is no model" in problems(changes={"model": "flood"})[0]


@pytest.mark.parametrize("text", ["", "[1]", "version: 1\nkind: sweep\n"])
def test_what_is_no_document_is_refused(text: str) -> None:
    assert problems(text)
