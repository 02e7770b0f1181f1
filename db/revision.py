"""How a database's revision stands to this code's, by the graph of the migrations."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

NEWEST = "0021"
"""The revision that this code expects; a test holds it against the graph."""
SCRIPTS = Path(__file__).parent / "migrations"
_SQUASHED = frozenset({"0001", "0002", "0003", "0004", "0005", "0006", "0007"})
"""Revisions from before the first release, which no migration leads on from."""

Age = Literal["none", "forgotten", "older", "current", "newer"]
"""``forgotten``: from before the first release."""


@functools.cache
def age_of(revision: str | None) -> Age:
    """Tell how a database's revision stands to this code's.

    A revision that the graph does not know, and that was not squashed, is of a release to come.
    """
    if revision is None:
        return "none"
    if revision == NEWEST:
        return "current"
    if revision in _SQUASHED:
        return "forgotten"
    return "older" if revision in {script.revision for script in scripts().walk_revisions()} else "newer"


def scripts() -> "ScriptDirectory":
    """Return the graph."""
    # Importing Alembic takes half a second, and a process that finds its own revision needs none of it.
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return ScriptDirectory(str(SCRIPTS))
