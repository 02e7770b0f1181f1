"""Whatever is red leads to the heading of the runbook that says what to do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
from rich.console import Console

from db.condition import Condition, judge, judge_pushes
from db.runbook import HEADINGS, PAGE, remedy
from freescout_audit.endpoints import ENDPOINTS, name_at
from ops.check import Check, green, of_condition, red, yellow
from ops.commands.doctor import diagnose
from ops.commands.status import look
from ops.conditions import stands
from ops.keychecks import check_at
from ops.workplace import Workplace
from settings import environment, load_environment, load_settings
from support.examples import at
from support.markdown import anchors
from support.standings import standing

ROOT = Path(__file__).resolve().parent.parent
RUNBOOK = (ROOT / PAGE).read_text(encoding="utf-8")
NAMING = {"red", "of_condition", "_key", "_note"}
"""The functions whose first argument names what is red."""


def names_in(file: Path) -> Iterator[str]:
    """Yield what the functions that name something red are called with, as far as it is written there."""
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        written = {
            target.id: list(said_by(node.value))
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", getattr(node.func, "attr", "")) not in NAMING:
                continue
            match node.args[0]:
                case ast.Name(id=variable) if variable in written:
                    yield from written[variable]
                case ast.Name(id=variable) if hasattr(environment, variable):
                    yield str(getattr(environment, variable))
                case said:
                    yield from said_by(said)


def said_by(node: ast.expr) -> Iterator[str]:
    """Yield the names that an expression can be: a text, or what a text is called at each endpoint."""
    match node:
        case ast.Constant(value=str(name)):
            yield name
        case ast.Call(func=ast.Name(id="check_at" | "name_at" as at), args=[_, ast.Constant(value=str(name))]):
            yield from ({"check_at": check_at, "name_at": name_at}[at](endpoint, name) for endpoint in ENDPOINTS)


def test_whatever_can_be_red_has_a_heading_and_nothing_else() -> None:
    in_the_code = {
        name for file in (*(ROOT / "ops").rglob("*.py"), ROOT / "receiver" / "health.py") for name in names_in(file)
    }
    conditions = judge(standing()) | judge_pushes({}, None, ENDPOINTS)
    checks = {check.name for check in stands(standing(silent_since=at(-600)))}

    assert in_the_code | set(conditions) | checks == set(HEADINGS)


@pytest.mark.parametrize("name", HEADINGS)
def test_its_heading_is_in_the_runbook(name: str) -> None:
    page, _, anchor = remedy(name).partition("#")

    assert page == PAGE
    assert anchor in anchors(RUNBOOK)


def test_every_link_within_the_runbook_leads_somewhere() -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) - anchors(RUNBOOK) == set()


def test_a_name_without_a_heading_leads_to_the_page() -> None:
    assert remedy("something new") == PAGE


def test_what_is_red_has_the_link_and_nothing_else() -> None:
    failed = of_condition("poller", Condition(state="failed", detail="it vanished", next_step="start it"))
    degraded = of_condition("desk", Condition(state="degraded", detail="500 for one"))

    assert red("API", "answers 503", "is it up?").runbook == "docs/runbook.md#desk"
    assert (failed.runbook, failed.what_to_do) == ("docs/runbook.md#poller", "start it (docs/runbook.md#poller)")
    assert (degraded.runbook, degraded.what_to_do) == ("docs/runbook.md#desk", "(docs/runbook.md#desk)")
    for fine in (
        green("API", "answers"),
        yellow("gaps", "2 were lost", "look"),
        of_condition("poller", Condition(state="notice", detail="it stepped down", next_step="look")),
    ):
        assert (fine.runbook, fine.what_to_do) == ("", fine.next_step)


def test_doctor_shows_the_link_behind_the_next_step_and_in_its_document() -> None:
    said = diagnose([red("vault", "it answers 503", "is it up?")], wrong=lambda check: check.state == "red")
    screen = Console(record=True, width=100)
    screen.print(said.picture)

    assert "→ is it up? (docs/runbook.md#vault)" in screen.export_text()
    (check,) = msgspec.json.decode(msgspec.json.encode(said.document))["checks"]
    assert check["runbook"] == "docs/runbook.md#vault"
    assert msgspec.convert(check, Check) == red("vault", "it answers 503", "is it up?")


async def test_status_shows_the_link_behind_the_next_step_and_in_its_document(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_lease SET heartbeat_at = freescout_now() - interval '1 hour'")

    said = await look(Workplace(load_environment({"DATABASE_URL": database_url}), load_settings({})))
    screen = Console(record=True, width=300)
    screen.print(said.picture)

    assert "freescout-audit poller retire (docs/runbook.md#poller)" in screen.export_text()
    (problem,) = msgspec.json.decode(msgspec.json.encode(said.document, enc_hook=str))["problems"]
    assert problem["runbook"] == "docs/runbook.md#poller"
