"""A private PostgreSQL for laptops and tests: made on first use, watched, gone with the last process that uses it.

Production sets ``DATABASE_URL`` and never imports this. The main thing is :class:`EmbeddedPostgres`.
"""

import sys

from db.embedded.errors import EmbeddedPostgresError

if sys.platform == "win32":
    raise EmbeddedPostgresError(
        "the embedded PostgreSQL needs Linux or macOS (WSL will do)", "set DATABASE_URL instead"
    )

from db.embedded.server import EmbeddedPostgres, default_folder

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "default_folder"]
