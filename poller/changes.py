"""What is changed at the desk when an operator says so: a ticket's status, and webhooks. The poller only reads.

Measured on API & Webhooks module 1.0.82: it has no list of webhooks (405), and registering one twice doubles every
delivery; a change of status is answered 204, also when its JSON is malformed and nothing happens.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

import msgspec

from freescout_audit.conversation import Status
from poller.answer import UNREADABLE, DeskError, DeskRefusedError, DeskResponse, DeskUnavailableError, is_json
from poller.meaning import no_answer, what_it_means

_CREATED, _NO_CONTENT, _INVALID, _NOT_FOUND = 201, 204, 400, 404


class Sender(Protocol):
    """Sends a request that changes something below the API's base, and returns its answer.

    Raises:
        OSError: No answer; TimeoutError is one. The change may have been made all the same.
    """

    def __call__(self, method: str, path: str, body: bytes | None, /) -> Awaitable[DeskResponse]:
        """Send it."""
        ...


class _Problem(msgspec.Struct):
    path: str = ""
    message: str = ""


class _Problems(msgspec.Struct):
    errors: list[_Problem] = []


class _Refusal(msgspec.Struct):
    embedded: _Problems = msgspec.field(name="_embedded", default_factory=_Problems)


class _Registered(msgspec.Struct):
    id: int


class DeskChanges:
    """Changes at one desk; nothing is sent twice, since it is not known what became of the first."""

    def __init__(self, send: Sender) -> None:
        self._send = send

    async def set_status(self, ticket_id: int, status: Status, *, by_user: int) -> None:
        """Change a ticket's status in the name of an agent.

        Raises:
            DeskError: It was not changed, or it is not known whether it was.
        """
        document = {"byUser": by_user, "status": status}
        answer = await self._ask("PUT", f"conversations/{ticket_id}", document)
        if answer.status == _NOT_FOUND and is_json(answer):
            raise DeskRefusedError(f"FreeScout has no ticket {ticket_id}", "choose another by its id, not its number")
        if answer.status != _NO_CONTENT:
            raise _refusal(answer)

    async def register_webhook(self, url: str, events: Sequence[str]) -> int:
        """Register a webhook for all mailboxes and return its id; errors as `set_status`."""
        answer = await self._ask("POST", "webhooks", {"url": url, "events": list(events)})
        if answer.status != _CREATED:
            raise _refusal(answer)
        try:
            return msgspec.json.decode(answer.body, type=_Registered, strict=False).id
        except UNREADABLE as error:
            raise DeskUnavailableError("FreeScout registered the webhook, but does not tell its id") from error

    async def remove_webhook(self, webhook_id: int) -> bool:
        """Remove a webhook, and return whether there was one; errors as `set_status`."""
        answer = await self._ask("DELETE", f"webhooks/{webhook_id}", None)
        if answer.status == _NOT_FOUND and is_json(answer):
            return False
        if answer.status != _NO_CONTENT:
            raise _refusal(answer)
        return True

    async def _ask(self, method: str, path: str, document: Mapping[str, object] | None) -> DeskResponse:
        try:
            return await self._send(method, path, None if document is None else msgspec.json.encode(document))
        except OSError as error:
            raise no_answer(error) from error


def _refusal(answer: DeskResponse) -> DeskError:
    """Return what a refusal means, in FreeScout's own words where it has some."""
    if answer.status == _INVALID and is_json(answer):
        try:
            problems = msgspec.json.decode(answer.body, type=_Refusal).embedded.errors
        except UNREADABLE:
            problems = []
        if problems:
            said = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
            return DeskRefusedError(f"FreeScout does not accept that: {said}")
    return what_it_means(answer)
