"""A site whose lease proof fails, told as problems of its file: where, why, and what would pass."""

from __future__ import annotations

from controllers.proof import Proof, ProofRow
from facility.config import SiteConfig
from facility.loader import ConfigError, located
from facility.topology import Problem


def proof_error(text: str, path: str, config: SiteConfig, proof: Proof) -> ConfigError:
    """The rows that fail, each at the line of its domain.

    Args:
        text: the site file.
        path: its name in messages.
        config: the same, typed.
        proof: a proof of it that does not hold.
    """
    places = {domain.name: place for place, domain in enumerate(config.domains)}
    return located(
        text,
        path,
        tuple(Problem(("domains", places[row.domain]), _sentence(row)) for row in proof.failures),
    )


def _sentence(row: ProofRow) -> str:
    over_w, what = row.floor_w, "the floor"
    if row.floor_w <= row.capacity_w:
        over_w, what = row.leased_w, "leases"
    facts = (
        f"FAIL: {row.domain}, {row.state}: {row.problem}: {what} {over_w / 1000:.1f} kW of"
        f" {row.capacity_w / 1000:.1f} kW"
    )
    remedies = _remedies(row)
    return f"{facts}; would pass with {remedies}" if remedies else f"{facts}; nothing here passes"


def _remedies(row: ProofRow) -> str:
    advice = row.advice
    if advice is None:
        return ""
    found = []
    floor = row.floor_w > row.capacity_w
    if not floor and advice.lease_s is not None:
        found.append(f"lease_s up to {advice.lease_s:.1f}")
    if not floor:
        found.append("the ledger on")
    if floor and advice.safe_ceiling_mhz is not None:
        found.append(f"safe ceilings up to {advice.safe_ceiling_mhz} MHz")
    if floor and advice.nodes_count is not None:
        found.append(f"at most {advice.nodes_count} of its servers")
    return ", or ".join(found)
