"""The errors that an operator can meet. Each says what is wrong and what to do next, and quotes no secret."""


class FreescoutAuditError(Exception):
    """Something stopped freescout-audit.

    Args:
        problem: What is wrong, in one line without a full stop.
        next_step: What to do about it, in one line; empty when the problem says all there is to say.
    """

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(problem, next_step)
        self.problem = problem
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.problem}: {self.next_step}" if self.next_step else self.problem


class SettingsError(FreescoutAuditError):
    """A setting has a value that the service cannot run with; the problem names the key and its range."""


class DatabaseUnavailableError(FreescoutAuditError):
    """PostgreSQL did not answer in time; nothing was promised, so the caller may try again."""
