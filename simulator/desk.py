"""A FreeScout desk to rehearse against: pure, with no clock of its own and no I/O.

Its facts were measured on FreeScout 1.8.235 with its API & Webhooks modules 1.0.82 and 1.0.87.
"""

from simulator.changes import Changes
from simulator.replies import Replies
from simulator.silent import Silent


class Desk(Changes, Replies, Silent):
    """Everything that can happen at a desk, one method for each.

    What an operation causes waits in ``desk.queue`` until a ``Worker`` sends it; what it changed can be read
    through ``Api``. Construct it with ``clock``, ``seed`` and ``module`` (see ``Store``); the same seed and the same
    steps give the same bytes.
    """
