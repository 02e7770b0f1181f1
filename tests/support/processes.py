"""Processes of ours, started as the Procfile starts them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """A process of ours, its log lines so far, and where it listens."""

    running: asyncio.subprocess.Process
    lines: list[dict[str, object]] = field(default_factory=list)

    async def until(self, event: str) -> dict[str, object]:
        """Read the log until a line of this event."""
        assert self.running.stdout is not None
        async with asyncio.timeout(30):
            async for raw in self.running.stdout:
                self.lines.append(json.loads(raw))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"the log ended without {event}: {self.lines}")

    def events(self) -> set[object]:
        """The events logged so far."""
        return {line["event"] for line in self.lines}

    async def end(self) -> int:
        assert self.running.stdout is not None
        async with asyncio.timeout(30):
            rest = await self.running.stdout.read()
            self.lines += [json.loads(raw) for raw in rest.splitlines()]
            return await self.running.wait()


@asynccontextmanager
async def process(*arguments: str, **variables: str) -> AsyncIterator[Process]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env=kept | variables,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    try:
        yield Process(running)
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()
