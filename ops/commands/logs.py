"""``logs``: our log for people, out of a pipe or a file: ``heroku logs --tail | freescout-audit logs --ticket 7``."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.loglines import Filter, LogLine, read_line, value_of
from ops.output import AsJson, Screen, fail, let_the_reader_go, show
from ops.result import CommandError, CommandResult, Exit
from ops.searches import BY_NAME, SEARCHES, Search
from ops.ticket_ids import TicketOption
from ops.times import SinceOption

_STYLES = {"debug": "dim", "info": "", "warning": "yellow", "error": "red"}
_NOT_SHOWN = ("request_id", "endpoint")
_LIST = "list"


class LevelWanted(StrEnum):
    """How important a line is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LineCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What ``logs --by --json`` says; without ``--by`` each line is our log's own object."""

    by: str
    lines: int
    counts: Mapping[str, int]


class SavedSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A saved search and the question that it answers."""

    name: str
    question: str
    answer: str


class SavedSearches(msgspec.Struct, frozen=True, kw_only=True):
    """What ``logs --saved list --json`` says."""

    searches: list[SavedSearch]


def logs(
    file: Annotated[Path | None, typer.Argument(help="Standard input if left out.", show_default=False)] = None,
    *,
    saved: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only what answers a question of docs/log-searches.md; 'list' shows them."),
    ] = None,
    ticket: TicketOption = None,
    event: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these events: gap.lost, 'gap.*'.")
    ] = None,
    since: SinceOption = None,
    level: Annotated[LevelWanted, typer.Option(help="Only what is at least as important.")] = LevelWanted.DEBUG,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Count instead: by event, level, outcome …", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read our log lines, as Heroku or a file has them: filter, show, count. What is not ours is passed over."""
    if saved and _LIST in saved:
        show(_list(), as_json=as_json)
        return
    try:
        searches = [_saved(name, ticket) for name in saved or ()]
    except CommandError as error:
        fail(error, error.code, as_json=as_json)
    wanted = Filter(
        ticket_id=ticket,
        events=event or (),
        saved=searches,
        since=None if since is None else since.at(datetime.now(UTC)),
        level=level,
    )
    try:
        with suppress(KeyboardInterrupt):  # how `--tail` ends
            if file is None:
                _run(sys.stdin.buffer, wanted, by, as_json=as_json)
            else:
                with file.open("rb") as stream:
                    _run(stream, wanted, by, as_json=as_json)
    except BrokenPipeError:
        let_the_reader_go()
    except OSError as error:
        unreadable = CommandError(f"{file} cannot be read ({error.strerror})", "name another file")
        fail(unreadable, Exit.USAGE, as_json=as_json)


def _list() -> CommandResult:
    """Return what there is to choose from."""
    shown = [Text.assemble((f"{each.name:<10}", "bold"), f" {each.question}") for each in SEARCHES]
    picture = Text("\n", no_wrap=True).join(shown)
    found = [SavedSearch(name=each.name, question=each.question, answer=each.answer) for each in SEARCHES]
    return CommandResult(SavedSearches(searches=found), picture)


def _saved(name: str, ticket: int | None) -> Search:
    """Return a saved search.

    Raises:
        CommandError: There is none of that name, or it lacks its ticket.
    """
    search = BY_NAME.get(name)
    if search is None:
        names = "\n".join(f"  {each.name:<10} {each.question}" for each in SEARCHES)
        raise CommandError(f"{name[:40]!r} is no saved search", f"choose one of these\n{names}", Exit.USAGE)
    if search.needs_ticket and ticket is None:
        raise CommandError(f"the saved search {name} is about one ticket", "name it: --ticket 4711", Exit.USAGE)
    return search


def _run(stream: BinaryIO, wanted: Filter, by: str | None, *, as_json: bool) -> None:
    seen = Seen()
    try:
        _show((line for line in read_lines(stream, seen) if wanted.wants(line)), by, as_json=as_json)
    finally:
        if seen.lines and not seen.ours:
            came = "1 line came, and it was" if seen.lines == 1 else f"{seen.lines:,} lines came, and none of them was"
            typer.echo(f"{came} ours: is this the log of freescout-audit, whole lines of it?", err=True)


def _show(lines: Iterator[LogLine], by: str | None, *, as_json: bool) -> None:
    if by is not None:
        _count(lines, by, as_json=as_json)
        return
    console = Screen(highlight=False, soft_wrap=True)
    for line in lines:
        if as_json:
            sys.stdout.write(msgspec.json.encode(line.raw).decode() + "\n")
        else:
            console.print(draw(line))
        sys.stdout.flush()


@dataclass
class Seen:
    """How many lines came, blank ones aside, and how many of them were ours."""

    lines: int = 0
    ours: int = 0


def read_lines(stream: Iterable[bytes], seen: Seen) -> Iterator[LogLine]:
    """Yield our lines as they come, and count what comes."""
    for raw in stream:
        text = raw.decode("utf-8", "replace").strip("\r\n\ufeff")
        seen.lines += bool(text.strip())
        line = read_line(text)
        if line is not None:
            seen.ours += 1
            yield line


def draw(line: LogLine) -> Text:
    """Draw a line: when, who, what, and its fields."""
    text = Text.assemble(
        (line.at.astimezone(UTC).strftime("%m-%d %H:%M:%SZ"), "dim"),
        f" {line.process:<9} ",
        (f"{line.event:<24}", _STYLES.get(line.level, "bold")),
    )
    for name, value in line.fields.items():
        if name not in _NOT_SHOWN:
            text.append(f" {name}=", "dim").append(str(value))
    return text


def _count(lines: Iterator[LogLine], by: str, *, as_json: bool) -> None:
    """Count lines by a field; Ctrl-C ends a stream that does not, and shows what there was."""
    counts: Counter[str] = Counter()
    with suppress(KeyboardInterrupt):
        for line in lines:
            counts[value_of(line, by)] += 1
    document = LineCounts(by=by, lines=counts.total(), counts=dict(counts.most_common()))
    if as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(by, overflow="fold")
    table.add_column("lines", justify="right")
    for value, count in document.counts.items():
        table.add_row(Text(value), f"{count:,}")
    Console(highlight=False).print(table)
