"""A conversation as FreeScout tells it, in a delivery or in an API answer, cut down to what the cache needs.

Only eight fields are ever decoded; subject, body, names and addresses are skipped over and never leave the raw bytes.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

import msgspec

from freescout_audit.errors import FreescoutAuditError

Status = Literal["active", "pending", "closed", "spam"]
State = Literal["draft", "published", "deleted"]

MAX_ID = 2**63 - 1

_STATUSES: dict[object, Status] = {status: status for status in get_args(Status)}
_STATES: dict[object, State] = {state: state for state in get_args(State)}


class UnusableBodyError(FreescoutAuditError):
    """The bytes are not JSON, or carry no usable conversation id."""


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What one delivery or one API answer says of one conversation.

    ``status``, ``state`` and ``updated_at`` are None when FreeScout said something we do not understand; the sighting
    then is not :attr:`understood` and nothing may be concluded from it but that the conversation is there.
    ``number``, ``mailbox_id`` and ``created_at`` are None when absent or not understood. Times are aware, in UTC.
    """

    ticket_id: int
    status: Status | None
    state: State | None
    updated_at: datetime | None
    number: int | None = None
    mailbox_id: int | None = None
    created_at: datetime | None = None

    @property
    def understood(self) -> bool:
        """Whether status, state and date all mean something to us."""
        return self.status is not None and self.state is not None and self.updated_at is not None


class _Fields(msgspec.Struct, rename="camel"):
    """The fields we read, each still raw, so that a strange one spoils nothing but itself."""

    id: msgspec.Raw = msgspec.Raw()
    number: msgspec.Raw = msgspec.Raw()
    mailbox_id: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()
    state: msgspec.Raw = msgspec.Raw()
    updated_at: msgspec.Raw = msgspec.Raw()
    created_at: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Fields)


def decode_conversation(body: bytes | bytearray | memoryview) -> Sighting:
    """Decode one conversation object as FreeScout's deliveries and API answers carry it.

    Args:
        body: The JSON object, threads and all; a 6.8 MB body with 300 threads is ordinary.

    Raises:
        UnusableBodyError: Not JSON, not an object, or without an ``id`` from 1 to 2^63-1 (a decimal string will do).
    """
    fields = _fields(body)
    ticket_id = _integer(fields.id)
    if ticket_id is None:
        raise UnusableBodyError("the conversation has no usable id: expected a whole number from 1 to 2^63-1")
    return Sighting(
        ticket_id=ticket_id,
        status=_STATUSES.get(_text(fields.status)),
        state=_STATES.get(_text(fields.state)),
        updated_at=_date(fields.updated_at),
        number=_integer(fields.number),
        mailbox_id=_integer(fields.mailbox_id),
        created_at=_date(fields.created_at),
    )


def carries_a_conversation(body: bytes | bytearray) -> bool:
    """Tell whether a JSON body has both ``id`` and ``status``, as every conversation does.

    Raises:
        UnusableBodyError: Not JSON.
    """
    try:
        fields = _fields(body)
    except UnusableBodyError:
        _require_json(body)
        return False
    return bool(memoryview(fields.id)) and bool(memoryview(fields.status))


def _fields(body: bytes | bytearray | memoryview) -> _Fields:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnusableBodyError("the body is not a JSON object") from error


def _require_json(body: bytes | bytearray) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnusableBodyError("the body is not JSON") from error


_scalar: msgspec.json.Decoder[int | float | str | None] = msgspec.json.Decoder(int | float | str | bool | None)


def _value(raw: msgspec.Raw) -> int | float | str | None:
    """Return the JSON scalar in ``raw``; None for anything else, an absent field included."""
    try:
        return _scalar.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _text(raw: msgspec.Raw) -> str | None:
    value = _value(raw)
    return value if isinstance(value, str) else None


def _integer(raw: msgspec.Raw) -> int | None:
    """Return a positive 64-bit integer, which FreeScout may send as a decimal string; None for anything else."""
    value = _value(raw)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(MAX_ID)):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_ID:
        return value
    return None


_ZonedDate = Annotated[datetime, msgspec.Meta(tz=True)]


def _date(raw: msgspec.Raw) -> datetime | None:
    """Return an RFC 3339 date with a zone in UTC; None for anything else (a date without zone could mean any hour)."""
    text = _text(raw)
    if text is None:
        return None
    try:
        return msgspec.convert(text, _ZonedDate).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError, ValueError):
        return None
