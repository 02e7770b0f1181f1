"""The console at work in a world: commands run as an operator types them, against its desk, receiver and cache."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from ops.console import console
from ops.workplace import Workplace
from settings import load_environment, load_settings
from simulator import Api, ApiFault, ApiRequest, ApiResponse, Desk
from simulator import serve as serve_desk
from support.world import World


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str, variables: dict[str, str], typed: str | bytes | None = None) -> Said:
    """Run a command with nothing in its environment but these variables."""
    # The log is the test's: a command would turn it to its own stderr.
    with mock.patch("ops.runner.set_up_logs"):
        result = CliRunner().invoke(
            console(arguments[:1]),
            list(arguments),
            env={"COLUMNS": "100"} | variables,
            input=typed,
            prog_name="freescout-audit",
        )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


class BreakingApi(Api):
    """A desk's API that can be told to break off after some more answers."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.answers_left: int | None = None
        self.breaks_with = ApiFault.NOT_FOUND_HTML
        self.faults = desk.faults

    def answer(self, request: ApiRequest) -> ApiResponse:
        if self.answers_left is not None:
            self.answers_left -= 1
            self.faults.api = self.breaks_with if self.answers_left < 0 else None
        return super().answer(request)


@dataclass
class Operator:
    """Who sits at the console."""

    world: World
    variables: dict[str, str]
    receiver: str
    """The receiver's address."""
    api: BreakingApi
    """What the console asks."""
    said: list[Said] = field(default_factory=list)

    async def types(self, *arguments: str, typed: str | bytes | None = None, **variables: str) -> Said:
        """Run a command while the world goes on in this thread."""
        said = await asyncio.to_thread(run, *arguments, variables=self.variables | variables, typed=typed)
        self.said.append(said)
        return said

    @property
    def workplace(self) -> Workplace:
        """What a command works with, for a test that calls what is behind it."""
        return Workplace(load_environment(self.variables), load_settings({}))

    async def waits(self, seconds: float) -> None:
        """Let time pass in the world, a quarter of a second at the least."""
        await self.world.advance(max(seconds, 0.25))


@asynccontextmanager
async def at_the_console(world: World, database_url: str) -> AsyncIterator[Operator]:
    """Give an operator everything the environment of a healthy app has."""
    receiver = next(iter(world.desk.webhooks.values())).url.partition("/api/")[0]
    api = BreakingApi(world.desk)
    async with serve_desk(world.desk, api=api) as desk_url:
        yield Operator(
            world,
            {
                "DATABASE_URL": database_url,
                "FREESCOUT_URL": desk_url,
                "FREESCOUT_API_KEY": world.desk.api_key,
                "FREESCOUT_AUDIT_WEBHOOK_SECRET": world.desk.webhook_key,
                "FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1",
                "OPS_TOKEN": "the operators' token",
            },
            receiver,
            api,
        )
