"""How a command ends: with what it found, or with an error, and with an exit code."""

from dataclasses import dataclass
from enum import IntEnum

import msgspec
from rich.console import RenderableType

from freescout_audit.errors import FreescoutAuditError


class Exit(IntEnum):
    """How a command ends; docs/console.md says the same."""

    GOOD = 0
    WRONG = 1
    USAGE = 2
    UNAVAILABLE = 3


class CommandError(FreescoutAuditError):
    """A command cannot do what it was told, and ends with ``code``."""

    def __init__(self, problem: str, next_step: str = "", code: Exit = Exit.WRONG) -> None:
        super().__init__(problem, next_step)
        self.code = code


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command found: for programs, for people, and whether that is good."""

    document: msgspec.Struct
    picture: RenderableType
    code: Exit = Exit.GOOD
