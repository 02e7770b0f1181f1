"""Lets a request see what is not for the public if it bears ``OPS_TOKEN`` or, with none set, comes from this machine.

The page takes a session's cookie as well, which a form gives in exchange for the token.
"""

import base64
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable

from aiohttp import HttpVersion11, web
from yarl import URL

from receiver.refusals import Bucket
from settings.environment import Secret

SESSION = 3600
"""Seconds that a session lasts."""
COOKIE = "freescout_audit_session"
_AT_ONCE, _EVERY = 5, 10.0
"""Wrong tokens that an address may try at once, and seconds from one to the next after that."""
_ALL_AT_ONCE, _ALL_EVERY = 50, 0.2
"""The same for all addresses together: what a proxy says of them may be made up."""
_ADDRESSES = 10_000
"""Addresses that are remembered at the most; the one that was seen first is forgotten first."""


class Access:
    """Decides who may see what.

    Args:
        token: Returns ``OPS_TOKEN`` as it is now.
        clock: Gives seconds that only go forward, to slow attempts down by.
        wall: Gives seconds since 1970, to date sessions by: other receivers have to understand them.
    """

    def __init__(
        self,
        token: Callable[[], Secret | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._token = token
        self._clock = clock
        self._wall = wall
        self._wrong: dict[str, Bucket] = {}
        self._all = Bucket(_ALL_AT_ONCE, _ALL_EVERY)

    @property
    def is_closed(self) -> bool:
        """Whether no token is set, so that nobody can show one."""
        return self._token() is None

    def may_see(self, request: web.Request) -> bool:
        """Whether the request bears the token or, with none set, comes from this machine and through no proxy."""
        token = self._token()
        if token is not None:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            return hmac.compare_digest(given, f"Bearer {token.reveal()}".encode())
        # nginx says nothing of itself unless it is told to, but HTTP/1.0.
        if request.version < HttpVersion11 or any(map(_tells_of_a_proxy, request.headers)):
            return False
        hosts = request.headers.getall("Host", [])
        return _is_loopback(request.remote or "") and len(hosts) == 1 and _names_loopback(hosts[0])

    def session_ends(self, request: web.Request) -> float | None:
        """Return when the request's session ends, in seconds since 1970; None when it has no valid one."""
        token, given = self._token(), request.cookies.get(COOKIE, "")
        until, _, _ = given.partition(".")
        if token is None or not (until.isascii() and until.isdecimal() and len(until) <= len("9999999999")):
            return None
        genuine = hmac.compare_digest(given.encode("utf-8", "surrogateescape"), _session(token, int(until)).encode())
        return float(until) if genuine and float(until) > self._wall() else None

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        token = self._token()
        return token is not None and hmac.compare_digest(given.encode(), token.reveal().encode())

    def give_session(self, request: web.Request, response: web.StreamResponse, *, path: str) -> None:
        """Set the cookie of a session that begins now, for pages below ``path``."""
        token = self._token()
        if token is not None:
            response.set_cookie(
                COOKIE,
                _session(token, int(self._wall()) + SESSION),
                max_age=SESSION,
                path=path,
                httponly=True,
                samesite="Strict",
                secure=_is_behind_tls(request),
            )

    def wait_after_wrong_token(self, request: web.Request) -> float:
        """Note a wrong token, and return how many seconds the next answer to one has to wait; 0: none.

        A right one never waits. So what keeps a token from being guessed is its length; this keeps the log short.
        """
        now, address = self._clock(), _address(request)
        bucket = self._wrong.get(address)
        if bucket is None:
            if len(self._wrong) >= _ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
            bucket = self._wrong[address] = Bucket(_AT_ONCE, _EVERY)
        if not bucket.has_one(now):
            return _EVERY
        if not self._all.has_one(now):
            return _ALL_EVERY
        bucket.take()
        self._all.take()
        return 0.0


def is_same_site(request: web.Request) -> bool:
    """Tell whether a page of ours sent the form, by what the browser says of it; other clients say nothing."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("Host")


def comes_by_a_link_from_elsewhere(request: web.Request) -> bool:
    """Whether a browser follows a link of another site, for which it keeps a session's cookie back.

    A page that then loads itself anew is asked for by itself, so the browser sends the cookie, and says ``same-origin``
    (https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header): the second answer is never this one again.
    """
    wanted = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    told = {name: request.headers.get(name) for name in wanted}
    return request.method == "GET" and COOKIE not in request.cookies and told == wanted


def _session(token: Secret, until: int) -> str:
    """Return a session's cookie: when it ends, signed with the token, so that a new token ends every session."""
    signature = hmac.new(token.reveal().encode(), f"freescout-audit session {until}".encode(), hashlib.sha256).digest()
    return f"{until}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _is_behind_tls(request: web.Request) -> bool:
    return request.secure or _last(request, "X-Forwarded-Proto").lower() == "https"


def _address(request: web.Request) -> str:
    """Return who asks: what the nearest proxy says, if there is one."""
    return _last(request, "X-Forwarded-For") or request.remote or ""


def _last(request: web.Request, header: str) -> str:
    """Return what the nearest proxy has put at the end of a header."""
    return ",".join(request.headers.getall(header, [])).rpartition(",")[2].strip()


def _tells_of_a_proxy(header: str) -> bool:
    name = header.lower()
    return name in {"via", "forwarded", "x-real-ip"} or name.startswith("x-forwarded-")


def _names_loopback(authority: str) -> bool:
    try:
        host = URL.build(scheme="http", authority=authority).host or ""
    except ValueError:
        return False
    return host.lower() == "localhost" or _is_loopback(host)


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
