"""What an operator may look at, and what each of them says is wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from freescout_audit.errors import FreescoutAuditError
from ops.commands import status
from ops.preflight import examine
from ops.workplace import Workplace
from proof.failures.stage import Stage
from settings import load_environment, load_settings

SURFACES = ("doctor", "status", "metrics", "log", "/readyz")
_DOWN = re.compile(r'^freescout_audit_component_up\{component="(\w+)"\} 0\.0$', re.MULTILINE)
_SAVED = re.compile(r"^freescout_audit_deliveries_total\{[^}]*\} (\S+)$", re.MULTILINE)
_DROPPED = re.compile(r"^freescout_audit_log_lines_dropped_total ([1-9]\d*)", re.MULTILINE)
_ALWAYS_YELLOW = {"webhook", "OPS_TOKEN"}
"""The stage has neither registered one nor set the other."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a surface says: whether something is wrong, and its words."""

    wrong: bool
    says: str
    yellow: Mapping[str, str] = field(default_factory=dict)
    """What `doctor` says besides, by its check."""


class Surfaces:
    """Looks at all of them; of the log at what was written since `begin`."""

    def __init__(self, stage: Stage, client: aiohttp.ClientSession) -> None:
        self._stage = stage
        self._client = client
        self._told: list[int] = [0, 0]
        """How many lines each process had written."""

    def begin(self) -> None:
        """Forget what the log has said so far."""
        self._told = [len(lines) for lines in self._lines()]

    async def look_at(self, name: str) -> Seen:
        """Look at one of `SURFACES`."""
        looks = {
            "doctor": self._doctor,
            "status": self._status,
            "metrics": self._metrics,
            "log": self._log,
            "/readyz": self._readyz,
        }
        return await looks[name]()

    def _workplace(self) -> Workplace:
        variables = self._stage.variables
        return Workplace(load_environment(variables), load_settings(variables), as_json=True)

    async def _doctor(self) -> Seen:
        workplace = self._workplace()
        async with workplace.fresh_secrets():
            checks = await examine(workplace)
        red = [f"{check.name}: {check.detail} → {check.next_step}" for check in checks if check.state == "red"]
        yellow = {check.name: f"(yellow) {check.name}: {check.detail}" for check in checks if check.state == "yellow"}
        return Seen(bool(red), "; ".join(red), {each: yellow[each] for each in yellow if each not in _ALWAYS_YELLOW})

    async def _status(self) -> Seen:
        try:
            found = await status.look(self._workplace())
        except FreescoutAuditError as error:
            return Seen(wrong=True, says=str(error))
        assert isinstance(found.document, status.Status)  # noqa: S101 - what the command shows
        return Seen(
            bool(found.document.problems), "; ".join(f"{each.name}: {each.detail}" for each in found.document.problems)
        )

    async def _metrics(self) -> Seen:
        text = await self._get("/metrics")
        down = sorted(set(_DOWN.findall(text)))
        dropped = _DROPPED.search(text)
        says = [f'component_up{{component="{name}"}} 0' for name in down]
        says += [] if dropped is None else [f"log_lines_dropped_total {dropped[1]}"]
        return Seen(bool(says), ", ".join(says))

    async def _readyz(self) -> Seen:
        try:
            async with self._client.get(f"{self._stage.url}/readyz") as answer:
                components = (await answer.json())["components"]
        except (aiohttp.ClientError, TimeoutError):
            return Seen(wrong=True, says="no answer")
        failed = [f"{name}: {each['detail']}" for name, each in components.items() if each["state"] == "failed"]
        return Seen(answer.status != 200, f"{answer.status} {'; '.join(failed)}".strip())

    async def saved(self) -> float:
        """Return how many deliveries the receiver has saved since it started."""
        return sum(map(float, _SAVED.findall(await self._get("/metrics"))))

    async def _get(self, path: str) -> str:
        try:
            async with self._client.get(f"{self._stage.url}{path}") as answer:
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return ""

    def _lines(self) -> list[list[dict[str, object]]]:
        """Return the lines of each process; their times are no order, since a host's clock may be set back."""
        return [list(process.log()) for process in (self._stage.receiver, self._stage.poller)]

    async def _log(self) -> Seen:
        new = [line for told, lines in zip(self._told, self._lines(), strict=True) for line in lines[told:]]
        wrong = [line for line in new if line["level"] in {"error", "warning"}]
        for line in sorted(wrong, key=lambda line: "next_step" not in line):
            said = line.get("detail") or line.get("reason") or line.get("message") or line.get("seconds") or ""
            return Seen(wrong=True, says=f"{line['event']}: {said} → {line.get('next_step', '')}")
        return Seen(wrong=False, says="")
