"""The page in a real browser: Debian's Chromium, headless."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from conftest import ENVIRONMENT, Receive, Receiver
from db.database import Database
from receiver.app import create_app, serve
from settings import Secret, load_settings
from support.browser import Browser, axe, browsing, needs_chromium
from support.examples import body

TOKEN = "a token of the operators"
PAGE = "/internal/freescout-audit/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    needs_chromium()
    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        yield started


async def test_who_was_woken_logs_in_reads_the_verdict_and_finds_a_ticket(browser: Browser, receive: Receive) -> None:
    async with receive(replace(ENVIRONMENT, ops_token=Secret(TOKEN))) as receiver:
        await receiver.deliver(body("closed"))
        await browser.open(receiver.url + PAGE)
        assert await browser.text("body") == "freescout-audit\nToken\nLog in"
        await browser.type("token", "wrong")
        await browser.until("That is not the token.")
        await browser.type("token", TOKEN)

        verdict = await browser.until("read", "#verdict")
        assert "No poller is running" in verdict
        assert "Next step" in verdict
        await browser.type("which", "7")
        await browser.until("Ticket 7 reads closed: vouched for.")
        assert await browser.run("return document.cookie") == ""


async def test_a_link_in_a_chat_leads_in_who_has_logged_in_and_others_to_the_form(
    browser: Browser, receive: Receive
) -> None:
    async def show_chat(_request: web.Request) -> web.Response:
        link = f'<a id="link" href="{receiver.url}{PAGE}deliveries?outcome=applied">Look here</a>'
        return web.Response(text=link, content_type="text/html")

    chat = web.Application()
    chat.router.add_get("/", show_chat)
    async with (
        receive(replace(ENVIRONMENT, ops_token=Secret("another token"))) as receiver,
        serve(chat, host="127.0.0.1", port=0) as port,
    ):
        # To a browser, localhost is another site than 127.0.0.1.
        await browser.open(f"http://localhost:{port}/")
        await browser.follow("link")
        await browser.until("Token")
        assert await browser.text("body") == "freescout-audit\nToken\nLog in"

        await browser.type("token", "another token")
        await browser.until("read", "#verdict")
        await browser.open(f"http://localhost:{port}/")
        await browser.follow("link")
        await browser.until("There is none that fits.")
        assert (await browser.run("return location.search")) == "?outcome=applied"


async def test_a_delivery_shows_without_a_reload_and_a_lost_stream_is_said_and_comes_back(
    browser: Browser, database: Database
) -> None:
    async def run(port: int) -> tuple[AsyncExitStack, Receiver]:
        stack = AsyncExitStack()
        app = create_app(database, ENVIRONMENT, load_settings({}))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        port = await stack.enter_async_context(serve(app, host="127.0.0.1", port=port))
        return stack, Receiver(port, client, f"http://127.0.0.1:{port}")

    stack, receiver = await run(0)
    await browser.open(receiver.url + PAGE)
    await browser.until("Live:", "#live")
    await browser.run("window.mark = 'not reloaded'; document.querySelector('details').open = true")
    await receiver.deliver(body("closed"))
    assert "convo.status" in await browser.until("convo.status", "#latest")

    await stack.aclose()
    await browser.until("Not live since", "#live")
    stack, receiver = await run(receiver.port)
    try:
        await browser.until("Live:", "#live")
        await receiver.deliver(body("active", 5))
        await browser.until("active", "#latest")

        assert await browser.run("return [window.mark, document.querySelector('details').open]") == [
            "not reloaded",
            True,
        ]
    finally:
        await browser.open("about:blank")
        await stack.aclose()


@pytest.mark.parametrize("dark", [False, True])
async def test_nothing_serious_stands_in_anybodys_way(browser: Browser, receiver: Receiver, *, dark: bool) -> None:
    axe()
    await browser.troubles()  # of the tests before
    await receiver.deliver(body("closed"))
    for width in (390,) if dark else (1280,):
        await browser.look_as(width=width, dark=dark)
        for path in ("", "ticket?which=7", "ticket?which=nothing", "deliveries", "gaps", "disputes", "runbook"):
            await browser.open(receiver.url + PAGE + path)
            assert await browser.find_barriers() == [], (path, width)
            assert await browser.run("return document.documentElement.scrollWidth") <= width, (path, width)
    # The browser counts our own 400 among its troubles.
    assert [trouble for trouble in await browser.troubles() if "which=nothing" not in trouble] == []
    await browser.open("about:blank")


async def test_the_form_stands_in_the_way_of_a_wrong_token_alone(browser: Browser, receive: Receive) -> None:
    axe()
    async with receive(replace(ENVIRONMENT, ops_token=Secret("yet another token"))) as receiver:
        await browser.open(receiver.url + PAGE)
        await browser.type("token", "wrong")
        await browser.until("That is not the token.")

        assert await browser.find_barriers() == []


async def test_without_a_script_it_says_the_same(receiver: Receiver) -> None:
    async with receiver.client.get(receiver.url + PAGE) as response:
        text = await response.text()

    assert "No poller is running" in text
    assert 'data-copy="command" hidden' in text
    assert '<a href="./">Look again</a>' in text
