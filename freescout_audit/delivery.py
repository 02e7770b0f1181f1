"""What a webhook delivery claims, read from its event name (unsigned) and its body (signed)."""

import re
from collections.abc import Sequence

from freescout_audit.conversation import carries_a_conversation, decode_conversation
from freescout_audit.rule import Claim

CONVERSATION_EVENTS = (
    "convo.assigned",
    "convo.created",
    "convo.deleted",
    "convo.deleted_forever",
    "convo.restored",
    "convo.moved",
    "convo.status",
    "convo.customer.reply.created",
    "convo.agent.reply.created",
    "convo.note.created",
)
CUSTOMER_EVENTS = ("customer.created", "customer.updated")
KNOWN_EVENTS = frozenset(CONVERSATION_EVENTS + CUSTOMER_EVENTS)

_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_LONGEST_EVENT = 64


def event_name(header: str | None) -> str:
    """Return the event header made fit to store and log: printable ASCII, 64 characters at most.

    The name is not signed, so it can hold anything a client can send.
    """
    return _UNPRINTABLE.sub("?", (header or "")[:_LONGEST_EVENT])


def event_label(event: str) -> str:
    """Return the event as a metric label: a known name, or ``other`` so that a sender cannot invent labels."""
    return event if event in KNOWN_EVENTS else "other"


def both_names(patterns: Sequence[str]) -> Sequence[str]:
    """Return patterns that find events by their full name, ``convo.status``, and as we show it, ``status``."""
    return [*patterns, *(f"convo.{pattern}" for pattern in patterns)]


def read_claim(event: str, body: bytes | bytearray) -> Claim | None:
    """Read what a verified delivery claims about a conversation; None when it carries no conversation.

    The event's name decides two things only: ``customer.*`` carries a customer, and ``convo.deleted_forever`` says a
    conversation is gone, which its body never shows. A name of a Workflow's own may carry anything.

    Raises:
        UnusableBodyError: Not JSON, or a conversation without a usable id.
    """
    if event.startswith("customer."):
        return None
    if event and event not in KNOWN_EVENTS and not carries_a_conversation(body):
        return None
    return Claim(sighting=decode_conversation(body), says_gone=event == "convo.deleted_forever")
