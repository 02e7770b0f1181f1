"""What comes of a verified delivery, to either endpoint: it is judged by the rule, saved, and then answered."""

from collections.abc import Sequence
from functools import partial

from aiohttp import web

from db.database import OVERTAKEN, Database
from db.group import LOCK_PATIENCE, GroupCommit
from db.journal import SELF_TEST
from db.minutes import MinuteBook
from db.store import Delivery, Recorded, record_deliveries
from freescout_audit import events
from freescout_audit.conversation import UnusableBodyError
from freescout_audit.delivery import read_claim
from freescout_audit.desk_clock import WITHIN_A_SECOND
from freescout_audit.logs import emit, where
from freescout_audit.repeats import Repeats
from freescout_audit.rule import Claim, Terms, Verdict, poller_is_alive
from receiver.answers import Answers
from receiver.endpoints import VerifiedDelivery
from receiver.metrics import Metrics
from receiver.writing import Writing

_EVENTS = {
    "applied": events.DELIVERY_APPLIED,
    "duplicate": events.DELIVERY_DUPLICATE,
    "stale": events.DELIVERY_STALE,
    "disputed": events.DELIVERY_DISPUTED,
}


_MOVES = ("applied", "disputed")


class DeliveryHandler:
    """Answers verified deliveries from the cache's point of view. Never calls FreeScout.

    One serves all endpoints: what comes to both at once is committed together, and only the first of two is news.
    """

    def __init__(
        self,
        database: Database,
        *,
        terms: Terms,
        commit_timeout: float,
        metrics: Metrics,
        writing: Writing,
        answers: Answers,
        minutes: MinuteBook,
    ) -> None:
        self._database = database
        self._terms = terms
        self._commit_timeout = commit_timeout
        self._metrics = metrics
        self._writing = writing
        self._repeats = Repeats()
        self._answers = answers
        self._minutes = minutes
        self._group = GroupCommit(self._record, key=_ticket_of)

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
            await self._save(delivery, None, "unusable")
            emit(
                events.DELIVERY_UNUSABLE,
                outcome="unusable",
                reason=error.problem,
                freescout_event=delivery.event,
                bytes=len(delivery.body),
                key_fingerprint=delivery.key_fingerprint,
            )
            return web.json_response({"error": error.problem}, status=400)
        if claim is not None or not delivery.event.startswith(SELF_TEST):
            self._answers.verified(delivery.endpoint, delivery.key_fingerprint, delivery.digest)
        if claim is None:
            await self._save(delivery, None, "ignored")
            emit(
                events.DELIVERY_IGNORED,
                outcome="ignored",
                freescout_event=delivery.event,
                bytes=len(delivery.body),
                key_fingerprint=delivery.key_fingerprint,
            )
            return web.json_response({"outcome": "ignored"})
        return web.json_response({"outcome": await self._save(delivery, claim)})

    async def _save(self, delivery: VerifiedDelivery, claim: Claim | None, otherwise: str = "") -> str:
        """Return the outcome after the commit; without a claim it is ``otherwise``."""
        entry = Delivery(
            claim=claim,
            otherwise=otherwise,
            endpoint=delivery.endpoint,
            event=delivery.event,
            body_bytes=len(delivery.body),
            body_ms=delivery.body_ms,
            signed_with=delivery.signed_with,
            key_fingerprint=delivery.key_fingerprint,
            request_id=delivery.request_id,
            digest=delivery.digest,
        )
        return await self._group.commit(entry, deadline=self._commit_timeout)

    async def _record(self, deliveries: Sequence[Delivery], *, deadline: float, apart: bool) -> Sequence[str]:
        try:
            recorded = await record_deliveries(
                self._database,
                deliveries,
                terms=self._terms,
                deadline=deadline,
                lock_patience=None if apart else LOCK_PATIENCE,
            )
        except OVERTAKEN:  # somebody holds one of the tickets: each goes its own way
            raise
        except Exception as error:
            self._writing.failed(error)
            raise
        self._writing.saved()
        outcomes = []
        for delivery, verdict in zip(deliveries, recorded.verdicts, strict=True):
            outcome = delivery.otherwise if verdict is None else verdict.outcome
            outcomes.append(outcome)
            # All of them here and now, also those whose sender has gone: they are saved, whatever comes of telling it.
            try:
                self._tell(delivery, verdict, recorded)
            except Exception as error:  # noqa: BLE001 - else the group would be recorded once more
                emit(
                    events.RECEIVER_FAULT,
                    endpoint=delivery.endpoint,
                    request_id=delivery.request_id,
                    error=type(error).__name__,
                    where=where(error),
                )
        return outcomes

    def _tell(self, delivery: Delivery, verdict: Verdict | None, recorded: Recorded) -> None:
        """Count and log what became of a delivery; one without a claim is logged by the caller."""
        if delivery.claim is None or verdict is None:
            self._metrics.delivery(delivery.endpoint, delivery.event, delivery.otherwise)
            self._minutes.count(delivery.otherwise)
            return
        said, outcome = delivery.claim.sighting, verdict.outcome
        lag = None
        if said.updated_at is not None:
            passed = recorded.now + recorded.lease.clock_offset - said.updated_at - WITHIN_A_SECOND
            lag = round(passed.total_seconds(), 3)
        event = _EVENTS[outcome] if said.understood else events.DELIVERY_NOT_UNDERSTOOD
        if event is events.DELIVERY_DISPUTED and poller_is_alive(recorded.lease, recorded.now, self._terms):
            event = event.at("info")  # the poller settles it within seconds
        # The same again, bit by bit, is one line in a while, whoever holds a recording of it.
        say = emit if outcome in _MOVES else partial(self._repeats.emit, about=delivery.digest)
        say(
            event,
            endpoint=delivery.endpoint,
            request_id=delivery.request_id,
            ticket_id=said.ticket_id,
            outcome=outcome,
            reason=verdict.reason,
            freescout_event=delivery.event,
            status=said.status,
            state=said.state,
            lag_s=lag,
            bytes=delivery.body_bytes,
            key_fingerprint=delivery.key_fingerprint,
        )
        news = lag if outcome == "applied" else None
        self._metrics.delivery(delivery.endpoint, delivery.event, outcome, lag=news)
        self._minutes.count(outcome)
        if lag is not None and outcome == "applied":
            self._minutes.known_after(lag)


def _ticket_of(delivery: Delivery) -> int | None:
    return None if delivery.claim is None else delivery.claim.sighting.ticket_id
