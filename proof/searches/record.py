"""Records what our processes log while one thing after another goes wrong at a simulated desk, and what went wrong."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import aiohttp
import msgspec

from freescout_audit.signature import fingerprint
from proof.failures.stage import SETTINGS, Stage, staged
from proof.live import PATH, Process, until
from simulator import ApiFault

_SETTINGS = {**SETTINGS, "CACHE_LEASE": "60", "POLLER_INTERVAL": "10"}
"""A lease that outlasts each trouble but one."""
_NEW_APP_KEY = f"base64:{'A' * 42}2="
_EARLIER = (
    "UPDATE freescout_gap SET healed_at = healed_at - interval '{}' WHERE verdict = 'waiting' AND ticket_id IN ({})"
)


class Scene(msgspec.Struct, kw_only=True):
    """What we know of a scene without its log: when it began and ended, and who took part."""

    began: datetime
    ended: datetime
    tickets: list[int] = []
    """What it was done to."""
    spared: list[int] = []
    """Others that changed meanwhile, and met no trouble."""
    requests: list[str] = []
    """The ids of the requests that strangers sent."""
    keys: list[str] = []
    """Fingerprints: the key that signed before, and the one after."""
    trouble: list[datetime] = []
    """When the trouble began, and when it was put right."""


class Recorder:
    """Plays scenes on one stage, one after another."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.desk = stage.desk
        self.scene = Scene(began=_now(), ended=_now())

    def lines(self) -> list[dict[str, object]]:
        """Return what was logged since the scene began, in order."""
        return [line for line in self._all() if _at(line) >= self.scene.began]

    def _all(self) -> list[dict[str, object]]:
        return sorted([*self.stage.receiver.log(), *self.stage.poller.log()], key=_at)

    async def until(self, event: str, *, times: int = 1, since: datetime | None = None, **fields: object) -> None:
        """Wait for lines of an event, a pattern, with these fields, since the scene began or ``since``."""

        def happened() -> bool:
            fitting = [
                line
                for line in self.lines()
                if fnmatchcase(str(line["event"]), event) and fields.items() <= line.items()
            ]
            return len([line for line in fitting if since is None or _at(line) >= since]) >= times

        await until(f"{event} {fields}", happened)

    async def since_now(self, event: str, **fields: object) -> None:
        """Wait until a line is written from now on."""
        await self.until(event, times=1, since=_now(), **fields)

    def change(self, ticket_id: int) -> None:
        """Change a ticket's status."""
        self.desk.set_status(ticket_id, "closed" if self.desk.get(ticket_id).status != "closed" else "active")

    async def change_and_see(self, ticket_id: int) -> None:
        """Change a ticket's status, and wait for its delivery; a pass may be ahead of it."""
        now = _now()
        self.change(ticket_id)
        await self.until("delivery.*", since=now, ticket_id=ticket_id)

    def trouble(self) -> None:
        """Note that the trouble begins or ends now."""
        self.scene.trouble.append(_now())

    async def move_gaps_back(self, interval: str, *ticket_ids: int) -> None:
        """Let the gaps of tickets have been found earlier."""
        await self.stage.execute(_EARLIER.format(interval, ", ".join(map(str, ticket_ids))))


async def _started(recorder: Recorder) -> None:
    """Both processes start on an empty database."""
    recorder.scene.began = datetime.min.replace(tzinfo=UTC)
    await recorder.until("pass.completed")
    recorder.scene.began = min(map(_at, recorder.lines()))


async def _healthy(recorder: Recorder) -> None:
    """Tickets change, and all is well."""
    recorder.scene.tickets = [1, 2, 3, 4, 5]
    for ticket_id in recorder.scene.tickets:
        await recorder.change_and_see(ticket_id)
    await recorder.until("pass.completed", times=2)


async def _refused(recorder: Recorder) -> None:
    """Strangers ask for what is not theirs while FreeScout's deliveries go on."""
    url = recorder.stage.url
    recorder.scene.requests = ["stranger-1", "stranger-2", "stranger-3"]
    recorder.scene.spared = [6, 7]
    await recorder.change_and_see(6)
    recorder.trouble()
    async with aiohttp.ClientSession() as client:
        for (method, path), request_id in zip(
            (("POST", PATH), ("GET", PATH), ("POST", f"{PATH}s")), recorder.scene.requests, strict=True
        ):
            async with client.request(method, url + path, data=b"{}", headers={"X-Request-ID": request_id}):
                pass
    recorder.trouble()
    await recorder.change_and_see(7)


async def _lost(recorder: Recorder) -> None:
    """The deliveries of two tickets are lost; that of a third only loses a race against a pass."""
    recorder.scene.tickets, recorder.scene.spared = [8, 9], [10]
    recorder.desk.faults.delay = 12
    recorder.change(10)
    await recorder.until("gap.found", ticket_id=10)
    await recorder.until("delivery.duplicate", ticket_id=10)
    recorder.desk.faults.delay = 0
    recorder.desk.faults.drop_next = 2
    recorder.trouble()
    for ticket_id in recorder.scene.tickets:
        recorder.change(ticket_id)
    for ticket_id in recorder.scene.tickets:
        await recorder.until("gap.found", ticket_id=ticket_id)
    await recorder.move_gaps_back("81 minutes", *recorder.scene.tickets)
    await recorder.until("gap.lost", times=2)


async def _late(recorder: Recorder) -> None:
    """A delivery comes long after a pass has healed its change, and another one late while no poller runs."""
    recorder.scene.tickets, recorder.scene.spared = [11, 12], [13]
    recorder.desk.faults.delay = 15
    recorder.change(11)
    await recorder.until("gap.found", ticket_id=11)
    await recorder.move_gaps_back("3 minutes", 11)
    await recorder.until("delivery.duplicate", ticket_id=11)
    await recorder.stage.poller.end()
    recorder.desk.faults.delay = 33
    recorder.change(12)
    await recorder.until("delivery.applied", ticket_id=12)
    recorder.desk.faults.delay = 0
    await recorder.change_and_see(13)
    await recorder.stage.poller.start()
    await recorder.until("gap.late")
    await recorder.since_now("pass.completed")


async def _passes(recorder: Recorder) -> None:
    """The desk answers 500 for a while; deliveries go on."""
    recorder.scene.spared = [14]
    recorder.desk.faults.api = ApiFault.SERVER_ERROR
    recorder.trouble()
    await recorder.change_and_see(14)
    await recorder.until("pass.failed", times=2)
    recorder.desk.faults.api = None
    recorder.trouble()
    await recorder.since_now("pass.completed")


async def _ticket(recorder: Recorder) -> None:
    """A ticket changes twice and is deleted for ever, of which no delivery tells; others change as well."""
    recorder.scene.tickets, recorder.scene.spared = [15], [1, 5]
    for ticket_id in (15, 1, 15, 5):
        await recorder.change_and_see(ticket_id)
    recorder.desk.faults.drop_next = 1
    recorder.desk.delete_forever(15)
    await recorder.until("question.answered", ticket_id=15)
    await recorder.since_now("pass.completed")


async def _keys(recorder: Recorder) -> None:
    """APP_KEY changes at the desk, and then the vault gets the keys that follow from it."""
    desk, recorder.scene.spared = recorder.desk, [16, 17]
    before = fingerprint(desk.webhook_key)
    await recorder.change_and_see(16)
    desk.change_app_key(_NEW_APP_KEY)
    recorder.scene.keys = [before, fingerprint(desk.webhook_key)]
    recorder.trouble()
    recorder.change(18)
    await recorder.until("delivery.unverified")
    await recorder.until("pass.failed")
    recorder.stage.put_keys(webhook=desk.webhook_key)
    recorder.trouble()
    await recorder.until("vault.read", times=2)
    await recorder.since_now("pass.completed")
    await recorder.change_and_see(17)


async def _untrusted(recorder: Recorder) -> None:
    """The poller is killed; its lease ends, and another poller comes."""
    await recorder.stage.poller.kill()
    recorder.trouble()
    await recorder.until("receiver.state", component="poller", state="failed")
    await recorder.until("lease.expired", process="receiver")
    await recorder.stage.poller.start()
    recorder.trouble()
    await recorder.until("lease.restored", process="receiver")
    await recorder.until("receiver.state", component="poller", state="ok")
    await recorder.since_now("pass.completed")


async def _changed(recorder: Recorder) -> None:
    """A release: both processes are started anew, the receiver's flag off by mistake, and then on again."""
    receiver = recorder.stage.receiver
    recorder.trouble()
    await _restart(recorder, recorder.stage.poller, "poller.leads")
    receiver.variables["FLAG_FREESCOUT_WEBHOOK_RECEIVE"] = "0"
    await _restart(recorder, receiver, "receiver.started")
    recorder.trouble()
    recorder.change(19)
    await recorder.until("delivery.refused")
    receiver.variables["FLAG_FREESCOUT_WEBHOOK_RECEIVE"] = "1"
    await _restart(recorder, receiver, "receiver.started")
    recorder.trouble()
    await recorder.since_now("pass.completed")


async def _restart(recorder: Recorder, process: Process, event: str) -> None:
    await process.end()
    now = _now()
    await process.start()
    await recorder.until(event, since=now)


Play = Callable[[Recorder], Awaitable[None]]
SCENES: Mapping[str, Play] = {
    play.__name__.lstrip("_"): play
    for play in (
        _started, _healthy, _refused, _lost, _late, _passes, _ticket, _keys, _untrusted, _changed,
    )
}  # fmt: skip


async def record(folder: Path, into: Path, *, tell: Callable[[str], None]) -> None:
    """Play all scenes, and write each one's log and what is known of it.

    Args:
        folder: Where PostgreSQL and the processes may write.
        into: Gets ``NAME.jsonl`` for each scene, and ``scenes.json``.
        tell: Is told what is played.
    """
    known: dict[str, Scene] = {}
    async with staged(folder, _SETTINGS, restless=False) as stage:
        recorder = Recorder(stage)
        for name, play in SCENES.items():
            tell(f"{name}: {play.__doc__}")
            recorder.scene = Scene(began=_now(), ended=_now())
            await play(recorder)
            recorder.scene.ended = _now()
            known[name] = recorder.scene
            lines = [line for line in recorder.lines() if _at(line) <= recorder.scene.ended]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (into / f"{name}.jsonl").write_text(text, encoding="ascii")
    document = msgspec.json.format(msgspec.json.encode(known), indent=1)
    (into / "scenes.json").write_bytes(document + b"\n")


def _now() -> datetime:
    return datetime.now(UTC)


def _at(line: Mapping[str, object]) -> datetime:
    return datetime.fromisoformat(str(line["timestamp"]))
