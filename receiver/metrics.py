"""What the receiver counts, in Prometheus' form. docs/metrics.md lists every metric."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from freescout_audit.delivery import event_label


class MeasuredRequest:
    """A request being measured, from ``with`` to the end of its block; its answer's status is set before that."""

    __slots__ = ("_began", "_in_flight", "_seconds", "_statuses", "status")

    def __init__(self, in_flight: Gauge, seconds: Histogram, statuses: Callable[[int], Counter]) -> None:
        self.status = 0
        self._began = 0.0
        self._in_flight = in_flight
        self._seconds = seconds
        self._statuses = statuses

    def __enter__(self) -> Self:
        self._in_flight.inc()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._in_flight.dec()
        self._seconds.observe(time.perf_counter() - self._began)
        self._statuses(self.status).inc()


class Metrics:
    """The metrics of one receiver, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "freescout_audit_requests",
            "Requests answered, by status.",
            ["endpoint", "status"],
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
        self._deliveries_of = functools.cache(self._deliveries.labels)
        self._of_endpoint: dict[str, tuple[Gauge, Histogram, Callable[[int], Counter]]] = {}
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
        self._gaps = Gauge(
            "freescout_audit_gaps",
            "Changes of the last day that a pass found first, by what became of their delivery.",
            ["verdict"],
            registry=self.registry,
        )

    def database_failed(self) -> None:
        """Show that PostgreSQL is away, and that nobody knows what only it knows."""
        self.database_up.set(0)
        for gauge in (self.disputes, self.poller_alive, self.lease_seconds, self.desk_up, self.both_silent):
            gauge.set(math.nan)

    def gaps_of_a_day(self, by_verdict: Mapping[str, int]) -> None:
        """Show how many gaps the last day had."""
        for verdict in ("waiting", "raced", "late", "lost"):
            self._gaps.labels(verdict).set(by_verdict.get(verdict, 0))

    def request(self, endpoint: str) -> MeasuredRequest:
        """Measure a request while it is answered."""
        if endpoint not in self._of_endpoint:
            # Looking a label up costs as much as counting, and a request counts five times.
            statuses = functools.cache(lambda status: self._requests.labels(endpoint, str(status)))
            self._of_endpoint[endpoint] = (self._in_flight.labels(endpoint), self._seconds.labels(endpoint), statuses)
        return MeasuredRequest(*self._of_endpoint[endpoint])

    def delivery(self, endpoint: str, event: str, outcome: str, *, lag: float | None = None) -> None:
        """Count a verified delivery; ``lag`` in seconds when it was news."""
        self._deliveries_of(endpoint, event_label(event), outcome).inc()
        if lag is not None:
            self._lag.observe(max(lag, 0))

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
