"""``freescout-audit``: the operator's console. Its help is the runbook's table of contents, in the runbook's order.

The table holds what the help shows. A command's module is imported when that command is called: to import what it works
with takes longer than most commands take.
"""

import sys
from collections.abc import Collection
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from freescout_audit import __version__
from ops.called import Command, Group, MainGroup

_SET_UP = "Set up, and change what is set up"
_SEE = "See how it is"
_LOOK_CLOSER = "Find out what happened"
_REPAIR = "Repair"


class CommandEntry(NamedTuple):
    """A command: its name, its module below `ops.commands`, where the help shows it, and its line there.

    A module with an ``app`` is a group of commands; in others the command is the function of its name.
    """

    name: str
    module: str
    panel: str
    help: str


COMMANDS = (
    CommandEntry("secret", "secret", _SET_UP, "Make keys, derive FreeScout's, and check which one signs."),
    CommandEntry("rotate", "rotate", _SET_UP, "Follow a rotation of FreeScout's webhook key to its end."),
    CommandEntry("webhook", "webhook", _SET_UP, "Register, remove and test the webhook at the desk."),
    CommandEntry("desk", "desk", _SET_UP, "The desk that the database belongs to."),
    CommandEntry("poller", "poller", _SET_UP, "Say whether a poller is expected, or push alone is meant."),
    CommandEntry(
        "doctor",
        "doctor",
        _SEE,
        "Check everything: each line is green, or says what to do next. Ends with 1 when one is red.",
    ),
    CommandEntry(
        "status", "status", _SEE, "How it is: lease, passes, deliveries, lag, disputes and gaps, on one screen."
    ),
    CommandEntry(
        "ticket",
        "ticket",
        _LOOK_CLOSER,
        "What the cache answers for a ticket, why, and what happened to it. Ends with 1 when that is none, or wrong.",
    ),
    CommandEntry(
        "deliveries",
        "journal",
        _LOOK_CLOSER,
        "The verified deliveries that came, the newest first, and what became of each.",
    ),
    CommandEntry(
        "gaps",
        "journal",
        _LOOK_CLOSER,
        "The changes that the poller found before any delivery told of them, the newest first.",
    ),
    CommandEntry(
        "transitions",
        "transitions",
        _LOOK_CLOSER,
        "The changes of the settled answers, in the order in which the feed gives them out.",
    ),
    CommandEntry(
        "logs",
        "logs",
        _LOOK_CLOSER,
        "Read our log lines, as Heroku or a file has them: filter, show, count. What is not ours is passed over.",
    ),
    CommandEntry("heal", "heal", _REPAIR, "Ask FreeScout about tickets now, and write what it says into the cache."),
    CommandEntry(
        "reconcile",
        "reconcile",
        _REPAIR,
        "After an outage: which tickets may have changed unseen, what FreeScout says of them, what was healed.",
    ),
    CommandEntry(
        "backfill",
        "backfill",
        _REPAIR,
        "Read every ticket now: the first load without a poller, or everything once more. Resumable.",
    ),
)


def console(called: Collection[str]) -> typer.Typer:
    """Return the console: the commands that are called by their names in full, of the others what the help shows."""
    app = typer.Typer(
        name="freescout-audit",
        cls=MainGroup,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        help="Sets freescout-audit up, checks it, finds out what happened, and repairs.\n\n"
        "Every command takes --json. It ends with 0 when all is well, 1 when something is wrong, 2 when it was called"
        " wrongly, and 3 when the database, the desk or the vault is not available. docs/runbook.md tells when to use"
        " which.",
    )

    @app.callback()
    def options(
        *,
        version: Annotated[
            bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
        ] = False,
    ) -> None:
        """Take what comes before a command."""

    for entry in COMMANDS:
        app.command(entry.name, cls=Command, help=entry.help, rich_help_panel=entry.panel)(_only_shown)
    # In full they take the places of those that are only shown.
    for entry in COMMANDS:
        if entry.name in called:
            module = import_module(f"ops.commands.{entry.module}")
            if hasattr(module, "app"):
                for command in module.app.registered_commands:
                    command.cls = Command
                app.add_typer(module.app, name=entry.name, cls=Group, rich_help_panel=entry.panel)
            else:
                app.command(entry.name, cls=Command, rich_help_panel=entry.panel)(getattr(module, entry.name))
    return app


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - Typer's call
    if wanted:
        typer.echo(f"freescout-audit {__version__}")
        raise typer.Exit


def _only_shown() -> None:
    """Stand for a command that is not called."""


def main() -> None:
    """Run the command of this process's arguments; it is the first of them that is no option."""
    called = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    console({called})(prog_name="freescout-audit")


if __name__ == "__main__":
    main()
