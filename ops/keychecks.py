"""The checks of the vault, the flag and the keys, as far as keys can be judged by themselves. Pure."""

from collections.abc import Mapping, Sequence

from freescout_audit.endpoints import AUDIT, RBAC
from freescout_audit.invisible import what_does_not_belong
from ops.check import Check, green, red, yellow
from settings import Environment, LiveSecrets, Secret
from settings.environment import API_KEY, FLAGS, OPS_TOKEN, RBAC_SECRET, WEBHOOK_SECRET, VaultAccess
from settings.place import Place
from settings.vault.keys import Keys

_HEX_KEY = 32
_SETTINGS_PAGE = "Manage » Settings » API & Webhooks"
_OFF = "off: deliveries are answered 503"


def vault(access: VaultAccess, secrets: LiveSecrets, here: Place) -> list[Check]:
    """Judge the vault, and the variables that say otherwise."""
    standing = secrets.vault
    assert standing is not None, "there is a vault"  # noqa: S101 - the caller's promise
    where = f"{access.path} ({access.environment}) at {access.url}"
    if standing.state == "failed":
        checks = [red("vault", standing.detail, standing.next_step)]
    else:
        held = ", ".join(sorted(secrets.keys.from_vault))
        checks = [green("vault", f"{where} holds {held}")]
    checks += [
        red(
            "variable",
            f"{name} says otherwise than the vault, and is ignored",
            f"{here.unset_variable(name)}; if it is right, put it into the vault first",
        )
        for name in secrets.ignored
    ]
    return checks


def flag(endpoint: str, environment: Environment, here: Place, *, used: bool) -> Check:
    """Judge the switch of an endpoint, which may be ``used`` although it is off."""
    name = check_at(endpoint, "flag")
    if endpoint in environment.endpoints:
        return green(name, "deliveries are taken" + (" at RV-4's path" if endpoint == RBAC else ""))
    if not used:
        return green(name, f"off: {'RV-4' if endpoint == RBAC else 'the audit'}'s path is not used")
    return yellow(name, _OFF, f"when all else is green: {here.set_variable(FLAGS[endpoint], '1')}")


def check_at(endpoint: str, name: str) -> str:
    """Return the name of a check at an endpoint: ``webhook`` at the audit's, ``rbac webhook`` at RV-4's."""
    return name if endpoint == AUDIT else f"{endpoint} {name}"


def keys(
    found: Keys,
    *,
    desk_url: str | None,
    names: Mapping[str, str] | None = None,
    endpoints: Sequence[str] = (AUDIT,),
) -> list[Check]:
    """Judge the keys in use.

    Args:
        found: The keys.
        desk_url: The desk's address.
        names: What the keys are called in the vault where there is one, by variable.
        endpoints: Those whose keys are needed; keys that RV-4's path has of its own are judged in any case.
    """
    api_key = found.api_key
    checks: list[Check] = []
    if AUDIT in endpoints or found.webhook or not found.accepted(RBAC):
        checks += _webhook_keys(found, names)
    checks += _rbac_keys(found)
    if desk_url is None and api_key is None:
        checks.append(
            yellow(
                "API key", "no desk is named: deliveries alone are believed", "set FREESCOUT_URL and FREESCOUT_API_KEY"
            )
        )
    elif desk_url is None:
        checks.append(red("API key", "FREESCOUT_URL is not set", "set it to the desk's address"))
    elif api_key is None:
        checks.append(red("API key", *_missing(API_KEY, names)))
    else:
        checks.append(_key("API key", api_key, others={}))
    checks.append(_token(found))
    return checks


def _webhook_keys(found: Keys, names: Mapping[str, str] | None) -> Sequence[Check]:
    if not found.webhook:
        detail, next_step = _missing(WEBHOOK_SECRET, names)
        return [red("webhook key", f"{detail}: deliveries are answered 503", next_step)]
    others = {"the API key": found.api_key}
    checks = [_key("webhook key", found.webhook[0], others=others)]
    for previous in found.webhook[1:]:
        check = _key("previous key", previous, others=others)
        checks.append(
            check
            if check.state == "red"
            else yellow("previous key", "accepted as well", "remove it when rotate status says that it may go")
        )
    return checks


def _rbac_keys(found: Keys) -> Sequence[Check]:
    """Judge the keys that RV-4's path has of its own."""
    others = {"the API key": found.api_key}
    checks = []
    if found.rbac is not None:
        check = _key("rbac key", found.rbac, others=others)
        if check.state == "green" and found.rbac in found.webhook:
            check = yellow(
                "rbac key",
                "it is the audit path's, so a rotation has to change both",
                f"unset {RBAC_SECRET}, and the audit path's keys are accepted",
            )
        checks.append(check)
    if found.rbac_previous is not None:
        check = _key("rbac previous key", found.rbac_previous, others=others)
        if check.state != "red":
            beside = "" if found.rbac is not None else ", beside the audit path's"
            next_step = "remove it when rotate status says that it may go"
            check = yellow("rbac previous key", f"accepted as well{beside}", next_step)
        checks.append(check)
    return checks


def _missing(variable: str, names: Mapping[str, str] | None) -> tuple[str, str]:
    """Return what is missing, and where to get it and put it."""
    if names is None:
        return f"{variable} is not set", f"copy it from FreeScout's {_SETTINGS_PAGE}"
    return f"the vault does not hold {names[variable]}", f"copy it there from FreeScout's {_SETTINGS_PAGE}"


def _token(found: Keys) -> Check:
    if found.ops_token is None:
        return yellow(OPS_TOKEN, "not set: /metrics and the details of /readyz are shut", "freescout-audit secret new")
    if found.ops_token in {*found.webhook, *found.accepted(RBAC), found.api_key}:
        return red(OPS_TOKEN, "it is one of FreeScout's keys", "make one of its own: freescout-audit secret new")
    # An operator chooses it, and may choose words.
    if strange := what_does_not_belong(found.ops_token.reveal().translate({ord(" "): None, ord("'"): None})):
        return red(OPS_TOKEN, f"there is {strange} in it", "make another: freescout-audit secret new")
    return green(OPS_TOKEN, "set")


def _key(name: str, key: Secret, *, others: Mapping[str, Secret | None]) -> Check:
    """Judge a key by itself: any length and alphabet may be right, but not another thing's value."""
    value = key.reveal()
    if value.startswith("base64:"):
        return red(
            name,
            "this looks like FreeScout's APP_KEY, which both keys only follow from",
            f"copy the key itself from {_SETTINGS_PAGE}, or freescout-audit secret derive",
        )
    for other, its_key in others.items():
        if key == its_key:
            return red(name, f"it is the same as {other}", f"they differ on {_SETTINGS_PAGE}: copy both again")
    if strange := what_does_not_belong(value):
        return red(name, f"there is {strange} in it", f"copy it again from {_SETTINGS_PAGE}, and nothing else")
    usual = len(value) == _HEX_KEY and all(character in "0123456789abcdef" for character in value.lower())
    return green(name, "set" if usual else "set; other than the 32 hex digits that FreeScout usually has")
