"""Where a redirect leads that an API should not have given: the same place elsewhere, or a log-in. Pure.

Only a host and a path are ever shown: the query of a redirect holds what a gateway wants to know again.
"""

import re
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

_LOG_IN = re.compile(r"log-?in|sign-?in|sso|auth|saml|oauth2?|session", re.IGNORECASE)
_SHOWN = 80
"""So many characters of where it leads are shown at the most."""


class Redirect(NamedTuple):
    """What a redirect is, and where it leads."""

    kind: Literal["moved", "log-in", "gateway", "elsewhere", "nowhere"]
    """``moved``: to the same path at another address. ``gateway``: to another host altogether."""
    leads_to: str
    """``moved``: the address without the path that was asked; ``gateway``: the host; otherwise the path."""


def where_it_leads(asked: str, location: str, *, path: str) -> Redirect:
    """Return what a redirect is.

    Args:
        asked: The URL that was asked, without its query.
        location: The answer's ``Location``; may be empty, relative, or no URL at all.
        path: What follows the address in ``asked``, such as ``/api/conversations``.
    """
    try:
        before, after = urlsplit(asked), urlsplit(urljoin(asked, location))
        host, _ = after.hostname, after.port
    except ValueError:
        return Redirect("nowhere", "")
    if not location or not host or after.scheme not in {"http", "https"}:
        return Redirect("nowhere", "")
    there = after.path.rstrip("/")
    is_the_same_place = (after.scheme, after.netloc, there) == (before.scheme, before.netloc, before.path.rstrip("/"))
    if there.endswith(path) and not is_the_same_place:
        return Redirect("moved", _shown(after, there.removesuffix(path)))
    if host != before.hostname:
        return Redirect("gateway", host[:_SHOWN])
    if any(_LOG_IN.fullmatch(part) for part in after.path.split("/")):
        return Redirect("log-in", after.path[:_SHOWN])
    return Redirect("elsewhere", after.path[:_SHOWN])


def _shown(parts: SplitResult, path: str) -> str:
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{path}"[:_SHOWN]
