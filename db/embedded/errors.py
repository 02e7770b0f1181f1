"""The one error of the embedded PostgreSQL."""

from freescout_audit.errors import FreescoutAuditError


class EmbeddedPostgresError(FreescoutAuditError):
    """The embedded PostgreSQL cannot run here; DATABASE_URL always helps."""
