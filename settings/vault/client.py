"""Reads the keys out of an Infisical vault: logs in when it has to, and asks."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from settings.environment import Secret, VaultAccess
from settings.vault.infisical import (
    OldServerError,
    Request,
    Token,
    TokenRefusedError,
    VaultResponse,
    VaultUnavailableError,
    Version,
    login_request,
    read_login,
    read_secrets,
    secrets_request,
)

LAST_PART = 0.1
"""The share of a token's lifetime in which it is not used any more."""

SendRequest = Callable[[Request], Awaitable[VaultResponse]]
"""Sends a request and returns its answer. Raises OSError when none comes (TimeoutError is one), VaultError for one
that is without bound."""


class Vault:
    """The keys of one folder of a vault.

    Args:
        access: Where it is, and how we get in.
        names: The secrets we ask for; whatever else is there is dropped unread.
        send: Sends requests.
        clock: Seconds that only grow; tells when a token has grown old.
    """

    def __init__(
        self,
        access: VaultAccess,
        *,
        names: Collection[str],
        send: SendRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._names = names
        self._send = send
        self._clock = clock
        self._version: Version = "v4"
        self._token: Token | None = None
        self._good_until: float | None = None

    async def read(self) -> Mapping[str, Secret]:
        """Return those of the named secrets that the vault holds; never none of them.

        Raises:
            VaultError: It gave none that count.
        """
        token, fresh = await self._a_token()
        try:
            return await self._list(token)
        except TokenRefusedError:
            # A token can end before its time: revoked, used up, or the server has new keys of its own.
            self._token = None
            if fresh:
                raise
        token, _ = await self._a_token()
        return await self._list(token)

    async def _a_token(self) -> tuple[Token, bool]:
        """Return a token, and whether it is new. Logging in again is what outlives a token's longest lifetime."""
        held = self._token
        if held is not None and (self._good_until is None or self._clock() < self._good_until):
            return held, False
        asked_at = self._clock()
        token = self._token = read_login(await self._ask(login_request(self._access)))
        self._good_until = None if token.lifetime is None else asked_at + token.lifetime * (1 - LAST_PART)
        return token, True

    async def _list(self, token: Token) -> Mapping[str, Secret]:
        try:
            return await self._list_by(self._version, token)
        except OldServerError:
            if self._version == "v3":
                raise
        held = await self._list_by("v3", token)
        self._version = "v3"
        return held

    async def _list_by(self, version: Version, token: Token) -> Mapping[str, Secret]:
        answer = await self._ask(secrets_request(self._access, token, version))
        return read_secrets(answer, self._access, self._names)

    async def _ask(self, request: Request) -> VaultResponse:
        try:
            return await self._send(request)
        except OSError as error:
            # The type alone: a message can quote the request.
            raise VaultUnavailableError(
                f"Infisical does not answer ({type(error).__name__})", "is INFISICAL_URL right, and is it up?"
            ) from None
