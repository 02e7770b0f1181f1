"""The page's addresses: the page itself, a ticket, the lists, the documentation, the form, and the stream."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp_jinja2
import jinja2
from aiohttp import web
from markupsafe import Markup

from db.database import Database
from db.gaps import VERDICTS, read_gaps
from db.journal import read_deliveries
from db.story import WHY, read_story
from db.tickets import find_tickets, read_disputes, read_row
from freescout_audit.conversation import MAX_ID
from freescout_audit.delivery import both_names
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.words import content, span
from receiver import refusals as why
from receiver.access import COOKIE, Access, comes_by_a_link_from_elsewhere, is_same_site
from receiver.page import charts, documents
from receiver.page.day import Day
from receiver.page.live import Streams
from receiver.page.snapshot import Snapshot, Snapshots
from receiver.refusals import Refusals

PATH = "/internal/freescout-audit/"
OUTCOMES = ("applied", "duplicate", "stale", "disputed", "ignored", "unusable")
_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LONGEST_FORM = 4096
_PATIENCE = 5.0
"""Seconds that a form's body may take."""
_LIST = 100
_STORY = 50
_FAR = timedelta(hours=12)
"""A time that is farther away is shown with its date."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LookUpError(Exception):
    """What was asked for cannot be looked up; the message says why, and what to type."""


class PageViews:
    """The page of one receiver, as an application below `PATH`."""

    def __init__(
        self, database: Database, snapshots: Snapshots, streams: Streams, access: Access, refusals: Refusals
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._streams = streams
        self._access = access
        self._refusals = refusals
        self._shown: Snapshot | None = None
        self._pages: dict[bool, Any] = {}
        """The page that shows it, by whether there is a session to end: it is the same for all who look."""
        self._drawn: tuple[Day | None, Markup] = None, Markup()
        self.app = web.Application(middlewares=[self._guard])
        self.app.on_shutdown.append(streams.close)
        self.app[aiohttp_jinja2.APP_KEY] = self._templates = _templates()
        routes = self.app.router
        routes.add_get("/", self._show)
        routes.add_get("/ticket", self._show_ticket)
        routes.add_get("/deliveries", self._show_deliveries)
        routes.add_get("/gaps", self._show_gaps)
        routes.add_get("/disputes", self._show_disputes)
        routes.add_get("/live", self._serve_live)
        routes.add_post("/login", self._log_in)
        routes.add_post("/logout", self._log_out)
        routes.add_static("/static", _HERE / "static")
        for name in documents.NAMES:
            routes.add_get(f"/{name}", self._show_document)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may see the page, and give each answer its headers."""
        public = request.path == f"{PATH}login" or request.path.startswith(f"{PATH}static/")
        if public or self._access.may_see(request) or self._access.session_ends(request) is not None:
            try:
                response = await handler(request)
            except web.HTTPException as raised:
                raised.headers.update(_HEADERS)
                raise
        elif not self._access.is_closed and comes_by_a_link_from_elsewhere(request):
            response = aiohttp_jinja2.render_template("again.html", request, {}, status=401)
        else:
            response = self._form(request, status=401)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _form(self, request: web.Request, *, status: int, remark: str = "") -> web.Response:
        """Answer with the form; it says nothing but the product's name, and what is wrong with what was typed."""
        context = {"closed": self._access.is_closed, "remark": remark}
        return aiohttp_jinja2.render_template("login.html", request, context, status=status)

    async def _log_in(self, request: web.Request) -> web.Response:
        if not is_same_site(request):
            return self._form(request, status=403, remark="Log in from this page.")
        if self._access.is_token(await _typed_token(request)):
            response = web.Response(status=303, headers={"Location": "./"})
            self._access.give_session(request, response, path=PATH)
            return response
        wait = self._access.wait_after_wrong_token(request)
        self._refusals.note(why.NO_TOKEN, reason="a wrong token was typed into the page's form")
        if wait:
            response = self._form(request, status=429, remark=f"Too many wrong tokens: wait {wait:.0f} s.")
            response.headers["Retry-After"] = f"{wait:.0f}"
            return response
        return self._form(request, status=403, remark="That is not the token.")

    async def _log_out(self, request: web.Request) -> web.Response:
        if not is_same_site(request):
            return web.Response(status=403, text="log out from the page itself\n")
        response = web.Response(status=303, headers={"Location": "./"})
        response.del_cookie(COOKIE, path=PATH)
        return response

    async def _show(self, request: web.Request) -> web.Response:
        snapshot, session = await self._snapshots.current(), COOKIE in request.cookies
        if snapshot is not self._shown:
            self._shown, self._pages = snapshot, {}
        if session not in self._pages:
            drawn, now = self._draw(snapshot.day), datetime.now(UTC)
            page = self._render(request, "page.html", snapshot=snapshot, charts=drawn, now=now)
            self._pages[session] = page.body
        return web.Response(body=self._pages[session], content_type="text/html", charset="utf-8")

    def _draw(self, day: Day | None) -> Markup:
        """Return the charts, which are drawn anew when the day has been read anew."""
        if self._drawn[0] is not day:
            drawn = "" if day is None else self._templates.get_template("charts.html").render(charts=charts.charts(day))
            self._drawn = day, Markup(drawn)  # noqa: S704 - the template has escaped what is in it
        return self._drawn[1]

    async def _serve_live(self, request: web.Request) -> web.StreamResponse:
        until = None if self._access.may_see(request) else self._access.session_ends(request)
        return await self._streams.serve(request, until=until)

    async def _show_document(self, request: web.Request) -> web.Response:
        title, html = documents.render(request.path.removeprefix(PATH))
        # The text is the repository's own, rendered without raw HTML.
        return self._render(request, "document.html", title=title, html=Markup(html))  # noqa: S704

    async def _show_ticket(self, request: web.Request) -> web.Response:
        typed = request.query.get("which", "").strip()

        async def look() -> dict[str, Any]:
            ticket_id = await self._find(typed)
            reading, row, now = await read_row(self._database, ticket_id)
            story = await read_story(self._database, ticket_id, _STORY)
            return {"ticket_id": ticket_id, "reading": reading, "row": row, "now": now, "story": story, "why": WHY}

        return await self._look(request, "ticket.html", look, typed=typed)

    async def _find(self, typed: str) -> int:
        """Return the id of what was typed, an id or a number after ``#``."""
        digits = typed.removeprefix("#")
        if not (digits.isascii() and digits.isdecimal()) or not 0 < int(digits[:20]) <= MAX_ID:
            raise LookUpError("Type a ticket's id, such as 4711, or its number, such as #4711.")
        if digits == typed:
            return int(typed)
        found = await find_tickets(self._database, int(digits))
        if len(found) == 1:
            return found[0]
        if not found:
            raise LookUpError(f"The cache knows no ticket {typed}: type its id, which FreeScout's address bar shows.")
        raise LookUpError(f"{typed} was given to several tickets: type one of the ids {', '.join(map(str, found))}.")

    async def _show_deliveries(self, request: web.Request) -> web.Response:
        outcome, event = request.query.get("outcome", ""), request.query.get("event", "").strip()
        ticket = request.query.get("ticket", "").strip()

        async def look() -> dict[str, Any]:
            deliveries = await read_deliveries(
                self._database,
                ticket_id=await self._find(ticket) if ticket else None,
                events=both_names([event]) if event else (),
                outcomes=[outcome] if outcome in OUTCOMES else (),
                at_most=_LIST,
            )
            return {"deliveries": deliveries}

        snapshot = await self._snapshots.current()
        asked = {"outcome": outcome, "event": event, "ticket": ticket, "outcomes": OUTCOMES}
        return await self._look(request, "deliveries.html", look, refusals=snapshot.refusals, **asked)

    async def _show_gaps(self, request: web.Request) -> web.Response:
        verdict, ticket = request.query.get("verdict", ""), request.query.get("ticket", "").strip()

        async def look() -> dict[str, Any]:
            gaps = await read_gaps(
                self._database,
                ticket_id=await self._find(ticket) if ticket else None,
                verdicts=[verdict] if verdict in VERDICTS else (),
                at_most=_LIST,
            )
            return {"gaps": gaps}

        return await self._look(request, "gaps.html", look, verdict=verdict, ticket=ticket, verdicts=VERDICTS)

    async def _show_disputes(self, request: web.Request) -> web.Response:
        ticket = request.query.get("ticket", "").strip()

        async def look() -> dict[str, Any]:
            ticket_id = await self._find(ticket) if ticket else None
            return {"disputes": await read_disputes(self._database, ticket_id=ticket_id, at_most=_LIST)}

        return await self._look(request, "disputes.html", look, ticket=ticket)

    async def _look(
        self, request: web.Request, template: str, look: Callable[[], Awaitable[Mapping[str, Any]]], **context: object
    ) -> web.Response:
        """Read something and show it; what keeps it from being read is said in its place."""
        status, problem, found = 200, "", {}
        try:
            found = dict(await look())
        except LookUpError as error:
            status, problem = 400, str(error)
        except DatabaseUnavailableError as error:
            status, problem = 503, str(error)
        return self._render(request, template, status=status, problem=problem, **context, **found)

    def _render(self, request: web.Request, template: str, *, status: int = 200, **context: object) -> web.Response:
        more = {"here": request.path.removeprefix(PATH), "session": COOKIE in request.cookies}
        return aiohttp_jinja2.render_template(template, request, {**more, **context}, status=status)


async def lead_to_the_page(_request: web.Request) -> web.Response:
    """Answer `PATH` without its last slash."""
    return web.Response(status=308, headers={"Location": "freescout-audit/"})


@cache
def _templates() -> jinja2.Environment:
    """Return the templates as they lie there now: those of this code, also when a newer checkout lies there later."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(time=time_of, content=lambda row: content(row.status, row.state), span=span)
    environment.globals.update(strip=charts.strip, documents=documents.NAMES)
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


async def _typed_token(request: web.Request) -> str:
    """Return the token out of a form; empty when there is none, or the form is no form of ours."""
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            while len(body) <= _LONGEST_FORM and (chunk := await request.content.readany()):
                body += chunk
    except (TimeoutError, ConnectionError, web.RequestPayloadError):
        return ""
    if len(body) > _LONGEST_FORM:
        return ""
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return ""
    return fields.get("token", [""])[0].strip()


def time_of(at: datetime | None) -> Markup:
    """Return a time in UTC; the browser adds its own zone's."""
    if at is None:
        return Markup("never")
    at = at.astimezone(UTC)
    near = abs(datetime.now(UTC) - at) < _FAR
    shown = f"{at:%H:%M:%S}" if near else f"{at:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}">{} UTC</time>').format(f"{at:%Y-%m-%dT%H:%M:%SZ}", shown)
