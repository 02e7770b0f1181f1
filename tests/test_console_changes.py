"""What the console changes at the desk, and what a refusal means."""

import json

import pytest

from freescout_audit.delivery import CONVERSATION_EVENTS
from poller.changes import DeskChanges
from poller.freescout import DeskRefusedError, DeskResponse, DeskUnavailableError
from poller.transport import http_transport
from settings import Secret
from simulator import Api, Desk, ManualClock, serve

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}


class Script:
    """Gives one answer, and remembers what it was sent."""

    def __init__(self, answer: DeskResponse | OSError) -> None:
        self._answer = answer
        self.sent: list[tuple[str, str, object]] = []

    async def __call__(self, method: str, path: str, body: bytes | None, /) -> DeskResponse:
        self.sent.append((method, path, None if body is None else json.loads(body)))
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer


def answer(status: int, document: object = None, headers: dict[str, str] = JSON) -> DeskResponse:
    return DeskResponse(status=status, headers=headers, body=b"" if document is None else json.dumps(document).encode())


async def test_a_status_is_changed_in_the_name_of_an_agent() -> None:
    script = Script(answer(204, headers=HTML))

    await DeskChanges(script).set_status(7, "closed", by_user=3)

    assert script.sent == [("PUT", "conversations/7", {"byUser": 3, "status": "closed"})]


async def test_a_webhook_is_registered_and_its_id_is_told() -> None:
    script = Script(answer(201, {"id": 21, "url": "https://app.example.org/x", "events": ["convo.status"]}))

    webhook_id = await DeskChanges(script).register_webhook("https://app.example.org/x", ["convo.status"])

    assert webhook_id == 21
    assert script.sent == [("POST", "webhooks", {"url": "https://app.example.org/x", "events": ["convo.status"]})]


async def test_removing_tells_whether_there_was_one() -> None:
    assert await DeskChanges(Script(answer(204, headers=HTML))).remove_webhook(21)
    assert not await DeskChanges(Script(answer(404, {"message": "Not Found"}))).remove_webhook(21)


async def test_a_refusal_is_told_in_freescouts_own_words() -> None:
    refusal = {
        "message": "Error occurred",
        "_embedded": {"errors": [{"path": "byUser", "message": "User not found.", "source": "JSON"}]},
    }

    with pytest.raises(DeskRefusedError, match="does not accept that: byUser: User not found"):
        await DeskChanges(Script(answer(400, refusal))).set_status(7, "closed", by_user=99)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (answer(404, {"message": "Not Found"}), DeskRefusedError, "no ticket 7: choose another by its id"),
        (answer(404, headers=HTML), DeskRefusedError, "is FREESCOUT_URL right"),
        (answer(401, {"message": "Not Authorized"}), DeskRefusedError, "compare FREESCOUT_API_KEY"),
        (answer(400, {"message": "?"}), DeskRefusedError, "answers 400"),
        (answer(503, headers=HTML), DeskUnavailableError, "answers 503"),
        (TimeoutError(), DeskUnavailableError, r"does not answer \(TimeoutError\): is FREESCOUT_URL right"),
    ],
)
async def test_what_is_not_a_success_says_what_to_do(
    given: DeskResponse | OSError, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await DeskChanges(Script(given)).set_status(7, "closed", by_user=1)


async def test_a_success_that_tells_no_id_is_none() -> None:
    with pytest.raises(DeskUnavailableError, match="does not tell its id"):
        await DeskChanges(Script(answer(201, {"ok": True}))).register_webhook(
            "https://app.example.org/x", ["convo.status"]
        )


async def test_all_of_it_over_http() -> None:
    desk = Desk(clock=ManualClock(), seed=1)
    ticket = desk.customer_writes()
    api = Api(desk)
    async with serve(desk, api=api) as url, http_transport(url, lambda: Secret(desk.api_key), patience=5) as transport:
        changes = DeskChanges(transport.send)
        await changes.set_status(ticket, "spam", by_user=1)
        webhook_id = await changes.register_webhook("https://app.example.org/x", CONVERSATION_EVENTS)
        registered = dict(desk.webhooks)
        removed = await changes.remove_webhook(webhook_id), await changes.remove_webhook(webhook_id)

    assert desk.get(ticket).status == "spam"
    assert registered[webhook_id].events == CONVERSATION_EVENTS
    assert removed == (True, False)
    assert [request.header("X-FreeScout-API-Key") for request in api.requests] == [desk.api_key] * 4
