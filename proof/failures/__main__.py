"""``python -m proof.failures`` (``make failures``): prints the table, or writes docs/failures.md."""

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from proof.failures.run import as_table, play
from proof.live import ROOT

_PAGE = ROOT / "docs" / "failures.md"
_BEGIN, _END = "<!-- the table -->\n", "<!-- the end of the table -->"


def main(
    *,
    write: Annotated[bool, typer.Option("--write", help="Write the table into docs/failures.md.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the metrics for the tests of the alerts.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only failures of these names.")] = None,
) -> None:
    """Make one failure after another on live processes, and say what is shown; ends with 1 when one is green."""
    with tempfile.TemporaryDirectory(prefix="freescout-audit-failures-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        results = asyncio.run(play(Path(folder), names=only or (), tell=partial(typer.echo, err=True), record=record))
    table = as_table(results)
    typer.echo(table)
    if write:
        page = _PAGE.read_text(encoding="utf-8")
        before, rest = page.split(_BEGIN)
        _PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{rest.split(_END)[1]}", encoding="utf-8")
    if wrong := [f"{result.failure.name}: {each}" for result in results for each in result.wrong]:
        typer.echo("\n".join(wrong), err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
