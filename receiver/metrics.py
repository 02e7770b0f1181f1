"""What the receiver counts, in Prometheus' form. docs/metrics.md lists every metric."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from db.answers import AnswerTally, refusals_of, verified_at
from db.counts import REASONS, Counts
from db.gaps import VERDICTS
from db.standing import Standing
from freescout_audit import __version__
from freescout_audit.delivery import event_label
from freescout_audit.endpoints import ENDPOINTS
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
    "peek": "When FreeScout last answered a peek, as of the last heartbeat.",
    "desk_answer": "When FreeScout last gave the poller an answer that counts, as of the last heartbeat.",
    "tickets_counted": "When this receiver last counted the tickets.",
    "commit": "When this receiver last committed something.",
}
"""The moments that are shown, each as a metric of its own."""
POLLER_STATES = ("leads", "stepped_down", "vanished", "never", "retired")


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
            "Requests and connections refused by this receiver, whether logged or not.",
            ["kind", "status"],
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
        self._poller = Gauge(
            "freescout_audit_poller_state", "1 for what became of the poller.", ["state"], registry=self.registry
        )
        self.lease_seconds = Gauge(
            "freescout_audit_lease_seconds",
            "For how long the last complete pass still vouches for everything; negative: for no longer.",
            registry=self.registry,
        )
        self.cache_lease = Gauge(
            "freescout_audit_cache_lease_seconds", "The cache.lease in force.", registry=self.registry
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
        self._refused_at = Gauge(
            "freescout_audit_refusal_timestamp_seconds",
            "When a request or connection of a kind was last refused, by any receiver.",
            ["kind"],
            registry=self.registry,
        )
        self._verified_at = Gauge(
            "freescout_audit_verified_timestamp_seconds",
            "When a delivery to an endpoint last came that an accepted key had signed, to any receiver.",
            ["endpoint"],
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
        self.longest_gap = Gauge(
            "freescout_audit_longest_gap_seconds",
            "For how long a change of the last day was not known at the most, of those that the poller found first.",
            registry=self.registry,
        )
        self._tickets = Gauge(
            "freescout_audit_tickets",
            "Tickets that the cache holds, by the reason of what they read: a status if it is ok, else none.",
            ["reason"],
            registry=self.registry,
        )
        self._pool_in_use = Gauge(
            "freescout_audit_pool_connections_in_use",
            "Connections to PostgreSQL that this receiver is using.",
            registry=self.registry,
        )
        self._pool_size = Gauge(
            "freescout_audit_pool_connections_max",
            "Connections to PostgreSQL that this receiver may use.",
            registry=self.registry,
        )
        self.registry.register(_DroppedLines())
        self._forget()
        self.committed(None)
        # Looking a label up costs more than counting; floods are counted, too.
        self._refusals_of = cache(self._refusals.labels)
        self._answers_of = cache(self._requests.labels)
        self._request_of = cache(lambda endpoint: (self._in_flight.labels(endpoint), self._seconds.labels(endpoint)))

    def component(self, name: str, up: bool | None) -> None:  # noqa: FBT001 - it is what the gauge shows
        """Show whether a part of the service does its work; None when that is not known."""
        self._component.labels(name).set(math.nan if up is None else up)

    def standing(self, standing: Standing, answers: Mapping[str, AnswerTally]) -> None:
        """Show what the database knows of poller, lease and desk, and when all receivers last answered what."""
        leads = standing.poller == "leads"
        became = "retired" if standing.retired_at is not None and not leads else standing.poller
        for state in POLLER_STATES:
            self._poller.labels(state).set(state == became)
        vouched = standing.lease.lease_until and (vouched_until(standing.lease, standing.now) or standing.now)
        self.lease_seconds.set(math.nan if vouched is None else (vouched - standing.now).total_seconds())
        self.cache_lease.set(standing.lease.cache_lease)
        self.desk_up.set(leads and standing.desk_state == "ok")
        self.both_silent.set(leads and standing.silent_since is not None)
        self._moment("heartbeat", standing.lease.heartbeat_at)
        self._moment("pass", standing.passed_at)
        self._moment("lease_end", vouched_until(standing.lease, standing.now))
        self._moment("peek", standing.peeked_at)
        self._moment("desk_answer", standing.desk_answered_at)
        for endpoint in ENDPOINTS:
            verified = verified_at(answers, endpoint)
            self._verified_at.labels(endpoint).set(math.nan if verified is None else verified.last_at.timestamp())
        for kind, tally in refusals_of(answers).items():
            self._refused_at.labels(kind).set(tally.last_at.timestamp())

    def committed(self, at: datetime | None) -> None:
        """Show when this receiver last committed something; None: never."""
        self._moment("commit", at)

    def _moment(self, name: str, at: datetime | None) -> None:
        self._moments[name].set(math.nan if at is None else at.timestamp())

    def database_failed(self) -> None:
        """Show that PostgreSQL is away, and that what only it knows is not known."""
        self.database_up.set(0)
        self._forget()

    def _forget(self) -> None:
        """Show that what only the database knows is not known."""
        for gauge in (self.disputes, self.lease_seconds, self.cache_lease, self.desk_up, self.both_silent):
            gauge.set(math.nan)
        for name in _MOMENTS.keys() - {"commit"}:
            self._moment(name, None)
        for endpoint in ENDPOINTS:
            self._verified_at.labels(endpoint).set(math.nan)
        for state in POLLER_STATES:
            self._poller.labels(state).set(math.nan)
        for verdict in VERDICTS:
            self._gaps.labels(verdict).set(math.nan)
        self._refused_at.clear()
        self.counted(None)

    def gaps_of_a_day(self, by_verdict: Mapping[str, int]) -> None:
        """Show how many gaps the last day had."""
        for verdict in VERDICTS:
            self._gaps.labels(verdict).set(by_verdict.get(verdict, 0))

    def counted(self, counts: Counts | None) -> None:
        """Show what was counted; None: it is not known."""
        for reason in REASONS:
            self._tickets.labels(reason).set(math.nan if counts is None else counts.tickets[reason])
        self.longest_gap.set(math.nan if counts is None else counts.longest_gap.total_seconds())
        self._moment("tickets_counted", None if counts is None else counts.at)

    def watch_pool(self, in_use: Callable[[], int], size: int) -> None:
        """Show how many connections to PostgreSQL are in use, asked whenever somebody looks, and how many may be."""
        self._pool_in_use.set_function(in_use)
        self._pool_size.set(size)

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

    def refused(self, kind: str, status: int | None) -> None:
        """Count a refusal; ``status`` is None when the connection was closed without an answer."""
        self._refusals_of(kind, "closed" if status is None else str(status)).inc()

    def delivery(self, endpoint: str, event: str, outcome: str, *, lag: float | None = None) -> None:
        """Count a verified delivery; ``lag`` in seconds when it was news."""
        self._deliveries.labels(endpoint, event_label(event), outcome).inc()
        if lag is not None:
            self._lag.observe(max(lag, 0))

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
