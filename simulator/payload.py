"""FreeScout's JSON, byte for byte: key order, escapes and number forms as recorded from module 1.0.82."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from simulator.clock import iso
from simulator.conversation import Conversation, Mailbox, Person, PersonType, Thread
from simulator.jobs import Webhook

# JSON is what it is: nothing here is read back by our code.
Json = dict[str, object]

_FOLDER_KINDS = {"unassigned": 1, "drafts": 2, "assigned": 3, "closed": 4, "spam": 5, "deleted": 6}
_FOLDERS_PER_MAILBOX = 10
_STATUS_TEXTS = {"active": "Active", "pending": "Pending", "closed": "Closed", "spam": "Spam"}


def to_bytes(value: object) -> bytes:
    r"""Encode as PHP's ``json_encode`` does: ASCII, no spaces, ``\/`` and ``\uXXXX``."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("/", "\\/").encode("ascii")


@dataclass(frozen=True, slots=True)
class Renderer:
    """Writes conversations as FreeScout sends them.

    Attributes:
        person: Looks up an agent or a customer as they are called now.
        status: The status text of a conversation (a fault may replace it).
        now: The desk's clock in Unix seconds, for texts such as "35 min ago".
    """

    person: Callable[[PersonType, int], Person | None]
    status: Callable[[Conversation], str]
    now: int

    def conversation(self, row: Conversation, threads: Sequence[Thread]) -> Json:
        """Write one conversation with the threads given, newest first whatever their order."""
        closed_by = None if row.closed_by is None else self._person("user", row.closed_by)
        return {
            "id": row.id,
            "number": row.number,
            "threadsCount": row.threads_count,
            "type": "email",
            "folderId": folder_id(row),
            "status": self.status(row),
            "state": row.state,
            "subject": row.subject,
            "preview": row.preview,
            "mailboxId": str(row.mailbox_id) if row.mailbox_as_text else row.mailbox_id,
            "assignee": None if row.assignee is None else self._person("user", row.assignee),
            "createdBy": self._person(row.by, row.by_id),
            "createdAt": _iso_or_none(row.created or None),
            "updatedAt": iso(row.updated),
            "closedBy": row.closed_by,
            "closedByUser": closed_by,
            "closedAt": _iso_or_none(row.closed),
            "userUpdatedAt": _iso_or_none(row.user_updated),
            "customerWaitingSince": {
                "time": _iso_or_none(row.last_reply),
                "friendly": _ago(self.now - _waiting_since(row)),
                "latestReplyFrom": row.last_reply_from,
            },
            "source": {"type": row.source, "via": row.by},
            "cc": [],
            "bcc": [],
            "customer": None if row.customer_id is None else self._person("customer", row.customer_id),
            "_embedded": {"threads": [self._thread(row, thread) for thread in _newest_first(threads)]},
        }

    def customer(self, person: Person) -> Json:
        """Write the object of a ``customer.*`` event: no status, no threads."""
        return {
            "id": person.id,
            "firstName": person.first_name,
            "lastName": person.last_name,
            "jobTitle": None,
            "company": None,
            "photoType": "unknown",
            "photoUrl": "",
            "createdAt": iso(person.created),
            "updatedAt": iso(person.created),
            "notes": None,
            "_embedded": {
                "emails": [{"id": person.id, "value": person.email, "type": "work"}],
                "phones": [],
                "social_profiles": [],
                "websites": [],
                "address": {"city": None, "state": None, "zip": None, "country": None, "address": None},
            },
        }

    def _thread(self, row: Conversation, thread: Thread) -> Json:
        author = self.person(thread.by, thread.by_id)
        text = thread.text.format(who=author.name if author else "", number=row.number)
        assigned = thread.assigned_to
        return {
            "id": thread.id,
            "type": thread.type,
            "status": thread.status,
            "state": thread.state,
            "action": {"type": thread.action, "text": text, "associatedEntities": []},
            "body": thread.body,
            "source": {"type": thread.source, "via": thread.by},
            "customer": None if thread.customer_id is None else self._person("customer", thread.customer_id),
            "createdBy": self._person(thread.by, thread.by_id),
            "assignedTo": None if assigned is None else self._person("user", assigned),
            "to": list(thread.to),
            "cc": [],
            "bcc": [],
            "createdAt": iso(thread.created),
            "openedAt": None,
            "_embedded": {"attachments": []},
        }

    def _person(self, kind: PersonType, person_id: int) -> Json | None:
        person = self.person(kind, person_id)
        if person is None:
            return None
        return {
            "id": person.id,
            "type": person.type,
            "firstName": person.first_name,
            "lastName": person.last_name,
            "photoUrl": "",
            "email": person.email,
        }


def webhook(hook: Webhook) -> Json:
    """Write a webhook as ``POST /webhooks`` answers it."""
    return {
        "id": hook.id,
        "url": hook.url,
        "events": list(hook.events),
        "lastRunTime": None,
        "lastRunError": "",
    }


def mailbox(box: Mailbox) -> Json:
    """Write a mailbox as ``GET /mailboxes`` lists it."""
    stamp = iso(box.created)
    return {"id": box.id, "name": box.name, "email": box.email, "createdAt": stamp, "updatedAt": stamp}


def status_line(status: str) -> str:
    """Return the text template of the line that a status change leaves in a conversation."""
    return f"{{who}} marked as {_STATUS_TEXTS[status]} conversation #{{number}}"


def folder_id(row: Conversation) -> int:
    """Return the folder a conversation lies in; each mailbox has its own set."""
    if row.state == "deleted":
        kind = "deleted"
    elif row.state == "draft":
        kind = "drafts"
    elif row.status in ("closed", "spam"):
        kind = row.status
    else:
        kind = "unassigned" if row.assignee is None else "assigned"
    return (row.mailbox_id - 1) * _FOLDERS_PER_MAILBOX + _FOLDER_KINDS[kind]


def _newest_first(threads: Iterable[Thread]) -> list[Thread]:
    shown = (thread for thread in threads if thread.state != "draft")
    return sorted(shown, key=lambda thread: (thread.created, thread.id), reverse=True)


def _iso_or_none(seconds: int | None) -> str | None:
    return None if seconds is None else iso(seconds)


def _waiting_since(row: Conversation) -> int:
    # Which date the text counts from depends on the folder.
    by_folder: int | None
    if row.state == "deleted":
        by_folder = row.user_updated
    elif row.state == "draft":
        by_folder = row.updated
    elif row.status == "closed":
        by_folder = row.closed
    else:
        by_folder = row.last_reply
    return by_folder or row.last_reply or row.updated


def _ago(seconds: int) -> str:
    minute, hour, day = 60, 3600, 86400
    if seconds < minute:
        return "Just now"
    if seconds < hour:
        return f"{seconds // minute} min ago"
    count, unit = (seconds // hour, "hour") if seconds < day else (seconds // day, "day")
    return f"{count} {unit}{'s' if count > 1 else ''} ago"
