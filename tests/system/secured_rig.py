"""A site on which nobody is believed without a key: certificates, signatures, an access list.

The same rig over a secured broker; the attacker in it has the controller's own certificate.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from daemon.trust_files import read_signer
from facility.config import BrokerConfig
from facility.signing import Signer
from facility.wire import Codec, Event, Lease, Request, encode
from tests.secured import SecuredMosquitto
from tests.servers import HOST, take_free_port
from tests.system.listener import Listener
from tests.system.processes import wait_until
from tests.system.rig import HEALTHY_S, Rig

CODEC = Codec()


class SecuredRig(Rig):
    """A site on which nobody is believed without a key."""

    broker: SecuredMosquitto

    def __init__(self, directory: Path, broker: SecuredMosquitto, library: Path) -> None:
        self.metrics_port = take_free_port()
        self.trust_file = broker.keys / "trust.json"
        self.key_path = directory / "controller.signing.key"
        self.use_key(broker.signing_key["controller"])
        super().__init__(directory, broker, library)
        self.operator = read_signer(broker.signing_key["operator"], "operator")
        self.attacker = Listener(
            broker.port, self.topics, name="attacker", tls=broker.broker("controllers/controller")
        )
        self.rewrite_agent("n01", metrics_port=self.metrics_port)

    def use_key(self, path: str) -> None:
        """Give the controller another signing key, as an operator would: the file is replaced."""
        part = self.key_path.with_suffix(".part")
        part.touch(0o600)
        part.write_bytes(Path(path).read_bytes())
        part.replace(self.key_path)

    def broker_config(self, holder: str) -> BrokerConfig:
        return self.broker.broker(holder)

    def controller_keys(self) -> dict[str, Any]:
        return {"signing_key_file": str(self.key_path), "trust_file": str(self.trust_file)}

    def agent_keys(self) -> dict[str, Any]:
        return {"trust_file": str(self.trust_file)}

    def make_listener(self) -> Listener:
        return Listener(self.broker.port, self.topics, tls=self.broker.broker("operators/operator"))

    def heal(self) -> None:
        """Start what does not run, and wait until every node holds a lease above safe."""
        for process in self.processes:
            if not process.runs:
                process.start()
        wait_until(
            lambda: all(self.leased(name) for name in self.hosts),
            "every node holds a lease",
            timeout_s=HEALTHY_S,
            but=self.story,
        )
        self.wait_ceilings(lambda mhz: mhz > self.safe_mhz, "all are above the safe ceiling")

    def start(self) -> SecuredRig:
        self.attacker.start()
        super().start()
        return self

    def end(self) -> None:
        self.attacker.stop()
        super().end()

    def ask(self, verb: str, *, by: str = "test", **args: str | float | bool) -> None:
        topic = self.topics.request(verb)
        request = Request(
            verb=verb,
            transaction=secrets.token_hex(8),
            issued_at_s=time.time(),
            by=by,
            args=args,
        )
        self.listener.say(topic, self.operator.seal(topic, encode(request)))

    @property
    def controller_signer(self) -> Signer:
        return read_signer(str(self.key_path), "controller")

    def last_lease(self, node: str) -> Lease:
        """The last lease that was sent to a node, out of its envelope."""
        payload = self.listener.messages("lease", node=node)[-1].payload
        return CODEC.decode(msgspec.json.encode(json.loads(payload)["body"]), Lease)

    def refused(self, reason: str) -> float:
        """The agent's own counter on n01."""
        text = httpx.get(f"http://{HOST}:{self.metrics_port}/metrics").text
        found = re.search(rf'messages_refused_total{{reason="{reason}"}} (\S+)', text)
        return float(found[1]) if found else 0.0

    def told(self, event: str, subject: str, *, since_ns: int) -> list[Event]:
        """Events that came over the bus."""
        heard = [one for one in self.listener.messages("event") if one.at_ns > since_ns]
        events = [CODEC.decode(one.payload, Event) for one in heard]
        return [one for one in events if (one.event, one.subject) == (event, subject)]
