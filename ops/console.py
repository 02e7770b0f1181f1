"""``freescout-audit``: the operator's console. Its help is the runbook's table of contents, in the runbook's order."""

import typer

from ops.commands import (
    backfill,
    desk,
    doctor,
    heal,
    journal,
    logs,
    reconcile,
    rotate,
    secret,
    status,
    ticket,
    webhook,
)

_SET_UP = "Set up, and change what is set up"

app = typer.Typer(
    name="freescout-audit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Sets freescout-audit up, checks it, finds out what happened, and repairs.\n\n"
    "Every command takes --json. It ends with 0 when all is well, 1 when something is wrong, 2 when it was called"
    " wrongly, and 3 when the database, the desk or the vault is not available. docs/runbook.md tells when to use"
    " which.",
)

app.add_typer(secret.app, name="secret", rich_help_panel=_SET_UP)
app.add_typer(rotate.app, name="rotate", rich_help_panel=_SET_UP)
app.add_typer(webhook.app, name="webhook", rich_help_panel=_SET_UP)
app.add_typer(desk.app, name="desk", rich_help_panel=_SET_UP)
for module in (doctor, status, ticket, journal, logs, heal, reconcile, backfill):
    app.add_typer(module.app)


def main() -> None:
    """Run the command of this process's arguments."""
    app(prog_name="freescout-audit")


if __name__ == "__main__":
    main()
