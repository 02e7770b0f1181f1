"""Turns away, before any HTTP is spoken, a delivery that came whole and that no accepted key has signed.

The answer is the one that `receiver.endpoints` gives, for a third of its work: whoever sends such requests as fast as
they can must not keep FreeScout's waiting. Whatever is not evident is left to be taken in as usual.
"""

import re
from collections.abc import Sequence
from email.utils import formatdate

from freescout_audit.delivery import event_name
from freescout_audit.endpoints import path_of
from freescout_audit.signature import Signer, matching_signer
from receiver.body import SMALL
from receiver.endpoints import UNAUTHORIZED, Endpoint, refusal_of, request_id_of
from receiver.metrics import Metrics
from receiver.refusals import Refusals

_HEAD = re.compile(rb"POST (?P<path>/[a-z/-]++) HTTP/1\.1\r\n(?P<fields>(?:[!-9;-~]++:[\t -~]*+\r\n)++)\r\n")
"""A head without anything unusual in it: no continued lines, nothing but ASCII, no blank before a colon.

Whoever connects may have it matched, so it takes back nothing that it has matched: its time grows with its text.
"""
_FIELD = re.compile(rb"([!-9;-~]++):([\t -~]*+)\r\n")
_LARGEST = SMALL + 65_536
"""Bytes that are looked at, head and body."""
_UNUSUAL = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})


class Doorman:
    """Looks at the first bytes of each connection, for the endpoints of one process."""

    def __init__(
        self, endpoints: Sequence[Endpoint], refusals: Refusals, metrics: Metrics, *, max_body: int = SMALL
    ) -> None:
        self._endpoints = {path_of(endpoint.name).encode(): endpoint for endpoint in endpoints}
        self._refusals = refusals
        self._metrics = metrics
        self._largest_body = min(SMALL, max_body)

    def answer(self, data: bytes) -> bytes | None:
        """Return the answer to a whole delivery that no accepted key has signed; None: take it in."""
        head = _HEAD.match(data) if len(data) <= _LARGEST else None
        endpoint = None if head is None else self._endpoints.get(head["path"].removesuffix(b"/"))
        if head is None or endpoint is None or not endpoint.enabled():
            return None
        found = _FIELD.findall(head["fields"])
        fields = {name.lower(): value.strip(b" \t") for name, value in found}
        body = memoryview(data)[head.end() :]
        whole = fields.get(b"content-length") == str(len(body)).encode() and len(body) <= self._largest_body
        if not whole or len(fields) != len(found) or not _UNUSUAL.isdisjoint(fields):
            return None
        signers = [Signer(secret.reveal()) for secret in endpoint.secrets()]
        given = fields.get(b"x-freescout-signature")
        signature = None if given is None else given.decode("ascii")
        if signature:
            for signer in signers:
                signer.update(body)
        if not signers or (signature and matching_signer(signers, signature) is not None):
            return None
        event = event_name(fields.get(b"x-freescout-event", b"").decode("ascii"))
        self._refusals.note(
            refusal_of(endpoint.name, event, signature, size=len(body)),
            endpoint=endpoint.name,
            request_id=request_id_of(fields.get(b"x-request-id", b"").decode("ascii")),
            bytes=len(body),
            freescout_event=event,
            signature="wrong" if signature else "missing",
        )
        self._metrics.answered(endpoint.name, 401)
        return (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
            b"Date: %s\r\nConnection: close\r\n\r\n%s"
        ) % (len(UNAUTHORIZED), formatdate(usegmt=True).encode(), UNAUTHORIZED)
