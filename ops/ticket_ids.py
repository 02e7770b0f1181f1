"""Ticket ids as operators type them."""

from typing import Annotated

import typer

from freescout_audit.conversation import MAX_ID

_TOO_MANY = 20


def parse_ticket_id(text: str | int) -> int:
    """Read a ticket's id.

    Raises:
        typer.BadParameter: It is none.
    """
    typed = str(text).strip()
    digits = typed.lstrip("0")
    # Fewer digits than Python refuses to read.
    if digits.isascii() and digits.isdecimal() and len(digits) < _TOO_MANY and int(digits) <= MAX_ID:
        return int(digits)
    raise typer.BadParameter(f"{typed[:40]!r} is not a ticket id: give a number such as 4711")


TicketOption = Annotated[
    int | None,
    typer.Option("--ticket", parser=parse_ticket_id, metavar="ID", help="Only about this ticket.", show_default=False),
]
