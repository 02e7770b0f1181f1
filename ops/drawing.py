"""How the console draws facts and tables."""

from collections.abc import Collection

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
