"""The controller as a service: configuration, wiring, signals, and the way out.

It starts only what a decision needs around the loop. A clean stop leaves leases to run out, which
takes every node to its safe ceiling. SIGHUP checks the files and, if they are good, starts the same
process image anew with them; leases in force bridge the gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from actuators.haproxy import HaproxyRouter
from actuators.null import NullRouter
from controllers.door import Door
from controllers.leadership import Candidate
from controllers.operator import OrdersState
from controllers.proof import prove
from daemon.bus import Bus, LastWords
from daemon.clock import SystemClock
from daemon.config_file import read_config
from daemon.controller.epoch import next_epoch
from daemon.controller.orders_file import read_orders, write_orders
from daemon.controller.refusal import proof_error
from daemon.controller.service import ControllerService, Surroundings
from daemon.controller.supplies import Supplies, supply_problems
from daemon.leadership import Campaign, open_store
from daemon.sd_notify import Notifier
from daemon.store.audit import open_audit
from daemon.store.history import History, open_history
from daemon.trust_files import TrustError, read_signer, read_verifier, trust_events
from daemon.version import VERSION
from daemon.web.api import make_app
from daemon.web.board import Board
from daemon.web.server import WebServer
from facility.config import ControllerConfig
from facility.decisions import Decision
from facility.loader import load_controller, load_site_config, located
from facility.signing import Signer, Verifier
from facility.topics import Topics
from facility.topology import Site
from facility.wire import ControllerStatus, encode

LOG = logging.getLogger(__name__)

STOP_S: Final = 5.0


def load_files(path: str) -> tuple[ControllerConfig, Site]:
    """The controller's configuration and its site, both checked whole.

    A relative `site_file` is beside the configuration. A site whose lease proof fails may be
    watched and not actuated.

    Raises:
        ConfigError: a file is wrong, or the proof fails and `shadow` is off.
    """
    own_text = read_config(path)
    config = load_controller(own_text, path)
    site_path = str(Path(path).parent / config.site_file)
    text = read_config(site_path)
    written, site = load_site_config(text, site_path)
    if problems := supply_problems(config, site):
        raise located(own_text, path, problems)
    proof = prove(site)
    if not proof.passed and not site.control.shadow:
        raise proof_error(text, site_path, written, proof)
    return config, site


class ControllerProcess:
    """One controller, from its files to its exit."""

    def __init__(self, path: str, config: ControllerConfig, site: Site) -> None:
        self._path = path
        self._config = config
        self._site = site
        self._clock = SystemClock()
        self._notifier = Notifier(os.environ)
        self._stopping = asyncio.Event()
        self._restart = False
        self._ready_told = False
        self._bus: Bus | None = None
        self._board: Board | None = None
        self._history: History | None = None
        self._service: ControllerService | None = None
        self._leadership: Campaign | None = None
        self._supplies: Supplies | None = None
        self._blind = False
        self._door: Door | None = None
        self._read = ("", "")

    async def run(self) -> bool:
        """Run until a signal; returns whether to start again with fresh files.

        Raises:
            StoreError, EpochError, OrdersFileError, TrustError, WebError, SecretsError: it
                cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with contextlib.AsyncExitStack() as stack:
            service = await self._build(stack)
            LOG.info(
                "event=started controller=%s site=%s epoch=%d policy=%s shadow=%s",
                self._config.controller,
                self._site.name,
                service.epoch,
                self._site.control.policy,
                self._site.control.shadow,
            )
            await service.run(self._stopping)
            if self._blind:
                raise RuntimeError("looking at UPSs and meters has ended by a bug, see the log")
            self._notifier.tell(STOPPING="1", STATUS="stopping: leases run out")
        return self._restart

    async def _build(self, stack: contextlib.AsyncExitStack) -> ControllerService:
        config, clock = self._config, self._clock
        directory = Path(config.store.directory)
        alone = config.leadership is None
        epoch = next_epoch(directory, wall_s=clock.wall_s()) if alone else 0
        orders = read_orders(directory)
        verifier, signer = self._keys()
        self._door = Door(verifier, opened_at_s=clock.wall_s())
        self._read = self._texts()
        history = self._history = open_history(config.store, site=self._site.name)
        stack.callback(history.close)
        audit = open_audit(config.store)
        stack.callback(audit.close)
        board = self._board = Board(self._site)
        app = make_app(board, readiness=self._readiness, version=VERSION)
        web = WebServer(app, config.http.host, config.http.port)
        await web.start()
        stack.push_async_callback(web.stop)
        session = f"c-{secrets.token_hex(6)}"
        bus = self._bus = self._make_bus(session, epoch)
        leadership = self._leadership = self._make_campaign(session, orders)
        router = self._router()
        stack.push_async_callback(router.close)
        stack.push_async_callback(router.expire, float("inf"))
        service = ControllerService(
            self._site,
            Surroundings(
                bus=bus,
                clock=clock,
                board=board,
                history=history,
                audit=audit,
                routers=(router,),
                after_cycle=self._after_cycle,
                keep_orders=self._keep_orders,
                raise_epoch=lambda above: next_epoch(directory, wall_s=clock.wall_s(), above=above),
                door=self._door,
                signer=signer,
                leadership=leadership,
            ),
            name=config.controller,
            session=session,
            epoch=epoch,
            orders=orders,
        )
        self._service = service
        service.subscribe()
        for event in trust_events(verifier, signer, at_s=clock.wall_s()):
            service.note(event)
        await bus.start()
        stack.push_async_callback(bus.stop)
        if leadership is not None:
            leadership.changed = service.wake
            leadership.start()
            # Before the bus says goodbye: a standby takes over while our leases still last.
            stack.push_async_callback(leadership.stop)
        self._supplies = Supplies(
            config, self._site, order=service.order, note=service.note, failed=self._go_blind
        )
        self._supplies.start(orders)
        stack.push_async_callback(self._supplies.stop)
        return service

    def _keep_orders(self, orders: OrdersState) -> str:
        if self._supplies is not None:
            self._supplies.ordered(orders)
        return write_orders(Path(self._config.store.directory), orders)

    def _go_blind(self) -> None:
        """A controller that no longer sees a UPS ends loudly: agents go safe, systemd restarts."""
        self._blind = True
        self._stopping.set()

    def _texts(self) -> tuple[str, str]:
        """Both files as they are now. Raises ConfigError."""
        site_path = Path(self._path).parent / self._config.site_file
        return read_config(self._path), read_config(str(site_path))

    def _keys(self) -> tuple[Verifier, Signer | None]:
        """Whom to believe, and what to sign with. Raises TrustError."""
        path = self._config.signing_key_file
        signer = None if path is None else read_signer(path, "controller")
        return read_verifier(self._config.trust_file), signer

    def _make_campaign(self, session: str, orders: OrdersState) -> Campaign | None:
        """This controller's candidacy, not begun yet; None when it leads alone."""
        config, clock = self._config.leadership, self._clock
        if config is None:
            return None
        directory = Path(self._config.store.directory)
        candidate = Candidate(
            holder=self._config.controller,
            session=session,
            ttl_s=config.ttl_s,
            lease_s=self._site.control.lease_s,
        )
        candidate.orders = orders
        return Campaign(
            open_store(config, self._site.name),
            candidate,
            clock=clock,
            fresh_epoch=lambda above: next_epoch(directory, wall_s=clock.wall_s(), above=above),
            able=lambda: self._bus is not None and self._bus.connected,
        )

    def _make_bus(self, session: str, epoch: int) -> Bus:
        name = self._config.controller
        status = ControllerStatus(
            controller=name, state="lost", leader=False, epoch=epoch, session=session
        )
        gone = msgspec.structs.replace(status, state="disconnected")
        topic = Topics(self._site.name).controller_status(name)
        return Bus(
            self._config.broker,
            # Not to be guessed: who connects with our identifier throws us out.
            identifier=f"ampacity-controller-{self._site.name}-{name}-{secrets.token_hex(6)}",
            last_words=LastWords(topic, lost=encode(status), disconnected=encode(gone)),
        )

    def _router(self) -> HaproxyRouter | NullRouter:
        if self._config.haproxy is None or self._site.control.shadow:
            return NullRouter()
        return HaproxyRouter(self._config.haproxy)

    def _readiness(self) -> Mapping[str, str]:
        assert self._bus is not None
        assert self._history is not None
        error = self._history.counters().get("last_error")
        silent = self._service is None or not self._service.inbox.accepted["telemetry"]
        return {
            "snapshot": "no node has been heard yet" if silent else "",
            "broker": "" if self._bus.connected else self._bus.detail,
            "store": str(error or ""),
            "leadership": "" if self._leadership is None else self._leadership.trouble,
        }

    def _after_cycle(self, decision: Decision) -> None:
        """Signs of life come from finished cycles only."""
        assert self._bus is not None
        if self._supplies is not None and self._board is not None:
            self._supplies.decided(decision)
            self._board.counters(self._supplies.counters())
        fields = {"WATCHDOG": "1", "STATUS": decision.sentence}
        if not self._ready_told and self._bus.connected:
            self._ready_told = True
            fields["READY"] = "1"
        self._notifier.tell(**fields)

    def _reload(self) -> None:
        """SIGHUP: check everything first; what is wrong changes nothing.

        When only keys have changed they are taken over in place: no lease waits for a start.
        """
        try:
            load_files(self._path)
            verifier, signer = self._keys()
            same = self._texts() == self._read
        except (ValueError, TrustError) as error:
            LOG.error("event=reload-refused the files are kept as they were: %s", error)
            return
        if same and self._service is not None and self._door is not None:
            self._door.trust(verifier)
            self._service.signer = signer
            LOG.info("event=reloaded keys, the other files are as they were")
            for event in trust_events(verifier, signer, at_s=self._clock.wall_s()):
                self._service.note(event)
            return
        now_us = int(self._clock.now_s() * 1e6)
        self._notifier.tell(RELOADING="1", MONOTONIC_USEC=str(now_us))
        LOG.info("event=reload starting anew with the files as they are now")
        self._restart = True
        self._stopping.set()


def run_controller(path: str) -> int:
    """Run a controller until it is told to stop; returns its exit code.

    Raises:
        ConfigError: the files are wrong, with every problem.
    """
    config, site = load_files(path)
    again = asyncio.run(ControllerProcess(path, config, site).run())
    if again:
        os.execv(sys.executable, [sys.executable, "-m", "daemon.main", *sys.argv[1:]])  # noqa: S606
    return 0
