"""FreeScout's one queue worker: what it sends, when, how often, and what it loses.

It sends one thing after another, mail first, and sleeps 5 s when it finds nothing. Time is the desk's injected
clock; the network is an injected ``Transport``. Drive it step by step (``next_due``, ``run_due``) or let
``run_forever`` do so live.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from freescout_audit.signature import sign
from simulator.clock import ManualClock
from simulator.conversation import Conversation
from simulator.jobs import DelayedEvent, Job, Mail, Webhook, WebhookCall
from simulator.payload import to_bytes
from simulator.store import Store

IDLE_SECONDS = 5
_NAP = timedelta(seconds=IDLE_SECONDS)
TIMEOUT_SECONDS = 30
RESTART_SECONDS = 3600
STANDSTILL_SECONDS = 60
"""Stopped every hour, it begins again at the next minute; retries are another process's, and go on."""
_HOUR, _STANDSTILL = timedelta(seconds=RESTART_SECONDS), timedelta(seconds=STANDSTILL_SECONDS)
RETRY_GAPS_MINUTES = (1, 2, 4, 6, 8, 10, 12, 14, 16)
"""The next tick of the minute, then 2, 4, … 16 minutes: ten attempts in about 72 minutes."""
EXPECT_ABOVE_BYTES = 1 << 20


class DeliveryError(Exception):
    """The delivery did not reach the receiver, or no answer came back."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one delivery, exactly as it goes over the wire.

    Attributes:
        url: Where it is posted to.
        headers: In FreeScout's order; ``Host`` and ``Content-Length`` are the transport's business.
        body: ASCII JSON; a retry repeats the bytes of the first attempt, signed anew with the key of that moment.
        event: The name in ``X-FreeScout-Event``.
        conversation_id: Whom it is about; None for a ``customer.*`` event.
        attempt: 1 to 10.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    event: str
    conversation_id: int | None
    attempt: int


class Transport(Protocol):
    """Posts a delivery.

    Returns the receiver's status code, or raises ``DeliveryError``, ``OSError`` or ``TimeoutError`` when no answer
    came.
    """

    def __call__(self, delivery: Attempt, /) -> Awaitable[int]:
        """Post the delivery."""
        ...


class Fate(StrEnum):
    """What became of a job."""

    SENT = "sent"  # answered 2xx
    FAILED = "failed"  # will be tried again
    GIVEN_UP = "given up"  # after ten attempts
    LOST = "lost"  # never arrives, no retry, no trace
    MAIL = "mail"  # an email to a customer


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker did with one job.

    Attributes:
        at: When, by the true clock.
        fate: What became of it.
        event: The event's name; empty for mail.
        conversation_id: Whom it was about.
        delivery: What went over the wire; None when nothing did.
        answer: The receiver's status code, or None when none came.
        why: For a loss or a failure: the reason in a few words.
    """

    at: datetime
    fate: Fate
    event: str
    conversation_id: int | None
    delivery: Attempt | None = None
    answer: int | None = None
    why: str = ""


class Worker:
    """The worker process; it starts now and knows the webhooks that are registered now.

    Args:
        desk: Whose queue it works on.
        report: Told what became of each job, at once.
    """

    def __init__(self, desk: Store, *, report: Callable[[Report], None] | None = None) -> None:
        self._desk = desk
        self._report = report or (lambda _: None)
        self._count = 0
        self._known: dict[int, Webhook] = {}
        self._wakes = self._stops = desk.clock.now()
        self.restart()

    def restart(self) -> None:
        """Restart: it knows the webhooks registered since, and looks at once; after an hour it stands still."""
        self._begin(self._desk.clock.now())
        self._stops = self._wakes + _HOUR

    def next_due(self) -> datetime | None:
        """Return when something will be sent next if nothing else happens; None when nothing waits."""
        waiting, retry = self._desk.queue.next_due(), self._desk.retries.next_due()
        if waiting is not None:
            waiting = self._look_at_or_after(waiting)
        return min((due for due in (waiting, retry) if due is not None), default=None)

    async def run_due(self, transport: Transport) -> list[Report]:
        """Do everything that is due at the clock's time, in order, and return what became of it.

        A transport may move a ``ManualClock``: a slow receiver makes everything behind it later.
        """
        reports: list[Report] = []
        looked = self._last_look()
        while job := self._take(looked):
            async for report in self._do(job, transport):
                reports.append(report)
                self._report(report)
            # What it was at when it was to stop it has finished.
            looked = None if self._stands_still() else self._desk.clock.now()
        return reports

    async def run_until_idle(self, transport: Transport, clock: ManualClock, *, within: float = 7200.0) -> list[Report]:
        """Move the clock from one due time to the next until nothing waits, or ``within`` seconds have passed."""
        end = clock.now() + timedelta(seconds=within)
        reports: list[Report] = []
        while (due := self.next_due()) is not None and due <= end:
            clock.advance_to(due)
            reports += await self.run_due(transport)
        return reports

    async def run_forever(self, transport: Transport, *, look_every: float = 0.1) -> None:
        """Work live, on real time, until cancelled; ``look_every`` is in seconds."""
        while True:
            await self.run_due(transport)
            await asyncio.sleep(look_every)

    def _begin(self, at: datetime) -> None:
        self._wakes = at
        self._known = dict(self._desk.webhooks)

    def _stands_still(self) -> bool:
        """Tell whether it is stopped now; if it began again since it was asked last, let it know what is new."""
        now = self._desk.clock.now()
        if now < self._stops:
            return False
        stopped = self._stops + (now - self._stops) // _HOUR * _HOUR
        if now < stopped + _STANDSTILL:
            return True
        self._begin(stopped + _STANDSTILL)
        self._stops = stopped + _HOUR
        return False

    def _look_at_or_after(self, moment: datetime) -> datetime:
        """Return when it looks for the first time at a moment or later."""
        look, stop = self._wakes + max(0, -((self._wakes - moment) // _NAP)) * _NAP, self._stops
        if look >= stop:
            stop += (moment - stop) // _HOUR * _HOUR if moment > stop else timedelta()
            begins = stop + _STANDSTILL
            look = begins + max(0, -((begins - moment) // _NAP)) * _NAP
            if look >= stop + _HOUR:
                look = stop + _HOUR + _STANDSTILL
        return look

    def _last_look(self) -> datetime | None:
        if self._stands_still():
            return None
        # It looked every 5 s while nobody watched; what came after the last look waits for the next.
        asleep = self._desk.clock.now() - self._wakes
        if asleep < timedelta(0):
            return None
        return self._wakes + asleep // _NAP * _NAP

    def _take(self, looked: datetime | None) -> Job | None:
        desk = self._desk
        if looked is not None:
            shuffle = self._chance(desk.faults.reorder_chance)
            job = desk.queue.take(looked, any_of=desk.rng if shuffle else None)
            if job is not None:
                return job
            self._wakes = looked + _NAP
        return desk.retries.take(desk.clock.now())

    async def _do(self, job: Job, transport: Transport) -> AsyncIterator[Report]:
        now = self._desk.clock.now()
        match job.work:
            case Mail():
                yield Report(now, Fate.MAIL, "", job.conversation_id)
            case DelayedEvent(event, snapshot):
                hooks = [hook for hook in self._known.values() if hook.id in self._desk.webhooks]
                self._desk.fire(event, snapshot, hooks, doomed=job.doomed)
            case WebhookCall() as call if call.webhook.id not in self._desk.webhooks:
                yield Report(now, Fate.LOST, call.event, job.conversation_id, why="webhook removed")
            case WebhookCall() as call if not self._desk.faults.module_active:
                if call.attempts:
                    # The module's own table of failures outlives its absence; its queued jobs do not.
                    self._desk.retries.put(call, _tick_after(now, 1))
                else:
                    yield Report(now, Fate.LOST, call.event, job.conversation_id, why="module deactivated")
            case WebhookCall() as call:
                report = await self._deliver(call, job, transport)
                yield report
                if report.delivery and self._chance(self._desk.faults.duplicate_chance):
                    answer, why = await self._post(report.delivery, transport)
                    yield replace(report, at=self._desk.clock.now(), answer=answer, why=why or "sent twice")

    async def _deliver(self, call: WebhookCall, job: Job, transport: Transport) -> Report:
        now = self._desk.clock.now()
        if job.doomed or self._is_dropped():
            return Report(now, Fate.LOST, call.event, job.conversation_id, why="never left the desk")
        delivery = self._write(call, job)
        answer, why = await self._post(delivery, transport)
        outcome = Report(now, Fate.SENT, call.event, job.conversation_id, delivery, answer, why)
        faults = self._desk.faults
        if faults.kill_worker_next > 0:
            faults.kill_worker_next -= 1
            return replace(outcome, fate=Fate.LOST, why="worker killed before the answer")
        if answer is not None and answer // 100 == 2:  # noqa: PLR2004 - any 2xx is success
            return outcome
        if faults.failure_log_limit is not None and len(delivery.body) > faults.failure_log_limit:
            return replace(outcome, fate=Fate.LOST, why="failure log could not be saved")
        if call.attempts > len(RETRY_GAPS_MINUTES):
            return replace(outcome, fate=Fate.GIVEN_UP)
        self._desk.retries.put(call, _tick_after(self._desk.clock.now(), RETRY_GAPS_MINUTES[call.attempts - 1]))
        return replace(outcome, fate=Fate.FAILED)

    async def _post(self, delivery: Attempt, transport: Transport) -> tuple[int | None, str]:
        started = self._desk.clock.now()
        try:
            answer = await transport(delivery)
        except (DeliveryError, OSError, TimeoutError) as error:
            return None, str(error) or type(error).__name__
        if self._desk.clock.now() - started > timedelta(seconds=TIMEOUT_SECONDS):
            return None, f"no answer within {TIMEOUT_SECONDS} s"
        return answer, "" if answer // 100 == 2 else f"answered {answer}"  # noqa: PLR2004 - any 2xx is success

    def _write(self, call: WebhookCall, job: Job) -> Attempt:
        desk = self._desk
        if call.body is None:
            # The row is the snapshot of the event; its threads are those of now (measured).
            write = desk.renderer()
            subject = call.subject
            call.body = to_bytes(
                write.conversation(subject, desk.threads_of(subject))
                if isinstance(subject, Conversation)
                else write.customer(subject)
            )
        call.attempts += 1
        headers = [
            ("User-Agent", "GuzzleHttp/8"),
            ("Content-Type", "application/hal+json" if desk.module == "1.0.67" else "application/json"),
            ("X-FreeScout-Event", call.event),
            ("X-FreeScout-Signature", "" if desk.faults.unsigned else sign(call.body, desk.webhook_key)),
        ]
        if len(call.body) > EXPECT_ABOVE_BYTES:
            headers.append(("Expect", "100-continue"))
        return Attempt(call.webhook.url, tuple(headers), call.body, call.event, job.conversation_id, call.attempts)

    def _is_dropped(self) -> bool:
        faults = self._desk.faults
        self._count += 1
        if faults.drop_next > 0:
            faults.drop_next -= 1
            return True
        every = bool(faults.drop_every) and self._count % faults.drop_every == 0
        return every or self._chance(faults.drop_chance)

    def _chance(self, probability: float) -> bool:
        # No draw for an impossible fault: switching one on must not change the others' luck before it.
        return probability > 0 and self._desk.rng.random() < probability


def _tick_after(moment: datetime, minutes: int) -> datetime:
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=minutes)
