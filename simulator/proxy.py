"""What stands before a desk and means well: a proxy that drops parameters, and one that remembers answers."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from simulator.answers import Answers, ApiRequest, ApiResponse
from simulator.store import Store

_FRESH = timedelta(seconds=3)

Key = tuple[str, tuple[tuple[str, str], ...]]


class Proxy:
    """Stands before one desk; ``Faults.dropped`` and ``Faults.cache`` say what it does."""

    def __init__(self, desk: Store, answers: Answers) -> None:
        self._desk = desk
        self._answers = answers
        self._kept: dict[Key, tuple[datetime, ApiResponse]] = {}

    def answer(self, request: ApiRequest, ask: Callable[[ApiRequest], ApiResponse]) -> ApiResponse:
        """Answer a request, by asking the desk unless an answer is kept."""
        faults = self._desk.faults
        if faults.dropped:
            kept = {} if "*" in faults.dropped else request.query
            query = {name: value for name, value in kept.items() if name not in faults.dropped}
            request = replace(request, query=query)
        if not faults.cache or request.method != "GET":
            return ask(request)
        key, now = (request.path, tuple(sorted(request.query.items()))), self._desk.clock.now()
        if key in self._kept:
            given_at, answer = self._kept[key]
            if _FRESH <= now - given_at < timedelta(seconds=faults.cache):
                return self._aged(answer, now - given_at)
        answer = ask(request)
        if answer.status in {200, 404}:
            self._kept[key] = now, answer
        return answer

    def _aged(self, answer: ApiResponse, age: timedelta) -> ApiResponse:
        headers = (*answer.headers, ("Via", "1.1 cache.example.org"))
        if self._desk.faults.cache_tells == "age":
            dated = tuple((name, self._answers.date() if name == "Date" else value) for name, value in headers)
            headers = (*dated, ("Age", str(int(age.total_seconds()))))
        return replace(answer, headers=headers)
