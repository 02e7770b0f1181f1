"""The words and rules of freescout-audit, without I/O."""

from freescout_audit.signature import verify_freescout_hmac

__all__ = ["verify_freescout_hmac"]
