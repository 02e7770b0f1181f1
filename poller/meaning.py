"""What an answer means that is none of those that were hoped for: who gave it, and what to do. Pure.

A proxy, an access gateway or PHP itself may answer in FreeScout's place. FreeScout refuses a key with 401 and
``{"message": "Not Authorized"}`` and nothing else; a host name that is not APP_URL's with 403 and a message that begins
with ``Untrusted Host`` (measured on module 1.0.87). So no other refusal is taken for one of the key.
"""

import re

import msgspec

from freescout_audit.redirects import where_it_leads
from poller.answer import (
    IN_BETWEEN,
    UNREADABLE,
    DeskBrokeOffError,
    DeskError,
    DeskRefusedError,
    DeskResponse,
    DeskServerError,
    DeskUnavailableError,
    is_json,
    named,
)

_LET_THROUGH = "let /api/* through for this app"
_MODULE = "is FREESCOUT_URL right, and is the API & Webhooks module active?"
_PHP = re.compile(rb"\b(Deprecated|Warning|Notice|Fatal error|Parse error)(</b>)?:\s")
"""How PHP's messages begin, with ``html_errors`` and without."""
_LOOKED_AT = 1 << 16
"""Bytes before and behind the JSON in which such a message is looked for."""
_PASSWORD = re.compile(rb"type=[\"']?password", re.IGNORECASE)


class _Message(msgspec.Struct):
    message: str


_message = msgspec.json.Decoder(_Message)


def says(answer: DeskResponse) -> str | None:
    """Return what an error of FreeScout's says, in its own JSON form; None when it is not in that form."""
    if not is_json(answer):
        return None
    try:
        return _message.decode(answer.body).message
    except UNREADABLE:
        return None


def no_answer(error: OSError) -> DeskError:
    """Return what it means that no answer came."""
    return DeskUnavailableError(
        f"FreeScout does not answer ({str(error) or type(error).__name__})",
        "is FREESCOUT_URL right, and is the desk up?",
    )


def what_it_means(answer: DeskResponse) -> DeskError:  # noqa: PLR0911 - a table of statuses
    """Return what an answer means that is none of those that were hoped for."""
    match answer.status:
        case 200:
            return no_json(answer)
        case 401 | 403:
            return _refusal(answer)
        case 429:
            return DeskUnavailableError(
                "FreeScout answers 429, too many requests",
                "set a smaller POLLER_CONCURRENCY or a longer POLLER_INTERVAL, or let our address past the limit",
                retry_after=_retry_after(answer),
            )
        case 500:
            return DeskServerError("FreeScout answers 500", "see storage/logs at the desk")
        case status if status > 500:  # noqa: PLR2004 - HTTP's own numbers
            return _away(answer)
        case status if 300 <= status < 400:  # noqa: PLR2004
            return _redirect(answer)
        case status:
            return DeskRefusedError(f"FreeScout answers {status}", _MODULE)


def unreadable(answer: DeskResponse, problem: str) -> DeskError:
    """Return what it means that an answer's JSON cannot be read; ``problem`` is what to say where nothing is known."""
    if _has_php_message(answer.body):
        return DeskUnavailableError(
            "PHP prints a message around FreeScout's JSON",
            "turn display_errors off in the desk's php.ini; the message is in its error log",
            again=False,
        )
    return DeskUnavailableError(problem, IN_BETWEEN)


def no_json(answer: DeskResponse) -> DeskError:
    """Return what it means that an answer, 200, is of another type than JSON."""
    if _has_php_message(answer.body):
        return unreadable(answer, "")
    if _PASSWORD.search(answer.body[:_LOOKED_AT]):
        return DeskRefusedError(
            "a log-in page answers instead of FreeScout's API",
            f"does an access gateway stand in front? {_LET_THROUGH}",
        )
    return DeskUnavailableError(
        "FreeScout answers with a page instead of JSON", "is a proxy in between that shows a page of its own?"
    )


def _refusal(answer: DeskResponse) -> DeskError:
    """Return what a 401 or 403 means."""
    status, said = answer.status, says(answer)
    if status == 401 and said == "Not Authorized":  # noqa: PLR2004
        return DeskRefusedError(
            "FreeScout answers 401",
            "compare FREESCOUT_API_KEY with Manage » Settings » API & Webhooks; a new APP_KEY changes it",
        )
    if said is not None and said.startswith("Untrusted Host"):
        return DeskRefusedError(
            f"FreeScout answers {status}, it does not trust the host name in FREESCOUT_URL",
            "set FREESCOUT_URL to the desk's APP_URL, or add the host name to APP_TRUSTED_HOSTS in the desk's .env",
        )
    if answer.headers.get("cf-mitigated") == "challenge":
        return DeskRefusedError(
            f"a proxy in front of FreeScout refuses us with {status} (Cloudflare challenge)", _LET_THROUGH
        )
    if answer.headers.get("www-authenticate", "").lower().startswith(("basic", "digest", "negotiate", "ntlm")):
        return DeskRefusedError(
            f"a web server in front of FreeScout answers {status} and asks for a user and a password",
            f"{_LET_THROUGH} without them",
        )
    return DeskRefusedError(f"a proxy in front of FreeScout refuses us with {status}{named(answer)}", _LET_THROUGH)


def _redirect(answer: DeskResponse) -> DeskError:
    """Return what a redirect means."""
    redirect = where_it_leads(answer.asked, answer.headers.get("location", ""), path=answer.path)
    answers = f"FreeScout answers {answer.status}, a redirect"
    match redirect.kind:
        case "moved":
            return DeskRefusedError(f"{answers} to {redirect.leads_to}", f"set FREESCOUT_URL to {redirect.leads_to}")
        case "gateway":
            return DeskRefusedError(
                f"an access gateway in front of FreeScout answers {answer.status} and leads to {redirect.leads_to}",
                f"{_LET_THROUGH} without a log-in",
            )
        case "log-in":
            return DeskRefusedError(
                f"{answers} to its log-in page ({redirect.leads_to}): the module's API is not there", _MODULE
            )
        case "elsewhere":
            return DeskRefusedError(f"{answers} to {redirect.leads_to}: the module's API is not there", _MODULE)
        case "nowhere":
            return DeskRefusedError(f"{answers} that does not say where to", _MODULE)


def _away(answer: DeskResponse) -> DeskError:
    """Return what a 501 or more means: maintenance when it is FreeScout's own, otherwise a proxy without FreeScout."""
    if is_json(answer):
        return DeskUnavailableError(
            f"FreeScout answers {answer.status}",
            "is the desk up? php artisan up ends a maintenance",
            retry_after=_retry_after(answer),
        )
    broke_off = answer.status == 502 and _retry_after(answer) is None  # noqa: PLR2004
    return (DeskBrokeOffError if broke_off else DeskUnavailableError)(
        f"a web server or proxy in front of FreeScout answers {answer.status}{named(answer)}",
        "is the desk up, its PHP too, and does the proxy reach it?",
        retry_after=_retry_after(answer),
    )


def _has_php_message(body: bytes) -> bool:
    """Tell whether PHP has printed a message before the JSON or behind it; it is not quoted, it holds paths."""
    before, brace, after = body.partition(b"{")
    behind = after.rpartition(b"}")[2] if brace else b""
    return any(_PHP.search(part) is not None for part in (before[:_LOOKED_AT], behind[-_LOOKED_AT:]))


def _retry_after(answer: DeskResponse) -> float | None:
    """Return ``Retry-After`` in seconds; None without one, or when it is a date (no proxy we know sends one)."""
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdecimal() else None
