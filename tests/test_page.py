"""The page: who gets to see it, what it says, and that nothing in it can be turned against who looks at it."""

import asyncio
import os
import re
from dataclasses import replace
from html import unescape

import aiohttp
import asyncpg
import pytest
from yarl import URL

from conftest import ENVIRONMENT, Log, Receive, Receiver
from freescout_audit.signature import fingerprint
from receiver.access import COOKIE, SESSION, Access
from receiver.page import documents
from settings import Secret
from settings.place import where_we_run
from support.examples import KEY, body, signed
from support.sessions import cookie_of, seconds_ago

TOKEN = "a token of the operators"
GUARDED = replace(ENVIRONMENT, ops_token=Secret(TOKEN))
PAGE = "/internal/freescout-audit/"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

pytestmark = pytest.mark.usefixtures("no_housekeeping")


async def get(receiver: Receiver, path: str = "", **headers: str) -> tuple[int, str]:
    async with receiver.client.get(receiver.url + PAGE + path, headers=headers) as response:
        return response.status, unescape(re.sub(r"<[^>]+>", "", await response.text()))


def session_of(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the header that a browser sends after an answer."""
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


async def log_in(receiver: Receiver, token: str, **headers: str) -> aiohttp.ClientResponse:
    url = f"{receiver.url}{PAGE}login"
    return await receiver.client.post(url, data={"token": token}, headers=headers, allow_redirects=False)


class TestAccess:
    async def test_a_stranger_gets_a_form_that_says_nothing_but_the_products_name(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            for path in ("", "ticket?which=7", "deliveries", "gaps", "disputes", "runbook", "live", "nothing"):
                status, text = await get(receiver, path)
                assert status == 401
                assert text.split() == ["freescout-audit", "freescout-audit", "Token", "Log", "in"]

    async def test_the_bearer_token_opens_it(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            assert (await get(receiver, **BEARER))[0] == 200
            assert (await get(receiver, Authorization="Bearer another"))[0] == 401

    async def test_the_form_gives_a_session_for_the_token(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            answer = await log_in(receiver, f" {TOKEN}\n")
            cookie = answer.headers["Set-Cookie"]

            assert (answer.status, answer.headers["Location"]) == (303, "./")
            assert {"HttpOnly", "SameSite=Strict", f"Path={PAGE}", f"Max-Age={SESSION}"} <= set(cookie.split("; "))
            assert "Secure" not in cookie
            assert TOKEN not in cookie
            assert (await get(receiver, **session_of(answer)))[0] == 200

    async def test_behind_tls_the_cookie_is_for_tls_alone(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            answer = await log_in(receiver, TOKEN, **{"X-Forwarded-Proto": "http, https"})

            assert "Secure" in answer.headers["Set-Cookie"].split("; ")

    async def test_a_session_ends_after_an_hour_and_with_the_token(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            for cookie, status in (
                (cookie_of(TOKEN), 200),
                (cookie_of(TOKEN, seconds_ago(SESSION - 60)), 200),
                (cookie_of(TOKEN, seconds_ago(SESSION + 1)), 401),
                (cookie_of("the token before"), 401),
                (cookie_of(TOKEN)[:-1], 401),
                ("9" * 4000, 401),
                ("1.ü", 401),
            ):
                assert (await get(receiver, Cookie=f"{COOKIE}={cookie}"))[0] == status, cookie

    async def test_a_stolen_cookie_cannot_be_made_to_last(self, receive: Receive) -> None:
        stolen = cookie_of(TOKEN, seconds_ago(SESSION + 1))
        until, _, signature = stolen.partition(".")
        async with receive(GUARDED) as receiver:
            longer = f"{int(until) + SESSION}.{signature}"

            assert (await get(receiver, Cookie=f"{COOKIE}={longer}"))[0] == 401

    async def test_wrong_tokens_are_slowed_down_and_the_right_one_never_is(self, receive: Receive, log: Log) -> None:
        async with receive(GUARDED) as receiver:
            answers = [await log_in(receiver, "wrong") for _ in range(8)]
            refused = answers[-1]

            assert [answer.status for answer in answers] == [403] * 5 + [429] * 3
            assert refused.headers["Retry-After"] == "10"
            assert (await log_in(receiver, "wrong", **{"X-Forwarded-For": "1.1.1.1, 203.0.113.9"})).status == 403
            assert (await log_in(receiver, TOKEN)).status == 303
        assert "wrong" not in log.text.replace("a wrong token", "")
        assert log.lines("delivery.refused")

    async def test_made_up_addresses_do_not_let_anybody_try_faster(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            statuses = [
                (await log_in(receiver, "wrong", **{"X-Forwarded-For": f"203.0.113.{turn}"})).status
                for turn in range(70)
            ]

            assert statuses[0] == 403
            assert statuses[-1] == 429

    async def test_a_form_of_another_site_logs_nobody_in_or_out(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            for headers in (
                {"Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "same-site"},
                {"Origin": "https://elsewhere.example.org"},
                {"Origin": "null"},
            ):
                assert (await log_in(receiver, TOKEN, **headers)).status == 403
            own = {"Origin": receiver.url, "Sec-Fetch-Site": "same-origin"}
            assert (await log_in(receiver, TOKEN, **own)).status == 303
            away = {**BEARER, "Sec-Fetch-Site": "cross-site"}
            answer = await receiver.client.post(f"{receiver.url}{PAGE}logout", headers=away, allow_redirects=False)
            assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)

    async def test_who_logs_out_is_out(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            session = session_of(await log_in(receiver, TOKEN))
            answer = await receiver.client.post(f"{receiver.url}{PAGE}logout", headers=session, allow_redirects=False)

            assert answer.status == 303
            assert f'{COOKIE}=""' in answer.headers["Set-Cookie"]
            assert "Max-Age=0" in answer.headers["Set-Cookie"]

    @pytest.mark.parametrize("sent", [b"token=" + b"x" * 5000, b"\xff\xfe", b"a=1&" * 50, b"", b"token=%zz"])
    async def test_a_form_that_is_none_is_a_wrong_token(self, receive: Receive, sent: bytes) -> None:
        async with receive(GUARDED) as receiver:
            answer = await receiver.client.post(f"{receiver.url}{PAGE}login", data=sent)

            assert answer.status == 403

    async def test_a_link_of_another_site_leads_to_a_page_that_loads_itself_once_more(self, receive: Receive) -> None:
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        async with receive(GUARDED) as receiver:
            for path in ("", "ticket?which=7"):
                async with receiver.client.get(receiver.url + PAGE + path, headers=link) as response:
                    text = await response.text()
                assert response.status == 401
                assert '<meta http-equiv="refresh" content="0">' in text
                assert unescape(re.sub(r"<[^>]+>", "", text)).split() == ["freescout-audit", "freescout-audit"]
                assert "Set-Cookie" not in response.headers
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]

    @pytest.mark.parametrize(
        "changed",
        [
            {"Sec-Fetch-Site": "same-origin"},  # what comes of it: the form, never the same again
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Dest": "iframe"},
            {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
            {"Cookie": f"{COOKIE}={cookie_of('the token before')}"},
        ],
    )
    async def test_nothing_else_loads_itself_once_more(self, receive: Receive, changed: dict[str, str]) -> None:
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        async with receive(GUARDED) as receiver:
            status, text = await get(receiver, **link | changed)

        assert (status, "Token" in text) == (401, True)

    async def test_a_link_of_another_site_leads_in_who_shows_the_token(self, receive: Receive) -> None:
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        async with receive(GUARDED) as receiver:
            assert (await get(receiver, **link, **BEARER))[0] == 200

    async def test_a_page_that_is_closed_says_so_to_a_link_as_well(self, receiver: Receiver) -> None:
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        _, text = await get(receiver, **link, **{"X-Forwarded-For": "203.0.113.7"})

        assert "closed: OPS_TOKEN is not set" in text

    async def test_without_a_token_it_is_open_on_this_machine_alone(self, receiver: Receiver) -> None:
        assert (await get(receiver))[0] == 200

        status, text = await get(receiver, **{"X-Forwarded-For": "203.0.113.7"})

        assert status == 401
        assert "closed: OPS_TOKEN is not set" in text
        assert (await log_in(receiver, "", **{"X-Forwarded-For": "203.0.113.7"})).status == 403

    async def test_a_rotated_token_ends_every_session(self) -> None:
        now = Secret(TOKEN)
        access = Access(lambda: now)

        assert access.is_token(TOKEN)
        assert not access.is_token("another")
        assert not Access(lambda: None).is_token("")


class TestWhatItShows:
    async def test_the_verdict_the_next_step_and_the_lights(self, receiver: Receiver) -> None:
        status, text = await get(receiver)

        assert status == 200
        assert "No poller is running: tickets without a recent delivery read none." in text
        assert "Start the process poller; if push alone is meant: freescout-audit poller retire." in text
        for light in ("Push: well", "Pull: off", "FreeScout: off", "Database: well"):
            assert light in text

    @pytest.mark.parametrize(
        ("stands", "says", "command"),
        [
            ("heartbeat_at = NULL", "No poller is running", "heroku ps:scale poller=1"),
            ("heartbeat_at = now() - interval '1 minute'", "the poller vanished", "heroku ps:restart poller"),
            (
                "heartbeat_at = now()",
                "The first pass is under way",
                "heroku run -- bin/freescout-audit status",
            ),
            (
                "heartbeat_at = now(), lease_until = now() - interval '1 s', renewed_by_pass = now() - interval '1 h'",
                "tickets without a recent delivery read none",
                "heroku logs --num 1500 | bin/freescout-audit logs --event pass.failed",
            ),
        ],
    )
    async def test_the_next_step_is_a_command_that_fits_what_is_wrong_and_where_we_run(
        self,
        receive: Receive,
        sql: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        stands: str,
        says: str,
        command: str,
    ) -> None:
        monkeypatch.setenv("DYNO", "web.1")
        await sql.execute(f"UPDATE freescout_lease SET {stands}")
        async with receive() as receiver, receiver.client.get(receiver.url + PAGE) as response:
            text = unescape(await response.text())

        assert says in re.sub(r"<[^>]+>", "", text)
        assert f'<code id="command">{command}</code>' in text

    @pytest.mark.parametrize(
        ("heartbeat", "says"), [("1 s", "; each complete pass moves that on."), ("1 m", ", unless a pass is complete")]
    )
    async def test_until_when_answers_are_right_depends_on_whether_passes_go_on(
        self, receiver: Receiver, sql: asyncpg.Connection, heartbeat: str, says: str
    ) -> None:
        await sql.execute(
            f"UPDATE freescout_lease SET heartbeat_at = now() - interval '{heartbeat}',"
            " lease_until = now() + interval '1 h', renewed_by_pass = now()"
        )
        await sql.execute("INSERT INTO freescout_answer VALUES ('unverified_like_freescouts', 1, now(), now())")

        async with asyncio.timeout(10):
            while says not in (await get(receiver))[1]:  # noqa: ASYNC110 - a page is asked
                await asyncio.sleep(0.1)

    async def test_a_strip_ends_as_the_light_beside_it_is(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        await sql.execute(
            "UPDATE freescout_lease SET heartbeat_at = now(), lease_until = now() + interval '1 h',"
            " renewed_by_pass = now()"
        )
        async with asyncio.timeout(20):
            while "Pull: well" not in (await get(receiver))[1]:  # noqa: ASYNC110 - a page is asked
                await asyncio.sleep(0.1)
            await sql.execute("UPDATE freescout_lease SET heartbeat_at = now() - interval '1 m'")
            while "Pull: failed" not in (text := (await get(receiver))[1]):  # noqa: ASYNC110 - a page is asked
                await asyncio.sleep(0.1)

        assert "24 hours: failed for 5 min" in text

    async def test_a_delivery_shows_and_leads_to_its_ticket(self, receiver: Receiver) -> None:
        await receiver.deliver(body("closed"))

        _, listed = await get(receiver, "deliveries?outcome=applied&event=status&ticket=7")
        _, none = await get(receiver, "deliveries?outcome=stale")
        _, ticket = await get(receiver, "ticket?which=7")

        assert "convo.status" in listed
        assert "There is none that fits." in none
        assert "Ticket 7 reads closed: vouched for." in ticket
        assert "convo.status" in ticket

    async def test_where_both_paths_are_on_both_are_shown(self, receive: Receive) -> None:
        raw = body("closed")
        own = replace(ENVIRONMENT, receive_rbac=True, rbac_secret=Secret("its own"))
        async with receive(own) as receiver:
            await receiver.deliver(raw)
            _, alone = await get(receiver, "deliveries")
            await receiver.deliver(raw, endpoint="rbac", headers=signed(raw, key="its own"))
            _, both = await get(receiver, "deliveries")
            _, page = await get(receiver)
            _, ticket = await get(receiver, "ticket?which=7")

        assert ("receivedpath" in alone, "receivedpath" in both, "rbac7" in both) == (False, True, True)
        assert f"Webhook keys accepted: {fingerprint(KEY)}." in page
        assert f"Webhook keys accepted by RV-4's path: {fingerprint('its own')}." in page
        assert "RV-4's deliveries are taken, keys accepted: 1" in page
        assert "duplicate at rbac" in ticket

    async def test_where_one_path_is_off_push_is_well_and_tells_of_the_other(self, receive: Receive) -> None:
        async with receive(replace(ENVIRONMENT, receive=False, receive_rbac=True)) as receiver:
            _, page = await get(receiver)

        assert "Push: well" in page
        assert "RV-4's deliveries are taken" in page

    @pytest.mark.parametrize("typed", ["", "seven", "0", "-1", "9" * 30, "#", "#99", "%23x", "٣"])
    async def test_what_is_no_ticket_gets_a_clear_answer(self, receiver: Receiver, typed: str) -> None:
        status, text = await get(receiver, f"ticket?which={typed.replace('#', '%23')}")

        assert status == 400
        assert "such as 4711" in text or "The cache knows no ticket" in text

    async def test_a_ticket_is_found_by_its_number(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        await receiver.deliver(body("closed"))
        await sql.execute("UPDATE freescout_ticket SET number = 4711")

        status, text = await get(receiver, "ticket?which=%234711")

        assert (status, "Ticket 7 (#4711) reads" in text) == (200, True)

    async def test_a_number_that_several_tickets_bear_names_their_ids(
        self, receiver: Receiver, sql: asyncpg.Connection
    ) -> None:
        await sql.execute("INSERT INTO freescout_ticket (ticket_id, number) VALUES (7, 5), (8, 5)")

        status, text = await get(receiver, "ticket?which=%235")

        assert (status, "type one of the ids 7, 8" in text) == (400, True)

    async def test_where_nothing_has_come_it_says_what_to_look_at(self, receiver: Receiver) -> None:
        _, text = await get(receiver)

        assert "None has come yet. Does FreeScout know where to send them? Runbook: webhook" in text
        assert "Passes\nnone" in text

    async def test_refusals_are_counts(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        await sql.execute(
            "INSERT INTO freescout_answer VALUES ('unverified', 1234, now(), now()), ('verified', 9, now(), now())"
        )

        _, text = await get(receiver, "deliveries")

        assert re.search(r"unverified\s*1,234", text)
        assert "verified9" not in text.replace("\n", "").replace("unverified1,234", "")

    async def test_gaps_and_disputes_are_listed(self, receiver: Receiver, sql: asyncpg.Connection) -> None:
        await sql.execute(
            "INSERT INTO freescout_gap (ticket_id, cached_status, cached_state, true_status, true_state, healed_at,"
            " verdict) VALUES (8, 'active', 'published', 'closed', 'published', now(), 'lost')"
        )
        await sql.execute("INSERT INTO freescout_ticket (ticket_id, disputed_at, grace_until) VALUES (9, now(), now())")

        assert re.search(r"8\s*active\s*closed", (await get(receiver, "gaps?verdict=lost"))[1])
        assert "There is none that fits." in (await get(receiver, "gaps?verdict=late"))[1]
        assert re.search(r"9\s*gone", (await get(receiver, "disputes"))[1])
        assert re.search(r"9\s*gone", (await get(receiver, "disputes?ticket=9"))[1])
        assert "There is none that fits." in (await get(receiver, "disputes?ticket=8"))[1]

    async def test_a_database_that_is_away_is_said_and_the_page_stays(
        self, receiver: Receiver, sql: asyncpg.Connection
    ) -> None:
        place = where_we_run(os.environ)
        await sql.execute("ALTER TABLE freescout_lease RENAME TO away")
        try:
            async with asyncio.timeout(10):
                # What was looked at within the last second is not looked at again.
                while "Pull: not known" not in (text := (await get(receiver))[1]):  # noqa: ASYNC110 - a page is asked
                    await asyncio.sleep(0.1)
            lists = [await get(receiver, path) for path in ("deliveries", "ticket?which=7")]
        finally:
            await sql.execute("ALTER TABLE away RENAME TO freescout_lease")

        assert "every application reads none, and no delivery is saved: the database lacks our schema" in text
        assert [status for status, _ in lists] == [200, 503]
        assert "run python -m db.migrate" in lists[1][1]
        assert place.migrate in text


class TestSafety:
    async def test_no_script_in_an_events_name_or_in_what_is_typed_gets_out(self, receiver: Receiver) -> None:
        raw = body("closed")
        evil = "<script>alert(1)</script>\"'><b"
        await receiver.deliver(raw, headers=signed(raw) | {"X-FreeScout-Event": evil})
        typed = "%3Cscript%3Ealert(1)%3C/script%3E%22%27%3E"

        for path in ("", "deliveries", "ticket?which=7", f"ticket?which={typed}", f"deliveries?event={typed}"):
            async with receiver.client.get(receiver.url + PAGE + path) as response:
                text = await response.text()
            assert "<script>" not in text.replace('<script src="static/page.js" defer></script>', "")
            assert "<b" not in re.sub(r"<(body|button)", "", text)

    @pytest.mark.parametrize("path", ["static/../deliveries", "static/%2e%2e/deliveries", "static/..%2f..%2fviews.py"])
    async def test_what_is_public_leads_nowhere_else(self, receive: Receive, path: str) -> None:
        async with receive(GUARDED) as receiver:
            url = URL(f"{receiver.url}{PAGE}{path}", encoded=True)
            async with receiver.client.get(url) as response:
                assert response.status in {401, 403, 404}

    async def test_every_answer_forbids_what_is_not_ours(self, receive: Receive) -> None:
        async with receive(GUARDED) as receiver:
            for path, headers in (("", {}), ("", BEARER), ("runbook", BEARER), ("static/page.css", {}), ("x", BEARER)):
                async with receiver.client.get(receiver.url + PAGE + path, headers=headers) as response:
                    if response.status == 404:
                        continue
                    policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"

    async def test_nothing_comes_from_elsewhere_and_every_link_is_relative(self, receiver: Receiver) -> None:
        for path in ("", "deliveries", "gaps", "disputes", "ticket?which=7", *sorted(documents.NAMES)):
            async with receiver.client.get(receiver.url + PAGE + path) as response:
                text = await response.text()
            leads = re.findall(r'(?:src|href|action)="([^"]*)"', text)
            assert leads
            for lead in leads:
                assert not lead.startswith("/"), (path, lead)
                assert path in documents.NAMES or ":" not in lead
            assert not re.search(r"<style|style=|<script(?! src)| on\w+=", text)

    async def test_what_it_logs_names_nobody(self, receiver: Receiver, log: Log) -> None:
        await get(receiver, "ticket?which=4711&name=customer7@example.org")

        assert "customer7" not in log.text


class TestDocuments:
    async def test_the_runbook_is_served_and_its_links_lead_somewhere(self, receiver: Receiver) -> None:
        for name in sorted(documents.NAMES):
            async with receiver.client.get(f"{receiver.url}{PAGE}{name}") as response:
                assert response.status == 200
                text = await response.text()
            for lead in re.findall(r"<article.*", text, re.DOTALL)[0].split('href="')[1:]:
                page, _, heading = lead.partition('"')[0].partition("#")
                if ":" not in page:
                    assert page in documents.NAMES | {""}, (name, page)
                    html = documents.render(page or name)[1]
                    assert not heading or f'id="{heading}"' in html, (name, page, heading)

    async def test_without_its_last_slash_it_leads_there(self, receiver: Receiver) -> None:
        async with receiver.client.get(receiver.url + PAGE.rstrip("/")) as response:
            assert (response.status, response.url.path) == (200, PAGE)
