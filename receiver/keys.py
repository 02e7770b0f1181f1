"""Whether an endpoint takes deliveries, as far as its switch and its keys decide that. Pure."""

from collections.abc import Sequence

from db.condition import Condition
from freescout_audit.endpoints import RBAC
from settings.environment import FLAGS, RBAC_SECRET, WEBHOOK_SECRET, Secret
from settings.vault.live import VaultStanding

_COPY = "copy it from FreeScout's Manage » Settings » API & Webhooks"


def judge_keys(endpoint: str, *, on: bool, keys: Sequence[Secret], vault: VaultStanding | None) -> Condition:
    """Judge an endpoint.

    Args:
        endpoint: Its name.
        on: Whether it is switched on.
        keys: What may sign deliveries to it now.
        vault: How the vault is that keys come from; None without one.
    """
    deliveries = "RV-4's deliveries" if endpoint == RBAC else "deliveries"
    refused = f"{deliveries} are answered 503"
    if not on:
        next_step = (
            "set it to 1 if RV-4's webhook is registered" if endpoint == RBAC else "set it to 1 when doctor is green"
        )
        return Condition(state="off", detail=f"{FLAGS[endpoint]} is not 1: {refused}", next_step=next_step)
    if keys:
        return Condition(state="ok", detail=f"{deliveries} are taken, keys accepted: {len(keys)}")
    if vault is None:
        missing = f"{WEBHOOK_SECRET} is not set"
        if endpoint == RBAC:
            missing = f"neither {RBAC_SECRET} nor {WEBHOOK_SECRET} is set"
        return Condition(state="failed", detail=f"{missing}: {refused}", next_step=_COPY)
    if vault.state == "ok":
        # It holds RV-4's key, and that is enough where RV-4's path is the only one.
        return Condition(
            state="failed",
            detail=f"the vault holds no key for this endpoint: {refused}",
            next_step=f"put {WEBHOOK_SECRET} there",
        )
    return Condition(
        state="failed",
        detail=f"the vault has given no webhook key yet: {refused}",
        next_step="see the component vault",
    )
