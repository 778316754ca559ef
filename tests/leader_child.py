"""A candidate as a process of its own, to be killed and stopped: `leader_child CONFIG STATE_DIR`.

Prints `1 <epoch> <monotonic s>` when it may speak and `0 ...` when it may not, as it changes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from controllers.leadership import Candidate
from daemon.clock import SystemClock
from daemon.controller.epoch import next_epoch
from daemon.leadership import Campaign, open_store
from facility.config import LeadershipConfig

LOOK_S = 0.002


def make_campaign(
    config: LeadershipConfig, name: str, state: Path, able: Callable[[], bool] = lambda: True
) -> Campaign:
    """A candidate as a controller makes it."""
    return Campaign(
        open_store(config, "lab"),
        Candidate(holder=name, session=f"{name}-{time.time_ns()}", ttl_s=config.ttl_s, lease_s=4.0),
        clock=SystemClock(),
        fresh_epoch=lambda above: next_epoch(state, wall_s=time.time(), above=above),
        able=able,
    )


async def main(config: str, state: str) -> None:
    """Stand by until killed."""
    campaign = make_campaign(
        msgspec.json.decode(config, type=LeadershipConfig), "child", Path(state)
    )
    campaign.start()
    spoke = False
    while True:
        speaks = campaign.may_speak()
        if speaks != spoke:
            spoke = speaks
            print(int(speaks), campaign.epoch, time.monotonic(), flush=True)
        await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
