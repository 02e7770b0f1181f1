"""Infisical's REST API as we use it: what is asked, and what an answer means. Without I/O.

Two requests: a machine identity logs in (Universal Auth), and lists the secrets of one folder. See
https://infisical.com/docs/api-reference/endpoints/universal-auth/login and
https://infisical.com/docs/api-reference/endpoints/secrets/list; what they leave out (lock-outs, hidden values, the
forms of errors) is from Infisical's server code. No message quotes an answer: answers hold secrets.
"""

import re
from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from freescout_audit.errors import FreescoutAuditError
from freescout_audit.media_type import is_json_type
from freescout_audit.redirects import where_it_leads
from settings.environment import Secret, VaultAccess

Version = Literal["v4", "v3"]
"""Of the route that lists secrets. v3 is deprecated; servers from before the end of 2025 have nothing newer."""

_UNREADABLE = (msgspec.MsgspecError, RecursionError)
"""What decoding raises for what is not JSON, is no such document, or is nested without end."""
_LOCKED = "temporarily locked"
_NO_SUCH_ROUTE = "Route "
_REFERENCE = re.compile(r"\$\{[^}]*\}")
"""How Infisical writes a reference to another secret: ``${prod.folder.NAME}``. No key of ours has that in it."""
_LET_THROUGH = "let /api/* through for this app"


class VaultError(FreescoutAuditError):
    """The vault gave no secrets."""


class VaultUnavailableError(VaultError):
    """It may pass: no answer in time, 429, 5xx, a connection that broke."""

    def __init__(self, problem: str, next_step: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(problem, next_step)
        self.retry_after = retry_after


class VaultRefusedError(VaultError):
    """It will not pass by itself: credentials, permissions, a path or a URL that is not right."""


class TokenRefusedError(VaultRefusedError):
    """The access token is not accepted; with one that is not new, a fresh one may be."""


class OldServerError(VaultRefusedError):
    """The server does not know this version of the route."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to send; its repr shows neither token nor body."""

    method: Literal["GET", "POST"]
    path: str
    query: Mapping[str, str] = {}
    body: bytes = b""
    token: Secret | None = None

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path})"


class VaultResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer; header names in lower case. Its repr shows the status alone."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked: str = ""
    """The URL that was asked, without its query."""
    path: str = ""
    """What of it follows the vault's address."""

    def __repr__(self) -> str:
        return f"VaultResponse({self.status})"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token, and for how many seconds it is good; None: until it is revoked."""

    value: Secret
    lifetime: float | None


class _Login(msgspec.Struct, rename="camel"):
    access_token: str
    expires_in: float


class _Secret(msgspec.Struct, rename="camel"):
    secret_key: str
    secret_value: str = ""
    secret_value_hidden: bool = False


class _Secrets(msgspec.Struct):
    secrets: list[_Secret]


class _Problem(msgspec.Struct):
    message: object = ""


_login = msgspec.json.Decoder(_Login, strict=False)
_secrets = msgspec.json.Decoder(_Secrets)
_problem = msgspec.json.Decoder(_Problem)


def login_request(access: VaultAccess) -> Request:
    """Return the request that logs our machine identity in."""
    credentials = {"clientId": access.client_id, "clientSecret": access.client_secret.reveal()}
    return Request(method="POST", path="/api/v1/auth/universal-auth/login", body=msgspec.json.encode(credentials))


def read_login(answer: VaultResponse) -> Token:
    """Return the token of an answer to `login_request`.

    Raises:
        VaultError: There is none.
    """
    _judge(answer)
    if answer.status != 200:  # noqa: PLR2004 - HTTP's own numbers, here and below
        raise _no_login(answer)
    try:
        login = _login.decode(answer.body)
    except _UNREADABLE:
        raise _not_infisical() from None
    return Token(value=Secret(login.access_token), lifetime=login.expires_in or None)


def secrets_request(access: VaultAccess, token: Token, version: Version) -> Request:
    """Return the request that lists the secrets of our folder; those it imports from others are not asked for."""
    query = {
        "environment": access.environment,
        "secretPath": access.path,
        "viewSecretValue": "true",
        "expandSecretReferences": "true",
        "recursive": "false",
    }
    if version == "v4":
        path = "/api/v4/secrets"
        query |= {"projectId": access.project_id, "includeImports": "false", "include_imports": "false"}
    else:
        path = "/api/v3/secrets/raw"
        query |= {"workspaceId": access.project_id, "include_imports": "false"}
    return Request(method="GET", path=path, query=query, token=token.value)


def read_secrets(answer: VaultResponse, access: VaultAccess, names: Collection[str]) -> Mapping[str, Secret]:
    """Return those of the named secrets that an answer to `secrets_request` holds; never none of them.

    Raises:
        TokenRefusedError: The token is not accepted, or may not read here.
        OldServerError: The server does not know this version of the route.
        VaultError: No answer that counts.
    """
    _judge(answer)
    if answer.status in {400, 401, 403}:
        raise TokenRefusedError(
            f"Infisical answers {answer.status}: the machine identity may not read {_where(access)}",
            "add it to the project with a role that may read there"
            " (INFISICAL_PROJECT_ID, INFISICAL_ENVIRONMENT, INFISICAL_PATH)",
        )
    if answer.status == 404:  # noqa: PLR2004
        message = _message(answer)
        if message.startswith(_NO_SUCH_ROUTE):
            raise OldServerError(
                "this Infisical is too old: it cannot list secrets by /api/v3/secrets/raw", "update it"
            )
        raise VaultRefusedError(f"Infisical does not find {_where(access)}", f"check {_suspects(message)}")
    if answer.status != 200:  # noqa: PLR2004
        raise VaultRefusedError(f"Infisical answers {answer.status}", "check the INFISICAL_ variables")
    try:
        listed = _secrets.decode(answer.body).secrets
    except _UNREADABLE:
        raise _not_infisical() from None
    if not listed:
        # It says so too of a path that does not exist, and to an identity that may not see what is there.
        raise VaultRefusedError(
            f"the vault shows no secrets at {_where(access)}",
            "check INFISICAL_PATH and INFISICAL_ENVIRONMENT, and that the machine identity may describe and read what"
            " is there",
        )
    wanted = [secret for secret in listed if secret.secret_key in names]
    if hidden := [secret.secret_key for secret in wanted if secret.secret_value_hidden]:
        raise VaultRefusedError(
            f"the machine identity may see that {', '.join(hidden)} exists, but not read it",
            "allow its role to read values",
        )
    held = {secret.secret_key: value for secret in wanted if (value := secret.secret_value.strip())}
    if not held:
        raise VaultRefusedError(
            f"none of the secrets at {_where(access)} is one of ours ({', '.join(names)})",
            "check INFISICAL_PATH and the names in the settings, vault.webhook_secret_name and the others",
        )
    if unresolved := [name for name, value in held.items() if _REFERENCE.search(value)]:
        raise VaultRefusedError(
            f"{', '.join(unresolved)} is a reference that Infisical did not resolve",
            "let the machine identity read what it refers to, or put the value itself there",
        )
    return {name: Secret(value) for name, value in held.items()}


def _judge(answer: VaultResponse) -> None:
    """Raise what an answer means that is no answer of Infisical's, or comes at a bad time."""
    if answer.status == 429 or answer.status >= 500:  # noqa: PLR2004
        after = answer.headers.get("retry-after", "")
        too_many = answer.status == 429  # noqa: PLR2004
        raise VaultUnavailableError(
            f"Infisical answers {answer.status}{', too many requests' if too_many else ''}; it is asked again",
            "set a longer VAULT_INTERVAL, or let fewer processes read it" if too_many else "is it up?",
            retry_after=float(after) if after.isascii() and after.isdecimal() else None,
        )
    if 300 <= answer.status < 400:  # noqa: PLR2004
        raise _redirect(answer)
    if is_json_type(answer.headers.get("content-type", "")):
        return
    if answer.status in {401, 403}:
        raise VaultRefusedError(f"a proxy in front of Infisical refuses us with {answer.status}", _LET_THROUGH)
    raise _not_infisical()


def _redirect(answer: VaultResponse) -> VaultRefusedError:
    """Return what a redirect means."""
    redirect = where_it_leads(answer.asked, answer.headers.get("location", ""), path=answer.path)
    if redirect.kind == "gateway":
        return VaultRefusedError(
            f"an access gateway in front of Infisical answers {answer.status} and leads to {redirect.leads_to}",
            f"{_LET_THROUGH} without a log-in",
        )
    where_to = redirect.leads_to or "the server's own address"
    return VaultRefusedError(
        f"Infisical answers {answer.status}, a redirect",
        f"set INFISICAL_URL to {where_to}" if redirect.kind in {"moved", "nowhere"} else "is INFISICAL_URL right?",
    )


def _no_login(answer: VaultResponse) -> VaultRefusedError:
    """Return what an answer to a login means that is no token."""
    problem = f"Infisical answers {answer.status} to the login"
    if _LOCKED in _message(answer):
        return VaultRefusedError(
            "Infisical has locked the machine identity for some minutes, after logins that failed",
            "put INFISICAL_CLIENT_SECRET right, and wait",
        )
    if answer.status == 403:  # noqa: PLR2004
        return VaultRefusedError(problem, "is our address among the client secret's trusted IPs?")
    if answer.status == 404 and _message(answer).startswith(_NO_SUCH_ROUTE):  # noqa: PLR2004
        return VaultRefusedError(problem, "is INFISICAL_URL right, and the server not too old?")
    if answer.status == 404:  # noqa: PLR2004
        return VaultRefusedError(
            f"{problem}: there is no such identity",
            "is INFISICAL_URL the right region (app, us, eu), and INFISICAL_CLIENT_ID right?",
        )
    return VaultRefusedError(
        f"{problem}: INFISICAL_CLIENT_ID and INFISICAL_CLIENT_SECRET are not accepted",
        "make a new client secret for the machine identity (Universal Auth)",
    )


def _not_infisical() -> VaultRefusedError:
    return VaultRefusedError(
        "what answers at INFISICAL_URL is no Infisical", "set it to the address of the server, without a path"
    )


def _where(access: VaultAccess) -> str:
    return f"{access.path} ({access.environment})"


def _suspects(message: str) -> str:
    """Return the variables to look at, by what the answer says it did not find."""
    for word, variable in (("Project", "INFISICAL_PROJECT_ID"), ("Environment", "INFISICAL_ENVIRONMENT")):
        if message.startswith(word):
            return variable
    return "INFISICAL_PATH, INFISICAL_ENVIRONMENT and INFISICAL_PROJECT_ID"


def _message(answer: VaultResponse) -> str:
    """Return what an error says, to compare it and never to show it; empty when it says nothing we can read."""
    try:
        message = _problem.decode(answer.body).message
    except _UNREADABLE:
        return ""
    return message if isinstance(message, str) else ""
