"""What Django's settings need for ``ask_django``: a database beside the application's own."""

import os
from urllib.parse import unquote, urlsplit

_url = urlsplit(os.environ["FREESCOUT_AUDIT_URL"])

DATABASES = {
    "default": {},  # the application's own stays as it is
    "freescout_audit": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.removeprefix("/"),
        "USER": unquote(_url.username or ""),
        "PASSWORD": unquote(_url.password or ""),
        "HOST": _url.hostname,
        "PORT": _url.port,
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 2, "tcp_user_timeout": 1000, "options": "-c statement_timeout=200"},
    },
}
