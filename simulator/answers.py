"""How requests and answers of FreeScout's API look: headers as recorded, JSON and HTML forms of errors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import format_datetime
from http import HTTPStatus

from simulator.payload import to_bytes
from simulator.store import Store

_JSON = "application/json"
_HTML = "text/html; charset=UTF-8"
_NO_CACHE = "max-age=0, must-revalidate, no-cache, no-store, private"
_NOT_CACHED_IN_MAINTENANCE = "no-cache, private"


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request.

    Attributes:
        method: In capitals.
        path: With its ``/api``.
        query: Decoded; the last of a name that is repeated.
        headers: Names in any case.
        body: The raw bytes.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return a header's value; empty when it is absent."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """An answer, and how the network treats it.

    Attributes:
        status: The status code.
        headers: As FreeScout and the nginx before it send them.
        body: The bytes, before chunking.
        delay: Seconds until the answer begins.
        hangs: No answer ever comes.
        broken_at: The connection breaks after so many bytes of the body; None when it does not.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    delay: float = 0.0
    hangs: bool = False
    broken_at: int | None = None

    def header(self, name: str) -> str:
        """Return a header's value; empty when it is absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


class Answers:
    """Makes the answers of one desk; the ``Date`` is the desk's own clock."""

    def __init__(self, desk: Store) -> None:
        self._desk = desk

    def json(self, value: object, *, status: HTTPStatus = HTTPStatus.OK, resource: int | None = None) -> ApiResponse:
        """Answer with JSON from the module; ``resource`` is the id of what was made."""
        extra = () if resource is None else (("Resource-ID", str(resource)),)
        return self._make(status, _JSON, to_bytes(value), after_date=extra)

    def nothing(self) -> ApiResponse:
        """204."""
        return self._make(HTTPStatus.NO_CONTENT, _HTML, b"")

    def not_found(self, request: ApiRequest) -> ApiResponse:
        """404 from the module: there is no such thing."""
        return self.refuse(request, HTTPStatus.NOT_FOUND, {"message": "Not Found", "_embedded": {"errors": []}})

    def invalid(self, request: ApiRequest, path: str, message: str) -> ApiResponse:
        """400: a parameter is wrong."""
        error = {"path": path, "message": message, "source": "JSON"}
        return self.refuse(
            request, HTTPStatus.BAD_REQUEST, {"message": "Error occurred", "_embedded": {"errors": [error]}}
        )

    def refuse(self, request: ApiRequest, status: HTTPStatus, value: object) -> ApiResponse:
        """Refuse from inside the module: one line of JSON, or HTML for who did not ask for JSON."""
        return self.json(value, status=status) if _accepts_json(request) else self.html(status)

    def error(self, request: ApiRequest, status: HTTPStatus, message: str = "", *, allow: str = "") -> ApiResponse:
        """Answer an error from outside the module (no such route, an exception): indented JSON, or HTML."""
        before = (("Allow", allow),) if allow else ()
        if not _accepts_json(request):
            return self.html(status, before_date=before)
        body = json.dumps({"message": message}, indent=4).encode("ascii")
        return self._make(status, _JSON, body, before_date=before)

    def untrusted_host(self, request: ApiRequest) -> ApiResponse:
        """403: asked by a name FreeScout does not go by. The words between the first two and the last are assumed."""
        message = f"Untrusted Host: {request.header('Host')} is not in APP_TRUSTED_HOSTS"
        return self.refuse(request, HTTPStatus.FORBIDDEN, {"message": message})

    def maintenance(self, request: ApiRequest) -> ApiResponse:
        """503 of ``artisan down``: JSON or HTML, and not the headers of everything else."""
        answer = self.error(request, HTTPStatus.SERVICE_UNAVAILABLE)
        dropped = {"X-Content-Type-Options", "Pragma"}
        headers = [
            (name, _NOT_CACHED_IN_MAINTENANCE if name == "Cache-Control" else value)
            for name, value in answer.headers
            if name not in dropped
        ]
        return replace(answer, headers=tuple(headers))

    def html(self, status: HTTPStatus, *, before_date: tuple[tuple[str, str], ...] = ()) -> ApiResponse:
        """Answer an error with a page, as FreeScout does for a browser."""
        return self._make(status, _HTML, _page(status), before_date=before_date)

    def proxy(self, status: HTTPStatus, *, retry_after: int | None = None) -> ApiResponse:
        """Answer an error as a proxy in front of FreeScout does: HTML, whatever was asked for."""
        headers = [
            ("Server", "nginx/1.22.1"),
            ("Content-Type", "text/html"),
            ("Connection", "keep-alive"),
            ("Date", self.date()),
        ]
        if retry_after is not None:
            headers.append(("Retry-After", str(retry_after)))
        return ApiResponse(status.value, tuple(headers), _page(status))

    def _make(
        self,
        status: HTTPStatus,
        content_type: str,
        body: bytes,
        *,
        before_date: tuple[tuple[str, str], ...] = (),
        after_date: tuple[tuple[str, str], ...] = (),
    ) -> ApiResponse:
        chunked = (("Transfer-Encoding", "chunked"),) if body else ()
        headers = (
            ("Server", "nginx/1.22.1"),
            ("Content-Type", content_type),
            *chunked,
            ("Connection", "keep-alive"),
            *before_date,
            ("Cache-Control", _NO_CACHE),
            ("Date", self.date()),
            *after_date,
            ("X-Content-Type-Options", "nosniff"),
            ("Pragma", "no-cache"),
        )
        return ApiResponse(status.value, headers, body)

    def date(self) -> str:
        """Return the desk's clock as ``Date`` has it."""
        return format_datetime(self._desk.faults.date or self._desk.now(), usegmt=True)


def _accepts_json(request: ApiRequest) -> bool:
    return _JSON in request.header("Accept")


def _page(status: HTTPStatus) -> bytes:
    title = f"{status.value} {status.phrase}"
    return f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>{title}</body></html>\n".encode()
