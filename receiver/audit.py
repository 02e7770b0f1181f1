"""The audit endpoint: a verified delivery is judged by the rule, saved, and answered after the commit."""

from collections.abc import Sequence
from datetime import datetime

from aiohttp import web

from db.database import Database
from db.group import LOCK_PATIENCE, GroupCommit
from db.store import Delivery, record_deliveries
from freescout_audit import events
from freescout_audit.conversation import UnusableBodyError
from freescout_audit.delivery import read_claim
from freescout_audit.logs import emit
from freescout_audit.rule import Claim, Lease, Terms, Verdict
from receiver.endpoints import VerifiedDelivery
from receiver.metrics import Metrics

ENDPOINT = "audit"

_Recorded = tuple[Verdict | None, datetime, Lease]
"""A delivery's verdict (None without a claim), our clock and the lease when it was judged."""

_EVENTS = {
    "applied": events.DELIVERY_APPLIED,
    "duplicate": events.DELIVERY_DUPLICATE,
    "stale": events.DELIVERY_STALE,
    "disputed": events.DELIVERY_DISPUTED,
}


class AuditHandler:
    """Answers verified deliveries from the cache's point of view. Never calls FreeScout."""

    def __init__(self, database: Database, *, terms: Terms, commit_timeout: float, metrics: Metrics) -> None:
        self._database = database
        self._terms = terms
        self._commit_timeout = commit_timeout
        self._metrics = metrics
        self._group: GroupCommit[Delivery, _Recorded] = GroupCommit(self._record, key=_ticket_of)

    async def close(self) -> None:
        """Take nothing new, and let what is under way be committed."""
        await self._group.close()

    async def handle(self, delivery: VerifiedDelivery) -> web.Response:
        """Save a delivery and answer what became of it.

        Raises:
            DatabaseUnavailableError: It is not saved; FreeScout has to send it again.
        """
        try:
            claim = read_claim(delivery.event, delivery.body)
        except UnusableBodyError as error:
            await self._without_claim(delivery, "unusable")
            emit(
                events.DELIVERY_UNUSABLE,
                outcome="unusable",
                reason=str(error),
                freescout_event=delivery.event,
                bytes=len(delivery.body),
            )
            return web.json_response({"error": str(error)}, status=400)
        if claim is None:
            await self._without_claim(delivery, "ignored")
            emit(events.DELIVERY_IGNORED, outcome="ignored", freescout_event=delivery.event, bytes=len(delivery.body))
            return _answer("ignored")
        return _answer(await self._with_claim(delivery, claim))

    async def _with_claim(self, delivery: VerifiedDelivery, claim: Claim) -> str:
        verdict, now, lease = await self._group.commit(_entry(delivery, claim), deadline=self._commit_timeout)
        assert verdict is not None, "a claim always has a verdict"  # noqa: S101 - the store's promise
        said = claim.sighting
        lag = None
        if said.updated_at is not None:
            lag = round((now + lease.clock_offset - said.updated_at).total_seconds(), 3)
        emit(
            _EVENTS[verdict.outcome] if said.understood else events.DELIVERY_NOT_UNDERSTOOD,
            ticket_id=said.ticket_id,
            outcome=verdict.outcome,
            reason=verdict.reason,
            freescout_event=delivery.event,
            status=said.status,
            state=said.state,
            lag_s=lag,
            bytes=len(delivery.body),
        )
        news = verdict.outcome == "applied"
        self._metrics.delivery(ENDPOINT, delivery.event, verdict.outcome, lag=lag if news else None)
        return verdict.outcome

    async def _without_claim(self, delivery: VerifiedDelivery, outcome: str) -> None:
        await self._group.commit(_entry(delivery, None, outcome), deadline=self._commit_timeout)
        self._metrics.delivery(ENDPOINT, delivery.event, outcome)

    async def _record(self, deliveries: Sequence[Delivery], *, deadline: float, apart: bool) -> Sequence[_Recorded]:
        recorded = await record_deliveries(
            self._database,
            deliveries,
            terms=self._terms,
            deadline=deadline,
            lock_patience=None if apart else LOCK_PATIENCE,
        )
        return [(verdict, recorded.now, recorded.lease) for verdict in recorded.verdicts]


def _entry(delivery: VerifiedDelivery, claim: Claim | None, otherwise: str = "") -> Delivery:
    return Delivery(
        claim=claim,
        otherwise=otherwise,
        endpoint=ENDPOINT,
        event=delivery.event,
        body_bytes=len(delivery.body),
        body_ms=delivery.body_ms,
        signed_with=delivery.signed_with,
        key_fingerprint=delivery.key_fingerprint,
        request_id=delivery.request_id,
    )


_ANSWERS = {
    outcome: f'{{"outcome": "{outcome}"}}'.encode()
    for outcome in ("applied", "duplicate", "stale", "disputed", "ignored")
}
_JSON = {"Content-Type": "application/json; charset=utf-8"}


def _answer(outcome: str) -> web.Response:
    return web.Response(body=_ANSWERS[outcome], headers=_JSON)


def _ticket_of(delivery: Delivery) -> int | None:
    return None if delivery.claim is None else delivery.claim.sighting.ticket_id
