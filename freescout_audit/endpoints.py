"""The two paths that take FreeScout's deliveries, each by its name. Both lead into the same cache."""

PREFIX = "/api/internal/freescout-webhook/"
AUDIT = "audit"
"""What keeps the cache for the audit writer."""
RBAC = "rbac"
"""RV-4's endpoint: RV-4 revokes access when a ticket closes, and has a webhook of its own."""
ENDPOINTS = (AUDIT, RBAC)


def path_of(endpoint: str) -> str:
    """Return an endpoint's path, as FreeScout has to know it."""
    return PREFIX + endpoint


def name_at(endpoint: str, name: str) -> str:
    """Return what something is called at an endpoint: ``receive`` at the audit's, ``receive_rbac`` at RV-4's."""
    return name if endpoint == AUDIT else f"{name}_{endpoint}"
