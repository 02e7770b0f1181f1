"""The applications of `examples/`, running: each is asked for tickets, and what it logs is kept."""

import asyncio
import importlib.util
import inspect
import io
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from wsgiref.util import setup_testing_defaults

import asyncpg

from support.processes import ROOT

EXAMPLES = ROOT / "examples"
NODE_MODULES = ROOT / ".local" / "pg" / "node_modules"
PARTS: Mapping[str, tuple[str, ...]] = {
    "ask_asyncpg": ("asyncpg",),
    "ask_psycopg": ("psycopg",),
    "ask_psycopg_pool": ("psycopg", "psycopg_pool"),
    "ask_psycopg_async": ("psycopg", "psycopg_pool"),
    "ask_sqlalchemy": ("sqlalchemy", "psycopg"),
    "ask_sqlalchemy_async": ("sqlalchemy", "asyncpg"),
    "ask_django request": ("django", "psycopg"),
    "ask_django command": ("django", "psycopg"),
    "ask_django worker": ("django", "psycopg"),
    "ask_node": (),
    "ask.sql": (),
}
"""Each application, and the packages it needs; Django's three ways to run code are one each."""

_NODE = """
const { ticketStates } = require(process.argv[1]);
console.warn = console.info;
const states = ticketStates(process.env.URL);
require("node:readline").createInterface({ input: process.stdin })
  .on("line", async (line) => console.log(JSON.stringify(await states.atRead(line))))
  .on("close", () => process.exit());
"""


def missing(name: str) -> str:
    """Return why an application cannot run here; empty when it can."""
    if name == "ask_node":
        if shutil.which("node") is None:
            return "node is not installed"
        return "" if (NODE_MODULES / "pg").exists() else f"{NODE_MODULES} has no pg (see .ci/run)"
    lacking = [part for part in PARTS[name] if importlib.util.find_spec(part) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


@dataclass
class Asker:
    """An application that is running."""

    ask: Callable[[int], Awaitable[str]]
    lines: list[str] = field(default_factory=list)
    """What it has logged."""


@asynccontextmanager
async def asker(name: str, url: str) -> AsyncIterator[Asker]:
    """Run an application on the database of ``url``."""
    file = name.partition(" ")[0]
    start = {"ask_node": _node, "ask_django": _django, "ask.sql": _sql}.get(file, _class)
    async with AsyncExitStack() as stack:
        yield await start(name, url, stack)


def load(file: str, name: str) -> ModuleType:
    """Run a file as a module of that name, which its logger has too."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _listen(module: ModuleType, lines: list[str], stack: AsyncExitStack) -> None:
    """Keep what a module logs."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger(module.__name__), Keep()
    logger.setLevel("INFO")
    logger.propagate = False
    logger.addHandler(handler)
    stack.callback(logger.removeHandler, handler)


async def _class(name: str, url: str, stack: AsyncExitStack) -> Asker:
    """Run what has a class of asynchronous or blocking methods."""
    module = load(name, name)
    states = module.TicketStates(url)
    lines: list[str] = []
    _listen(module, lines, stack)
    if inspect.iscoroutinefunction(states.at_read):
        stack.push_async_callback(states.close)
        return Asker(states.at_read, lines)
    stack.push_async_callback(asyncio.to_thread, states.close)
    return Asker(lambda ticket_id: asyncio.to_thread(states.at_read, ticket_id), lines)


async def _django(name: str, url: str, stack: AsyncExitStack) -> Asker:
    """Run what Django runs: a request through its WSGI handler, a command, or a thread of a worker."""
    import django  # noqa: PLC0415 - it may be missing
    from django.conf import settings  # noqa: PLC0415
    from django.core.handlers.wsgi import WSGIHandler  # noqa: PLC0415
    from django.core.management import BaseCommand, call_command  # noqa: PLC0415
    from django.http import HttpRequest, HttpResponse  # noqa: PLC0415
    from django.urls import path  # noqa: PLC0415

    urls = ModuleType("urls")
    if not settings.configured:
        os.environ["FREESCOUT_AUDIT_URL"] = url
        settings.configure(
            DATABASES=load("django_settings", "django_settings").DATABASES,
            ROOT_URLCONF=urls,
            ALLOWED_HOSTS=["*"],
            MIDDLEWARE=[],
        )
        del os.environ["FREESCOUT_AUDIT_URL"]
        django.setup()
    module = load("ask_django", name)
    lines: list[str] = []
    _listen(module, lines, stack)
    stack.callback(module.threads.shutdown)
    for _ in range(2):
        stack.callback(lambda: module.threads.submit(module.connections.close_all).result())

    def view(_request: HttpRequest, ticket_id: int) -> HttpResponse:
        return HttpResponse(module.ticket_state_at_read(ticket_id))

    class Command(BaseCommand):  # type: ignore[misc] # Django has no types
        def add_arguments(self, parser: Any) -> None:
            parser.add_argument("ticket_id", type=int)

        def handle(self, *_arguments: Any, ticket_id: int, **_options: Any) -> str:
            return str(module.ticket_state_at_read(ticket_id))

    def request(ticket_id: int) -> str:
        environ: dict[str, Any] = {"PATH_INFO": f"/{ticket_id}"}
        setup_testing_defaults(environ)
        response = handler(environ, lambda *_arguments: None)
        said = b"".join(response).decode()
        response.close()
        return said

    def command(ticket_id: int) -> str:
        return str(call_command(Command(), str(ticket_id), stdout=io.StringIO()))

    match name:
        case "ask_django request":
            urls.urlpatterns = [path("<int:ticket_id>", view)]  # type: ignore[attr-defined]
            handler = WSGIHandler()
            return Asker(lambda ticket_id: asyncio.to_thread(request, ticket_id), lines)
        case "ask_django command":
            return Asker(lambda ticket_id: asyncio.to_thread(command, ticket_id), lines)
        case _:
            return Asker(lambda ticket_id: asyncio.to_thread(module.ticket_state_at_read, ticket_id), lines)


async def _node(_name: str, url: str, stack: AsyncExitStack) -> Asker:
    """Run what Node.js runs: it is told ids by lines, and answers and logs by lines."""
    running = await asyncio.create_subprocess_exec(
        "node",
        "-e",
        _NODE,
        str(EXAMPLES / "ask_node.js"),
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(NODE_MODULES), "URL": url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    stdin, stdout = running.stdin, running.stdout
    assert stdin is not None
    assert stdout is not None

    async def end() -> None:
        stdin.close()
        await running.wait()

    stack.push_async_callback(end)
    lines: list[str] = []
    turns = asyncio.Lock()

    async def ask(ticket_id: int) -> str:
        async with turns:
            return await answer(ticket_id)

    async def answer(ticket_id: int) -> str:
        stdin.write(f"{ticket_id}\n".encode())
        while line := (await stdout.readline()).decode().strip():
            if line.startswith('"'):
                return str(json.loads(line))
            lines.append(line)
        raise AssertionError(f"Node.js ended: {lines}")

    return Asker(ask, lines)


async def _sql(_name: str, url: str, _stack: AsyncExitStack) -> Asker:
    """Run the statements as who types them, on a new connection each time."""
    text = (EXAMPLES / "ask.sql").read_text("utf-8")
    lines: list[str] = []

    async def ask(ticket_id: int) -> str:
        try:
            connection = await asyncpg.connect(url, timeout=2)
            try:
                *_, one, several = text.replace("4711", str(ticket_id)).split(";\n")[:-1]
                await connection.execute(text.partition(";")[0])
                (answer,) = await connection.fetch(one, timeout=1)
                rows = await connection.fetch(several, timeout=1)
                assert answer[0] == rows[0]["state"]
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError) as error:
            lines.append(repr(error))
            return "none"
        if answer[0] == "none":
            lines.append("the service does not vouch for it")
        return str(answer[0])

    return Asker(ask, lines)
