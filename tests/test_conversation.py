"""What is read of a conversation, and what is made of strange ones."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from freescout_audit.conversation import UnusableBodyError, decode_conversation
from freescout_audit.delivery import KNOWN_EVENTS, event_label, event_name, read_claim
from support.examples import at, body, claim, large_body


def test_the_fields_that_matter_are_read() -> None:
    said = decode_conversation(body("closed", 5, number=123, mailboxId="2"))

    assert said == claim("closed", 5).sighting.__class__(
        ticket_id=7,
        status="closed",
        state="published",
        updated_at=at(5),
        number=123,
        mailbox_id=2,
        created_at=at(-3600),
    )
    assert said.understood


def test_nothing_else_is_kept() -> None:
    assert "never stored" not in repr(decode_conversation(body()))


@pytest.mark.parametrize(("given", "ticket_id"), [(1, 1), ("4711", 4711), (2**63 - 1, 2**63 - 1)])
def test_an_id_may_be_a_number_or_a_decimal_string(given: object, ticket_id: int) -> None:
    assert decode_conversation(body(ticket_id=given)).ticket_id == ticket_id


@pytest.mark.parametrize(
    "given", [None, 0, -1, 7.0, 7.5, 2**63, str(2**63), "9" * 5000, "", "7a", "+7", "\u0667", True, [7], {"id": 7}]
)
def test_any_other_id_is_unusable(given: object) -> None:
    with pytest.raises(UnusableBodyError, match="no usable id"):
        decode_conversation(body(ticket_id=given))


@pytest.mark.parametrize(
    "raw",
    [b"", b"null", b"[]", b'"x"', b"7", b"{", body()[:-1], body() + b"x", b"\xff", b"[" * 100_000, b'{"a":' * 100_000],
)
def test_what_is_not_a_json_object_is_unusable(raw: bytes) -> None:
    with pytest.raises(UnusableBodyError, match="not a JSON object"):
        decode_conversation(raw)


@pytest.mark.parametrize(
    "strange",
    [
        {"status": "resolved"},
        {"status": "ACTIVE"},
        {"status": None},
        {"status": 1},
        {"status": "active\0"},
        {"status": ["active"]},
        {"state": "archived"},
        {"state": "\0"},
        {"updatedAt": None},
        {"updatedAt": "2024-11-23T12:00:00"},
        {"updatedAt": "2024-11-23 12:00:00"},
        {"updatedAt": "2026-02-30T12:00:00Z"},
        {"updatedAt": "yesterday"},
        {"updatedAt": 1795444283},
        {"updatedAt": "0001-01-01T00:00:00+14:00"},
    ],
    ids=str,
)
def test_a_strange_status_state_or_date_is_not_understood_and_never_active(strange: dict[str, Any]) -> None:
    said = decode_conversation(body(**strange))

    assert said.ticket_id == 7
    assert not said.understood


@pytest.mark.parametrize("name", ["status", "state", "updatedAt"])
def test_a_missing_field_is_not_understood(name: str) -> None:
    document = json.loads(body())
    del document[name]

    assert not decode_conversation(json.dumps(document).encode()).understood


@pytest.mark.parametrize("strange", [{"number": "x"}, {"mailboxId": {}}, {"createdAt": "then"}], ids=str)
def test_a_strange_field_that_is_not_the_answer_spoils_nothing(strange: dict[str, Any]) -> None:
    assert decode_conversation(body(**strange)).understood


def test_a_date_with_another_zone_is_the_same_moment() -> None:
    said = decode_conversation(body(updatedAt="2024-11-23T13:00:00+01:00"))

    assert said.updated_at == datetime(2024, 11, 23, 12, tzinfo=UTC)


def test_a_body_of_300_long_threads_is_ordinary() -> None:
    threads = [{"id": number, "body": "<p>" + "x" * 22_000} for number in range(300)]

    said = decode_conversation(body("pending", _embedded={"threads": threads}))

    assert said.status == "pending"


@pytest.mark.parametrize("damage", [b"\0", b'"', b"\n"], ids=["zero", "quote", "line break"])
def test_a_large_body_that_is_damaged_in_the_middle_is_unusable(damage: bytes) -> None:
    assert decode_conversation(large_body()).status == "closed"

    with pytest.raises(UnusableBodyError, match="not a JSON object"):
        decode_conversation(large_body(damage=damage))


@pytest.mark.parametrize("event", ["customer.created", "customer.updated", "customer.anything"])
def test_a_customer_is_no_claim(event: str) -> None:
    assert read_claim(event, b'{"id": 7, "type": "customer"}') is None


@pytest.mark.parametrize("event", ["convo.status", "convo.merged", "my.workflow", "", "CONVO.DELETED_FOREVER"])
def test_a_conversation_is_a_claim_whatever_the_events_name(event: str) -> None:
    assert read_claim(event, body("closed", 5)) == claim("closed", 5)


def test_only_the_events_name_says_that_a_conversation_is_gone() -> None:
    assert read_claim("convo.deleted_forever", body("closed", 5)) == claim("closed", 5, says_gone=True)


@pytest.mark.parametrize("event", ["my.workflow", "convo.custom"])
@pytest.mark.parametrize("raw", [b"{}", b"[]", b"null", b'{"id": 7}', b'{"status": "active"}'])
def test_a_custom_event_without_a_conversation_is_no_claim(event: str, raw: bytes) -> None:
    assert read_claim(event, raw) is None


@pytest.mark.parametrize(
    ("event", "raw"),
    [
        ("convo.status", b"{}"),
        ("convo.status", b"null"),
        ("", b"{}"),
        ("my.workflow", b"{"),
        ("my.workflow", body(ticket_id="x")),
    ],
)
def test_what_should_carry_a_conversation_and_does_not_is_unusable(event: str, raw: bytes) -> None:
    with pytest.raises(UnusableBodyError):
        read_claim(event, raw)


def test_an_events_name_is_made_fit_to_store() -> None:
    assert event_name("convo.status") == "convo.status"
    assert event_name(None) == ""
    assert event_name("a\0b\nc\x1b[31m é") == "a?b?c?[31m??"
    assert event_name("\udcff" + "x" * 1000) == "?" + "x" * 63


def test_nobody_can_invent_metric_labels() -> None:
    assert {event_label(name) for name in ("convo.status", "x", "", "convo.x")} == {"convo.status", "other"}
    assert "convo.deleted_forever" in KNOWN_EVENTS
