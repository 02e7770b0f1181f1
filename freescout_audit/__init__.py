"""The words and rules of freescout-audit, without I/O."""

from freescout_audit.signature import verify_freescout_hmac

__version__ = "0.1.0"
"""The one version number: the distribution's, `--version`'s, and what processes say of themselves."""

__all__ = ["__version__", "verify_freescout_hmac"]
