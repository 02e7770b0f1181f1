"""How a command answers: once, as a picture or as JSON, and in one line when it cannot."""

import os
import sys
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from freescout_audit.errors import FreescoutAuditError
from ops.result import CommandResult

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a picture.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]

WIDEST = 110
"""Columns a picture takes at the most: longer lines are hard to read."""


class Screen(Console):
    """A terminal, or a pipe whose reader may have seen enough."""

    def on_broken_pipe(self) -> None:
        """Tell our caller; Rich would end the process with 1."""
        raise BrokenPipeError


def let_the_reader_go() -> None:
    """End the output to a reader who has seen enough; Python would complain once more when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Failure(msgspec.Struct, frozen=True):
    error: str
    next_step: str
    exit: int


def show(found: CommandResult, *, as_json: bool) -> None:
    """Write an answer to stdout; no colour unless that is a terminal."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(found.document, enc_hook=str).decode() + "\n")
        sys.stdout.flush()
        return
    if found.picture == "":
        return
    console = Console(highlight=False)
    if isinstance(found.picture, Text) and found.picture.no_wrap:
        console.print(found.picture, soft_wrap=True)
    else:
        console.print(found.picture, width=min(console.width, WIDEST))


def fail(error: FreescoutAuditError, code: int, *, as_json: bool) -> NoReturn:
    """Say what went wrong and what to do, and end.

    Raises:
        typer.Exit: Always.
    """
    tell_failure(error, code, as_json=as_json)
    raise typer.Exit(code)


def tell_failure(error: FreescoutAuditError, code: int, *, as_json: bool) -> None:
    """Say what went wrong and what to do; people read both in one line."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(_Failure(error.problem, error.next_step, code)).decode() + "\n")
    else:
        Console(stderr=True, highlight=False).print(f"[red]✗[/red] {escape(str(error))}", soft_wrap=True)
