"""The one error of the embedded PostgreSQL."""

from freescout_audit.errors import FreescoutAuditError


class EmbeddedPostgresError(FreescoutAuditError):
    """The embedded PostgreSQL cannot run here; the message says why, and what to do or that DATABASE_URL helps."""
