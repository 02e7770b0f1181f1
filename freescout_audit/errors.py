"""The errors an operator can meet. Each message says what to do next and never quotes a secret."""


class FreescoutAuditError(Exception):
    """Something stopped freescout-audit; the message is one line and names the next step."""


class SettingsError(FreescoutAuditError):
    """A setting has a value we cannot run with; the message names the key and its range."""


class DatabaseUnavailableError(FreescoutAuditError):
    """PostgreSQL did not answer in time; nothing was promised, so the caller may try again."""
