"""Bodies to send: recorded ones, and what no FreeScout would ever write, validly signed all the same.

``CANARY`` stands in each subject that is made here: nothing of a body may reach the log or the database.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

CANARY = "canary-that-must-never-be-seen"
RECORDING = Path(__file__).resolve().parents[2] / "tests" / "recordings" / "deliveries.jsonl"
FORGED = 8 * 10**18
"""The tickets from here to `FORGED_END` stand in unsigned bodies only: one in the database was let in by mistake."""
FORGED_END = FORGED + 10**9
HOSTILE = 3 * 10**12
"""The tickets from here on stand in signed bodies that are strange in some other way."""
UPDATED_AT = b"2024-11-23T12:00:00Z"

TAKEN = frozenset({200})
UNUSABLE = frozenset({400})
EITHER = TAKEN | UNUSABLE

_ID = re.compile(rb'^\{"id":\d+,')
_UPDATED_AT = re.compile(rb'"updatedAt":"[^"]*"')


@dataclass(frozen=True, slots=True)
class Sample:
    """A delivery as FreeScout sends it; ``conversation`` when its body can be made to speak of another ticket."""

    event: str
    body: bytes
    conversation: bool
    status: str
    state: str

    def about(self, ticket_id: int) -> bytes:
        """Return the body as if it were another ticket's, last changed at `UPDATED_AT`."""
        return _UPDATED_AT.sub(b'"updatedAt":"%s"' % UPDATED_AT, _ID.sub(b'{"id":%d,' % ticket_id, self.body), count=1)


@dataclass(frozen=True, slots=True)
class Body:
    """A body, and the answers it may get when it is validly signed."""

    raw: bytes
    allowed: frozenset[int]


def load_samples() -> list[Sample]:
    """Return what a real FreeScout has sent, as recorded."""
    lines = map(json.loads, RECORDING.read_text(encoding="utf-8").splitlines())
    return [_sample(line["headers"]["X-FreeScout-Event"], line["body"].encode("ascii")) for line in lines]


def _sample(event: str, body: bytes) -> Sample:
    document = json.loads(body)
    return Sample(
        event=event,
        body=body,
        conversation="status" in document and event != "convo.deleted_forever" and _ID.match(body) is not None,
        status=document.get("status", ""),
        state=document.get("state", ""),
    )


def mutated(chance: Random, raw: bytes) -> bytes:
    """Return the bytes damaged in one to three ways."""
    body = bytearray(raw)
    for _ in range(chance.randint(1, 3)):
        chance.choice(_DAMAGES)(chance, body)
    return bytes(body)


def _flip_a_bit(chance: Random, body: bytearray) -> None:
    if body:
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)


def _cut_the_end(chance: Random, body: bytearray) -> None:
    del body[chance.randint(0, len(body)) :]


def _cut_the_middle(chance: Random, body: bytearray) -> None:
    begin = chance.randint(0, len(body))
    del body[begin : begin + chance.randint(1, 40)]


def _repeat_a_piece(chance: Random, body: bytearray) -> None:
    begin = chance.randint(0, len(body))
    body[begin:begin] = body[begin : begin + chance.randint(1, 200)]


def _put_something_in(chance: Random, body: bytearray) -> None:
    begin = chance.randint(0, len(body))
    body[begin:begin] = chance.choice(_TOKENS) if chance.random() < 0.5 else chance.randbytes(chance.randint(1, 9))


def _replace_a_value(chance: Random, body: bytearray) -> None:
    """Put a strange value where one of the fields that matter has its own."""
    name = chance.choice(_FIELDS)
    begin = body.find(b'"' + name + b'":')
    if begin >= 0:
        begin += len(name) + 3
        end = body.find(b",", begin)
        body[begin:end] = chance.choice(_TOKENS)


_DAMAGES: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip_a_bit,
    _cut_the_end,
    _cut_the_middle,
    _repeat_a_piece,
    _put_something_in,
    _replace_a_value,
)
_FIELDS = (b"id", b"number", b"mailboxId", b"status", b"state", b"createdAt", b"updatedAt")
_TOKENS = (
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"-1e400",
    b"NaN",
    b"Infinity",
    b"9" * 4000,
    b"9223372036854775808",
    b"0.1",
    b"{}",
    b"[]",
    b"[" * 3000,
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff\xfe"',
    b"\x00",
    b'"',
    b"\\",
    b",",
    b":",
    b'{"id":',
    b'"0000-00-00T00:00:00Z"',
    b'"9999-12-31T23:59:59-23:59"',
    b"\xef\xbb\xbf",
)


def _document(chance: Random, **fields: object) -> dict[str, object]:
    return {
        "id": HOSTILE + chance.randrange(10**6),
        "number": 7,
        "status": "active",
        "state": "published",
        "subject": CANARY,
        "mailboxId": 1,
        "createdAt": "2024-11-23T11:00:00Z",
        "updatedAt": "2024-11-23T12:00:00Z",
    } | fields


def _json(chance: Random, **fields: object) -> bytes:
    return json.dumps(_document(chance, **fields)).encode()


def _raw(chance: Random, name: str, value: bytes) -> bytes:
    """Return a body whose field holds exactly these bytes."""
    body = _json(chance, **{name: "HERE"})
    return body.replace(b'"HERE"', value, 1)


def hostile(chance: Random) -> Body:
    """Return a body that is strange on purpose."""
    return chance.choice(_HOSTILE)(chance)


_USABLE_IDS = (b"2", b'"42"', b'"007"', b"9223372036854775807", b'"9223372036854775807"')
_UNUSABLE_IDS = (
    b"0",
    b"-1",
    b"-0",
    b"7.0",
    b"7e0",
    b"1e400",
    b"9223372036854775808",
    b"-9223372036854775809",
    b'"9223372036854775808"',
    b"9" * 5000,
    b'"' + b"9" * 5000 + b'"',
    b"true",
    b"null",
    b"[7]",
    b'{"id":7}',
    b'""',
    b'"-7"',
    b'"+7"',
    b'" 7"',
    b'"7\\u0000"',
    b'"0x7"',
    b'"7.0"',
    b'"\\u0667"',
    b'"\xd9\xa7"',
    b'"\\ud800"',
)
_DATES = (
    b'"0000-01-01T00:00:00Z"',
    b'"0001-01-01T00:00:00Z"',
    b'"0001-01-01T00:00:00+23:59"',
    b'"9999-12-31T23:59:59Z"',
    b'"9999-12-31T23:59:59.999999Z"',
    b'"9999-12-31T23:59:59-23:59"',
    b'"10000-01-01T00:00:00Z"',
    b'"-001-01-01T00:00:00Z"',
    b'"2024-02-30T00:00:00Z"',
    b'"2024-11-23T24:00:00Z"',
    b'"2024-11-23T23:59:60Z"',
    b'"2024-11-23T12:00:00"',
    b'"2024-11-23 12:00:00Z"',
    b'"2024-11-23t12:00:00z"',
    b'"2024-11-23T12:00:00.999999999Z"',
    b'"2024-11-23T12:00:00+14:00"',
    b'"2024-11-23T12:00:00+99:99"',
    b'"2024-11-23"',
    b'"2024-11-23T12:00:00Z\\u0000"',
    b'"1970-01-01T00:00:00Z"',
    b'"infinity"',
    b'"now"',
    b'""',
    b"1732363200",
    b"1e400",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b'"' + b"2" * 4000 + b'"',
)
_TEXTS = (
    b'"ACTIVE"',
    b'"active\\u0000"',
    b'"active "',
    b'"\\u0061ctive"',
    b"1",
    b"1e400",
    b"null",
    b"[]",
    b'{"active":true}',
    b'"' + b"x" * 4000 + b'"',
    b'"\'; DROP TABLE freescout_ticket; --"',
    b'"none"',
)
_HALF_A_CHARACTER = b'"\\ud800"'
"""JSON by its grammar, text in no language: whether that is JSON, readers differ (RFC 8259, 8.2)."""
_NUMBERS = (b"9223372036854775808", b"-5", b"1e400", b'"x"', b"null", b"9" * 5000, b"0.5", b"[1]", b'"12"')
_BAD_TEXTS = (b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"a\x01b"', b'"\xc0\x80"')
_NO_CONVERSATIONS = (
    b"",
    b" ",
    b"null",
    b"true",
    b"7",
    b'"x"',
    b"[]",
    b"{}",
    b"{",
    b"}",
    b'{"id"}',
    b"{'id': 7}",
    b'{"id":7,}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe\xfd",
    b"\x00" * 100,
    b"NaN",
    b"-",
    b"1e",
    b'"\\u12"',
)


def _an_array(chance: Random) -> Body:
    return Body(b"[" + _json(chance) + b"]", UNUSABLE)


def _nested(chance: Random) -> Body:
    depth = chance.choice((10, 200, 900, 1_100, 5_000, 100_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return Body(_raw(chance, "subject", opening * depth + b"1" + closing * depth), EITHER)


def _twice(chance: Random) -> Body:
    return Body(_json(chance)[:-1] + b', "id": 5, "status": "spam"}', TAKEN)


def _bad_text(chance: Random) -> Body:
    bad = chance.choice(_BAD_TEXTS)
    if chance.random() < 0.5:
        return Body(_raw(chance, "subject", bad), EITHER)
    return Body(_json(chance)[:-1] + b", " + bad + b": 1}", EITHER)


def _blank_megabytes(chance: Random) -> Body:
    if chance.random() < 0.98:
        return Body(b" " * 3000 + _json(chance) + b"\n" * 3000, TAKEN)
    blank = chance.choice((b" ", b"\n", b"\t")) * 10_000_000
    before, behind = Body(blank + _json(chance), TAKEN), Body(_json(chance) + blank, TAKEN)
    return chance.choice((Body(blank, UNUSABLE), before, behind))


def _in_another_encoding(chance: Random) -> Body:
    text = _json(chance).decode()
    return Body(text.encode(chance.choice(("utf-16", "utf-32", "utf-8-sig"))), UNUSABLE)


def _with_more_behind(chance: Random) -> Body:
    return Body(_json(chance) + chance.choice((b"x", b"{}", b"\x00", _json(chance))), UNUSABLE)


def _a_thousand_fields(chance: Random) -> Body:
    return Body(_json(chance, **{f"field{number}": number for number in range(1000)}), TAKEN)


_HOSTILE: tuple[Callable[[Random], Body], ...] = (
    lambda chance: Body(_raw(chance, "id", chance.choice(_USABLE_IDS)), TAKEN),
    lambda chance: Body(_raw(chance, "id", chance.choice(_UNUSABLE_IDS)), UNUSABLE),
    lambda chance: Body(_raw(chance, "updatedAt", chance.choice(_DATES)), TAKEN),
    lambda chance: Body(_raw(chance, "createdAt", chance.choice(_DATES)), TAKEN),
    lambda chance: Body(_raw(chance, chance.choice(("status", "state")), chance.choice(_TEXTS)), TAKEN),
    lambda chance: Body(_raw(chance, chance.choice(("updatedAt", "status")), _HALF_A_CHARACTER), EITHER),
    lambda chance: Body(_raw(chance, chance.choice(("number", "mailboxId")), chance.choice(_NUMBERS)), TAKEN),
    lambda chance: Body(chance.choice(_NO_CONVERSATIONS), UNUSABLE),
    _an_array,
    _nested,
    _twice,
    _bad_text,
    _blank_megabytes,
    _in_another_encoding,
    _with_more_behind,
    _a_thousand_fields,
)
