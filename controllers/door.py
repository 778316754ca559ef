"""Who may ask a controller for something, and who may declare an emergency to it.

It opens what operators and controllers have signed, and refuses what is not new: a request must be
fresh and is carried out once, an emergency must follow the last one of whoever declares it. Where
nobody is asked for a signature everything passes as it is. What is asked for is decided elsewhere.
"""

from __future__ import annotations

from typing import Final

import msgspec

from facility.signing import Role, SignatureRefused, TrustedKey, Verifier
from facility.wire import Codec, Emergency, Request, Response, WireError

REQUEST_AGE_S_MAX: Final = 60.0
"""A signed request is carried out within this of its being issued, or never."""
REQUEST_AHEAD_S_MAX: Final = 10.0
"""How far an operator's clock may run ahead of ours."""
REQUESTS_REMEMBERED_MAX: Final = 4_096
"""Signed requests kept to know a replay; more within the age limit are refused."""

MAY_ASK: Final[tuple[Role, ...]] = ("operator",)
MAY_DECLARE: Final[tuple[Role, ...]] = ("controller", "operator")


class DoorClosed(Exception):
    """A message that is not let in: one word for counters, a sentence for people.

    `who` is the sender as far as it is known, `answer` what a request gets back.
    """

    def __init__(
        self, reason: str, text: str, *, who: str = "", answer: Response | None = None
    ) -> None:
        """Keep what there is to tell."""
        super().__init__(text)
        self.reason = reason
        self.who = who
        self.answer = answer


class Door:
    """One controller's door, with a memory of what has come through."""

    def __init__(self, verifier: Verifier, *, opened_at_s: float = 0.0) -> None:
        """Let in what `verifier` opens.

        Args:
            verifier: whom to believe.
            opened_at_s: time of day; requests issued earlier may have been seen by an earlier life.
        """
        self._verifier = verifier
        self._opened_at_s = opened_at_s
        self._requests: dict[tuple[str, str], float] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._operators: dict[str, int] = {}

    def trust(self, verifier: Verifier) -> None:
        """Believe others from now on; what has come through stays known."""
        self._verifier = verifier

    def request(self, wall_s: float, topic: str, payload: bytes, codec: Codec) -> Request:
        """Return the request in `payload`. Raises DoorClosed, or WireError when it is none."""
        try:
            opened = self._verifier.open(topic, payload, MAY_ASK)
        except SignatureRefused as error:
            answer = self._answer(payload, error, codec)
            raise DoorClosed(error.reason, str(error), who="operator", answer=answer) from error
        request = codec.decode(opened.body, Request)
        reason, text = self._doubt(wall_s, topic, request, opened.speaker)
        if reason:
            who = opened.speaker.who if opened.speaker is not None else request.by
            raise DoorClosed(reason, text, who=who, answer=_refusal(request, f"{reason}: {text}"))
        if opened.speaker is None:
            return request
        self._requests[opened.speaker.key, request.transaction] = request.issued_at_s
        by = f"{opened.speaker.who} ({request.by})" if request.by else opened.speaker.who
        return msgspec.structs.replace(request, by=by[:1_024])

    def _answer(self, payload: bytes, error: SignatureRefused, codec: Codec) -> Response | None:
        """What to tell somebody whose request is not believed, if it is a request at all."""
        try:
            request = codec.decode(self._verifier.unwrap(payload), Request)
        except WireError:
            return None
        return _refusal(request, f"{error.reason}: {error}; this controller wants signed requests")

    def _doubt(
        self, wall_s: float, topic: str, request: Request, speaker: TrustedKey | None
    ) -> tuple[str, str]:
        """Why a request may not be carried out: a word and a sentence, both empty for nothing."""
        if request.verb != topic.rpartition("/")[2]:
            return "wrong-verb", f"the topic is {topic[-128:]}, the verb {request.verb}"
        if speaker is None:
            return "", ""
        age_s = wall_s - request.issued_at_s
        if age_s > REQUEST_AGE_S_MAX:
            return "too-old", f"it was issued {age_s:.0f} s ago; look at the clocks"
        if age_s < -REQUEST_AHEAD_S_MAX:
            return "from-the-future", f"it was issued {-age_s:.0f} s ahead; look at the clocks"
        if request.issued_at_s < self._opened_at_s:
            return "too-old", "it was issued before this controller started: ask again"
        if not request.transaction:
            return "no-transaction", "a signed request needs a transaction of its own"
        if (speaker.key, request.transaction) in self._requests:
            return "replayed", "this very request was carried out before"
        if len(self._requests) >= REQUESTS_REMEMBERED_MAX:
            self._forget(wall_s)
        if len(self._requests) >= REQUESTS_REMEMBERED_MAX:
            return "too-many-requests", f"more than {REQUESTS_REMEMBERED_MAX} signed ones a minute"
        return "", ""

    def _forget(self, wall_s: float) -> None:
        """Drop requests that their age would refuse."""
        oldest_s = wall_s - REQUEST_AGE_S_MAX
        self._requests = {key: at_s for key, at_s in self._requests.items() if at_s >= oldest_s}

    def emergency(self, topic: str, payload: bytes, codec: Codec) -> Emergency:
        """Return the emergency in `payload`. Raises DoorClosed, or WireError when it is none."""
        try:
            opened = self._verifier.open(topic, payload, MAY_DECLARE)
        except SignatureRefused as error:
            raise DoorClosed(error.reason, str(error)) from error
        emergency = codec.decode(opened.body, Emergency)
        speaker = opened.speaker
        if speaker is None:
            return emergency
        if speaker.role == "operator":
            self._take_operators(emergency, speaker)
            return emergency
        stamp = (emergency.epoch, emergency.sequence)
        if stamp < self._stamps.get(emergency.domain, (0, 0)):
            raise DoorClosed("replayed", "a newer one was heard before", who=speaker.who)
        self._stamps[emergency.domain] = stamp
        return emergency

    def _take_operators(self, emergency: Emergency, speaker: TrustedKey) -> None:
        """An operator may begin what a controller can end, each message once."""
        if not emergency.active:
            raise DoorClosed("may-not-end", "an operator's own word ends nothing", who=speaker.who)
        if emergency.sequence <= self._operators.get(speaker.key, -1):
            raise DoorClosed("replayed", "a newer one was heard before", who=speaker.who)
        self._operators[speaker.key] = emergency.sequence


def _refusal(request: Request, text: str) -> Response:
    return Response(
        verb=request.verb, transaction=request.transaction, status="error", error=text[:1_024]
    )
