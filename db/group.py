"""Group commit: what arrives while a commit is under way is committed together by the next one.

Nothing is held back in order to fill a group. The first item is committed at once, alone; the items that come meanwhile
are the next group. Each waits for its own answer, and no longer than its own deadline.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from structlog.contextvars import clear_contextvars

from freescout_audit.errors import DatabaseUnavailableError

LOCK_PATIENCE = 0.5
"""Seconds a group waits for a ticket that somebody else has locked, before each of its tickets goes its own way."""
_PARTS_AT_ONCE = 3
"""Parts of groups that were taken apart are few: with the next group they leave one of five connections to others."""

_CLOCK_RESOLUTION = 0.001
"""Seconds by which uvloop may call too early."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Commit(Protocol[Item_contra, Result_co]):
    """Commits items and returns their answers in order, or raises and has committed none of them.

    ``deadline`` is in seconds. A part of a group that was taken ``apart`` holds up only its own key, and may wait for a
    lock as long as it has; a group may not. ``DatabaseUnavailableError`` fails all items.
    """

    async def __call__(self, items: Sequence[Item_contra], /, *, deadline: float, apart: bool) -> Sequence[Result_co]:
        """Commit."""
        ...


class CrowdedError(DatabaseUnavailableError):
    """So many wait to be committed already that another would only be late."""


class GroupCommit(Generic[Item, Result]):
    """Commits items in groups, in the order in which they came.

    Args:
        commit: Commits a group. After an error that is not the whole database's the group is taken apart, first by
            ``key``, then into its members, and each part is tried again beside the groups that follow: what is wrong
            with one item fails no other, nor holds it up.
        key: Names what an item is about; items about the same keep their order when a group is taken apart.
        largest: How many items a group has at the most. When all senders wait for one large group, the process is idle
            while PostgreSQL commits it.
        waiting: How many items may wait at the most.
    """

    def __init__(
        self,
        commit: Commit[Item, Result],
        *,
        key: Callable[[Item], Hashable],
        largest: int = 32,
        waiting: int = 4096,
    ) -> None:
        self._commit = commit
        self._key = key
        self._largest = largest
        self._waiting = waiting
        self._queue: dict[_Member[Item, Result], None] = {}
        self._unanswered: set[_Member[Item, Result]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf
        self._worker: asyncio.Task[None] | None = None
        self._apart: set[asyncio.Task[None]] = set()
        self._apart_turns = asyncio.Semaphore(_PARTS_AT_ONCE)
        self._closed = False

    async def commit(self, item: Item, *, deadline: float) -> Result:
        """Return the item's answer after its group is committed.

        A caller that is cancelled while it waits leaves the queue; what is under way is committed all the same.

        Raises:
            DatabaseUnavailableError: It was not committed within ``deadline`` seconds, or it is not known whether it
                was. (`CrowdedError` and a closed group say so at once.)
            Exception: What ``commit`` raised for this very item.
        """
        if self._closed:
            raise DatabaseUnavailableError("this process is ending: nothing new is committed")
        if len(self._queue) >= self._waiting:
            raise CrowdedError(f"{self._waiting} deliveries wait to be committed already")
        loop = asyncio.get_running_loop()
        member: _Member[Item, Result] = _Member(item, loop.create_future(), loop.time() + deadline)
        self._queue[member] = None
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._unanswered.add(member)
        if member.until < self._looks_at:
            self._look_at(member.until)
        try:
            return await member.answer
        finally:
            self._unanswered.discard(member)
            self._queue.pop(member, None)

    async def close(self, patience: float = 1.0) -> None:
        """Take nothing new, let what waits be committed within ``patience`` seconds, and fail the rest."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while tasks := self._tasks():  # a group may yet be taken apart
                    await asyncio.wait(tasks)
        late = self._tasks()
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for member in self._queue:
            member.fail(_ending())
        self._look_at(math.inf)

    def _tasks(self) -> "set[asyncio.Task[None]]":
        """Return the tasks that are at work."""
        return {task for task in (self._worker, *self._apart) if task is not None and not task.done()}

    def _look_at(self, moment: float) -> None:
        """Look at that moment of the loop's clock, and no earlier, whether a member has waited for too long.

        One timer serves all: at a steady pace no member waits so long.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = moment
        self._timer = None if moment == math.inf else asyncio.get_running_loop().call_at(moment, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time() + _CLOCK_RESOLUTION
        for member in self._unanswered:
            if member.until <= now:
                member.fail(DatabaseUnavailableError("PostgreSQL gave no answer in time"))
        self._look_at(min((member.until for member in self._unanswered if not member.answer.done()), default=math.inf))

    async def _work(self) -> None:
        """Commit group after group until the queue is empty."""
        clear_contextvars()  # what this task logs is about all members, not about the one that started it
        try:
            while group := self._next_group():
                await self._settle(group, apart=False)
        finally:
            # In the same step that found the queue empty: the next item finds no worker, and starts one.
            self._worker = None
            for member in self._queue:  # none, unless this was cancelled
                member.fail(_ending())

    def _next_group(self) -> "list[_Member[Item, Result]]":
        group: list[_Member[Item, Result]] = []
        while self._queue and len(group) < self._largest:
            member = next(iter(self._queue))
            del self._queue[member]
            if not member.answer.done():
                group.append(member)
        return group

    async def _settle(self, group: "Sequence[_Member[Item, Result]]", *, apart: bool) -> None:
        """Give each member of the group its answer or its error, or take the group apart."""
        remaining = max(member.until for member in group) - asyncio.get_running_loop().time()
        try:
            answers = await self._commit([member.item for member in group], deadline=max(remaining, 0.0), apart=apart)
        except DatabaseUnavailableError as error:
            for member in group:
                member.fail(type(error)(*error.args))
        except Exception as error:  # noqa: BLE001 - it is one member's, and that one gets it
            if apart and len(group) == 1:
                group[0].fail(error)
            else:
                self._take_apart(group)
        except BaseException:
            for member in group:
                member.fail(_ending())
            raise
        else:
            for member, answer in zip(group, answers, strict=True):
                member.give(answer)

    def _take_apart(self, group: "Sequence[_Member[Item, Result]]") -> None:
        """Try again by key, side by side; if there is but one key, member by member."""
        by_key: dict[Hashable, list[_Member[Item, Result]]] = {}
        for member in group:
            by_key.setdefault(self._key(member.item), []).append(member)
        parts = [[part] for part in by_key.values()] if len(by_key) > 1 else [[[member] for member in group]]
        for part in parts:
            task = asyncio.create_task(self._settle_in_turn(part))
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)

    async def _settle_in_turn(self, groups: "Iterable[Sequence[_Member[Item, Result]]]") -> None:
        clear_contextvars()
        for group in groups:
            async with self._apart_turns:
                if waiting := [member for member in group if not member.answer.done()]:
                    await self._settle(waiting, apart=True)


class _Member(Generic[Item, Result]):
    """An item that waits, where its answer goes, and until when it is wanted (the loop's clock)."""

    __slots__ = ("answer", "item", "until")

    def __init__(self, item: Item, answer: "asyncio.Future[Result]", until: float) -> None:
        self.item = item
        self.answer = answer
        self.until = until

    def give(self, answer: Result) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _ending() -> DatabaseUnavailableError:
    return DatabaseUnavailableError("this process is ending: it is not known whether it was committed")
