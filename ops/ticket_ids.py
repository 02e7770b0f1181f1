"""Ticket ids as operators type them."""

from typing import Annotated

import typer

from freescout_audit.conversation import MAX_ID


def parse_ticket_id(text: str | int) -> int:
    """Read a ticket's id.

    Raises:
        typer.BadParameter: It is none.
    """
    typed = str(text).strip()
    # Fewer digits than Python refuses to read.
    if typed.isascii() and typed.isdecimal() and 0 < int(typed[:20]) <= MAX_ID:
        return int(typed[:20])
    raise typer.BadParameter(f"{typed[:40]!r} is not a ticket id: give a number such as 4711")


TicketOption = Annotated[
    int | None,
    typer.Option("--ticket", parser=parse_ticket_id, metavar="ID", help="Only about this ticket.", show_default=False),
]
