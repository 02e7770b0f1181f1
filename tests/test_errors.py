"""An error says what is wrong and, apart from it, what to do."""

from collections.abc import Iterator

import pytest

from db.migrate import LockedError
from freescout_audit.errors import FreescoutAuditError
from ops.result import CommandError
from poller.freescout import DeskUnavailableError
from receiver.connections import ListenError
from settings.vault.infisical import VaultUnavailableError

LOADED = (CommandError, DeskUnavailableError, ListenError, LockedError, VaultUnavailableError)
"""The rooms whose errors are looked at."""


def every_error(kind: type[FreescoutAuditError] = FreescoutAuditError) -> Iterator[type[FreescoutAuditError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from every_error(each)


@pytest.mark.parametrize("kind", sorted(set(every_error()), key=str))
def test_it_carries_both_and_its_text_is_one_line_of_both(kind: type[FreescoutAuditError]) -> None:
    both, alone = kind("the flag is off", "set it to 1"), kind("the flag is off")

    assert (both.problem, both.next_step, str(both)) == (
        "the flag is off",
        "set it to 1",
        "the flag is off: set it to 1",
    )
    assert (alone.problem, alone.next_step, str(alone)) == ("the flag is off", "", "the flag is off")
