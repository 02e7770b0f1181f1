"""``python -m proof.quick_receiver FACTOR``: the receiver as the Procfile starts it, looking so many times more often.

For a rehearsal in which the database's clock runs faster as well (`proof.quick`): what it shows is as fresh as ever.
How long it waits for anything is not changed.
"""

import sys

from proof.quick import LEAST
from receiver import answers, counting, health
from receiver.__main__ import main
from settings.process import run_process


def quicken(factor: float) -> None:
    """Shorten what this process does at intervals."""
    for module, name in (
        (health, "CHECK_EVERY"),
        (health, "_FRESH"),
        (answers, "WRITE_EVERY"),
        (counting, "EVERY"),
    ):
        setattr(module, name, max(LEAST, getattr(module, name) / factor))


if __name__ == "__main__":
    quicken(float(sys.argv[1]))
    run_process("receiver", main)
