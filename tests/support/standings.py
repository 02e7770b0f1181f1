"""What stands in a database, made up for tests that judge it."""

import msgspec

from db.standing import Standing
from freescout_audit.rule import Lease
from support.examples import NOON, at


def standing(**changes: object) -> Standing:
    """Return what stands on an ordinary day at `NOON`, but for the changes."""
    nothing = dict.fromkeys(Standing.__struct_fields__)
    ordinary = {
        "now": NOON,
        "behind_pooler": False,
        "lease": Lease(heartbeat_at=at(-5), lease_until=at(800)),
        "leader": "poller.1",
        "passed_at": at(-60),
        "desk_state": "ok",
        "desk_detail": "",
        "desk_next_step": "",
        "trouble": "",
    }
    return msgspec.convert(nothing | ordinary | changes, Standing)
