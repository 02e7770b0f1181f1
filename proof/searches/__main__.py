"""``python -m proof.searches`` writes docs/log-searches.md; with ``--record`` it first records the logs anew."""

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from proof.searches.page import PAGE, RECORDINGS, write_page
from proof.searches.record import record


def main(
    *, again: Annotated[bool, typer.Option("--record", help="Record the logs anew, which takes five minutes.")] = False
) -> None:
    """Write the page of the saved searches from their definitions and the recorded logs."""
    if again:
        with tempfile.TemporaryDirectory(prefix="freescout-audit-searches-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)
            asyncio.run(record(Path(folder), RECORDINGS, tell=partial(typer.echo, err=True)))
    PAGE.write_text(write_page(), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
