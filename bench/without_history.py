"""Our receiver, but that it does not look for what has no place in the feed: what `bench.history` compares it with.

``python -m bench.without_history`` runs it like ``python -m receiver``, on a database whose history notes nothing.
"""

from db import transitions
from db.database import Database
from receiver.__main__ import main
from settings.process import run_process


async def _number_nothing(database: Database, *, announce: bool = False) -> int:  # noqa: ARG001 - as what it replaces
    return 0


if __name__ == "__main__":
    transitions.number_transitions = _number_nothing
    run_process("receiver", main)
