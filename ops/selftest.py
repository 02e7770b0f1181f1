"""A signed delivery of our own through the public address: does it arrive, is it believed, and where is it kept?

It is a Workflow's kind of event, without a conversation: verified, journalled, and about no ticket, so that it cannot
change any answer.
"""

import secrets
import time
from dataclasses import dataclass

import aiohttp
import msgspec

from db.database import Database
from db.journal import SELF_TEST, has_arrived
from freescout_audit.connecting import SSL_CERT_FILE, why_no_answer
from freescout_audit.errors import FreescoutAuditError
from freescout_audit.signature import sign
from settings import Secret

_PATIENCE = 15.0

_NEXT_STEPS = {
    401: "the key of this environment is not the one the receiver accepts: restart the web process, or compare them",
    404: "there is no such endpoint at this address: is it the right app?",
    503: "the receiver takes no deliveries: is the flag on, is there a key, is its database up (see /readyz)?",
}


class SelfTestError(FreescoutAuditError):
    """It did not arrive, or was not verified."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What became of one that arrived and was verified."""

    seconds: float
    same_database: bool | None = None
    """Whether it stands in our own database's journal; None when that was not looked at."""


async def send(url: str, key: Secret, database: Database | None) -> SelfTest:
    """Send it to the endpoint at ``url``.

    Raises:
        SelfTestError: It did not arrive, or was not verified.
        DatabaseUnavailableError: It cannot be told whether it stands in our database.
    """
    event = f"{SELF_TEST}.{secrets.token_hex(4)}"
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
            _judge(response.status, await response.content.read(4096))
    except (aiohttp.ClientError, OSError) as error:
        why = why_no_answer(error, url, name="the app's address", patience=_PATIENCE)
        next_step = SSL_CERT_FILE if why.about == "certificate" else "is the address right, is the web process up?"
        raise SelfTestError(why.problem, next_step) from error
    seconds = time.perf_counter() - began
    return SelfTest(seconds, None if database is None else await has_arrived(database, event))


def _judge(status: int, body: bytes) -> None:
    """Check that the answer is one of our receiver's; raise what another means."""
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own numbers
        raise SelfTestError(
            f"it answers {status}, a redirect, which FreeScout does not follow", "use the address it leads to"
        )
    if status != 200:  # noqa: PLR2004
        next_step = _NEXT_STEPS.get(status, "is this freescout-audit, or something in between?")
        raise SelfTestError(f"it answers {status}", next_step)
    try:
        outcome = msgspec.json.decode(body, type=dict[str, str]).get("outcome")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        outcome = None
    if outcome != "ignored":
        raise SelfTestError("it answers 200, but not as freescout-audit does", "what is at this address?")
