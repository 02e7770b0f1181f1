"""FreeScout's REST API as a function of a request: no sockets, no clock but the desk's.

What it answers was recorded from module 1.0.82; 1.0.87 answers alike. ``serve`` puts it on a port.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus

from simulator import payload
from simulator.answers import Answers, ApiRequest, ApiResponse
from simulator.desk import Desk
from simulator.faults import ApiFault
from simulator.listing import DEFAULT_PAGE_SIZE, list_conversations, parse_query
from simulator.proxy import Proxy
from simulator.store import NotOnDeskError
from simulator.writes import Writes

BASE_PATH = "/api"
_REMEMBERED = 10_000

Route = Callable[[ApiRequest], ApiResponse]


class Api:
    """The API of one desk.

    Attributes:
        requests: The last 10,000 requests, oldest first.
        count: How many there were in all.
    """

    def __init__(self, desk: Desk) -> None:
        self.requests: deque[ApiRequest] = deque(maxlen=_REMEMBERED)
        self.count = 0
        self._desk = desk
        self._answers = Answers(desk)
        self._proxy = Proxy(desk, self._answers)
        self._writes = Writes(desk, self._answers)

    def answer(self, request: ApiRequest) -> ApiResponse:
        """Answer one request from the desk as it is now."""
        self.requests.append(request)
        self.count += 1
        faults = self._desk.faults
        fault = faults.take_api_fault()
        response = self._fail(request, fault)
        if response is None:
            response = self._proxy.answer(request, self._route)
        if fault is ApiFault.BROKEN_BODY:
            response = replace(response, broken_at=len(response.body) // 2)
        return replace(response, delay=response.delay + faults.slow, hangs=fault is ApiFault.HANG)

    def _fail(self, request: ApiRequest, fault: ApiFault | None) -> ApiResponse | None:
        answers, status = self._answers, HTTPStatus
        failures: Mapping[ApiFault | None, Callable[[], ApiResponse]] = {
            ApiFault.SERVER_ERROR: lambda: answers.html(status.INTERNAL_SERVER_ERROR),
            ApiFault.UNAVAILABLE: lambda: answers.proxy(status.SERVICE_UNAVAILABLE),
            ApiFault.MAINTENANCE: lambda: answers.maintenance(request),
            ApiFault.TOO_MANY_REQUESTS: lambda: answers.proxy(
                status.TOO_MANY_REQUESTS, retry_after=self._desk.faults.retry_after
            ),
            ApiFault.NOT_FOUND_HTML: lambda: answers.proxy(status.NOT_FOUND),
            ApiFault.NOT_FOUND_JSON: lambda: answers.not_found(request),
            ApiFault.UNAUTHORIZED: lambda: self._unauthorized(request),
            ApiFault.UNTRUSTED_HOST: lambda: answers.untrusted_host(request),
        }
        fail = failures.get(fault)
        return fail() if fail else None

    def _route(self, request: ApiRequest) -> ApiResponse:
        base, *parts = request.path.strip("/").split("/")
        routes = self._routes(parts)
        if not routes or base != BASE_PATH.strip("/") or not self._desk.faults.module_active:
            return self._answers.error(request, HTTPStatus.NOT_FOUND)
        act = routes.get("GET" if request.method == "HEAD" else request.method)
        if act is None:
            names = [name for method in routes for name in (("GET", "HEAD") if method == "GET" else (method,))]
            return self._answers.error(request, HTTPStatus.METHOD_NOT_ALLOWED, allow=", ".join([*names, "OPTIONS"]))
        if request.header("X-FreeScout-API-Key") != self._desk.api_key:
            return self._unauthorized(request)
        try:
            return act(request)
        except NotOnDeskError:
            return self._answers.not_found(request)

    def _routes(self, path: Sequence[str]) -> Mapping[str, Route]:
        writes = self._writes
        routes: dict[str, Route] = {}
        match path:
            case ["conversations"]:
                routes = {"GET": self._list, "POST": writes.create}
            case ["conversations", number] if number.isdecimal():
                row_id = int(number)
                routes = {
                    "GET": lambda request: self._read(request, row_id),
                    "PUT": lambda request: writes.update(request, row_id),
                    "DELETE": lambda _: writes.delete(row_id),
                }
            case ["conversations", number, "threads"] if number.isdecimal():
                routes = {"POST": lambda request: writes.add_thread(request, int(number))}
            case ["mailboxes"]:
                routes = {"GET": lambda _: self._list_mailboxes()}
            case ["webhooks"]:
                routes = {"POST": writes.register_webhook}
            case ["webhooks", number] if number.isdecimal():
                routes = {"DELETE": lambda _: writes.remove_webhook(int(number))}
        return routes

    def _list(self, request: ApiRequest) -> ApiResponse:
        desk = self._desk
        try:
            query = parse_query(request.query, desk.timezone)
        except (ValueError, OverflowError):
            # FreeScout lets the exception of its date or database layer through.
            return self._answers.error(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Server Error")
        faults, asked = desk.faults, query.size
        query = replace(query, size=min(asked, faults.page_cap or asked))
        listed = list_conversations(desk, query)
        if any(row.id in faults.unlistable for row in listed.rows):
            if faults.unlistable_answer is HTTPStatus.INTERNAL_SERVER_ERROR:
                return self._answers.error(request, faults.unlistable_answer, "Server Error")
            return self._answers.html(faults.unlistable_answer)
        limit = faults.memory_limit_rows
        if limit is not None and len(listed.rows) >= limit:
            return self._answers.html(HTTPStatus.INTERNAL_SERVER_ERROR)
        write = desk.renderer()
        rows = [write.conversation(row, desk.threads_of(row) if query.threads else ()) for row in listed.rows]
        size = query.size if faults.page_cap_told else asked
        page = _page(size=size, total=listed.total, number=query.page)
        response = self._answers.json({"_embedded": {"conversations": rows}, "page": page})
        return replace(response, delay=len(rows) * faults.seconds_per_row)

    def _read(self, request: ApiRequest, row_id: int) -> ApiResponse:
        desk = self._desk
        row = desk.get(row_id)
        if row_id in desk.faults.unreadable:
            return self._answers.error(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Server Error")
        bare = request.query.get("embed") == "none"
        return self._answers.json(desk.renderer().conversation(row, () if bare else desk.threads_of(row)))

    def _list_mailboxes(self) -> ApiResponse:
        boxes = [payload.mailbox(box) for box in self._desk.mailboxes.values()]
        page = _page(size=DEFAULT_PAGE_SIZE, total=len(boxes), number=1)
        return self._answers.json({"_embedded": {"mailboxes": boxes}, "page": page})

    def _unauthorized(self, request: ApiRequest) -> ApiResponse:
        return self._answers.refuse(request, HTTPStatus.UNAUTHORIZED, {"message": "Not Authorized"})


def _page(*, size: int, total: int, number: int) -> payload.Json:
    pages = max(1, -(-total // size))
    return {"size": size, "totalElements": total, "totalPages": pages, "number": number}
