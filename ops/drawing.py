"""How the console draws: facts, tables, times, and what a ticket says."""

from collections.abc import Collection
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

OUTCOME_STYLES = {
    "applied": "green",
    "duplicate": "dim",
    "stale": "dim",
    "ignored": "dim",
    "disputed": "yellow",
    "unusable": "red",
    "raced": "dim",
    "waiting": "yellow",
    "late": "yellow",
    "lost": "red",
    "never_sent": "dim",
}
"""How the outcome of a delivery, or the verdict on a gap, is drawn."""


def facts(*rows: tuple[str, RenderableType]) -> Table:
    """Return facts one below the other: a name, and what is to be said of it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in rows:
        table.add_row(name, said)
    return table


def titled(title: str, *parts: RenderableType) -> Group:
    """Return parts under a title."""
    return Group(f"[bold]{escape(title)}[/bold]", "", *parts)


def columns(*headings: str, right: Collection[str] = (), fold: Collection[str] = ()) -> Table:
    """Return an empty table; only the columns of ``fold`` are ever broken into lines."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading not in fold,
            overflow="fold" if heading in fold else "ellipsis",
        )
    return table


def moment(at: datetime | None, *, day: bool = True) -> str:
    """Return a time as the console writes it, with its zone, UTC."""
    if at is None:
        return "never"
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC" if day else "%H:%M:%S UTC")


def cell(at: datetime | None, *, day: bool = True) -> str:
    """Return a time as a table shows it under a heading that says UTC: without its year or, if need be, its day."""
    if at is None:
        return ""
    return at.astimezone(UTC).strftime("%m-%d %H:%M:%S" if day else "%H:%M:%S")


def span(seconds: float) -> str:
    """Return a duration for people: ``40 ms``, ``3 min``, ``2 h 5 min``, ``4 d``."""
    seconds = abs(seconds)
    for unit, size, next_size in (("d", 86400, 3600), ("h", 3600, 60), ("min", 60, 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            smaller = {"d": "h", "h": "min", "min": "s"}[unit]
            part = rest // next_size
            return f"{whole} {unit}" + (f" {part} {smaller}" if part and whole < 10 else "")  # noqa: PLR2004 - two figures are enough
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - the same


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, or how far it lies ahead."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(seconds)}"


def content(status: str | None, state: str | None) -> str:
    """Return a status as people read it: the state only where it is not the ordinary one."""
    if state == "gone":
        return "gone"
    if status is None and state is None:
        return "-"
    return (status or "?") if state == "published" else f"{status or '?'} ({state or '?'})"
