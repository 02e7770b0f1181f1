"""An Infisical to rehearse against: the two routes that a reader of secrets needs, and how they fail.

It stands alone and knows nothing of the desk beside it. Routes and answers follow Infisical's public reference
(https://infisical.com/docs/api-reference/endpoints/universal-auth/login and …/secrets/list) and its server code,
lock-outs and hidden values included. Serve it with `serve_vault`; change it while it is served.
"""

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web
from aiohttp.typedefs import Handler

from simulator.serve import end

HIDDEN = "<hidden-by-infisical>"
LOCKOUT_THRESHOLD = 3
LOCKOUT_SECONDS = 300.0
COUNTER_RESET_SECONDS = 30.0


class VaultFault(StrEnum):
    """How the vault misbehaves while ``Infisical.fault`` is set."""

    DROP = "drop"  # the connection breaks, no answer
    HANG = "hang"  # the connection stays open, no answer
    SERVER_ERROR = "500"  # Infisical's own JSON error
    BAD_GATEWAY = "502"  # a proxy's page
    TOO_MANY_REQUESTS = "429"  # with Retry-After
    NOT_INFISICAL = "html"  # another site answers
    REDIRECT = "redirect"  # the address has moved
    EMPTY = "empty"  # a list without secrets, as for a path that does not exist


@dataclass(slots=True)
class _Lockout:
    failures: int = 0
    until: float = 0.0
    locked: bool = False


class Infisical:
    """A vault with one project and one machine identity.

    Args:
        clock: Seconds that only grow; tokens expire by it.
        token_lifetime: Seconds that an access token is good for; 0: for ever.

    Attributes:
        folders: The secrets by environment and path.
        describe_only: Names of secrets that the identity may see and not read.
        member: Whether the identity belongs to the project.
        old: Behave as a server that does not know ``/api/v4/secrets``.
        missing_folder_is_404: Some versions answer an empty list for a path that does not exist, others 404.
        fault: How every request fails, or None.
        requests: How often each route was asked.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, token_lifetime: float = 7200) -> None:
        self.project_id = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
        self.client_id = "b5f7a5a0-6f0c-4d8e-9d6f-1c9a86a0c001"
        self.client_secret = secrets.token_hex(32)
        self.folders: dict[tuple[str, str], dict[str, str]] = {}
        self.describe_only: set[str] = set()
        self.member = True
        self.old = False
        self.missing_folder_is_404 = False
        self.fault: VaultFault | None = None
        self.retry_after = 7
        self.token_lifetime = token_lifetime
        self.requests: Counter[str] = Counter()
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self._lockout = _Lockout()

    def put(self, environment: str, path: str, **values: str) -> None:
        """Make a folder hold exactly these secrets."""
        self.folders[environment, path.rstrip("/") or "/"] = dict(values)

    def revoke_tokens(self) -> None:
        """Make every access token given so far worthless."""
        self._tokens.clear()

    def login(self, client_id: object, client_secret: object) -> web.Response:
        """Answer ``POST /api/v1/auth/universal-auth/login``."""
        if not isinstance(client_id, str) or not isinstance(client_secret, str):
            return _problem(422, "ValidationFailure", [{"code": "invalid_type", "message": "Required"}])
        if client_id != self.client_id:
            return _problem(401, "UnauthorizedError", "Invalid credentials")
        now, lockout = self._clock(), self._lockout
        if now >= lockout.until:
            lockout = self._lockout = _Lockout()
        if lockout.locked:
            message = "This identity auth method is temporarily locked, please try again later"
            return _problem(401, "UnauthorizedError", message)
        if client_secret != self.client_secret:
            lockout.failures += 1
            lockout.locked = lockout.failures >= LOCKOUT_THRESHOLD
            lockout.until = now + (LOCKOUT_SECONDS if lockout.locked else COUNTER_RESET_SECONDS)
            return _problem(401, "UnauthorizedError", "Invalid credentials")
        self._lockout = _Lockout()
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + self.token_lifetime if self.token_lifetime else float("inf")
        answer = {"accessToken": token, "expiresIn": self.token_lifetime, "accessTokenMaxTTL": 2592000}
        return _json(200, answer | {"tokenType": "Bearer"})

    def list_secrets(self, authorization: str, *, project: str, environment: str, path: str) -> web.Response:
        """Answer ``GET /api/v4/secrets`` and its predecessor."""
        if (refusal := self._refuse(authorization, project)) is not None:
            return refusal
        if environment not in {name for name, _ in self.folders} and self.missing_folder_is_404:
            return _problem(404, "NotFound", f"Environment with slug '{environment}' not found")
        folder = self.folders.get((environment, path.rstrip("/") or "/"))
        if folder is None and self.missing_folder_is_404:
            message = f"Folder with path '{path}' in environment with slug '{environment}' not found"
            return _problem(404, "NotFound", message)
        held = {} if folder is None or self.fault is VaultFault.EMPTY else folder
        listed = [
            {
                "id": f"secret-{name}",
                "workspace": project,
                "environment": environment,
                "version": 1,
                "type": "shared",
                "secretKey": name,
                "secretValue": HIDDEN if name in self.describe_only else value,
                "secretComment": "",
                "secretValueHidden": name in self.describe_only,
                "secretPath": path,
            }
            for name, value in held.items()
        ]
        return _json(200, {"secrets": listed, "imports": []})

    def _refuse(self, authorization: str, project: str) -> web.Response | None:
        """Answer who has no good token, or no access to the project; None when both are right."""
        until = self._tokens.get(authorization.removeprefix("Bearer "))
        if until is None:
            return _problem(401, "UnauthorizedError", "Token missing or revoked")
        if self._clock() >= until:
            return _problem(403, "TokenError", "Your token has expired. Please re-authenticate.")
        if project != self.project_id:
            return _problem(404, "NotFound", f"Project with ID '{project}' not found")
        return None if self.member else _problem(403, "PermissionDenied", "You are not allowed to read secrets")


@asynccontextmanager
async def serve_vault(vault: Infisical, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve a vault for as long as the block runs, and yield its address."""
    runner = web.AppRunner(_application(vault), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await end(runner)


def _application(vault: Infisical) -> web.Application:
    async def login(request: web.Request) -> web.StreamResponse:
        try:
            asked = json.loads(await request.read())
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return _problem(400, "BadRequest", "Body is not valid JSON")
        return vault.login(asked.get("clientId"), asked.get("clientSecret"))

    async def list_v4(request: web.Request) -> web.StreamResponse:
        return await unknown(request) if vault.old else _list(vault, request, project="projectId")

    async def list_v3(request: web.Request) -> web.StreamResponse:
        return _list(vault, request, project="workspaceId")

    async def unknown(request: web.Request) -> web.StreamResponse:
        if not request.path.startswith("/api"):
            return _page(200, "Infisical")
        message = f"Route {request.method}:{request.path_qs} not found"
        return _json(404, {"message": message, "error": "Not Found", "statusCode": 404})

    @web.middleware
    async def fail(request: web.Request, handler: Handler) -> web.StreamResponse:
        vault.requests[request.path] += 1
        failure = await _failure(vault, request)
        return await handler(request) if failure is None else failure

    app = web.Application(middlewares=[fail])
    app.router.add_post("/api/v1/auth/universal-auth/login", login)
    app.router.add_get("/api/v4/secrets", list_v4)
    app.router.add_get("/api/v3/secrets/raw", list_v3)
    app.router.add_route("*", "/{path:.*}", unknown)
    return app


def _list(vault: Infisical, request: web.Request, *, project: str) -> web.Response:
    query = request.query
    if not query.get(project) or not query.get("environment"):
        return _problem(400, "BadRequest", "Missing project id or environment")
    return vault.list_secrets(
        request.headers.get("Authorization", ""),
        project=query[project],
        environment=query["environment"],
        path=query.get("secretPath", "/"),
    )


async def _failure(vault: Infisical, request: web.Request) -> web.StreamResponse | None:
    """Answer as the fault in force has it; None when there is none."""
    answer: web.StreamResponse | None = None
    match vault.fault:
        case VaultFault.DROP:
            answer = web.Response()
            if request.transport is not None:
                request.transport.close()
        case VaultFault.HANG:
            await asyncio.Event().wait()
        case VaultFault.SERVER_ERROR:
            answer = _problem(500, "InternalServerError", "Something went wrong")
        case VaultFault.BAD_GATEWAY:
            answer = _page(502, "Bad Gateway")
        case VaultFault.TOO_MANY_REQUESTS:
            answer = _problem(429, "RateLimitExceeded", "Rate limit exceeded. Please try again later")
            answer.headers["Retry-After"] = str(vault.retry_after)
        case VaultFault.NOT_INFISICAL:
            answer = _page(200, "Welcome")
        case VaultFault.REDIRECT:
            answer = web.Response(status=302, headers={"Location": f"https://vault.example.org{request.path}"})
        case VaultFault.EMPTY | None:
            pass
    return answer


def _problem(status: int, error: str, message: object) -> web.Response:
    return _json(status, {"reqId": "req-1", "statusCode": status, "message": message, "error": error})


def _json(status: int, document: object) -> web.Response:
    return web.json_response(document, status=status)


def _page(status: int, title: str) -> web.Response:
    return web.Response(status=status, text=f"<!doctype html><title>{title}</title>", content_type="text/html")
