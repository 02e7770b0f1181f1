"""Which keys are in use: the environment's or, where a vault is configured, the vault's. Pure.

The vault is the source of truth. What it holds, or has held in this process, wins over the environment, and
webhook keys come from nowhere else; the others come from the environment while the vault never held them. A key that
disappears from the vault stays in use, since a key is not rotated by deleting it; only a previous webhook key goes
when it is gone, for that is how a rotation ends.

A FreeScout has one key for all its webhooks, so RV-4's path accepts the audit path's keys until it has one of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_urlsafe

from freescout_audit.endpoints import AUDIT, RBAC
from freescout_audit.signature import fingerprint
from settings.environment import (
    API_KEY,
    HEARTBEAT_URL,
    KEYS,
    OPS_TOKEN,
    RBAC_SECRET,
    RBAC_SECRET_PREVIOUS,
    WEBHOOK_SECRET,
    WEBHOOK_SECRET_PREVIOUS,
    Environment,
    Secret,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys in use at a moment."""

    webhook: tuple[Secret, ...]
    """Those that may sign deliveries to the audit path, the current one first."""
    api_key: Secret | None
    ops_token: Secret | None
    heartbeat_url: Secret | None = None
    rbac: Secret | None = None
    """The key of RV-4's path; None: the audit path's are accepted there."""
    rbac_previous: Secret | None = None
    from_vault: frozenset[str] = frozenset()
    """The variables whose value comes from the vault."""
    lacking: tuple[str, ...] = ()
    """The variables that the vault should hold and does not: they stand as they last were, or not at all."""

    def values(self) -> dict[str, Secret]:
        """Return the keys by the variable that would hold them."""
        current, previous, *_ = (*self.webhook, None, None)
        held = {
            WEBHOOK_SECRET: current,
            WEBHOOK_SECRET_PREVIOUS: previous,
            RBAC_SECRET: self.rbac,
            RBAC_SECRET_PREVIOUS: self.rbac_previous,
            API_KEY: self.api_key,
            OPS_TOKEN: self.ops_token,
            HEARTBEAT_URL: self.heartbeat_url,
        }
        return {name: value for name, value in held.items() if value is not None}

    def accepted(self, endpoint: str = AUDIT) -> tuple[Secret, ...]:
        """Return the keys that may sign deliveries to an endpoint, the current one first.

        RV-4's own key takes the place of the audit path's; its previous one without it stands beside them, so that the
        way back to them is a rotation too.
        """
        if endpoint != RBAC:
            return self.webhook
        current = self.webhook if self.rbac is None else (self.rbac,)
        previous = () if self.rbac_previous is None else (self.rbac_previous,)
        return tuple(dict.fromkeys((*current, *previous)))

    def fingerprints(self, endpoint: str = AUDIT) -> tuple[str, ...]:
        """Return what the journal calls the keys that may sign deliveries, the current one first."""
        return tuple(fingerprint(secret.reveal()) for secret in self.accepted(endpoint))


def keys_of(environment: Environment) -> Keys:
    """Return the keys before any vault has been read: the environment's, or none where there is a vault."""
    if environment.vault is None:
        return Keys(
            webhook=environment.webhook_secrets,
            api_key=environment.freescout_api_key,
            ops_token=environment.ops_token,
            heartbeat_url=environment.heartbeat_url,
            rbac=environment.rbac_secret,
            rbac_previous=environment.rbac_secret_previous,
        )
    # Until the token is known, no token opens them: with none at all the pages would be open on loopback.
    return Keys(webhook=(), api_key=None, ops_token=Secret(token_urlsafe()))


def keys_from_vault(
    held: Mapping[str, Secret], *, names: Mapping[str, str], variables: Mapping[str, Secret], before: Keys
) -> Keys:
    """Return the keys in use after the vault has been read.

    Args:
        held: What it holds, by the key in the vault.
        names: The key in the vault, by variable.
        variables: What the environment says, by variable.
        before: The keys in use until now.
    """
    given = {variable: held[name] for variable, name in names.items() if name in held}
    lacking = [
        variable
        for variable in (RBAC_SECRET, API_KEY, OPS_TOKEN, HEARTBEAT_URL)
        if variable in before.from_vault - given.keys()
    ]
    from_vault = before.from_vault | given.keys()
    if WEBHOOK_SECRET in given:
        pair = (given[WEBHOOK_SECRET], given.get(WEBHOOK_SECRET_PREVIOUS))
        webhook = tuple(dict.fromkeys(key for key in pair if key is not None))
        from_vault -= {WEBHOOK_SECRET_PREVIOUS} - given.keys()
    else:
        webhook = before.webhook
        # RV-4's path can be used alone, by a key of its own.
        if WEBHOOK_SECRET in before.from_vault or RBAC_SECRET not in from_vault:
            lacking.insert(0, WEBHOOK_SECRET)
    current = RBAC_SECRET if RBAC_SECRET in from_vault else WEBHOOK_SECRET
    if current in before.from_vault - given.keys():
        rbac, rbac_previous = before.rbac, before.rbac_previous
    else:
        rbac, rbac_previous = given.get(RBAC_SECRET), given.get(RBAC_SECRET_PREVIOUS)
        from_vault -= {RBAC_SECRET_PREVIOUS} - given.keys()

    def single(variable: str, last: Secret | None) -> Secret | None:
        if variable in given:
            return given[variable]
        return last if variable in before.from_vault else variables.get(variable)

    return Keys(
        webhook=webhook,
        api_key=single(API_KEY, before.api_key),
        ops_token=single(OPS_TOKEN, before.ops_token),
        heartbeat_url=single(HEARTBEAT_URL, before.heartbeat_url),
        rbac=rbac,
        rbac_previous=rbac_previous,
        from_vault=from_vault,
        lacking=tuple(lacking),
    )


def ignored_variables(variables: Mapping[str, Secret], keys: Keys) -> tuple[str, ...]:
    """Return the environment variables that a vault overrules and that say otherwise than the keys in use."""
    in_use = keys.values()
    overruled = keys.from_vault | {WEBHOOK_SECRET, WEBHOOK_SECRET_PREVIOUS, RBAC_SECRET, RBAC_SECRET_PREVIOUS}
    return tuple(
        name for name in KEYS if name in overruled and name in variables and variables[name] != in_use.get(name)
    )


def changed_keys(before: Keys, after: Keys) -> tuple[str, ...]:
    """Return the variables whose value is another one, or none any more."""
    old, new = before.values(), after.values()
    return tuple(name for name in KEYS if old.get(name) != new.get(name))
