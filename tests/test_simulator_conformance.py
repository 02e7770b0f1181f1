"""The simulator against the recordings of a real FreeScout: the same steps give the same deliveries and answers."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from simulator import Api, ApiFault, ApiRequest, ApiResponse, Attempt, Desk, ManualClock, Worker
from simulator.testing import Recorder
from support.likeness import assert_same, assert_same_headers, assert_same_shape
from support.recordings import MODULE_82, RECORDINGS, operations


class Replay:
    """The recorded session, done again at the simulator at the recorded times."""

    def __init__(self) -> None:
        self.clock = ManualClock(datetime(2026, 11, 23, 14, 31, 18, 250_000, tzinfo=UTC))
        self.desk = Desk(clock=self.clock, module="1.0.82", agents=2, customers=0)
        self.desk.register_webhook("http://receiver.test/")
        self.api = Api(self.desk)
        self.worker = Worker(self.desk)
        self.received = Recorder()

    async def run(self) -> list[Attempt]:
        for time, act in self.steps():
            until = datetime.fromisoformat(f"2026-11-23T{time}Z")
            await self.worker.run_until_idle(
                self.received, self.clock, within=(until - self.clock.now()).total_seconds()
            )
            self.clock.advance_to(until)
            act()
        await self.worker.run_until_idle(self.received, self.clock)
        return self.received.deliveries

    def call(self, method: str, path: str, body: object = None, **query: str) -> ApiResponse:
        headers = {"X-FreeScout-API-Key": self.desk.api_key, "Accept": "application/json"}
        raw = b"" if body is None else json.dumps(body).encode()
        return self.api.answer(ApiRequest(method, f"/api/{path}", query, headers, raw))

    def post(self, kind: str = "customer", **extra: object) -> Callable[[], ApiResponse]:
        customer = {"email": "customer1@example.org", "firstName": "Customer", "lastName": "1"}
        thread: dict[str, object] = {"type": kind, "text": "<p>Hello</p>"}
        thread |= {"customer": customer} if kind == "customer" else {"user": 1}
        body = {"mailboxId": 1, "subject": "Test", "customer": customer, "threads": [thread], **extra}
        return lambda: self.call("POST", "conversations", body)

    def put(self, ticket: int, **body: object) -> Callable[[], object]:
        return lambda: self.call("PUT", f"conversations/{ticket}", {"byUser": 1, **body})

    def thread(self, ticket: int, kind: str, **extra: object) -> Callable[[], object]:
        body = {"type": kind, "text": "text", "user": 1, **extra}
        return lambda: self.call("POST", f"conversations/{ticket}/threads", body)

    def an_hour_back(self, ticket: int) -> Callable[[], object]:
        # The recorder's artefact, to see whether an operation moves the date.
        return lambda: self.desk.write_updated(ticket, int(self.clock.now().timestamp()) - 3600)

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:  # noqa: PLR0915 - a session, from top to bottom
        desk = self.desk
        yield "14:31:21", self.post()
        yield "14:31:24", self.put(1, status="closed")
        yield "14:33:36", self.post()
        yield "14:33:41", self.post(status="closed")
        yield "14:33:46", self.post(status="spam")
        yield "14:33:51", self.post(imported=True, createdAt="2024-03-16T14:07:23Z")
        yield "14:33:56", self.post("message")
        yield "14:34:15", self.post()
        yield "14:34:20", self.put(7, status="closed")
        yield "14:34:26", self.put(7, status="closed")
        yield "14:34:29", self.put(7, status="pending")
        yield "14:34:36", self.put(7, status="spam")
        yield "14:34:41", self.put(7, status="bogus")
        yield "14:34:46", self.put(7, byUser=None, status="closed")
        yield "14:34:49", self.put(7, assignTo=2)
        yield "14:35:11", self.put(7, assignTo=-1)
        yield "14:35:14", self.put(7, status="closed", assignTo=1)
        yield "14:35:21", self.put(7, mailboxId=2)
        yield "14:35:27", self.put(7, subject="Other")
        yield "14:35:30", self.thread(7, "customer")
        yield "14:35:51", self.thread(7, "message")
        yield "14:36:12", self.thread(7, "message", status="closed")
        yield "14:36:32", self.an_hour_back(7)
        yield "14:36:32", self.thread(7, "note")
        yield "14:36:37", self.thread(7, "note", status="active")
        yield "14:36:40", self.post(status="closed")
        yield "14:36:45", self.thread(8, "customer", imported=True)
        yield "14:36:50", self.post(status="spam")
        yield "14:36:55", self.thread(9, "customer")
        yield "14:37:00", self.post()
        yield "14:37:05", lambda: desk.delete_to_folder(10)
        yield "14:37:12", self.put(10, status="closed")
        yield "14:37:17", self.thread(10, "customer")
        yield "14:37:22", lambda: desk.delete_to_folder(10)
        yield "14:37:27", lambda: desk.restore(10)
        yield "14:37:32", self.an_hour_back(10)
        yield "14:37:32", lambda: self.call("DELETE", "conversations/10")
        yield "14:37:35", self.post()
        yield "14:37:40", lambda: desk.set_status(11, "closed")
        yield "14:37:47", lambda: desk.set_status(11, "spam")
        yield "14:37:52", lambda: desk.not_spam(11)
        yield "14:37:55", self.post()
        yield "14:38:00", lambda: desk.bulk_set_status([11, 12], "pending")
        yield "14:38:07", lambda: desk.bulk_set_status([11, 12], "pending")
        yield "14:38:12", lambda: desk.assign(11, 2)
        yield "14:38:32", lambda: desk.unassign(11)
        yield "14:38:38", lambda: desk.change_subject(11, "Other")
        yield "14:38:41", lambda: desk.move(11, 2)
        yield "14:38:47", lambda: desk.merge(11, 12)
        yield "14:38:51", self.post()
        yield "14:38:56", lambda: desk.reply_in_ui(13, status="closed")
        yield "14:39:17", lambda: desk.note_in_ui(13, status="active")
        yield "14:39:22", lambda: desk.reply_in_ui(13, status="pending")
        yield "14:39:25", lambda: desk.set_status(13, "closed")
        yield "14:39:44", lambda: desk.reply_in_ui(13, status="active")
        # The recorded worker woke here, before the reply was undone; threads are those of the moment of sending.
        yield "14:39:44.800", self.worker.restart
        yield "14:39:46", lambda: desk.undo_reply(13, max(thread.id for thread in desk.threads_of(desk.get(13))))
        yield "14:40:05", lambda: desk.start_in_ui(status="pending")
        yield "14:40:28", lambda: desk.start_in_ui(status="pending")
        yield "14:40:30", lambda: desk.undo_start(15)
        yield "14:40:49", lambda: desk.start_in_ui(status="pending")
        yield "14:40:51", lambda: desk.set_status(16, "closed")
        yield "14:41:10", desk.save_draft
        yield "14:41:13", lambda: desk.send_draft(17, status="closed")
        yield "14:41:33", desk.save_draft
        yield "14:41:36", self.an_hour_back(18)
        yield "14:41:36", lambda: desk.delete_forever(18)
        yield "14:41:41", self.post()
        yield "14:41:46", lambda: desk.save_draft_reply(19)
        yield "14:41:50", lambda: desk.forward(19, status="closed")


async def test_the_recorded_steps_give_the_recorded_deliveries_field_by_field() -> None:
    recorded = MODULE_82.deliveries()

    delivered = await Replay().run()

    assert [ours.event for ours in delivered] == [theirs.event for theirs in recorded]
    for ours, theirs in zip(delivered, recorded, strict=True):
        assert_same(json.loads(ours.body), theirs.conversation(), f"delivery {theirs.n}")
        assert_same_headers(ours, theirs)


async def test_after_the_recorded_steps_the_desk_is_what_freescout_was() -> None:
    replay = Replay()
    last = {done["ticket_id"]: done["truth_after"] for done in operations() if done["ticket_id"] < 19}

    await replay.run()

    for ticket, truth in last.items():
        row = replay.desk.conversations.get(ticket)
        assert (row is None) == (truth is None), ticket
        if row is not None:
            assert (row.status, row.state, str(row.mailbox_id)) == (
                truth["status"],
                truth["state"],
                truth["mailbox_id"],
            ), ticket


@pytest.fixture
async def desk_after() -> Replay:
    replay = Replay()
    await replay.run()
    replay.clock.advance(60)
    return replay


THREE = {
    "updatedSince": "2026-11-23T14:00:00Z",
    "sortField": "updatedAt",
    "sortOrder": "asc",
    "pageSize": "3",
}
ANSWERS: dict[str, Callable[[Replay], ApiResponse]] = {
    "delete_conversation_204": lambda r: r.call("DELETE", "conversations/9"),
    "get_conversation_404": lambda r: r.call("GET", "conversations/10"),
    "get_conversation_embed_none": lambda r: r.call("GET", "conversations/1", embed="none"),
    "get_conversation_with_threads": lambda r: r.call("GET", "conversations/1"),
    "list_bad_date_500": lambda r: r.call("GET", "conversations", updatedSince="yesterdayish"),
    "list_empty": lambda r: r.call("GET", "conversations", mailboxId="99"),
    "list_mailboxes": lambda r: r.call("GET", "mailboxes"),
    "list_negative_page_size_500": lambda r: r.call("GET", "conversations", pageSize="-1"),
    "list_past_the_end": lambda r: r.call("GET", "conversations", page="9999"),
    "list_webhooks": lambda r: r.call("GET", "webhooks"),
    "put_status_204": lambda r: r.call("PUT", "conversations/1", {"byUser": 1, "status": "pending"}),
    "put_unknown_user_400": lambda r: r.call("PUT", "conversations/1", {"byUser": 999, "status": "closed"}),
    "unauthorized_401": lambda r: r.api.answer(
        ApiRequest("GET", "/api/conversations", headers={"Accept": "application/json"})
    ),
    "post_conversation_201": lambda r: r.post()(),
    "post_webhook_201": lambda r: r.call(
        "POST", "webhooks", {"url": "http://127.0.0.1:9/never", "events": ["convo.status"]}
    ),
    "delete_webhook_204": lambda r: r.call("DELETE", "webhooks/1"),
    "maintenance_503": lambda r: broken(r, ApiFault.MAINTENANCE),
    "list_count_only_pageSize1": lambda r: r.call("GET", "conversations", pageSize="1"),
    "list_updatedSince_asc_size3_page1": lambda r: r.call("GET", "conversations", **THREE, page="1"),
    "list_updatedSince_asc_size3_page2": lambda r: r.call("GET", "conversations", **THREE, page="2"),
}


def broken(replay: Replay, fault: ApiFault) -> ApiResponse:
    replay.desk.faults.api = fault
    return replay.call("GET", "conversations")


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_has_the_recorded_status_headers_and_fields(desk_after: Replay, name: str) -> None:
    status, headers, body = recorded_answer(name)

    answer = ANSWERS[name](desk_after)

    assert answer.status == status
    assert [header for header, _ in answer.headers] == [header for header, _ in headers]
    differing = {"Date", "Resource-ID"}
    assert [h for h in answer.headers if h[0] not in differing] == [h for h in headers if h[0] not in differing]
    if "\n " in body:
        assert answer.body.decode() == body
    elif body:
        assert_same_shape(json.loads(answer.body), json.loads(body), name)
    else:
        assert answer.body == b""


def test_every_recorded_answer_is_compared() -> None:
    assert sorted(path.stem for path in (RECORDINGS / "api").glob("*.http")) == sorted(ANSWERS)


def recorded_answer(name: str) -> tuple[int, list[tuple[str, str]], str]:
    head, _, body = (RECORDINGS / "api" / f"{name}.http").read_text().replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.splitlines()
    headers = [(key, value) for key, _, value in (line.partition(": ") for line in lines)]
    return int(first.split()[1]), headers, body.rstrip("\n")
