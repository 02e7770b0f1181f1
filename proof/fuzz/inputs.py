"""What is sent to the receiver, byte for byte, and which answers each input may get.

Everything comes from the seed: the batch of a number is the same in every run. A batch is what one connection sends
in one go: requests that can follow each other, and perhaps a last one after which the connection is of no more use.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from freescout_audit.delivery import KNOWN_EVENTS
from freescout_audit.signature import sign
from proof.fuzz.bodies import CANARY, EITHER, FORGED, TAKEN, UNUSABLE, Sample, hostile, mutated
from proof.fuzz.http import KEY, PATH, Header, broken, chunks, delivery, request, signature

OPS_TOKEN = "fuzz-ops-token"  # noqa: S105 - of a receiver on loopback
MAX_BODY = 12_000_000
"""The receiver's limit while it is fuzzed, so that what is over it need not be 64 MiB."""
BODY_TIMEOUT = 2.0

BATCH = 40
"""Requests in a batch at most; aiohttp takes that many at once, and more only as it answers."""
VALID = 10**12
"""The tickets of valid deliveries: this, and so many thousands for each batch."""

Ending = Literal["stays", "closes", "waits", "leaves", "drops"]

_UNAUTHORIZED = frozenset({401})
_BROKEN = frozenset({200, 400, 401, 404, 405, 408, 413, 415, 417, 426})
"""What a request may be answered that is no HTTP, or whose bytes can be read in more than one way."""
_METHODS = (b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD", b"TRACE", b"PROPFIND", b"REPORT", b"LOCK")
_EVENTS = tuple(sorted(name.encode() for name in KNOWN_EVENTS if name.startswith("convo.")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Bytes to send and what may come back.

    Attributes:
        kind: Its class in the closing table.
        raw: The bytes; sent in ``pieces`` with ``pause`` seconds between them.
        allowed: The statuses that each answer to it may have.
        deliveries: How many validly signed deliveries it carries, each of which may stand in the journal.
        ticket_id: The ticket of a valid delivery, which nothing else speaks of.
        ends: What becomes of the connection: it ``stays`` for the next request, the receiver ``closes`` it after an
            answer, we end it once nothing more comes (``waits``), at once (``leaves``), or with a reset (``drops``).
            Only the first two have to be answered.
    """

    kind: str
    raw: bytes
    allowed: frozenset[int]
    deliveries: int = 0
    ticket_id: int | None = None
    ends: Ending = "stays"
    pieces: int = 1
    pause: float = 0.0

    @property
    def must_be_answered(self) -> bool:
        """Whether silence is wrong."""
        return self.ends in {"stays", "closes"}


class Inputs:
    """Makes batches out of a seed."""

    def __init__(self, seed: int, samples: Sequence[Sample]) -> None:
        self._seed = seed
        self._samples = samples
        self._conversations = [sample for sample in samples if sample.conversation]
        self._shares: tuple[tuple[float, Callable[[Random], Input]], ...] = (
            (0.035, self._replay),
            (0.05, self._signed_damage),
            (0.07, _signed_hostile),
            (0.08, self._signed_with_strange_headers),
            (0.083, self._chunked),
            (0.50, self._forged),
            (0.65, _noise),
        )

    def batch(self, number: int) -> list[Input]:
        """Return the batch of this number; only its last input may end the connection."""
        chance = Random(f"{self._seed}/{number}")
        made: list[Input] = []
        for place in range(chance.randint(1, BATCH)):
            given = self._ordinary(chance, number * 1000 + place)
            if given.ends != "stays":
                return [*made, self._last(chance) if chance.random() < 0.05 else given]
            made.append(given)
        if chance.random() < 0.4:
            made.append(self._last(chance))
        return made

    def sample_of(self, ticket_id: int) -> Sample:
        """Return what a valid delivery about this ticket was made of."""
        return self._conversations[ticket_id % len(self._conversations)]

    def valid(self, place: int) -> Input:
        """Return a delivery that has to be applied; each place has a ticket of its own."""
        ticket_id = VALID + place
        sample = self.sample_of(ticket_id)
        raw = delivery(sample.about(ticket_id), sample.event.encode())
        return Input(kind="valid delivery", raw=raw, allowed=TAKEN, deliveries=1, ticket_id=ticket_id)

    def _ordinary(self, chance: Random, place: int) -> Input:
        draw = chance.random()
        if draw < 0.03:  # what reaches the database costs ten times the rest
            return self.valid(place)
        for share, make in self._shares:
            if draw < share:
                return make(chance)
        return _page(chance)

    def _replay(self, chance: Random) -> Input:
        sample = chance.choice(self._samples)
        return Input(
            kind="recorded delivery, again",
            raw=delivery(sample.body, sample.event.encode()),
            allowed=TAKEN,
            deliveries=1,
        )

    def _signed_damage(self, chance: Random) -> Input:
        sample = chance.choice(self._samples)
        return Input(
            kind="damaged body, signed",
            raw=delivery(mutated(chance, sample.body), sample.event.encode()),
            allowed=EITHER,
            deliveries=1,
        )

    def _signed_with_strange_headers(self, chance: Random) -> Input:
        """A good body under any headers, which no signature covers: it is taken."""
        body = chance.choice(self._conversations).body
        strange = chance.choice(
            (
                [(b"X-FreeScout-Event", _strange_event(chance))],
                [(b"X-FreeScout-Event", _strange_event(chance)), (b"X-FreeScout-Event", b"convo.status")],
                [],
                [(b"X-Request-ID", _strange_text(chance))],
                [(b"X-Request-ID", b"a"), (b"X-Request-ID", b"b")],
                [(b"Content-Type", _strange_text(chance))],
                [(b"Content-Encoding", chance.choice((b"identity", b"IDENTITY", b" identity ", b"")))],
                [(b"Cookie", _strange_text(chance) * 3), (b"Forwarded", _strange_text(chance))],
                [(b"X-Field-%d" % number, b"x" * 50) for number in range(100)],
                [(b"Expect", b"100-continue")],
                [(b"Accept-Encoding", b"gzip, br, *;q=0")],
                [(b"Range", b"bytes=0-1"), (b"If-Match", b'"x"'), (b"If-Modified-Since", b"never")],
            )
        )
        return Input(
            kind="good body, strange headers",
            raw=request([*strange, signature(body)], body),
            allowed=TAKEN,
            deliveries=1,
        )

    def _chunked(self, chance: Random) -> Input:
        body = chance.choice(self._conversations).body
        raw = request([(b"X-FreeScout-Event", b"convo.status"), signature(body)], None, chunks(chance, body))
        return Input(kind="good body in chunks", raw=raw, allowed=TAKEN, deliveries=1)

    def _forged(self, chance: Random) -> Input:
        """A body that no accepted key has signed, or signed otherwise than it now is."""
        sample = chance.choice(self._conversations)
        body = sample.about(FORGED + chance.randrange(10**9)) if chance.random() < 0.2 else b'{"id":%d}' % FORGED
        headers = [(b"X-FreeScout-Event", chance.choice((chance.choice(_EVENTS), _strange_event(chance))))]
        headers += _wrong_signature(chance, body)
        return Input(kind="forged signature", raw=request(headers, body), allowed=_UNAUTHORIZED, ends="closes")

    def _last(self, chance: Random) -> Input:
        draw = chance.random()
        if draw < 0.35:
            return _refused(chance)
        if draw < 0.70:
            return self._broken(chance)
        if draw < 0.95:
            return self._dropped(chance)
        return self._slow(chance)

    def _broken(self, chance: Random) -> Input:
        body = chance.choice(self._conversations).body
        raw, deliveries = broken(chance, body)
        return Input(kind="broken HTTP", raw=raw, allowed=_BROKEN, deliveries=deliveries, ends="waits")

    def _dropped(self, chance: Random) -> Input:
        body = chance.choice(self._conversations).body
        raw = delivery(body, b"convo.status")
        cut = chance.choice((chance.randint(0, 200), chance.randint(0, len(raw)), len(raw)))
        return Input(
            kind="dropped half-way",
            raw=raw[:cut],
            allowed=TAKEN,
            deliveries=int(cut == len(raw)),
            ends=chance.choice(("drops", "leaves")),
        )

    def _slow(self, chance: Random) -> Input:
        body = chance.choice(self._conversations).body
        raw = delivery(body, b"convo.status")
        head = raw[: -len(body)]
        shape = chance.randrange(4)
        if shape == 0:  # piece by piece, but in time
            last = request([(b"X-FreeScout-Event", b"convo.status"), (b"Connection", b"close"), signature(body)], body)
            return Input(
                kind="slow sender", raw=last, allowed=TAKEN, deliveries=1, ends="closes", pieces=20, pause=0.05
            )
        if shape == 1:  # a head that never ends
            return Input(kind="slow sender", raw=head[:-2], allowed=_BROKEN, ends="waits", pieces=10, pause=0.2)
        if shape == 2:
            return Input(
                kind="slow sender", raw=raw[: -len(body) // 2 - 1], allowed=frozenset({408}), ends="closes", pieces=3
            )
        waiting = request([(b"Expect", b"100-continue"), signature(body)], None, b"", length=len(body))
        return Input(kind="slow sender", raw=waiting, allowed=frozenset({408}), ends="closes")


def _signed_hostile(chance: Random) -> Input:
    made = hostile(chance)
    event = chance.choice(_EVENTS)
    if made.allowed == UNUSABLE and chance.random() < 0.2:
        made = type(made)(made.raw, TAKEN)
        event = b"customer.updated"
    return Input(kind="hostile body, signed", raw=delivery(made.raw, event), allowed=made.allowed, deliveries=1)


def _strange_event(chance: Random) -> bytes:
    return chance.choice(
        (
            b"Convo.Deleted_Forever",
            b"convo.deleted_forever;",
            b"convo.deleted\xc2\xa0forever",
            b"convo.deleted_forever\t\t",
            b"\xd1\x81onvo.deleted_forever",
            b"convo.deleted_forever, convo.status",
            b"convo.deleted_forever\x80",
            b'"}],"outcome":"applied',
            b'x"} 1\\',
            b'{event="x"}',
            b"\xff\xfe",
            b"\xe2\x80\xae\xe2\x80\xa8",
            b"x" * 8000,
            b"",
            b"other",
            b"convo." + b"%d" % chance.randrange(10**9),
            b"%s%n%00",
        )
    )


def _strange_text(chance: Random) -> bytes:
    return chance.choice(
        (
            b"",
            b"a" * 64,
            b"a" * 65,
            b"b" * 2000,
            b'"},{"event":"receiver.started',
            b"\xc3\xa4\xff\xfe",
            b"\t a \t b \t",
            b"${jndi:ldap://x}",
            b"%0d%0aX: y",
            b"\xe2\x80\xa8",
            b"\\u0000\\n",
            b"%d" % chance.randrange(10**12),
        )
    )


def _wrong_signature(chance: Random, body: bytes) -> list[Header]:
    name = b"X-FreeScout-Signature"
    right = sign(body, KEY).encode()
    digest = hmac.new(KEY.encode(), body, hashlib.sha256).digest()
    wrong = sign(body, "another key").encode()
    return chance.choice(
        (
            [],
            [(name, b"")],
            [(name, wrong)],
            [(name, right[:-1])],
            [(name, right + b"=")],
            [(name, right + b", " + right)],
            [(name, b'"' + right + b'"')],
            [(name, right[:5] + b" " + right[5:])],
            [(name, right.swapcase())],
            [(name, b"sha1=" + right)],
            [(name, hmac.new(KEY.encode(), body, hashlib.sha1).hexdigest().encode())],
            [(name, base64.b64encode(digest))],
            [(name, b"\xff\xfe\xc3\xa4" + right)],
            [(name, right + b"\xc2\xa0")],
            [(name, b"A" * 8000)],
            [(name, wrong), (name, right)],
            [(name, b""), (name, right)],
            [(b"X-FreeScout-Signatur", right)],
            [(b"X_FreeScout_Signature", right)],
            [(b"X-Hub-Signature", right)],
            [signature(body + b" ")],
            [(name, b"null")],
        )
    )


def _noise(chance: Random) -> Input:
    """Random bytes where a body should be."""
    body = chance.randbytes(chance.choice((0, 1, 30, 300, chance.randint(0, 3000))))
    headers = [(b"X-FreeScout-Event", b"convo.status"), (b"X-FreeScout-Signature", base64.b64encode(body[:20]))]
    return Input(kind="random bytes as a body", raw=request(headers, body), allowed=_UNAUTHORIZED, ends="closes")


def _page(chance: Random) -> Input:
    """What is there beside the endpoint, and what is not."""
    path, allowed = chance.choice(
        (
            (b"/healthz", {200}),
            (b"/healthz?" + b"a=1&" * 50, {200}),
            (b"/readyz", {200, 503}),
            (b"/metrics", {401}),
            (b"/", {404}),
            (b"//", {404}),
            (b"/api/internal/freescout-webhook/rbac", {405, 503}),
            (b"/api/internal/freescout-webhook/", {404}),
            (b"/" + PATH, {404}),
            (PATH.upper(), {404}),
            (PATH + b"%00", {404}),
            (b"/%2e%2e/%2e%2e/etc/passwd", {404}),
            (b"/../../etc/passwd", {404}),
            (b"/" + b"a" * 4000, {404}),
            (b"/" + b"%ff" * 100, {404}),
            (b"/%", {404}),
            (b"/" + b"../" * 300, {404}),
            (b"/?" + b"&" * 3000, {404}),
            (b"/%d" % chance.randrange(10**12), {404}),
        )
    )
    if allowed.isdisjoint({200, 401}):
        body = b"x" * chance.choice((0, 0, 100))
        method = chance.choice((b"GET", b"POST", b"PUT", b"DELETE"))
        raw = request([], body, method=method, path=path)
        return Input(kind="other paths", raw=raw, allowed=frozenset(allowed), ends="closes")
    headers = chance.choice(
        (
            [],
            [(b"Authorization", b"Bearer")],
            [(b"Authorization", b"Bearer \xff\xfe")],
            [(b"Authorization", b"bearer " + OPS_TOKEN.encode())],
            [(b"Authorization", b"Basic " + OPS_TOKEN.encode()), (b"X-Forwarded-For", b"127.0.0.1")],
        )
    )
    raw = request(headers, None, method=b"GET", path=path)
    ends: Ending = "closes" if allowed == {401} else "stays"
    return Input(kind="pages", raw=raw, allowed=frozenset(allowed), ends=ends)


def _refused(chance: Random) -> Input:
    """What is answered before its body is read; the receiver then ends the connection."""
    body = b'{"id":%d,"subject":"%s"}' % (FORGED, CANARY.encode())
    draw = chance.randrange(4)
    if draw == 0:
        encoding = chance.choice((b"gzip", b"br", b"deflate", b"zstd", b"identity, gzip", b"x", b"\xff", b"GZIP"))
        raw = request([(b"Content-Encoding", encoding), signature(body)], body)
        return Input(kind="Content-Encoding", raw=raw, allowed=frozenset({415}), ends="closes")
    if draw == 1:
        length = chance.choice((MAX_BODY + 1, 2**31, 2**32, 2**53, 2**63 - 1))
        expect = chance.choice(([], [(b"Expect", b"100-continue")]))
        raw = request([*expect, signature(body)], None, b"x" * chance.choice((0, 100)), length=length)
        return Input(kind="too large", raw=raw, allowed=frozenset({413}), ends="closes")
    raw = request([signature(body)], body, method=chance.choice(_METHODS))
    return Input(kind="other methods", raw=raw, allowed=frozenset({405}), ends="closes")
