"""What tests of the vault share: how a process is told of it, and time that only the test moves."""

import asyncio
from dataclasses import dataclass, field

from simulator.infisical import Infisical

PATH = "/MooseQuest/freescout/"


class Seconds:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def variables(vault: Infisical, url: str, **more: str) -> dict[str, str]:
    """The environment of a process that uses the vault."""
    return {
        "INFISICAL_URL": url,
        "INFISICAL_CLIENT_ID": vault.client_id,
        "INFISICAL_CLIENT_SECRET": vault.client_secret,
        "INFISICAL_PROJECT_ID": vault.project_id,
        "INFISICAL_ENVIRONMENT": "prod",
        **more,
    }


@dataclass
class Waits:
    """A sleep that lasts until the test says so, and what it was asked for."""

    asked: list[float] = field(default_factory=list)
    _turn: asyncio.Condition = field(default_factory=asyncio.Condition)
    _allowed: int = 0

    async def __call__(self, seconds: float) -> None:
        async with self._turn:
            self.asked.append(seconds)
            mine = len(self.asked)
            self._turn.notify_all()
            await self._turn.wait_for(lambda: self._allowed >= mine)

    async def read_again(self) -> float:
        """Let the wait end, and return the next one, which begins when the vault has been read."""
        async with self._turn:
            self._allowed += 1
            self._turn.notify_all()
            await self._turn.wait_for(lambda: len(self.asked) > self._allowed)
            return self.asked[-1]

    async def first(self) -> float:
        async with self._turn:
            await self._turn.wait_for(lambda: bool(self.asked))
            return self.asked[0]
