"""Where the runbook says what to do about a component of readiness, or a check of ``doctor``, that is red."""

from collections.abc import Mapping

PAGE = "docs/runbook.md"

HEADINGS: Mapping[str, str] = {
    # Components of readiness, and checks of the same name.
    "receive": "receive",
    "receive_rbac": "receive",
    "vault": "vault",
    "database": "database",
    "poller": "poller",
    "lease": "lease",
    "desk": "desk",
    "feed": "feed",
    "deliveries": "deliveries",
    "deliveries_rbac": "deliveries",
    # Checks of doctor.
    "schema": "database",
    "pooler": "database",
    "writing": "database",
    "variable": "vault",
    "webhook key": "keys",
    "previous key": "keys",
    "API key": "keys",
    "OPS_TOKEN": "keys",
    "API": "desk",
    "page size": "desk",
    "rows": "desk",
    "silence": "silence",
    "clock": "clock",
    "refusals": "deliveries",
    "webhook": "webhook",
    "self-test": "self-test",
    # The same of RV-4's path.
    "rbac key": "keys",
    "rbac previous key": "keys",
    "rbac refusals": "deliveries",
    "rbac webhook": "webhook",
    "rbac deliveries": "deliveries",
    "rbac self-test": "self-test",
}
"""The heading of `PAGE` for each, as an anchor."""


def remedy(name: str) -> str:
    """Return where it stands, such as ``docs/runbook.md#poller``; the page alone for a name that has no heading."""
    heading = HEADINGS.get(name)
    return PAGE if heading is None else f"{PAGE}#{heading}"
