"""Takes deliveries in: every check that comes before a body is believed, the same for each endpoint.

An endpoint is one registration: a path, a switch, its keys and a handler for what has been verified.
"""

import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web
from structlog.contextvars import bound_contextvars

from db.refusals import explain
from freescout_audit.delivery import CONVERSATION_EVENTS, event_label, event_name
from freescout_audit.endpoints import path_of
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import (
    DELIVERY_NOT_SAVED,
    RECEIVER_FAULT,
)
from freescout_audit.logs import emit, where
from freescout_audit.repeats import Repeats
from freescout_audit.signature import Signer, fingerprint, matching_signer
from receiver import refusals as why
from receiver.body import (
    BodyAbortedError,
    BodyGaveWayError,
    BodyPlace,
    BodyTooLargeError,
    BodyTooSlowError,
    Places,
    announced,
    here,
    leave_expectation,
    read_body,
)
from receiver.metrics import Metrics
from receiver.refusals import Refusal, Refusals
from settings.environment import Secret
from settings.table import ReceiverSettings

_LONGEST_REQUEST_ID = 64
_SHA1 = re.compile(r"[A-Za-z0-9+/]{27}=")
UNAUTHORIZED = b'{"error": "unauthorized"}'


class VerifiedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A complete body that an accepted key has signed, and the event name, which is not signed."""

    endpoint: str
    """The name of the endpoint that it came to."""
    event: str
    body: bytearray
    body_ms: float
    """From its head to its last byte, the wait for a place included."""
    signed_with: str
    """``current`` or ``previous``, as the keys were configured at that moment."""
    key_fingerprint: str
    """The key itself, by a name that says nothing else of it: after a rotation the words above mean other keys."""
    request_id: str
    digest: str
    """The same for what is sent again, bit by bit, as the same event; it says nothing of the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A consumer of deliveries, at the path of its name."""

    name: str
    enabled: Callable[[], bool]
    secrets: Callable[[], Sequence[Secret]]
    """The keys accepted now, the current one first; asked for each delivery."""
    handle: Callable[[VerifiedDelivery], Awaitable[web.Response]]
    """Answers a verified delivery after it is saved; raises DatabaseUnavailableError when it is not."""


def register(
    app: web.Application,
    endpoint: Endpoint,
    *,
    settings: ReceiverSettings,
    metrics: Metrics,
    places: Places,
    refusals: Refusals,
) -> None:
    """Give the endpoint its route, with a slash at its end as well.

    Endpoints of one process share ``places`` and ``refusals``.
    """
    gate = _Gate(endpoint, settings, metrics, places, refusals)
    for path in (path_of(endpoint.name), path_of(endpoint.name) + "/"):
        app.router.add_route("*", path, gate.answer, expect_handler=leave_expectation)


class _RefusedError(Exception):
    """A request that is answered without its body being believed."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class _Gate:
    """The checks of one endpoint, in the order of the contract."""

    def __init__(
        self, endpoint: Endpoint, settings: ReceiverSettings, metrics: Metrics, places: Places, refusals: Refusals
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._places = places
        self._metrics = metrics
        self._repeats = Repeats()
        self._refusals = refusals
        self._come_again = {"Retry-After": str(settings.retry_after)}

    async def answer(self, request: web.Request) -> web.Response:
        request_id = request_id_of(request.headers.get("X-Request-ID", ""))
        # Bound for this request only, whichever task aiohttp lets answer the next one.
        with (
            bound_contextvars(endpoint=self._endpoint.name, request_id=request_id),
            self._metrics.request(self._endpoint.name),
        ):
            response = await self._response(request, request_id)
        self._metrics.answered(self._endpoint.name, response.status)
        return response

    async def _response(self, request: web.Request, request_id: str) -> web.Response:
        try:
            return await self._take(request, request_id)
        except _RefusedError as refused:
            return refused.response
        except DatabaseUnavailableError as error:
            self._not_saved(error)
        except Exception as error:  # noqa: BLE001 - FreeScout must try again, whatever it was
            if (meaning := explain(error)) is not None:
                self._not_saved(meaning)
            else:
                emit(RECEIVER_FAULT, error=type(error).__name__, where=where(error))
        return _problem(503, "the delivery could not be saved", headers=self._come_again)

    def _not_saved(self, error: DatabaseUnavailableError) -> None:
        self._repeats.emit(DELIVERY_NOT_SAVED, error.problem, reason=error.problem, next_step=error.next_step or None)

    async def _take(self, request: web.Request, request_id: str) -> web.Response:
        """Check the head, read and verify the body, and hold its place until the delivery is answered."""
        secrets = self._check_head(request)
        began = time.perf_counter()
        signers = [Signer(secret.reveal()) for secret in secrets]
        try:
            size = announced(request, limit=self._settings.max_body)
            body = here(request, limit=self._settings.max_body)
        except BodyTooLargeError as error:
            raise self._refused(why.TOO_LARGE, error.problem) from None
        if body is not None:
            for signer in signers:
                signer.update(body)
            return await self._endpoint.handle(
                self._verified(request, request_id, secrets, signers, bytearray(body), began)
            )
        with self._places.place(size) as place:
            arrived = await self._read(request, signers, place)
            return await self._endpoint.handle(self._verified(request, request_id, secrets, signers, arrived, began))

    def _check_head(self, request: web.Request) -> Sequence[Secret]:
        """Refuse what needs no look at the body, and return the keys that are accepted."""
        if request.method != "POST":
            raise self._refused(why.WRONG_METHOD, "only POST is answered here", headers={"Allow": "POST"})
        if not self._endpoint.enabled():
            raise self._refused(why.SWITCHED_OFF, "the endpoint is switched off", headers=self._come_again)
        secrets = self._endpoint.secrets()
        if not secrets:
            raise self._refused(why.NO_KEY, "no key is configured", headers=self._come_again)
        if request.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
            raise self._refused(why.ENCODED, "a body is only taken as it was signed, without Content-Encoding")
        return secrets

    async def _read(self, request: web.Request, signers: Sequence[Signer], place: BodyPlace) -> bytearray:
        try:
            return await read_body(request, signers=signers, settings=self._settings, place=place)
        except BodyTooLargeError as error:
            raise self._refused(why.TOO_LARGE, error.problem) from None
        except BodyTooSlowError as error:
            raise self._refused(why.TOO_SLOW, error.problem) from None
        except BodyGaveWayError as error:
            raise self._refused(why.GAVE_WAY, error.problem, headers=self._come_again) from None
        except BodyAbortedError as error:
            self._refusals.note(why.ABORTED, reason=error.problem)
            raise _RefusedError(_problem(400, "the body was not complete")) from None

    def _verified(
        self,
        request: web.Request,
        request_id: str,
        secrets: Sequence[Secret],
        signers: Sequence[Signer],
        body: bytearray,
        began: float,
    ) -> VerifiedDelivery:
        """Compare the signature; ``began`` is when we began to wait for the body."""
        event = event_name(request.headers.get("X-FreeScout-Event"))
        signature = request.headers.get("X-FreeScout-Signature")
        matching = matching_signer(signers, signature)
        if matching is None:
            self._refusals.note(
                refusal_of(self._endpoint.name, event, signature, size=len(body)),
                bytes=len(body),
                freescout_event=event,
                signature="wrong" if signature else "missing",
            )
            response = web.Response(body=UNAUTHORIZED, status=401, content_type="application/json", charset="utf-8")
            response.force_close()
            raise _RefusedError(response)
        return VerifiedDelivery(
            endpoint=self._endpoint.name,
            event=event,
            body=body,
            body_ms=(time.perf_counter() - began) * 1000,
            signed_with="current" if matching == 0 else "previous",
            key_fingerprint=fingerprint(secrets[matching].reveal()),
            request_id=request_id,
            digest=_digest(self._endpoint.name, event, signers[matching]),
        )

    def _refused(self, refusal: Refusal, reason: str, *, headers: dict[str, str] | None = None) -> _RefusedError:
        self._refusals.note(refusal, reason=reason)
        response = _problem(refusal.status or 400, reason, headers=headers)
        # What is left of the body is of no interest, however much it is.
        response.force_close()
        return _RefusedError(response)


def refusal_of(endpoint: str, event: str, signature: str | None, *, size: int) -> Refusal:
    """Return as what a request to an endpoint is refused that no accepted key signed; ``size`` is its body's, in bytes.

    FreeScout's form is one of its events, and base64 of an SHA-1.
    """
    if not size:
        return why.EMPTY
    like = event in CONVERSATION_EVENTS and signature is not None and _SHA1.fullmatch(signature) is not None
    return why.LIKE_FREESCOUTS[endpoint] if like else why.UNVERIFIED


def _digest(endpoint: str, event: str, signer: Signer) -> str:
    """Name what was sent. Of the event, which is not signed, only names that FreeScout has make a difference."""
    sent = f"{endpoint} {event_label(event)} {signer.signature()}"
    return hashlib.blake2b(sent.encode(), digest_size=16).hexdigest()


def _problem(status: int, error: str, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error}, status=status, headers=headers)


def request_id_of(given: str) -> str:
    """Return the request id that a router has given, or one of our own."""
    if given and given.isascii() and given.isprintable() and len(given) <= _LONGEST_REQUEST_ID:
        return given
    return f"{random.getrandbits(128):032x}"
