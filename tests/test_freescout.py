"""FreeScout's API as the poller understands it: what an answer means, and which failures may pass."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest
from aiohttp import web
from multidict import CIMultiDict

from conftest import Log
from poller.freescout import RETRIES, DeskRefusedError, DeskResponse, DeskServerError, DeskUnavailableError, FreeScout
from poller.transport import LARGEST, http_transport
from settings import Secret
from simulator import Api, ApiFault, Desk, ManualClock, serve
from support.examples import at, body

DATE = "Mon, 02 Mar 2026 09:00:00 GMT"


def answer(status: int = 200, document: object = None, **headers: str) -> DeskResponse:
    present = {"content-type": "application/json", "date": DATE} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return DeskResponse(status=status, headers=present, body=b"" if document is None else json.dumps(document).encode())


def listing(*rows: object, total: int = 1) -> DeskResponse:
    return answer(document={"_embedded": {"conversations": rows}, "page": {"totalElements": total}})


class Script:
    """Answers as it was told to, and remembers what it was asked."""

    def __init__(self, *answers: DeskResponse | OSError) -> None:
        self.left: list[DeskResponse | OSError] = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, path: str, query: Mapping[str, str], /) -> DeskResponse:
        self.asked.append((path, dict(query)))
        given = self.left.pop(0)
        if isinstance(given, OSError):
            raise given
        return given


class Patience:
    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


def row(**fields: object) -> dict[str, object]:
    document: dict[str, object] = json.loads(body("closed", 5))
    return document | fields


async def test_a_list_is_asked_for_in_ascending_order_and_read_row_by_row(log: Log) -> None:
    script = Script(listing(row(), row(id=8, status="resolved"), {"status": "active"}, row(id=9), total=77))

    page = await FreeScout(script).page(size=4, updated_since=at(0.9), mailboxes=[1, 2])

    assert script.asked == [
        (
            "conversations",
            {
                "sortField": "updatedAt",
                "sortOrder": "asc",
                "pageSize": "4",
                "page": "1",
                "updatedSince": "2024-11-23T12:00:00Z",
                "mailboxId": "1,2",
            },
        )
    ]
    assert [(sighting.ticket_id, sighting.status) for sighting in page.sightings] == [
        (7, "closed"),
        (8, None),
        (9, "closed"),
    ]
    assert (page.rows, page.total, page.desk_clock) == (4, 77, datetime(2026, 3, 2, 9, tzinfo=UTC))
    assert [line.get("ticket_id") for line in log.lines("desk.strange_row")] == [8, None]


async def test_a_single_read_leaves_the_threads_out() -> None:
    script = Script(answer(document=row()))

    sighting = await FreeScout(script).conversation(7)

    assert sighting is not None
    assert sighting.status == "closed"
    assert script.asked == [("conversations/7", {"embed": "none"})]


async def test_only_freescouts_own_404_means_gone() -> None:
    gone = answer(404, {"message": "Not Found", "_embedded": {"errors": []}})
    assert await FreeScout(Script(gone)).conversation(7) is None

    for other in (
        answer(404),
        answer(404, {"message": "No such route"}),
        answer(404, {"message": "Not Found"}, content_type="text/html"),
    ):
        with pytest.raises(DeskRefusedError):
            await FreeScout(Script(other)).conversation(7)


async def test_the_last_answer_is_the_last_that_counts() -> None:
    desk = FreeScout(Script(answer(401), listing(row()), answer(500)))
    with pytest.raises(DeskRefusedError):
        await desk.page(size=1)
    assert desk.answered_at is None

    await desk.page(size=1)
    answered = desk.answered_at
    with pytest.raises(DeskUnavailableError):
        await desk.page(size=1, retries=0)

    assert desk.answered_at == answered is not None


MAY_PASS: Sequence[DeskResponse | OSError] = (
    answer(500),
    answer(503, content_type="text/html"),
    answer(429),
    answer(content_type="text/html"),
    answer(document=[]),
    ConnectionError("reset"),
    TimeoutError(),
)


@pytest.mark.parametrize("failure", MAY_PASS, ids=lambda failure: getattr(failure, "status", failure))
async def test_what_may_pass_is_asked_again_and_what_does_not_pass_is_said(failure: DeskResponse | OSError) -> None:
    patience = Patience()

    assert (await FreeScout(Script(failure, listing(row())), sleep=patience).page(size=1)).rows == 1
    with pytest.raises(DeskUnavailableError) as raised:
        await FreeScout(Script(*[failure] * (RETRIES + 1)), sleep=patience).page(size=1)

    assert raised.value.next_step
    assert len(patience.waits) == 1 + RETRIES
    for seconds, longest in zip(patience.waits, (2, 2, 4, 8), strict=True):
        assert longest / 2 <= seconds <= longest
    assert patience.waits[0] != patience.waits[1], "who failed together does not come back together"


async def test_a_500_may_be_said_not_to_be_asked_about_again() -> None:
    script = Script(answer(500), listing())

    with pytest.raises(DeskServerError, match="answers 500: see storage/logs"):
        await FreeScout(script, sleep=Patience()).page(size=3, once=True)

    assert len(script.asked) == 1


async def test_a_count_over_a_row_that_fails_shows_no_row() -> None:
    script = Script(answer(500), listing(total=77))

    assert await FreeScout(script, sleep=Patience()).count() == 77
    assert int(script.asked[1][1]["page"]) > 10**6


async def test_mailboxes_are_read_to_the_end_of_their_list() -> None:
    def mailboxes(*ids: int) -> DeskResponse:
        document = {"_embedded": {"mailboxes": [{"id": each} for each in ids]}, "page": {"totalElements": 3}}
        return answer(document=document)

    script = Script(mailboxes(1, 2), mailboxes(7))

    assert await FreeScout(script).mailboxes() == {1, 2, 7}
    assert [query["page"] for _, query in script.asked] == ["1", "2"]


async def test_retry_after_is_kept_within_reason() -> None:
    patience = Patience()
    script = Script(
        answer(429, retry_after="7"), answer(503, retry_after="9000"), answer(429, retry_after="0"), listing()
    )

    await FreeScout(script, sleep=patience).page(size=1)

    assert patience.waits[:2] == [7, 60]
    assert patience.waits[2] > 1, "at once is not when it was asked too often"


@pytest.mark.parametrize(("status", "requests"), [(500, 1), (502, 2), (503, RETRIES + 1), (504, RETRIES + 1)])
async def test_what_its_own_rows_may_make_fail_is_hardly_asked_for_again(status: int, requests: int) -> None:
    script = Script(*[answer(status, content_type="text/html")] * requests)

    with pytest.raises(DeskUnavailableError):
        await FreeScout(script, sleep=Patience()).page(size=1, once=True)

    assert len(script.asked) == requests


async def test_its_clock_is_asked_for_by_a_number_that_every_database_has_room_for() -> None:
    script = Script(*[listing()] * 20)

    for _ in range(20):
        await FreeScout(script).clock()

    numbers = [int(query["number"]) for _, query in script.asked]
    assert max(numbers) < 2**31
    assert len(set(numbers)) == 20, "no cache has an answer to it"


async def test_over_http_the_age_of_each_cache_on_the_way_counts() -> None:
    async def two_caches(_request: web.Request) -> web.Response:
        headers = [("Age", "40"), ("Age", "0"), ("Date", DATE)]
        return web.json_response({"page": {"totalElements": 0}}, headers=CIMultiDict(headers))

    async with serving(two_caches) as url, http_transport(url, lambda: Secret("key"), patience=5) as transport:
        with pytest.raises(DeskUnavailableError, match="40,0 s old: a cache gave it"):
            await FreeScout(transport).page(size=1, retries=0)


@pytest.mark.parametrize(
    ("refusal", "problem", "next_step"),
    [
        (answer(401, {"message": "Not Authorized"}), "FreeScout answers 401", "compare FREESCOUT_API_KEY"),
        (answer(403), "a proxy in front of FreeScout refuses us with 403", "let /api/* through"),
        (answer(302), "FreeScout answers 302, a redirect that does not say where to", "is FREESCOUT_URL right"),
        (answer(404, content_type="text/html"), "FreeScout answers 404", "is FREESCOUT_URL right"),
        (answer(405), "FreeScout answers 405", "is FREESCOUT_URL right"),
        (
            answer(document={"_embedded": {"conversations": []}, "page": {"totalElements": 0}}, date=""),
            "FreeScout's answers have no Date header; a proxy takes it away",
            "let it through",
        ),
    ],
)
async def test_what_will_not_pass_is_asked_once_and_says_what_to_do(
    refusal: DeskResponse, problem: str, next_step: str
) -> None:
    script = Script(refusal)

    with pytest.raises(DeskRefusedError) as raised:
        await FreeScout(script).page(size=1)

    assert len(script.asked) == 1
    assert raised.value.problem == problem
    assert raised.value.next_step.startswith(next_step)


async def test_a_request_that_is_sent_again_is_logged_with_the_reason_and_the_next_step(log: Log) -> None:
    await FreeScout(Script(answer(503), listing()), sleep=Patience()).page(size=1)

    (line,) = log.lines("desk.retry")
    assert (line["reason"], line["next_step"]) == (
        "FreeScout answers 503",
        "is the desk up? php artisan up ends a maintenance",
    )


async def test_an_answer_about_another_ticket_does_not_count() -> None:
    with pytest.raises(DeskUnavailableError, match="ticket 8"):
        await FreeScout(Script(answer(document=row(id=8)))).conversation(7)


async def test_over_http_the_key_is_in_the_header_and_json_is_asked_for() -> None:
    desk = Desk(clock=ManualClock())
    desk.populate(3)
    api = Api(desk)
    async with serve(desk, api=api) as url, http_transport(url, lambda: Secret(desk.api_key), patience=5) as transport:
        assert (await FreeScout(transport).page(size=10)).total == 3
        assert await FreeScout(transport).mailboxes() == {1, 2}

    assert api.requests[0].header("X-FreeScout-API-Key") == desk.api_key
    assert api.requests[0].header("Accept") == "application/json"
    assert api.requests[0].header("Cache-Control") == "no-cache"


@pytest.mark.parametrize("fault", [ApiFault.HANG, ApiFault.BROKEN_BODY])
async def test_over_http_an_answer_that_does_not_come_whole_may_pass(fault: ApiFault) -> None:
    desk = Desk(clock=ManualClock())
    desk.populate(3)
    desk.faults.api = fault
    async with serve(desk) as url, http_transport(url, lambda: Secret(desk.api_key), patience=0.2) as transport:
        with pytest.raises(DeskUnavailableError, match="does not answer"):
            await FreeScout(transport, sleep=Patience()).page(size=1)


def packed(mebibytes: int) -> bytes:
    """So many mebibytes of blanks as gzip packs them, a thousand to one."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * (1 << 20)) for _ in range(mebibytes)), packer.flush()])


@pytest.mark.parametrize("form", ["gzip", "without an end"])
async def test_over_http_an_answer_without_bound_is_not_taken(form: str) -> None:
    sent, asked = 0, 0
    bomb = packed(64)

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent, asked
        asked += 1
        headers = {"Content-Type": "application/json", "Date": DATE}
        if form == "gzip":
            return web.Response(body=bomb, headers=headers | {"Content-Encoding": "gzip"})
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        with suppress(ConnectionError):
            while sent < 10 * LARGEST:
                await response.write(b" " * (1 << 20))
                sent += 1 << 20
        return response

    async with serving(answer) as url, http_transport(url, lambda: None, patience=20) as transport:
        with pytest.raises(DeskUnavailableError, match="larger than 16 MiB") as raised:
            await FreeScout(transport, sleep=Patience()).page(size=1)

    assert "POLLER_PAGE_SIZE" in raised.value.next_step
    assert asked == 1
    assert sent < 2 * LARGEST


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/api/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_over_http_an_answer_that_comes_drop_by_drop_has_its_time() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(100):
                await response.write(b" ")
                await asyncio.sleep(0.05)
        return response

    async with serving(answer) as url, http_transport(url, lambda: None, patience=0.2) as transport:
        with pytest.raises(DeskUnavailableError, match="does not answer"):
            await FreeScout(transport).page(size=1, retries=0)


async def test_over_http_no_more_requests_are_under_way_than_allowed() -> None:
    under_way, most = 0, 0

    async def transport(_path: str, _query: Mapping[str, str], /) -> DeskResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return listing()

    desk = FreeScout(transport, concurrency=3)
    await asyncio.gather(*(desk.page(size=1) for _ in range(20)))

    assert most == 3
