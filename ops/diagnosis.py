"""Why a recorded delivery verifies, or does not: the mistakes that people make with FreeScout's signature. Pure.

A wrong signature says nothing by itself, so every likely mistake is undone and tried: the one that makes the
signature right is the one that was made.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from freescout_audit.signature import sign, webhook_key
from settings.environment import API_KEY

SIGNATURE = "x-freescout-signature"

KeyReason = Literal[
    "verified",
    "no_signature",
    "empty_signature",
    "not_sha1",
    "other_key",
    "app_key",
    "api_key",
    "mistyped_key",
    "body_encoded_anew",
    "body_incomplete",
    "unknown_key",
]

_BODIES: Mapping[str, str] = {
    "encoded anew": "the body was decoded and encoded anew before it was recorded: verify and keep the raw bytes",
    "a line end": "the file has a line end that the delivery did not have",
}


class KeyFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What a key and a delivery have to do with each other; the message names the next step."""

    verified: bool
    reason: KeyReason
    message: str
    key: str | None = None
    """Which of the keys signed it, after whatever had to be undone."""


class Candidate(NamedTuple):
    """A key to try: what it is called, and what it is."""

    name: str
    value: str


class _Try(NamedTuple):
    key: Candidate
    value: str
    reason: KeyReason
    message: str


def diagnose(
    body: bytes, headers: Mapping[str, str], keys: Sequence[Candidate], others: Sequence[Candidate] = ()
) -> KeyFinding:
    """Tell whether one of ``keys`` signed the delivery and, if not, what the mistake is.

    Args:
        body: The body as it was recorded.
        headers: Its headers, names in lower case.
        keys: The keys in question.
        others: Keys that may have been mistaken for them: the API key, or those that are configured.
    """
    signature = headers.get(SIGNATURE)
    if problem := _unusable(signature, headers):
        return problem
    assert signature is not None, "what is missing was found out above"  # noqa: S101
    for how, form in _bodies(body):
        for attempt in _attempts(keys, others):
            if sign(form, attempt.value) == signature.strip():
                return _found(attempt, how)
    return _not_found(body, headers, keys, others)


def _unusable(signature: str | None, headers: Mapping[str, str]) -> KeyFinding | None:
    """Find what is wrong with a signature before any key is tried."""
    if signature is None:
        hint = "did a proxy take it away, or is this no delivery of FreeScout's?"
        if similar := [name for name in headers if "signature" in name]:
            hint = f"it has {', '.join(similar)}, which FreeScout never sends"
        return KeyFinding(verified=False, reason="no_signature", message=f"there is no X-FreeScout-Signature: {hint}")
    if not signature.strip():
        message = "the signature is empty: PHP on the desk lacks its hash extension; install it there"
        return KeyFinding(verified=False, reason="empty_signature", message=message)
    size = _digest_size(signature.strip())
    if size != 20:  # noqa: PLR2004 - SHA-1's
        kinds = {16: "MD5", 32: "SHA-256", 48: "SHA-384", 64: "SHA-512"}
        kind = kinds.get(size or 0, "something else than SHA-1")
        message = f"the signature is {kind}: FreeScout sends base64 of HMAC-SHA1, so somebody else signed this"
        return KeyFinding(verified=False, reason="not_sha1", message=message)
    return None


def _digest_size(signature: str) -> int | None:
    """Return how many bytes a signature has, in base64 or (as FreeScout never writes it) in hexadecimal."""
    try:
        size = len(bytes.fromhex(signature.rpartition("=")[2] if signature.startswith("sha") else signature))
    except ValueError:
        pass
    else:
        return size if size != 20 else None  # noqa: PLR2004 - SHA-1, but not as FreeScout writes it
    try:
        return len(base64.b64decode(signature, validate=True))
    except (binascii.Error, ValueError):
        return None


def _bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the body as it is, and then as it was before what commonly happens to bodies."""
    yield "", body
    if body != body.rstrip(b"\r\n"):
        yield "a line end", body.rstrip(b"\r\n")
    try:
        document = json.loads(body)
    except ValueError:
        return
    # PHP's own way of writing JSON: ASCII, no blanks, slashes escaped.
    again = json.dumps(document, separators=(",", ":")).replace("/", "\\/").encode()
    if again != body:
        yield "encoded anew", again


def _attempts(keys: Sequence[Candidate], others: Sequence[Candidate]) -> Iterator[_Try]:
    """Yield the keys as they are, and then what else they may be."""
    for key in keys:
        yield _Try(key, key.value, "verified", f"{key.name} signed it")
    for key in keys:
        for app_key in dict.fromkeys((key.value.strip(), f"base64:{key.value.strip()}")):
            message = f"{key.name} is the APP_KEY: FreeScout signs with a key derived from it; run secret derive"
            yield _Try(key, webhook_key(app_key), "app_key", message)
        for mended in dict.fromkeys((key.value.strip(" \t\r\n\"'"), key.value.strip(" \t\r\n\"'").lower())):
            message = f"{key.name} has blanks, quotes or capitals that FreeScout's key does not have: copy it again"
            yield _Try(key, mended, "mistyped_key", message)
    for other in others:
        message = f"{other.name} signed it, not {_names(keys)}: the two are mixed up"
        yield _Try(other, other.value, "other_key", message)


def _found(attempt: _Try, how: str) -> KeyFinding:
    if not how:
        verified = attempt.reason == "verified"
        return KeyFinding(verified=verified, reason=attempt.reason, message=attempt.message, key=attempt.key.name)
    reason: KeyReason = "body_encoded_anew" if attempt.reason == "verified" else attempt.reason
    message = f"{attempt.message}, but not these bytes: {_BODIES[how]}"
    return KeyFinding(verified=False, reason=reason, message=message, key=attempt.key.name)


def _not_found(
    body: bytes, headers: Mapping[str, str], keys: Sequence[Candidate], others: Sequence[Candidate]
) -> KeyFinding:
    """Say what can be said when no undoing makes the signature right."""
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal() and int(announced) != len(body):
        message = f"the body has {len(body)} bytes and Content-Length says {announced}: it is not what was sent"
        return KeyFinding(verified=False, reason="body_incomplete", message=message)
    values = {key.value.strip() for key in keys}
    if any(other.name == API_KEY and other.value in values for other in others):
        message = (
            f"{_names(keys)} is the API key, which signs nothing: take the webhook key, which stands beside it under"
            " Manage » Settings » API & Webhooks"
        )
        return KeyFinding(verified=False, reason="api_key", message=message)
    message = (
        f"{_names(keys)} did not sign it: compare with Manage » Settings » API & Webhooks; a new APP_KEY changes the"
        " key, and another FreeScout has another"
    )
    if not body.isascii() or (b"/" in body and b"\\/" not in body):
        message += ". The body is not as FreeScout writes JSON either: it seems to have been encoded anew"
        return KeyFinding(verified=False, reason="body_encoded_anew", message=message)
    return KeyFinding(verified=False, reason="unknown_key", message=message)


def _names(keys: Sequence[Candidate]) -> str:
    return " or ".join(key.name for key in keys) or "no key"
