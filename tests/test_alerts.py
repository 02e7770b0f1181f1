"""The alert rules: for each failure the right alert and no other, none in healthy days, each one leads to its heading.

The series are recordings of a receiver's /metrics: of `make failures` (``ARGS=--record``), of `make soak`
(``ARGS='--healthy --record --speed 120'``), or made here by a receiver whose database is told what is wrong.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from conftest import ENVIRONMENT, Receive, Receiver
from db.database import Database
from db.lease import beat
from freescout_audit.rule import Terms
from proof.failures.injuries import FAILURES
from proof.scrapes import RECORDINGS, RULES, Recorder, Scrapes, load, used_by_the_rules
from support.markdown import anchors

ROOT = Path(__file__).resolve().parent.parent
JOB, INSTANCES = "freescout-audit", ("web.1:8080", "web.2:8080")
STRETCH = 15
"""Failures are recorded with a lease of 40 s, each second, and shown to the rules as of 15 s: a lease of 600 s."""
NAME = "FreescoutAudit"
FIRING = 'ALERTS{alertstate="firing"}'
_HOUR = 3600
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")

EXPECTED: Mapping[str, Sequence[str]] = {
    "the poller is killed": ["PollerVanished"],
    "the poller is stopped": ["AnswersNotVouchedFor", "LeaseEndsSoon"],
    "PostgreSQL is away": ["DeliveriesNotSaved"],
    "PostgreSQL is a standby": ["DeliveriesNotSaved"],
    "PostgreSQL's disk is full": ["DeliveriesNotSaved"],
    "our rights are revoked": ["DeliveriesNotSaved"],
    "the webhook key is wrong": ["DeliveriesRefused"],
    "the desk hangs": ["DeskRefuses"],
    "the desk answers 401": ["DeskRefuses"],
    "the desk answers 403": ["DeskRefuses"],
    "the desk answers 500": ["DeskRefuses"],
    "one conversation answers 500": ["TicketsUnreadable"],
    "the module is off": ["BothSilent"],
    "the vault is away": ["VaultFails"],
    "the host's clock is set back": [],
    "the log's reader hangs": ["LogLinesDropped"],
}
"""The alerts that a failure may raise; never two at a time."""


def failure(name: str) -> Scrapes:
    """Return the recording of a failure, stretched."""
    (scrapes,) = (each for each in map(load, RECORDINGS.glob("*.json")) if each.what == name)
    scrapes.every *= STRETCH
    return scrapes


async def shown_for_an_hour(receiver: Receiver) -> Scrapes:
    """Return what a receiver shows now, as if it did for an hour."""
    async with asyncio.timeout(10):
        while True:
            async with receiver.client.get(receiver.url + "/metrics") as response:
                if "tickets_counted_timestamp_seconds NaN" not in await response.text():
                    break
    recorder = Recorder(receiver.url, receiver.client, what="an hour", every=60)
    await recorder.scrape()
    scrapes = recorder.end()
    scrapes.series = {name: " ".join([value] * 60) for name, value in scrapes.series.items()}
    scrapes.count = 60
    return scrapes


def series(scrapes: Scrapes, instance: str) -> list[dict[str, str]]:
    """Return a recording's series as those of an instance."""
    found = []
    for name, values in scrapes.series.items():
        metric, _, labels = name.rstrip("}").partition("{")
        target = f'job="{JOB}", instance="{instance}"'
        found.append({"series": f"{metric}{{{', '.join(filter(None, (labels, target)))}}}", "values": values})
    return found


def ask(
    folder: Path,
    inputs: Sequence[Mapping[str, str]],
    *questions: tuple[str, float, Mapping[str, float]],
    every: float = 15,
    evaluated_every: float | None = None,
    alerts: Sequence[Mapping[str, object]] = (),
) -> None:
    """Have promtool play series to the rules; then each expression has to give those values, by labels, at a second."""
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{evaluated_every or every:g}s",
        "tests": [
            {
                "interval": f"{every:g}s",
                "input_series": list(inputs),
                "alert_rule_test": list(alerts),
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": f"{second:g}s",
                        "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
                    }
                    for expression, second, samples in questions
                ],
            }
        ],
    }
    file = folder / "test.json"
    file.write_text(json.dumps(test), encoding="utf-8")
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def fired(*names: str, end: float, severity: str = "") -> tuple[str, float, dict[str, float]]:
    """Ask which alerts have ever fired until a second, and expect these."""
    which = f', severity="{severity}"' if severity else ""
    expression = f'group by (alertname) (count_over_time(ALERTS{{alertstate="firing"{which}}}[7d]))'
    return expression, end, {f'{{alertname="{NAME}{name}"}}': 1 for name in names}


def at_once(most: int, end: float) -> tuple[str, float, dict[str, float]]:
    """Ask how many alerts fired at a time at the most until a second; the answer is empty for none."""
    return f"max_over_time(count({FIRING})[{end:g}s:15s])", end, {"{}": most} if most else {}


class TestTheRules:
    @needs_promtool
    def test_prometheus_takes_them(self) -> None:
        assert PROMTOOL is not None
        done = subprocess.run([PROMTOOL, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr

    def test_each_has_its_severity_its_page_and_a_heading_of_the_runbook(self) -> None:
        headings = anchors((ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"))

        for name, rule in rules():
            assert name.startswith(NAME)
            assert re.search(r"\n +severity: (critical|warning)\n", rule), name
            assert re.search(r"\n +summary: .+", rule), name
            assert re.search(r"\n +page: (&page '|\*page)", rule), name
            page, _, heading = re.search(r"\n +runbook: (\S+)", rule)[1].partition("#")  # type: ignore[index]
            assert page == "docs/runbook.md"
            assert heading in headings, name

    def test_the_docs_list_every_alert(self) -> None:
        text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
        listed = re.findall(rf"^\| `{NAME}(\w+)` \| (\w+(?:, \w+)?) \|", text, flags=re.MULTILINE)

        said: dict[str, list[str]] = {}
        for name, rule in rules():
            said.setdefault(name.removeprefix(NAME), []).append(re.search(r"severity: (\w+)", rule)[1])  # type: ignore[index]
        assert dict(listed) == {name: ", ".join(sorted(severities)) for name, severities in said.items()}

    def test_they_use_only_documented_metrics(self) -> None:
        documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

        assert {name for name in used_by_the_rules() if f"| `{name}` |" not in documented} == set()


@needs_promtool
class TestRecordedFailures:
    def test_each_failure_has_its_alert(self) -> None:
        assert [each.name for each in FAILURES] == list(EXPECTED)

    @pytest.mark.parametrize("name", EXPECTED)
    def test_it_raises_the_right_alert_and_no_other_once_for_two_receivers(self, name: str, tmp_path: Path) -> None:
        scrapes, expected = failure(name), EXPECTED[name]
        assert scrapes.made_at is not None
        made, end = scrapes.made_at * scrapes.every, scrapes.count * scrapes.every
        # Lines that were lost are told of for a quarter of an hour.
        still = {} if expected != ["LogLinesDropped"] else {"{}": 1.0}

        ask(
            tmp_path,
            [each for instance in INSTANCES for each in series(scrapes, instance)],
            (f"count({FIRING})", made, {}),
            fired(*expected, end=end),
            at_once(min(len(expected), 1), end),
            (f"count({FIRING})", end, still),
            every=scrapes.every,
        )

    def test_a_desk_that_refuses_wakes_when_the_lease_is_about_to_end(self, tmp_path: Path) -> None:
        scrapes = failure("the desk answers 401")
        assert scrapes.made_at is not None
        assert scrapes.healed_at is not None
        soon = (scrapes.made_at + 23) * scrapes.every
        severities = f"group by (severity) ({FIRING})"

        ask(
            tmp_path,
            series(scrapes, INSTANCES[0]),
            (severities, soon, {'{severity="warning"}': 1}),
            (severities, scrapes.healed_at * scrapes.every, {'{severity="critical"}': 1}),
            every=scrapes.every,
        )

    def test_an_alert_names_a_receiver_that_answers(self, tmp_path: Path) -> None:
        scrapes = failure("the poller is killed")
        assert scrapes.healed_at is not None
        away = {"series": f'up{{job="{JOB}", instance="a.away:1"}}', "values": f"0x{scrapes.count}"}
        rule = dict(rules())["FreescoutAuditPollerVanished"]
        text = {name: re.search(rf"\n +{name}: (.+)", rule)[1] for name in ("summary", "runbook")}  # type: ignore[index]

        ask(
            tmp_path,
            [away, *series(scrapes, INSTANCES[0])],
            every=scrapes.every,
            alerts=[
                {
                    "eval_time": f"{scrapes.healed_at * scrapes.every:g}s",
                    "alertname": "FreescoutAuditPollerVanished",
                    "exp_alerts": [
                        {
                            "exp_labels": {"severity": "critical", "job": JOB},
                            "exp_annotations": {
                                **text,
                                "page": f"http://{INSTANCES[0]}/internal/freescout-audit/",
                            },
                        }
                    ],
                }
            ],
        )


@needs_promtool
class TestMadeHere:
    """What `make failures` does not make."""

    @pytest.fixture(autouse=True)
    async def _all_is_well(self, database: Database, sql: asyncpg.Connection) -> None:
        await beat(database, Terms())
        await sql.execute(
            "UPDATE freescout_lease SET complete_through = now(), lease_until = now() + interval '15 minutes'"
        )
        await sql.execute("UPDATE freescout_poller SET desk_state = 'ok', leader = 'poller.1'")
        await sql.execute(
            "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone, observed_at)"
            " SELECT id, 'closed', 'published', now() - interval '1 day', false, now() - interval '1 hour'"
            " FROM generate_series(1, 20) id"
        )

    async def expect(self, receiver: Receiver, folder: Path, *names: str, severity: str = "") -> None:
        """Expect just these alerts of what a receiver shows for an hour."""
        scrapes = await shown_for_an_hour(receiver)
        ask(
            folder,
            series(scrapes, INSTANCES[0]),
            fired(*names, end=_HOUR),
            fired(*names, end=_HOUR, severity=severity),
            every=scrapes.every,
        )

    async def test_nothing_when_all_is_well(self, receiver: Receiver, tmp_path: Path) -> None:
        await self.expect(receiver, tmp_path)

    async def test_tickets_that_read_none_although_the_lease_vouches(
        self, receive: Receive, sql: asyncpg.Connection, tmp_path: Path
    ) -> None:
        disputed = "UPDATE freescout_ticket SET disputed_at = now(), grace_until = now() WHERE ticket_id <= $1"
        await sql.execute(disputed, 1)
        async with receive() as receiver:
            await self.expect(receiver, tmp_path)
        await sql.execute(disputed, 2)

        async with receive() as receiver:
            await self.expect(receiver, tmp_path, "FailingClosed", severity="critical")

    async def test_lost_deliveries(self, receive: Receive, sql: asyncpg.Connection, tmp_path: Path) -> None:
        lose = (
            "INSERT INTO freescout_gap (ticket_id, healed_at, verdict)"
            " SELECT 1, now(), 'lost' FROM generate_series(1, $1)"
        )
        await sql.execute(lose, 5)
        async with receive() as receiver:
            await self.expect(receiver, tmp_path)
        await sql.execute(lose, 1)

        async with receive() as receiver:
            await self.expect(receiver, tmp_path, "DeliveriesLost", severity="warning")

    async def test_a_feed_that_stands_still(self, receive: Receive, sql: asyncpg.Connection, tmp_path: Path) -> None:
        await sql.execute(
            "INSERT INTO freescout_history (ticket_id, known_at, seen_at, gone, is_dated, expires_at, settled, before,"
            " via) SELECT 9, now() - interval '2 minutes', now(), false, true, now(), 'closed', 'active', 'webhook'"
        )
        await sql.execute("ALTER FUNCTION freescout_number_transitions(int) RENAME TO away")
        async with receive() as receiver:
            await self.expect(receiver, tmp_path, "FeedStandsStill", severity="warning")
        await sql.execute("ALTER FUNCTION away(int) RENAME TO freescout_number_transitions")

    async def test_a_receiver_without_a_key(self, receive: Receive, tmp_path: Path) -> None:
        async with receive(replace(ENVIRONMENT, webhook_secrets=())) as receiver:
            await self.expect(receiver, tmp_path, "NoKey", severity="critical")

    async def test_refused_deliveries_wake_where_push_alone_is_meant(
        self, receive: Receive, sql: asyncpg.Connection, tmp_path: Path
    ) -> None:
        await sql.execute("UPDATE freescout_poller SET retired_at = now()")
        await sql.execute("UPDATE freescout_lease SET heartbeat_at = NULL, lease_until = now() - interval '1 day'")
        async with receive() as receiver:
            await self.expect(receiver, tmp_path)
        await sql.execute(
            "INSERT INTO freescout_answer (kind, answers, first_at, last_at)"
            " VALUES ('unverified_like_freescouts', 1, now(), now())"
        )

        async with receive() as receiver:
            await self.expect(receiver, tmp_path, "DeliveriesRefused", severity="critical")

    async def test_a_lease_that_ends_where_push_alone_is_meant_is_no_alert(
        self, receive: Receive, sql: asyncpg.Connection, tmp_path: Path
    ) -> None:
        await sql.execute("UPDATE freescout_lease SET lease_until = now() + interval '4 minutes'")
        async with receive() as receiver:
            await self.expect(receiver, tmp_path, "LeaseEndsSoon", severity="critical")
        await sql.execute("UPDATE freescout_lease SET heartbeat_at = NULL")
        await sql.execute("UPDATE freescout_poller SET retired_at = now()")

        async with receive() as receiver:
            await self.expect(receiver, tmp_path)


@needs_promtool
@pytest.mark.parametrize(
    ("up", "expected"),
    [
        ({}, ["Away"]),
        ({INSTANCES[0]: "1x240", INSTANCES[1]: "1x240"}, []),
        ({INSTANCES[0]: "0x240", INSTANCES[1]: "0x240"}, ["Away"]),
        ({INSTANCES[0]: "1x240", INSTANCES[1]: "0x240"}, ["ReceiverAway"]),
        ({INSTANCES[0]: "1x9 0 0 0 0 1x225"}, []),
    ],
    ids=["no target", "both answer", "none answers", "one does not", "a restart"],
)
def test_a_target_that_is_away(up: Mapping[str, str], expected: Sequence[str], tmp_path: Path) -> None:
    inputs = [{"series": f'up{{job="{JOB}", instance="{each}"}}', "values": values} for each, values in up.items()]

    ask(tmp_path, inputs, fired(*expected, end=_HOUR))


@needs_promtool
def test_in_healthy_hours_no_alert_fires(tmp_path: Path) -> None:
    (file,) = RECORDINGS.glob("a_healthy_*_hours.json")
    scrapes = load(file)
    assert scrapes.count * scrapes.every >= float(scrapes.what.split()[2]) * 3600
    assert not scrapes.series["up"].startswith("0")
    assert " 0" not in scrapes.series["up"]

    ask(
        tmp_path,
        series(scrapes, INSTANCES[0]),
        fired(end=scrapes.count * scrapes.every),
        every=scrapes.every,
        evaluated_every=3 * scrapes.every,  # each minute takes three times as long
    )


def rules() -> list[tuple[str, str]]:
    """Return each alert's name and its rule as text."""
    _, *each = re.split(r"\n +- alert: ", RULES.read_text(encoding="utf-8"))
    return [(rule.partition("\n")[0], rule) for rule in each]
