"""The simulated REST API: what it answers, its errors, its writes, its faults."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from simulator import Api, ApiFault, ApiRequest, ApiResponse, Desk, ManualClock, Worker
from simulator.testing import Recorder


class Client:
    def __init__(self) -> None:
        self.clock = ManualClock(datetime(2026, 3, 2, 9, 0, 0, tzinfo=UTC))
        self.desk = Desk(clock=self.clock, seed=1)
        self.api = Api(self.desk)

    def call(
        self, method: str, path: str, body: object = None, *, accept: str = "application/json", **query: str
    ) -> ApiResponse:
        headers = {"x-freescout-api-key": self.desk.api_key, "Accept": accept}
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.api.answer(ApiRequest(method, f"/api/{path}", query, headers, raw))


@pytest.fixture
def client() -> Client:
    return Client()


def test_one_conversation_with_and_without_its_threads(client: Client) -> None:
    ticket = client.desk.customer_writes(text="Hello")

    full = json.loads(client.call("GET", f"conversations/{ticket}").body)
    bare = json.loads(client.call("GET", f"conversations/{ticket}", embed="none").body)

    assert (full["id"], full["status"], full["state"]) == (ticket, "active", "published")
    assert len(full["_embedded"]["threads"]) == 1
    assert bare["_embedded"]["threads"] == []


def test_a_deleted_conversation_is_read_and_one_gone_for_ever_is_not(client: Client) -> None:
    deleted, gone = client.desk.customer_writes(), client.desk.customer_writes()
    client.desk.delete_to_folder(deleted)
    client.desk.delete_forever(gone)

    answers = [client.call("GET", f"conversations/{ticket}", embed="none") for ticket in (deleted, gone)]

    assert [answer.status for answer in answers] == [200, 404]
    assert json.loads(answers[0].body)["state"] == "deleted"
    assert json.loads(answers[1].body) == {"message": "Not Found", "_embedded": {"errors": []}}


def test_the_key_is_needed(client: Client) -> None:
    answers = [
        client.api.answer(ApiRequest("GET", "/api/conversations", headers={**key, "Accept": "application/json"}))
        for key in ({}, {"X-FreeScout-API-Key": "wrong"}, {"X-FreeScout-API-Key": client.desk.api_key})
    ]

    assert [answer.status for answer in answers] == [401, 401, 200]
    assert json.loads(answers[0].body) == {"message": "Not Authorized"}


def test_a_changed_app_key_refuses_the_old_api_key(client: Client) -> None:
    old = client.desk.api_key
    client.desk.change_app_key("base64:another")

    answer = client.api.answer(ApiRequest("GET", "/api/conversations", headers={"X-FreeScout-API-Key": old}))

    assert answer.status == 401


@pytest.mark.parametrize("path", ["conversations/1", "conversations", "nowhere"])
def test_errors_are_html_for_who_does_not_ask_for_json(client: Client, path: str) -> None:
    answer = client.call("GET", path, accept="*/*", pageSize="-1")

    assert answer.status in (404, 500)
    assert answer.header("Content-Type") == "text/html; charset=UTF-8"


def test_a_list_is_json_whatever_is_asked_for(client: Client) -> None:
    assert client.call("GET", "conversations", accept="*/*").header("Content-Type") == "application/json"


def test_the_date_is_the_desks_own_clock_which_may_be_wrong(client: Client) -> None:
    client.desk.faults.clock_offset = -90
    ticket = client.desk.customer_writes()

    answer = client.call("GET", f"conversations/{ticket}", embed="none")

    assert parsedate_to_datetime(answer.header("Date")) == datetime(2026, 3, 2, 8, 58, 30, tzinfo=UTC)
    assert json.loads(answer.body)["updatedAt"] == "2026-03-02T08:58:30Z"


async def test_put_changes_and_delivers(client: Client) -> None:
    ticket = client.desk.customer_writes()
    client.desk.register_webhook("http://receiver.test/")
    worker, received = Worker(client.desk), Recorder()

    answer = client.call("PUT", f"conversations/{ticket}", {"byUser": 1, "status": "closed"})
    await worker.run_until_idle(received, client.clock)

    assert (answer.status, answer.body) == (204, b"")
    assert [claim[:2] for claim in received.claims] == [("convo.status", "closed")]


def test_a_put_with_malformed_json_says_yes_and_does_nothing(client: Client) -> None:
    ticket = client.desk.customer_writes()

    answer = client.call("PUT", f"conversations/{ticket}", b'{"byUser": 1, "status": "clo')

    assert answer.status == 204
    assert client.desk.get(ticket).status == "active"


@pytest.mark.parametrize("body", [{"status": "closed"}, {"byUser": 99, "status": "closed"}])
def test_a_put_needs_an_agent_who_exists(client: Client, body: object) -> None:
    ticket = client.desk.customer_writes()

    answer = client.call("PUT", f"conversations/{ticket}", body)

    assert answer.status == 400
    assert json.loads(answer.body)["_embedded"]["errors"][0]["path"] == "byUser"
    assert client.desk.get(ticket).status == "active"


@pytest.mark.parametrize("name", ["assignTo", "mailboxId", "customerId"])
def test_a_put_that_is_wrong_in_one_thing_does_nothing_at_all(client: Client, name: str) -> None:
    ticket = client.desk.customer_writes()

    answer = client.call("PUT", f"conversations/{ticket}", {"byUser": 1, "status": "closed", name: 99})

    assert answer.status == 400
    assert client.desk.get(ticket).status == "active"


def test_a_bogus_status_makes_active(client: Client) -> None:
    ticket = client.desk.customer_writes(status="closed")

    client.call("PUT", f"conversations/{ticket}", {"byUser": 1, "status": "bogus"})

    assert client.desk.get(ticket).status == "active"


def test_a_conversation_can_be_posted_read_and_deleted(client: Client) -> None:
    body = {
        "mailboxId": 1,
        "subject": "New",
        "customer": {"email": "customer500@example.org"},
        "threads": [{"type": "customer", "text": "Hello", "customer": {"email": "customer500@example.org"}}],
    }

    posted = client.call("POST", "conversations", body)
    ticket = int(posted.header("Resource-ID"))
    deleted = client.call("DELETE", f"conversations/{ticket}")

    assert (posted.status, deleted.status) == (201, 204)
    assert client.call("GET", f"conversations/{ticket}").status == 404
    assert client.call("DELETE", f"conversations/{ticket}").status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {"mailboxId": 9, "customer": {"id": 1}, "threads": [{"type": "customer"}]},
        {"mailboxId": 1, "customer": {"id": 1}},
        {"mailboxId": 1, "threads": [{"type": "customer"}]},
        {"mailboxId": 1, "customer": {"id": 1}, "threads": [{"type": "message", "user": 9}]},
        {"mailboxId": 1, "customer": {"id": 1}, "threads": [{"type": "customer"}], "assignTo": 9},
    ],
)
def test_a_post_that_lacks_something_makes_nothing(client: Client, body: object) -> None:
    assert client.call("POST", "conversations", body).status == 400
    assert list(client.desk.truth()) == []


def test_threads_can_be_posted(client: Client) -> None:
    ticket = client.desk.customer_writes()
    path = f"conversations/{ticket}/threads"

    statuses = []
    for body in (
        {"type": "message", "text": "a", "user": 1, "status": "closed"},
        {"type": "customer", "text": "b", "customer": {"id": 1}},
        {"type": "note", "text": "c", "user": 1, "status": "pending"},
    ):
        assert client.call("POST", path, body).status == 201
        statuses.append(client.desk.get(ticket).status)

    assert statuses == ["closed", "active", "pending"]
    assert client.call("POST", path, {"type": "note", "user": 9}).status == 400
    assert client.call("POST", path, {"type": "smoke signal", "user": 1}).status == 400
    assert client.call("POST", "conversations/99/threads", {"type": "note", "user": 1}).status == 404


def test_webhooks_are_registered_and_removed_but_not_listed(client: Client) -> None:
    made = client.call("POST", "webhooks", {"url": "http://receiver.test/", "events": ["convo.status"]})
    hook = json.loads(made.body)["id"]

    listed = client.call("GET", "webhooks")

    assert (made.status, listed.status) == (201, 405)
    assert listed.header("Allow") == "POST, OPTIONS"
    assert client.desk.webhooks[hook].events == ("convo.status",)
    assert client.call("DELETE", f"webhooks/{hook}").status == 204
    assert client.call("DELETE", f"webhooks/{hook}").status == 404
    assert client.call("POST", "webhooks", {"events": ["convo.status"]}).status == 400
    assert client.call("POST", "webhooks", {"url": "http://receiver.test/"}).status == 400


@pytest.mark.parametrize(
    ("fault", "status", "json_for_json"),
    [
        (ApiFault.SERVER_ERROR, 500, False),
        (ApiFault.UNAVAILABLE, 503, False),
        (ApiFault.MAINTENANCE, 503, True),
        (ApiFault.TOO_MANY_REQUESTS, 429, False),
        (ApiFault.NOT_FOUND_HTML, 404, False),
        (ApiFault.NOT_FOUND_JSON, 404, True),
        (ApiFault.UNAUTHORIZED, 401, True),
        (ApiFault.UNTRUSTED_HOST, 403, True),
    ],
)
def test_the_api_can_fail_in_many_ways(client: Client, fault: ApiFault, status: int, json_for_json: bool) -> None:  # noqa: FBT001 - a column of the table
    client.desk.faults.api, client.desk.faults.api_left = fault, 1

    failing = client.call("GET", "conversations")
    after = client.call("GET", "conversations")

    assert failing.status == status
    assert (failing.header("Content-Type") == "application/json") is json_for_json
    assert after.status == 200


def test_an_untrusted_host_is_named_with_the_setting_that_would_trust_it(client: Client) -> None:
    client.desk.faults.api = ApiFault.UNTRUSTED_HOST
    headers = {"Host": "10.0.0.7:8080", "Accept": "application/json", "X-FreeScout-API-Key": client.desk.api_key}

    answer = client.api.answer(ApiRequest("GET", "/api/conversations", headers=headers))

    message = json.loads(answer.body)["message"]
    assert message.startswith("Untrusted Host: 10.0.0.7:8080")
    assert message.endswith("APP_TRUSTED_HOSTS")


def test_429_says_when_to_come_back_if_it_is_told_to(client: Client) -> None:
    client.desk.faults.api, client.desk.faults.retry_after = ApiFault.TOO_MANY_REQUESTS, 7
    told = client.call("GET", "conversations")
    client.desk.faults.retry_after = None

    assert told.header("Retry-After") == "7"
    assert client.call("GET", "conversations").header("Retry-After") == ""


def test_a_list_too_long_for_phps_memory_is_500(client: Client) -> None:
    client.desk.populate(30)
    client.desk.faults.memory_limit_rows = 20

    answers = [client.call("GET", "conversations", pageSize=size) for size in ("19", "20", "500")]

    assert [answer.status for answer in answers] == [200, 500, 500]
    assert answers[1].header("Content-Type").startswith("text/html")


def test_the_network_can_be_slow_silent_or_broken(client: Client) -> None:
    faults = client.desk.faults
    client.desk.populate(10)
    faults.slow, faults.seconds_per_row = 2.0, 0.5
    slow = client.call("GET", "conversations")
    faults.api = ApiFault.HANG
    hanging = client.call("GET", "conversations")
    faults.api = ApiFault.BROKEN_BODY
    broken = client.call("GET", "conversations")

    assert slow.delay == 7.0
    assert hanging.hangs
    assert broken.broken_at == len(broken.body) // 2 > 0


def test_a_deactivated_module_takes_the_api_with_it(client: Client) -> None:
    client.desk.faults.module_active = False

    answer = client.call("GET", "conversations")

    assert answer.status == 404
    assert json.loads(answer.body) == {"message": ""}


def test_one_strange_row_spoils_only_itself(client: Client) -> None:
    for _ in range(3):
        client.desk.customer_writes()
    client.desk.faults.strange_statuses[2] = "resolved"

    rows = json.loads(client.call("GET", "conversations").body)["_embedded"]["conversations"]

    assert {row["id"]: row["status"] for row in rows} == {1: "active", 2: "resolved", 3: "active"}


def test_requests_are_remembered_for_who_counts_them(client: Client) -> None:
    client.call("GET", "conversations", pageSize="1")
    client.call("GET", "mailboxes")

    assert client.api.count == 2
    assert [(request.path, dict(request.query)) for request in client.api.requests] == [
        ("/api/conversations", {"pageSize": "1"}),
        ("/api/mailboxes", {}),
    ]


class TestWhatStandsBeforeADesk:
    @pytest.fixture
    def client(self, client: Client) -> Client:
        client.desk.populate(30, days=1)
        return client

    def listed(self, answer: ApiResponse) -> tuple[list[int], dict[str, int]]:
        document = json.loads(answer.body)
        return [row["id"] for row in document["_embedded"]["conversations"]], document["page"]

    @pytest.mark.parametrize(("told", "size"), [(True, 10), (False, 20)])
    def test_a_cap_makes_pages_smaller_than_asked(self, client: Client, *, told: bool, size: int) -> None:
        client.desk.faults.page_cap, client.desk.faults.page_cap_told = 10, told

        ids, page = self.listed(client.call("GET", "conversations", pageSize="20", page="3", sortOrder="asc"))

        assert ids == list(range(21, 31))
        assert (page["size"], page["totalElements"], page["number"]) == (size, 30, 3)

    def test_a_row_that_fails_fails_the_pages_that_show_it(self, client: Client) -> None:
        client.desk.faults.unlistable, client.desk.faults.unreadable = {7}, {7}

        def status(path: str, **query: str) -> int:
            return client.call("GET", path, sortField="createdAt", sortOrder="asc", pageSize="5", **query).status

        assert [status("conversations", page=page) for page in ("1", "2", "3", "99")] == [200, 500, 200, 200]
        assert (status("conversations/7"), status("conversations/8")) == (500, 200)

    def test_a_proxy_drops_parameters(self, client: Client) -> None:
        client.desk.faults.dropped = frozenset({"pageSize"})
        assert self.listed(client.call("GET", "conversations", pageSize="5"))[1]["size"] == 50

        client.desk.faults.dropped = frozenset({"*"})
        assert self.listed(client.call("GET", "conversations", sortOrder="asc"))[0][0] == 30

    @pytest.mark.parametrize("tells", ["age", "date"])
    def test_a_cache_gives_an_answer_again(self, client: Client, tells: str) -> None:
        client.desk.faults.cache, client.desk.faults.cache_tells = 60, tells  # type: ignore[assignment]
        first = client.call("GET", "conversations/3")
        client.desk.set_status(3, "spam")

        client.clock.advance(10)
        again = client.call("GET", "conversations/3")
        client.clock.advance(60)
        anew = client.call("GET", "conversations/3")

        assert again.body == first.body
        assert again.header("Age") == ("10" if tells == "age" else "")
        assert (again.header("Date") == first.header("Date")) == (tells == "date")
        assert json.loads(anew.body)["status"] == "spam"
        assert anew.header("Age") == ""

    def test_a_conversation_without_a_date_of_creation_is_listed_first_and_by_no_filter(self, client: Client) -> None:
        ticket = client.desk.customer_writes(created=0)

        by_date = self.listed(client.call("GET", "conversations", sortField="createdAt", sortOrder="asc"))[0]
        since = self.listed(client.call("GET", "conversations", createdSince="1970-01-01T00:00:01Z"))[0]

        assert by_date[0] == ticket
        assert ticket not in since
        assert json.loads(client.call("GET", f"conversations/{ticket}").body)["createdAt"] is None
