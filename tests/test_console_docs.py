"""docs/console.md says what the console really takes, answers, and ends with."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from typer.main import get_command

from ops.commands import backfill, desk, doctor, heal, journal, logs, reconcile, secret, status, ticket, webhook
from ops.console import COMMANDS, console
from ops.endtoend import DeliveryTest
from ops.result import Exit
from ops.rotation import Rotation

ROOT = Path(__file__).resolve().parent.parent
DOCS = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")

DOCUMENTS: Mapping[str, type[msgspec.Struct]] = {
    "secret new": secret.NewSecret,
    "secret derive": secret.DerivedKeys,
    "secret check": secret.CheckedDeliveries,
    "rotate status": Rotation,
    "webhook register": webhook.Registration,
    "webhook test": DeliveryTest,
    "webhook remove": webhook.Removal,
    "desk change": desk.DeskChange,
    "desk clock": desk.ClocksRead,
    "doctor": doctor.Diagnosis,
    "status": status.Status,
    "ticket": ticket.Ticket,
    "deliveries": journal.Deliveries,
    "gaps": journal.Gaps,
    "logs": logs.LineCounts,
    "heal": heal.Healing,
    "reconcile": reconcile.Reconciliation,
    "backfill": backfill.Backfill,
}


def commands() -> dict[str, Any]:
    """Every command by its full name."""
    found: dict[str, Any] = {}
    whole = get_command(console([entry.name for entry in COMMANDS]))
    for name, command in whole.commands.items():  # type: ignore[attr-defined] # a group has some
        if hasattr(command, "commands"):
            found |= {f"{name} {sub}": each for sub, each in command.commands.items()}
        else:
            found[name] = command
    return found


def sections() -> dict[str, str]:
    """The docs' sections by the command they are about, in their order."""
    parts = re.split(r"^### `([^`]+)`\n", DOCS, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def fields(document: type[msgspec.Struct]) -> Iterator[str]:
    """The names of a document's fields, and of the documents inside."""
    for name, hint in get_type_hints(document).items():
        yield name
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from fields(part)


def test_every_command_has_a_section_in_the_order_of_the_help() -> None:
    assert list(sections()) == list(commands())


@pytest.mark.parametrize("name", commands())
def test_every_option_and_argument_is_documented(name: str) -> None:
    section = sections()[name]

    spelled = {spelling for each in commands()[name].params for spelling in each.opts if spelling.startswith("--")}
    documented = set(re.findall(r"`(--[a-z-]+)", section))

    assert documented == spelled - {"--json"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_of_a_document_is_documented(name: str) -> None:
    section = sections()[name]

    assert [field for field in fields(DOCUMENTS[name]) if f"`{field}`" not in section] == []


def test_every_command_takes_json() -> None:
    assert [
        name for name, command in commands().items() if "--json" not in str([each.opts for each in command.params])
    ] == []


def test_the_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d) \| ", DOCS, flags=re.MULTILINE)

    assert [int(row) for row in rows] == [int(code) for code in Exit]
