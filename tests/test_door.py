"""Who may ask a controller, and declare to it: each refusal has a word, a counter and an answer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controllers.door import (
    REQUEST_AGE_S_MAX,
    REQUEST_AHEAD_S_MAX,
    REQUESTS_REMEMBERED_MAX,
    Door,
    DoorClosed,
)
from controllers.inbox import Inbox
from facility.signing import Signer, Verifier
from facility.topics import Topics
from facility.wire import Codec, Emergency, Request, Response, encode
from tests.row import site_of
from tests.signatures import CONTROLLER, OPERATOR, STRANGER, TRUSTED

START_S = 1_000.0
NOW_S = 2_000.0
SITE = site_of()
TOPICS = Topics(SITE.name)
BRAKE = Request(
    verb="brake", transaction="t1", issued_at_s=NOW_S, by="ann@desk", args={"domain": "row-1"}
)


FORGERIES = ("unsigned", "unknown-key", "wrong-role")


class House:
    """An inbox behind a door."""

    def __init__(self, verifier: Verifier | None = None) -> None:
        door = Door(verifier or Verifier(TRUSTED), opened_at_s=START_S)
        self.inbox = Inbox(SITE, codec=Codec(), door=door)

    def ask(
        self, request: Request, by: Signer | None = OPERATOR, *, verb: str = "", at_s: float = NOW_S
    ) -> None:
        topic = TOPICS.request(verb or request.verb)
        body = encode(request)
        self.inbox.receive(0.0, at_s, topic, body if by is None else by.seal(topic, body))

    def declare(self, emergency: Emergency, by: Signer | None = CONTROLLER) -> None:
        topic = TOPICS.domain(emergency.domain, "emergency")
        body = encode(emergency)
        self.inbox.receive(0.0, NOW_S, topic, body if by is None else by.seal(topic, body))

    @property
    def refused(self) -> dict[str, int]:
        """Refusals by reason."""
        return {reason: count for (_, reason), count in self.inbox.refused.items()}

    def answers(self) -> list[Response]:
        return list(self.inbox.take_answers())


def emergency(*active: str, epoch: int = 1, sequence: int = 1, domain: str = "row-1") -> Emergency:
    return Emergency(
        domain=domain, active=active, epoch=epoch, sequence=sequence, issued_at_s=NOW_S
    )


def test_a_signed_request_comes_in_under_the_name_of_its_key() -> None:
    house = House()
    house.ask(BRAKE)
    (request,) = house.inbox.take_requests()
    assert request == replace(BRAKE, by="operator operator-1 (ann@desk)")
    assert not house.refused


@pytest.mark.parametrize(
    ("request_", "by", "reason"),
    [
        (BRAKE, None, "unsigned"),
        (BRAKE, STRANGER, "unknown-key"),
        (BRAKE, CONTROLLER, "wrong-role"),
        (replace(BRAKE, transaction=""), OPERATOR, "no-transaction"),
        (replace(BRAKE, issued_at_s=0.0), OPERATOR, "too-old"),
        (replace(BRAKE, issued_at_s=NOW_S - REQUEST_AGE_S_MAX - 1), OPERATOR, "too-old"),
        (replace(BRAKE, issued_at_s=NOW_S + REQUEST_AHEAD_S_MAX + 1), OPERATOR, "from-the-future"),
    ],
)
def test_each_request_that_is_not_let_in_is_counted_told_and_answered(
    request_: Request, by: Signer | None, reason: str
) -> None:
    house = House()
    house.ask(request_, by)
    assert not house.inbox.take_requests()
    assert house.refused == {reason: 1}
    (event,) = house.inbox.take_events()
    assert (event.event, event.severity) == (
        "message-refused",
        "critical" if reason in FORGERIES else "warning",
    )
    assert reason in event.sentence
    (answer,) = house.answers()
    assert (answer.verb, answer.transaction, answer.status) == (
        "brake",
        request_.transaction,
        "error",
    )
    assert reason in answer.error


@pytest.mark.parametrize("age_s", [REQUEST_AGE_S_MAX, 0.0, -REQUEST_AHEAD_S_MAX])
def test_a_request_of_the_very_limit_is_let_in(age_s: float) -> None:
    house = House()
    house.ask(replace(BRAKE, issued_at_s=NOW_S - age_s))
    assert len(house.inbox.take_requests()) == 1


def test_a_request_is_carried_out_once() -> None:
    house = House()
    house.ask(BRAKE)
    house.ask(BRAKE, at_s=NOW_S + REQUEST_AGE_S_MAX)
    assert len(house.inbox.take_requests()) == 1
    assert house.refused == {"replayed": 1}
    house.ask(BRAKE, at_s=NOW_S + REQUEST_AGE_S_MAX + 1)
    assert house.refused == {"replayed": 1, "too-old": 1}


def test_a_request_from_before_the_start_may_have_been_carried_out_by_an_earlier_life() -> None:
    house = House()
    house.ask(replace(BRAKE, issued_at_s=START_S - 1), at_s=START_S)
    house.ask(replace(BRAKE, issued_at_s=START_S), at_s=START_S)
    assert len(house.inbox.take_requests()) == 1
    assert house.refused == {"too-old": 1}


def test_a_request_signed_for_one_verb_is_none_for_another() -> None:
    house = House()
    release = replace(BRAKE, verb="release")
    sealed = OPERATOR.seal(TOPICS.request("brake"), encode(release))
    house.inbox.receive(0.0, NOW_S, TOPICS.request("release"), sealed)
    house.inbox.receive(0.0, NOW_S, TOPICS.request("brake"), sealed)
    assert house.refused == {"bad-signature": 1, "wrong-verb": 1}
    assert not house.inbox.take_requests()


def test_the_memory_of_requests_is_bounded_and_forgets_what_is_too_old_anyway() -> None:
    door, codec = Door(Verifier(TRUSTED)), Codec()
    topic = TOPICS.request("brake")

    def ask(number: int, at_s: float) -> None:
        request = replace(BRAKE, transaction=f"t{number}", issued_at_s=at_s)
        door.request(at_s, topic, OPERATOR.seal(topic, encode(request)), codec)

    for number in range(REQUESTS_REMEMBERED_MAX):
        ask(number, NOW_S)
    with pytest.raises(DoorClosed) as closed:
        ask(-1, NOW_S + REQUEST_AGE_S_MAX)
    assert closed.value.reason == "too-many-requests"
    ask(-1, NOW_S + REQUEST_AGE_S_MAX + 1)


def test_emergencies_of_controllers_come_in_order() -> None:
    house = House()
    house.declare(emergency("ups-a-lost", epoch=2, sequence=5))
    house.declare(emergency(epoch=2, sequence=6))
    house.declare(emergency("ups-a-lost", epoch=2, sequence=5))
    house.declare(emergency("ups-a-lost", epoch=1, sequence=9))
    house.declare(emergency("brake", epoch=2, sequence=1, domain="rack-01"))
    assert [one.domain for one in house.inbox.take_emergencies()] == ["row-1", "row-1", "rack-01"]
    assert house.refused == {"replayed": 2}


def test_an_operators_own_emergency_begins_and_does_not_end_or_repeat() -> None:
    house = House()
    house.declare(emergency("brake", epoch=0, sequence=7), OPERATOR)
    house.declare(emergency("brake", epoch=0, sequence=7), OPERATOR)
    house.declare(emergency(epoch=0, sequence=8), OPERATOR)
    assert [one.active for one in house.inbox.take_emergencies()] == [("brake",)]
    assert house.refused == {"replayed": 1, "may-not-end": 1}


@pytest.mark.parametrize(("by", "reason"), [(None, "unsigned"), (STRANGER, "unknown-key")])
def test_an_emergency_that_nobody_trusted_declared_is_refused(
    by: Signer | None, reason: str
) -> None:
    house = House()
    house.declare(emergency("brake"), by)
    assert not house.inbox.take_emergencies()
    assert house.refused == {reason: 1}


def test_a_site_without_keys_lets_everybody_in_as_before() -> None:
    house = House(Verifier(None))
    house.ask(replace(BRAKE, issued_at_s=0.0, transaction=""), None)
    house.ask(replace(BRAKE, issued_at_s=0.0, transaction=""), OPERATOR)
    assert [one.by for one in house.inbox.take_requests()] == ["ann@desk", "ann@desk"]
    assert not house.refused


def test_a_flood_of_forgeries_is_told_at_a_falling_rate_and_never_forgotten() -> None:
    house = House()
    for _ in range(100):
        house.ask(BRAKE, None)
    assert house.refused == {"unsigned": 100}
    told = [event.sentence for event in house.inbox.take_events()]
    assert len(told) == 7
    assert "(64 by now)" in told[-1]


def test_refusals_are_counted_by_reason_from_zero_on() -> None:
    house = House()
    assert house.inbox.refused_by_reason()["bad-signature"] == 0
    house.ask(BRAKE, None)
    house.declare(emergency("brake"), None)
    assert house.inbox.refused_by_reason()["unsigned"] == 2
