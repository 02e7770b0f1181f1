"""The part of FreeScout's REST API that changes something."""

import json
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus

from simulator import payload
from simulator.answers import Answers, ApiRequest, ApiResponse
from simulator.clock import stored_seconds
from simulator.desk import Desk
from simulator.store import NotOnDeskError

_UNASSIGN = -1
_NAMES = {"assignTo": "User", "mailboxId": "Mailbox", "customerId": "Customer"}


class Writes:
    """Creating, changing and deleting, as FreeScout understands it."""

    def __init__(self, desk: Desk, answers: Answers) -> None:
        self._desk = desk
        self._answers = answers

    def create(self, request: ApiRequest) -> ApiResponse:
        """``POST /conversations``: 201 with the conversation and its threads; 400 when something is missing."""
        desk, data = self._desk, _object(request.body)
        mailbox_id = _number(data, "mailboxId")
        threads = data.get("threads")
        first = threads[-1] if isinstance(threads, list) and threads else None
        if mailbox_id not in desk.mailboxes:
            return self._answers.invalid(request, "mailboxId", "Mailbox not found.")
        if not isinstance(first, dict):
            return self._answers.invalid(request, "threads", "Parameter required.")
        customer_id = self._customer(data) or self._customer(first)
        if customer_id is None:
            return self._answers.invalid(request, "customer", "Parameter required.")
        text, subject, status = _text(first, "text"), _text(data, "subject"), _text(data, "status")
        created = _text(data, "createdAt") if data.get("imported") else ""
        imported = stored_seconds(datetime.fromisoformat(created), desk.timezone) if created else None
        assignee = _number(data, "assignTo")
        if assignee is not None and assignee not in desk.agents:
            return self._answers.invalid(request, "assignTo", "User not found.")
        by = _number(first, "user")
        if _text(first, "type") == "customer":
            row_id = desk.customer_writes(
                mailbox_id=mailbox_id,
                customer_id=customer_id,
                subject=subject,
                text=text,
                status=status or "active",
                source="api",
                created=imported,
                assignee=assignee,
            )
        elif by in desk.agents:
            row_id = desk.agent_posts(
                mailbox_id=mailbox_id,
                customer_id=customer_id,
                subject=subject,
                text=text,
                status=status or "pending",
                by=by,
                created=imported,
                assignee=assignee,
            )
        else:
            return self._answers.invalid(request, "user", "User not found.")
        row = desk.get(row_id)
        body = desk.renderer().conversation(row, desk.threads_of(row))
        return self._answers.json(body, status=HTTPStatus.CREATED, resource=row_id)

    def update(self, request: ApiRequest, row_id: int) -> ApiResponse:
        """``PUT /conversations/{id}``: 204, also for malformed JSON, which does nothing; 400 without an agent."""
        desk, data = self._desk, _object(request.body)
        desk.get(row_id)
        wrong = self._wrong_in_update(data)
        if wrong is not None:
            return self._answers.invalid(request, *wrong)
        by = _number(data, "byUser") or 1
        if "status" in data:
            desk.set_status(row_id, _text(data, "status"), by=by)
        match _number(data, "assignTo"):
            case None:
                pass
            case -1:
                desk.unassign(row_id, by=by)
            case to:
                desk.assign(row_id, to, by=by)
        if (mailbox_id := _number(data, "mailboxId")) is not None:
            desk.move(row_id, mailbox_id, by=by)
        if (customer_id := _number(data, "customerId")) is not None:
            desk.change_customer(row_id, customer_id)
        if "subject" in data:
            desk.change_subject(row_id, _text(data, "subject"))
        return self._answers.nothing()

    def _wrong_in_update(self, data: Mapping[str, object]) -> tuple[str, str] | None:
        # Everything is looked at before anything is done.
        desk = self._desk
        if {"status", "assignTo", "mailboxId"} & data.keys() and _number(data, "byUser") not in desk.agents:
            return "byUser", "User not found."
        for name, known in (
            ("assignTo", {_UNASSIGN, *desk.agents}),
            ("mailboxId", desk.mailboxes.keys()),
            ("customerId", desk.customers.keys()),
        ):
            given = _number(data, name)
            if given is not None and given not in known:
                return name, f"{_NAMES[name]} not found."
        return None

    def delete(self, row_id: int) -> ApiResponse:
        """``DELETE /conversations/{id}``: 204, gone for ever."""
        self._desk.delete_forever(row_id)
        return self._answers.nothing()

    def add_thread(self, request: ApiRequest, row_id: int) -> ApiResponse:
        """``POST /conversations/{id}/threads``: 201 with the thread's id; the form of the body was not recorded."""
        desk, data = self._desk, _object(request.body)
        desk.get(row_id)
        text, status, by = _text(data, "text"), _text(data, "status") or None, _number(data, "user")
        kind = _text(data, "type")
        if kind == "customer":
            thread_id = desk.customer_replies(row_id, text=text, source="api")
        elif by not in desk.agents:
            return self._answers.invalid(request, "user", "User not found.")
        elif kind == "note":
            thread_id = desk.note_through_api(row_id, text=text, status=status, by=by)
        elif kind == "message":
            thread_id = desk.reply_through_api(row_id, text=text, status=status, by=by)
        else:
            return self._answers.invalid(request, "type", "Parameter required.")
        body = {"id": thread_id}
        return self._answers.json(body, status=HTTPStatus.CREATED, resource=thread_id)

    def register_webhook(self, request: ApiRequest) -> ApiResponse:
        """``POST /webhooks``: 201 with the webhook; 400 without an address or events."""
        data = _object(request.body)
        events = data.get("events")
        if not _text(data, "url"):
            return self._answers.invalid(request, "url", "Parameter required.")
        if not isinstance(events, list) or not events:
            return self._answers.invalid(request, "events", "Parameter required.")
        hook = self._desk.register_webhook(_text(data, "url"), [str(event) for event in events])
        return self._answers.json(payload.webhook(hook), status=HTTPStatus.CREATED, resource=hook.id)

    def remove_webhook(self, hook_id: int) -> ApiResponse:
        """``DELETE /webhooks/{id}``: 204."""
        if self._desk.webhooks.pop(hook_id, None) is None:
            raise NotOnDeskError(f"no webhook {hook_id}")
        return self._answers.nothing()

    def _customer(self, data: Mapping[str, object]) -> int | None:
        given = data.get("customer")
        if not isinstance(given, dict):
            return None
        email, customer_id = _text(given, "email"), _number(given, "id")
        if customer_id in self._desk.customers:
            return customer_id
        if not email:
            return None
        for person in self._desk.customers.values():
            if person.email == email:
                return person.id
        return self._desk.add_customer(email, _text(given, "firstName"), _text(given, "lastName")).id


def _object(body: bytes) -> Mapping[str, object]:
    # Malformed JSON is an empty request to FreeScout, not an error.
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(data: Mapping[str, object], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _number(data: Mapping[str, object], name: str) -> int | None:
    value = data.get(name)
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.removeprefix("-").isdecimal() else None
