"""Who goes on: many tasks on one event loop, of which only one runs at a time, chosen by a seed.

Our own code runs unchanged. Wherever it meets the world (before and after each use of the database, each request and
each answer) it waits for its turn, and between two turns anything else may happen: time passes, the desk changes, a
delivery arrives, a process dies. PostgreSQL is real and is waited for, but never by two at once, so that the same seed
always gives the same history.
"""

import asyncio
import math
import random
import selectors
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

_CREDITS = (0, 0, 1, 2, 5, 20, 1000)
"""How many further turns whoever goes on may take without being interrupted."""


@dataclass(eq=False)
class Process:
    """One of our processes. Once dead it takes no further turn and leaves nothing behind but what it committed."""

    name: str
    alive: bool = True
    tasks: "dict[asyncio.Task[Any], None]" = field(default_factory=dict)
    """In the order in which they were started: a set's order is not the same in each run."""


@dataclass(frozen=True, eq=False, slots=True)
class _Waiting:
    process: Process
    task: "asyncio.Task[Any] | None"
    place: str
    turn: "asyncio.Future[None]"


_process: ContextVar[Process] = ContextVar("process")


class Stage:
    """Gives turns. ``busy`` counts the uses of the database under way, which are waited for."""

    def __init__(self, rng: random.Random) -> None:
        self.busy = 0
        self.failures: list[BaseException] = []
        """What tasks ended in unexpectedly."""
        self._rng = rng
        self._waiting: list[_Waiting] = []
        self._favourite: asyncio.Task[Any] | None = None
        self._credit = 0
        self._quiet: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def start(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task of a process; it runs to its first turn when the stage is next left to itself."""
        context = copy_context()
        context.run(_process.set, process)
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        process.tasks[task] = None
        task.add_done_callback(lambda task: process.tasks.pop(task, None))
        task.add_done_callback(self._note_failure)
        return task

    async def turn(self, place: str) -> None:
        """Wait until it is this task's turn; called by whoever stands in for the world."""
        process, task = _process.get(), asyncio.current_task()
        if not process.alive:
            raise asyncio.CancelledError
        if self._favourite is task and self._credit > 0:
            self._credit -= 1
            return
        waiting = _Waiting(process, task, place, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await waiting.turn
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def die(self) -> None:
        """Let the running task's process die here."""
        _process.get().alive = False
        raise asyncio.CancelledError

    async def go_on(self, at_once: Sequence[int] = _CREDITS) -> str:
        """Let one of those who wait go on, by chance, until it waits again or has ended; return who, and from where.

        One of ``at_once`` is how many further turns it takes at once.
        """
        # In the order of their birth: who came to wait first may depend on how fast PostgreSQL answered.
        self._waiting.sort(key=_birth)
        waiting = self._waiting.pop(self._rng.randrange(len(self._waiting)))
        self._favourite, self._credit = waiting.task, self._rng.choice(at_once)
        waiting.turn.set_result(None)
        await self.settle()
        return f"{waiting.process.name} {waiting.place}"

    async def alone(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a task to its end without any other process having a turn.

        Raises:
            asyncio.CancelledError: The process died on the way.
        """
        task = self.start(process, coroutine)
        await self.finish(process)
        if not task.done():
            raise RuntimeError(f"{process.name} waits for somebody who has no turn")
        return task.result()

    async def finish(self, process: Process, *, turns: float = math.inf) -> None:
        """Let this process alone go on, until nothing of it waits for a turn, or for just so many turns."""
        others = [each for each in self._waiting if each.process is not process]
        self._waiting = [each for each in self._waiting if each.process is process]
        await self.settle()
        while self._waiting and turns > 0:
            turns -= 1
            await self.go_on(_CREDITS if turns == math.inf else (0,))
        self._waiting += others

    async def kill(self, process: Process) -> None:
        """End a process where it is."""
        process.alive = False
        for task in list(process.tasks):
            task.cancel()
        # Tasks that it started itself wait somewhere too.
        for waiting in [each for each in self._waiting if each.process is process]:
            waiting.turn.cancel()
        await self.settle()

    async def settle(self) -> None:
        """Return when everybody waits for a turn, or for somebody who does."""
        self._quiet = asyncio.get_running_loop().create_future()
        await self._quiet

    def _note_failure(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    def nothing_is_ready(self) -> bool:
        """Tell the stage that the event loop has nothing to do; return whether it has now."""
        if self.busy > 0 or self._quiet is None or self._quiet.done():
            return False
        self._quiet.set_result(None)
        return True


class _TellingSelector(selectors.DefaultSelector):
    """The event loop's selector, which knows when there is nothing to do: it is asked to wait."""

    stage: Stage | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        idle = timeout is None or timeout > 0
        if idle and self.stage is not None and self.stage.nothing_is_ready():
            timeout = 0
        return super().select(timeout)


class StageLoop(asyncio.SelectorEventLoop):
    """An event loop that tells a stage when it has nothing to do."""

    def __init__(self) -> None:
        self._telling = _TellingSelector()
        super().__init__(self._telling)
        self.set_task_factory(_number_tasks)  # type: ignore[arg-type] # typeshed knows nothing of `context`
        self.set_exception_handler(_forget_the_dead)

    def tell(self, stage: Stage) -> None:
        """Tell this stage from now on."""
        self._telling.stage = stage


_births = count()


def _number_tasks(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> "asyncio.Task[Any]":
    task = asyncio.Task(coroutine, loop=loop, **options)
    task.set_name(f"{next(_births):012}")
    return task


def _birth(waiting: _Waiting) -> str:
    return "" if waiting.task is None else waiting.task.get_name()


def play_on(stage: Stage) -> None:
    """Give the running loop, a `StageLoop`, this stage."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, StageLoop):
        raise TypeError("a history is played on a StageLoop")
    loop.tell(stage)


def _forget_the_dead(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Report what the loop complains of, but for tasks whose process died."""
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(dict(context))
