"""``rotate``: follows a rotation of FreeScout's webhook key to its end."""

from collections.abc import Sequence

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from db.journal import read_key_uses
from freescout_audit.endpoints import AUDIT
from freescout_audit.words import ago, moment
from ops.drawing import columns
from ops.output import AsJson
from ops.result import CommandResult, Exit
from ops.rotation import Rotation, Rotations, judge_rotation
from ops.runner import run_command
from ops.workplace import Workplace

app = typer.Typer(no_args_is_help=True)


@app.callback()
def rotate() -> None:
    """Follow a rotation of FreeScout's webhook key to its end."""


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Which key signed the last deliveries, and whether the old one may go (0: yes, or there is none; 1: not yet).

    FreeScout's key follows from its APP_KEY, so the rotation is: both keys into the vault, then the new APP_KEY, and
    some minutes later the old key may go: FreeScout signs what it sends again with its new key.
    """
    run_command(look, as_json=as_json)


async def look(workplace: Workplace) -> CommandResult:
    """Read and show how far a rotation has come, at each endpoint that is on."""
    keys = await workplace.keys()
    together: dict[tuple[str, ...], list[str]] = {}
    for endpoint in workplace.environment.endpoints or (AUDIT,):
        together.setdefault(keys.fingerprints(endpoint), []).append(endpoint)
    rotations = []
    async with workplace.database() as database:
        for accepted, endpoints in together.items():
            now, uses = await read_key_uses(database, endpoints)
            rotations.append(judge_rotation(uses, accepted, now=now, endpoints=endpoints))
    first, *others = rotations
    found = Rotations(**msgspec.structs.asdict(first), others=others)
    return CommandResult(found, picture(found), Exit.GOOD if found.all_at_rest else Exit.WRONG)


def picture(found: Rotations) -> Group:
    """Return what people see of it."""
    if found.others:
        return Group(*(part for each in (found, *found.others) for part in (*_draw(each, named=True), "")))
    return Group(*_draw(found, named=found.endpoints != [AUDIT]))


def _draw(found: Rotation, *, named: bool) -> Sequence[RenderableType]:
    table = columns("key", "accepted as", "deliveries", "first", "last", right={"deliveries"})
    for key in found.keys:
        table.add_row(
            key.fingerprint or "not named",
            {"unnamed": "not known", "not accepted": "[yellow]nothing[/yellow]"}.get(key.role, key.role),
            f"{key.deliveries:,}",
            moment(key.first_at),
            ago(key.last_at, found.now),
        )
    mark = "[green]✓[/green]" if found.at_rest else "[yellow]…[/yellow]"
    where = f"{' and '.join(found.endpoints)}: " if named else ""
    return f"{mark} {where}{escape(found.message)}", "", table
