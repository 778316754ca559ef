"""Small sites for tests: feeds, what hangs on them, nodes and failures, in any order."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from facility.compiler import compile_site
from facility.config import ContingencyConfig, DomainConfig, NodeConfig, SiteConfig
from facility.example import row_site
from facility.topology import Key, SiteError


def feed(name: str, **more: Any) -> DomainConfig:
    return DomainConfig(name=name, kind="feed", rating_w=100_000.0, **more)


def pdu(name: str, *parents: str) -> DomainConfig:
    return DomainConfig(name=name, kind="pdu", rating_w=50_000.0, parents=parents)


def zone(name: str) -> DomainConfig:
    return DomainConfig(name=name, kind="zone", rating_w=80_000.0)


def node(name: str, *parents: str, **more: Any) -> NodeConfig:
    return NodeConfig(name=name, model="dgx-h100", parents=parents, **more)


def site_of(*items: DomainConfig | NodeConfig | ContingencyConfig, **more: Any) -> SiteConfig:
    """A site with just these domains, nodes and contingencies, in this order."""
    return replace(
        row_site(nodes=1),
        domains=tuple(item for item in items if isinstance(item, DomainConfig)),
        nodes=tuple(item for item in items if isinstance(item, NodeConfig)),
        contingencies=tuple(item for item in items if isinstance(item, ContingencyConfig)),
        **more,
    )


def lost(*names: str, domain: str = "a", name: str = "k") -> ContingencyConfig:
    return ContingencyConfig(name=name, domain=domain, lost=names)


def problems(config: SiteConfig) -> dict[Key, str]:
    with pytest.raises(SiteError) as caught:
        compile_site(config)
    assert str(caught.value) == caught.value.problems[0].text
    found: dict[Key, str] = {}
    for problem in caught.value.problems:
        found[problem.key] = found.get(problem.key, "") + problem.text
    return found
