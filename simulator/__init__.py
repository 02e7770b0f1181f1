"""A FreeScout to rehearse against, faults included.

Its facts were measured on FreeScout 1.8.235 with its API & Webhooks modules 1.0.82 and 1.0.87 (docs/freescout.md);
where something was not measured, a comment says what we assume.

Without sockets and without waiting::

    clock = ManualClock()
    desk = Desk(clock=clock, seed=1)
    desk.register_webhook("http://receiver.test/")  # before the worker starts, or it misses the delayed events
    worker, received = Worker(desk), Recorder()  # simulator.testing.Recorder, or any async function of an Attempt
    ticket = desk.customer_writes()
    await worker.run_until_idle(received, clock)  # or clock.advance_to(worker.next_due()); worker.run_due(received)
    Api(desk).answer(ApiRequest("GET", f"/api/conversations/{ticket}", headers={"X-FreeScout-API-Key": desk.api_key}))

Live: ``async with serve(desk) as url, HttpTransport() as transport`` and, as tasks, ``worker.run_forever(transport)``
and ``run_life(desk)``; ``python -m simulator`` does just that.
"""

from simulator.answers import ApiRequest, ApiResponse
from simulator.api import Api
from simulator.clock import Clock, ManualClock, SystemClock
from simulator.conversation import Conversation, Status
from simulator.desk import Desk
from simulator.faults import ApiFault, Faults
from simulator.jobs import EVENTS, Module, Webhook
from simulator.life import Change, run_life, step
from simulator.serve import TRUTH_PATH, serve
from simulator.store import NotOnDeskError
from simulator.transport import HttpTransport
from simulator.worker import Attempt, DeliveryError, Fate, Report, Transport, Worker

__all__ = [
    "EVENTS",
    "TRUTH_PATH",
    "Api",
    "ApiFault",
    "ApiRequest",
    "ApiResponse",
    "Attempt",
    "Change",
    "Clock",
    "Conversation",
    "DeliveryError",
    "Desk",
    "Fate",
    "Faults",
    "HttpTransport",
    "ManualClock",
    "Module",
    "NotOnDeskError",
    "Report",
    "Status",
    "SystemClock",
    "Transport",
    "Webhook",
    "Worker",
    "run_life",
    "serve",
    "step",
]
