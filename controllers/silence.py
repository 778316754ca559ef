"""What silence means: a node or the network, and who may then run without its lock."""

from __future__ import annotations

from typing import Final

from controllers.snapshot import NodeView, Snapshot

MASS_NODES_MIN: Final = 3
"""Fewer silent nodes than this are nodes, whatever share of a small site they are."""
NEVER_HEARD_S: Final = 30.0
"""A node that has not been heard for so long after a start may have no agent at all."""


def is_mass_silence(snapshot: Snapshot, missing_ratio_max: float) -> bool:
    """Whether so much is silent at once that it must be the network and not the nodes."""
    silent = sum(view.missing for view in snapshot.nodes.values())
    return silent >= MASS_NODES_MIN and snapshot.missing_ratio > missing_ratio_max


def is_unlocked(view: NodeView, since_start_s: float, mass_silence: bool) -> bool:
    """Whether a node may run above any ceiling that was granted.

    A node that falls silent by itself may have restarted without its lock. When much of the site
    falls silent at once it is the network, and every agent that was there is going to its safe
    ceiling; one that left on purpose, or was never heard for a while, is not known to.
    """
    if view.info is None:
        return not mass_silence or since_start_s > NEVER_HEARD_S
    left = view.missing and view.left
    return not view.controllable or left or (view.missing and not mass_silence)
