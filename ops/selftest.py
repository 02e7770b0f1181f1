"""A signed delivery of our own through the public address: does it arrive, is it believed, and where is it kept?

It is a Workflow's kind of event, without a conversation: verified, journalled, and about no ticket, so that it cannot
change any answer.
"""

import secrets
import time
from dataclasses import dataclass

import aiohttp
import msgspec

from db import console
from db.database import Database
from freescout_audit.signature import sign
from settings import Secret

_PATIENCE = 15.0

_WHY = {
    401: "the key of this environment is not the one the receiver accepts: restart the web process, or compare them",
    404: "there is no audit endpoint at this address: is it the right app?",
    503: "the receiver takes no deliveries: is the flag on, is there a key, is its database up (see /readyz)?",
}


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What became of it; ``fault`` is empty when it arrived and was verified."""

    fault: str
    seconds: float
    same_database: bool | None = None
    """Whether it stands in our own database's journal; None when that was not looked at."""


async def send(url: str, key: Secret, database: Database | None) -> SelfTest:
    """Send it to the audit endpoint at ``url``."""
    event = f"{console.SELF_TEST}.{secrets.token_hex(4)}"
    body = msgspec.json.encode({"selftest": event})
    headers = {
        "Content-Type": "application/json",
        "X-FreeScout-Event": event,
        "X-FreeScout-Signature": sign(body, key.reveal()),
    }
    began = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            fault = _fault(response.status, await response.content.read(4096))
    except (aiohttp.ClientError, OSError) as error:
        fault = f"nothing answers there ({type(error).__name__}): is the address right, is the web process up?"
    seconds = time.perf_counter() - began
    if fault or database is None:
        return SelfTest(fault, seconds)
    return SelfTest("", seconds, await console.has_arrived(database, event))


def _fault(status: int, body: bytes) -> str:
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own numbers
        return f"it answers {status}, a redirect, which FreeScout does not follow: use the address it leads to"
    if status != 200:  # noqa: PLR2004
        return f"it answers {status}: {_WHY.get(status, 'is this freescout-audit, or something in between?')}"
    try:
        outcome = msgspec.json.decode(body, type=dict[str, str]).get("outcome")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        outcome = None
    return "" if outcome == "ignored" else "it answers 200, but not as freescout-audit does: what is at this address?"
