"""What the receiver counts, in Prometheus' form. docs/metrics.md lists every metric."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from db.answers import Tally
from db.gaps import VERDICTS
from db.standing import Standing
from freescout_audit import __version__
from freescout_audit.delivery import event_label
from freescout_audit.logs import dropped_lines
from freescout_audit.trust import vouched_until


class _DroppedLines(Collector):
    """Shows what the log counts by itself."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "freescout_audit_log_lines_dropped", "Log lines that could not be written at once.", value=dropped_lines()
        )


_MOMENTS = {
    "heartbeat": "When a poller's heartbeat was last seen.",
    "pass": "When the last complete pass ended.",
    "lease_end": "Until when the last complete pass vouches for everything.",
    "commit": "When this receiver last committed something.",
}
"""The moments that are shown, each as a metric of its own."""


class Metrics:
    """The metrics of one receiver, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Info("freescout_audit_build", "The version that runs.", registry=self.registry).info({"version": __version__})
        self._requests = Counter(
            "freescout_audit_requests",
            "Requests answered, by status.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "freescout_audit_refusals",
            "Requests and connections refused, whether logged or not.",
            ["kind"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "freescout_audit_request_seconds",
            "From the request's head to its answer, the body's arrival and the commit included.",
            ["endpoint"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "freescout_audit_requests_in_flight", "Requests being answered now.", ["endpoint"], registry=self.registry
        )
        self._deliveries = Counter(
            "freescout_audit_deliveries",
            "Verified deliveries, by event and outcome.",
            ["endpoint", "event", "outcome"],
            registry=self.registry,
        )
        self._lag = Histogram(
            "freescout_audit_delivery_lag_seconds",
            "From the change at the desk (updatedAt) to the cache, for deliveries that were news.",
            buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600),
            registry=self.registry,
        )
        self.database_up = Gauge(
            "freescout_audit_database_up", "1 when PostgreSQL answered last time.", registry=self.registry
        )
        self.disputes = Gauge(
            "freescout_audit_disputes", "Tickets that FreeScout has to be asked about.", registry=self.registry
        )
        self.poller_alive = Gauge(
            "freescout_audit_poller_alive", "1 while a poller's heartbeat is fresh.", registry=self.registry
        )
        self.lease_seconds = Gauge(
            "freescout_audit_lease_seconds",
            "For how long the last complete pass still vouches for everything; negative: for no longer.",
            registry=self.registry,
        )

        self.desk_up = Gauge(
            "freescout_audit_desk_up", "1 when FreeScout's API answered the poller last time.", registry=self.registry
        )
        self.both_silent = Gauge(
            "freescout_audit_both_silent",
            "1 while the API does not answer and no delivery comes either.",
            registry=self.registry,
        )
        self._component = Gauge(
            "freescout_audit_component_up",
            "1 while a part of the service does its work or is off on purpose, 0 while something is wrong with it.",
            ["component"],
            registry=self.registry,
        )
        self._answered = Gauge(
            "freescout_audit_answers",
            "Requests that all receivers have answered since the first release, by kind, as the database has it.",
            ["kind"],
            registry=self.registry,
        )
        self._answered_at = Gauge(
            "freescout_audit_answer_timestamp_seconds",
            "When the last request of a kind came.",
            ["kind"],
            registry=self.registry,
        )
        self._moments = {
            name: Gauge(f"freescout_audit_{name}_timestamp_seconds", meaning, registry=self.registry)
            for name, meaning in _MOMENTS.items()
        }
        self._gaps = Gauge(
            "freescout_audit_gaps",
            "Changes of the last day that the poller found first, by what became of their delivery.",
            ["verdict"],
            registry=self.registry,
        )
        self.registry.register(_DroppedLines())
        # Looking a label up costs more than counting; floods are counted, too.
        self._refusals_of = cache(self._refusals.labels)
        self._answers_of = cache(self._requests.labels)
        self._request_of = cache(lambda endpoint: (self._in_flight.labels(endpoint), self._seconds.labels(endpoint)))

    def component(self, name: str, up: bool | None) -> None:  # noqa: FBT001 - it is what the gauge shows
        """Show whether a part of the service does its work; None when that is not known."""
        self._component.labels(name).set(math.nan if up is None else up)

    def standing(self, standing: Standing, answers: Mapping[str, Tally]) -> None:
        """Show what the database knows of poller, lease and desk, and what all receivers answered."""
        leads, until = standing.poller == "leads", standing.lease.lease_until
        self.poller_alive.set(leads)
        if until is not None:
            vouched = vouched_until(standing.lease, standing.now) or standing.now
            self.lease_seconds.set((vouched - standing.now).total_seconds())
        self.desk_up.set(leads and standing.desk_state == "ok")
        self.both_silent.set(leads and standing.silent_since is not None)
        self._moment("heartbeat", standing.lease.heartbeat_at)
        self._moment("pass", standing.passed_at)
        self._moment("lease_end", vouched_until(standing.lease, standing.now))
        for kind, tally in answers.items():
            self._answered.labels(kind).set(tally.answers)
            self._answered_at.labels(kind).set(tally.last_at.timestamp())

    def committed(self, at: datetime | None) -> None:
        """Show when this receiver last committed something; None: never."""
        self._moment("commit", at)

    def _moment(self, name: str, at: datetime | None) -> None:
        self._moments[name].set(math.nan if at is None else at.timestamp())

    def database_failed(self) -> None:
        """Show that PostgreSQL is away, and that what only it knows is not known."""
        self.database_up.set(0)
        for gauge in (self.disputes, self.poller_alive, self.lease_seconds, self.desk_up, self.both_silent):
            gauge.set(math.nan)

    def gaps_of_a_day(self, by_verdict: Mapping[str, int]) -> None:
        """Show how many gaps the last day had."""
        for verdict in VERDICTS:
            self._gaps.labels(verdict).set(by_verdict.get(verdict, 0))

    @contextmanager
    def request(self, endpoint: str) -> Iterator[None]:
        """Measure a request while it is answered."""
        in_flight, seconds = self._request_of(endpoint)
        began = time.perf_counter()
        in_flight.inc()
        try:
            yield
        finally:
            in_flight.dec()
            seconds.observe(time.perf_counter() - began)

    def answered(self, endpoint: str, status: int) -> None:
        """Count a request by the status of its answer."""
        self._answers_of(endpoint, str(status)).inc()

    def refused(self, kind: str) -> None:
        """Count a refusal."""
        self._refusals_of(kind).inc()

    def delivery(self, endpoint: str, event: str, outcome: str, *, lag: float | None = None) -> None:
        """Count a verified delivery; ``lag`` in seconds when it was news."""
        self._deliveries.labels(endpoint, event_label(event), outcome).inc()
        if lag is not None:
            self._lag.observe(max(lag, 0))

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
