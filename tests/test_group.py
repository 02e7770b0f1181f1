"""Group commit: who is committed with whom, and what each of them is told."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from db.group import CrowdedError, GroupCommit
from freescout_audit.errors import DatabaseUnavailableError

SOON = 5.0


class PoisonError(Exception):
    """What the database says of one bad item."""


@dataclass
class Commits:
    """A database that commits when it is told to: each commit waits for ``gate``."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: "asyncio.Queue[None]" = field(default_factory=asyncio.Queue)
    groups: list[list[str]] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    deadlines: list[float] = field(default_factory=list)
    away: bool = False

    async def __call__(self, items: Sequence[str], *, deadline: float, apart: bool) -> Sequence[str]:
        self.groups.append(list(items))
        self.begun.put_nowait(None)
        self.deadlines.append(deadline)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if self.away:
            raise DatabaseUnavailableError("away")
        if any("poison" in item for item in items):
            raise PoisonError(next(item for item in items if "poison" in item))
        self.committed += items
        return [item.upper() for item in items]


def make(commits: Commits, **limits: int) -> GroupCommit[str, str]:
    return GroupCommit(commits, key=lambda item: item[0], **limits)


def send(group: GroupCommit[str, str], *items: str, deadline: float = SOON) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(group.commit(item, deadline=deadline)) for item in items]


async def under_way(commits: Commits, groups: int = 1) -> None:
    """Wait until so many commits have begun."""
    async with asyncio.timeout(SOON):
        for _ in range(groups):
            await commits.begun.get()


async def answers(tasks: Sequence[asyncio.Task[str]]) -> list[str | BaseException]:
    async with asyncio.timeout(SOON):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_alone_is_committed_at_once() -> None:
    commits = Commits()
    commits.gate.set()

    assert await make(commits).commit("a", deadline=SOON) == "A"

    assert commits.groups == [["a"]]


async def test_what_arrives_during_a_commit_is_the_next_group_in_its_order() -> None:
    commits = Commits()
    group = make(commits)
    first = send(group, "a1")
    await under_way(commits)

    rest = send(group, "c", "a2", "b", "a3")
    await asyncio.sleep(0)
    commits.gate.set()

    assert await answers(first + rest) == ["A1", "C", "A2", "B", "A3"]
    assert commits.groups == [["a1"], ["c", "a2", "b", "a3"]]


async def test_no_wake_up_is_lost_whenever_somebody_comes() -> None:
    """Somebody comes at every single step of the loop, before, at and after the end of the worker."""
    for steps in range(12):
        commits = Commits()
        commits.gate.set()
        group = make(commits)
        first = send(group, "a")
        for _ in range(steps):
            await asyncio.sleep(0)

        assert await answers(first + send(group, "b")) == ["A", "B"]


async def test_nobody_starves_while_others_keep_coming() -> None:
    commits = Commits()
    commits.gate.set()
    group = make(commits, largest=4)

    async def keep_coming(name: str) -> None:
        for number in range(50):
            await group.commit(f"{name}{number}", deadline=SOON)

    await asyncio.gather(*(keep_coming(name) for name in "abcdefghij"))

    assert max(map(len, commits.groups)) == 4
    last = {name: [item for item in commits.committed if item[0] == name] for name in "abcdefghij"}
    assert all(items == [f"{name}{number}" for number in range(50)] for name, items in last.items())
    fiftieth = [commits.committed.index(f"{name}0") for name in "abcdefghij"]
    assert max(fiftieth) < 20


async def test_one_group_is_under_way_at_a_time_and_no_larger_than_allowed() -> None:
    commits = Commits()
    group = make(commits, largest=2)
    tasks = send(group, "a", "b", "c", "d", "e")
    await under_way(commits)

    commits.gate.set()

    assert await answers(tasks) == ["A", "B", "C", "D", "E"]
    assert commits.groups == [["a", "b"], ["c", "d"], ["e"]]
    assert commits.most_under_way == 1


async def test_there_is_one_timer_however_many_wait() -> None:
    commits = Commits()
    group = make(commits)
    loop = asyncio.get_running_loop()
    with patch.object(loop, "call_at", wraps=loop.call_at) as call_at:
        tasks = send(group, *("abcdefgh"))
        await asyncio.sleep(0)

    assert call_at.call_count == 1
    commits.gate.set()
    assert len(await answers(tasks)) == 8


async def test_a_poisoned_item_fails_alone_and_its_neighbours_are_committed() -> None:
    commits = Commits()
    group = make(commits)
    first = send(group, "a")
    await under_way(commits)
    rest = send(group, "b", "poison", "p2", "c")
    await asyncio.sleep(0)

    commits.gate.set()
    told = await answers(first + rest)

    assert [repr(answer) for answer in told] == ["'A'", "'B'", "PoisonError('poison')", "'P2'", "'C'"]
    assert sorted(commits.committed) == ["a", "b", "c", "p2"]
    assert ["poison", "p2"] in commits.groups  # taken apart by key first, in order


@pytest.mark.parametrize("neighbours", [["locked"], ["locked", "a", "b"]], ids=["alone", "among others"])
async def test_while_a_group_is_taken_apart_the_next_ones_go_on(neighbours: list[str]) -> None:
    """What is wrong with one ticket (its row is locked, say) holds up nobody else."""
    stuck = asyncio.Event()

    async def commit(items: Sequence[str], *, deadline: float, apart: bool) -> Sequence[str]:
        await asyncio.sleep(0)
        if "locked" in items:
            if not apart:
                raise PoisonError
            await stuck.wait()
        return items

    group = GroupCommit(commit, key=lambda item: item[0])
    tasks = send(group, *neighbours)
    beside = await answers([task for task in tasks if task is not tasks[0]])
    later = [await group.commit(f"c{number}", deadline=SOON) for number in range(3)]

    assert (beside, later) == (neighbours[1:], ["c0", "c1", "c2"])
    assert not tasks[0].done()
    stuck.set()
    assert await answers(tasks[:1]) == ["locked"]


async def test_an_unavailable_database_fails_exactly_the_members_of_the_group() -> None:
    commits = Commits()
    group = make(commits)
    first = send(group, "a", "b")
    await under_way(commits)
    commits.away = True
    commits.gate.set()
    told = await answers(first)
    commits.away = False

    assert {type(answer) for answer in told} == {DatabaseUnavailableError}
    assert await answers(send(group, "c")) == ["C"]
    assert commits.groups == [["a", "b"], ["c"]]


async def test_who_is_cancelled_while_waiting_leaves_and_cancels_nobody_else() -> None:
    commits = Commits()
    group = make(commits)
    first = send(group, "a1", "a2")
    await under_way(commits)
    waiting = send(group, "b", "c")
    await asyncio.sleep(0)

    for task in (first[0], waiting[0]):
        task.cancel()
    await asyncio.sleep(0)
    commits.gate.set()
    told = await answers(first + waiting)

    assert isinstance(told[0], asyncio.CancelledError)
    assert isinstance(told[2], asyncio.CancelledError)
    assert (told[1], told[3]) == ("A2", "C")
    assert commits.groups == [["a1", "a2"], ["c"]]
    assert commits.committed == ["a1", "a2", "c"]


async def test_each_waits_until_its_own_deadline_and_no_longer() -> None:
    commits = Commits()
    group = make(commits)
    patient = send(group, "a")
    await under_way(commits)
    hasty = send(group, "b", deadline=0.01)
    other = send(group, "c")

    told = await answers(hasty)
    commits.gate.set()

    assert str(told[0]) == "PostgreSQL gave no answer in time"
    assert await answers(patient + other) == ["A", "C"]
    assert commits.committed == ["a", "c"]  # nobody is committed who was told that he was not


async def test_a_group_has_as_long_as_its_most_patient_member() -> None:
    commits = Commits()
    group = make(commits)
    tasks = [*send(group, "a", deadline=1), *send(group, "b", deadline=3), *send(group, "c", deadline=2)]
    commits.gate.set()

    await answers(tasks)

    assert 2 < commits.deadlines[0] <= 3


async def test_when_too_many_wait_the_next_is_told_at_once() -> None:
    commits = Commits()
    group = make(commits, waiting=3)
    first = send(group, "a")
    await under_way(commits)
    waiting = send(group, "b", "c", "d")
    await asyncio.sleep(0)

    with pytest.raises(CrowdedError, match="3 deliveries wait"):
        await group.commit("e", deadline=SOON)

    commits.gate.set()
    assert await answers(first + waiting) == ["A", "B", "C", "D"]
    assert await group.commit("f", deadline=SOON) == "F"


async def test_closing_lets_what_waits_be_committed_and_takes_nothing_new() -> None:
    commits = Commits()
    group = make(commits)
    tasks = send(group, "a", "b")
    await under_way(commits)
    tasks += send(group, "c")
    await asyncio.sleep(0)

    closing = asyncio.create_task(group.close(SOON))
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailableError, match="this process is ending"):
        await group.commit("d", deadline=SOON)
    commits.gate.set()
    await closing

    assert await answers(tasks) == ["A", "B", "C"]


async def test_closing_waits_no_longer_than_it_is_told_and_leaves_nobody_waiting() -> None:
    commits = Commits()
    group = make(commits)
    tasks = send(group, "a")
    await under_way(commits)
    tasks += send(group, "b")
    await asyncio.sleep(0)

    await group.close(0.01)

    assert {str(answer) for answer in await answers(tasks)} == {
        "this process is ending: it is not known whether it was committed"
    }


async def test_closing_waits_for_what_is_taken_apart_meanwhile_too() -> None:
    commits = Commits()
    group = make(commits)
    tasks = send(group, "poison", "b")
    await under_way(commits)

    closing = asyncio.create_task(group.close(SOON))
    await asyncio.sleep(0)
    commits.gate.set()
    await closing

    assert [task.done() for task in tasks] == [True, True]
    assert (await answers(tasks))[1] == "B"


async def test_when_its_work_is_cancelled_nobody_is_left_waiting() -> None:
    commits = Commits()
    group = make(commits)
    tasks = send(group, "a")
    await under_way(commits)
    tasks += send(group, "b")
    await asyncio.sleep(0)

    assert group._worker is not None  # noqa: SLF001
    group._worker.cancel()  # noqa: SLF001

    assert {str(answer) for answer in await answers(tasks)} == {
        "this process is ending: it is not known whether it was committed"
    }


async def test_an_idle_group_closes_at_once() -> None:
    await make(Commits()).close()


@pytest.mark.parametrize("apart_too", [False, True])
async def test_what_is_logged_of_a_group_bears_the_name_of_no_single_request(*, apart_too: bool) -> None:
    contexts: list[dict[str, object]] = []

    async def commit(items: Sequence[str], *, deadline: float, apart: bool) -> Sequence[str]:
        del deadline
        contexts.append(get_contextvars())
        if apart_too and not apart:
            raise PoisonError
        return items

    group = GroupCommit(commit, key=lambda item: item[0])
    with bound_contextvars(request_id="the first one's"):
        await group.commit("a", deadline=SOON)

    assert contexts == [{}] * len(contexts)
    assert contexts
