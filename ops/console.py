"""``freescout-audit``: the operator's console. Its help is the runbook's table of contents, in the runbook's order."""

import sys

import typer

from ops.commands import status

app = typer.Typer(
    name="freescout-audit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Sets freescout-audit up, checks it, finds out what happened, and repairs. Every command takes --json;"
    " it ends with 0 when all is well, 1 when something is wrong, 2 when it was called wrongly, and 3 when the database"
    " or the desk is not available.",
)
LOOK = "See how it is"
app.add_typer(status.app, rich_help_panel=LOOK)


def main() -> None:
    """Run the command of this process's arguments."""
    app(prog_name="freescout-audit")


if __name__ == "__main__":
    sys.exit(main())
