"""Sessions of the page, as a test needs them: begun at any time, with any token."""

import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from receiver.access import COOKIE, Access
from settings import Secret


def seconds_ago(seconds: float) -> Callable[[], float]:
    """Return a wall clock that is behind."""
    return lambda: time.time() - seconds


def cookie_of(token: str, wall: Callable[[], float] = time.time) -> str:
    """Return the cookie of a session that began by that clock."""
    response = web.Response()
    Access(lambda: Secret(token), wall=wall).give_session(make_mocked_request("POST", "/"), response, path="/")
    return response.cookies[COOKIE].value
