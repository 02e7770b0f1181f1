"""What FreeScout's database holds: conversations, their threads, the people. No behaviour beyond copying.

All times are Unix seconds as FreeScout would report them (see ``clock.stored_seconds``).
"""

from copy import copy
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Self

State = Literal["draft", "published", "deleted"]
PersonType = Literal["user", "customer"]
ThreadType = Literal["customer", "message", "note", "lineitem"]


class Status(IntEnum):
    """FreeScout's numbers for the four statuses; its database may hold any other number."""

    ACTIVE = 1
    PENDING = 2
    CLOSED = 3
    SPAM = 4


def status_name(code: int) -> str:
    """Return the word for a status number; an unknown number is sent as ``active`` (fail-open on their side)."""
    return Status(code).name.lower() if code in STATUS_CODES else "active"


def status_code(name: str) -> Status:
    """Return the number for a word; an unknown word makes a conversation active (``PUT status=bogus``)."""
    return Status.__members__.get(name.upper(), Status.ACTIVE)


STATUS_CODES = frozenset(int(status) for status in Status)


@dataclass(frozen=True, slots=True)
class Person:
    """An agent (``user``) or a customer; made up, always."""

    id: int
    type: PersonType
    first_name: str
    last_name: str
    email: str
    created: int = 0

    @property
    def name(self) -> str:
        """The name as it stands in the texts of line items."""
        return f"{self.first_name} {self.last_name}".strip()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox of the desk."""

    id: int
    name: str
    email: str
    created: int


@dataclass(slots=True)
class Thread:
    """One entry of a conversation: a message, a note, or a line that says what somebody did."""

    id: int
    type: ThreadType
    status: str
    text: str
    by: PersonType
    by_id: int
    customer_id: int | None
    created: int
    body: str | None = None
    action: str = ""
    source: str = "web"
    assigned_to: int | None = None
    to: tuple[str, ...] = ()
    state: State = "published"


@dataclass(slots=True, eq=False)
class Conversation:
    """A conversation's row. ``copy()`` of it is the snapshot that a delivery carries.

    ``threads`` is None while nobody has looked at a conversation that was seeded in bulk: the desk makes its one
    thread when it is first needed, so that a million conversations fit into memory. ``created`` is 0 where the database
    has no such date: MySQL lists those first, and no ``createdSince`` finds them.
    """

    id: int
    number: int
    mailbox_id: int
    status_code: int
    state: State
    subject: str
    created: int
    updated: int
    customer_id: int | None
    by: PersonType = "customer"
    by_id: int = 1
    source: str = "email"
    preview: str = ""
    threads_count: int = 0
    assignee: int | None = None
    closed_by: int | None = None
    closed: int | None = None
    user_updated: int | None = None
    last_reply: int | None = None
    last_reply_from: str = ""
    threads: list[Thread] | None = field(default_factory=list)
    mailbox_as_text: bool = False

    @property
    def status(self) -> str:
        """The status as FreeScout sends it."""
        return status_name(self.status_code)

    def copy(self) -> Self:
        """Return the row as it is now; later changes do not reach the copy. Its threads are left out."""
        snapshot = copy(self)
        snapshot.threads = []
        return snapshot

    def replies(self) -> int:
        """Count the messages that FreeScout counts: published ones of customers and agents."""
        if self.threads is None:
            return 1
        return sum(t.type in ("customer", "message") and t.state == "published" for t in self.threads)
