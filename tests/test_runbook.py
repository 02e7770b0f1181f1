"""README and runbook are walked, command by command, against a simulated desk.

What cannot be had here is translated into what it does: Heroku's commands (`App.heroku`), Infisical's, `make` and
`curl`. Nothing is passed over: a command, a placeholder, a block's language or a stage direction that nobody knows
fails the test.
"""

import asyncio
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from conftest import Log
from db.database import Database
from db.migrate import migrate
from db.url import normalise
from ops import delivery, sql
from poller.run import poll
from receiver.app import create_app, serve
from settings import load_environment, load_settings
from simulator import ApiFault, Desk, HttpTransport, SystemClock, Worker
from simulator import serve as serve_desk
from simulator.infisical import Infisical, serve_vault
from support.console_world import run
from support.examples import body, signed
from support.grants import may_make_roles
from support.markdown import Block, blocks
from support.processes import ROOT
from support.vaults import PATH

NAME = "freescout-audit-staging"
TICKET, LOST = 5, 6
"""The ticket made for tests, and the first whose deliveries are lost."""
TABLES = (
    *("ticket", "lease", "poller", "delivery", "gap", "webhook", "webhook_rbac"),
    *("history", "lease_history", "feed", "cursor"),
)
RECIPES = {"run": "ops.run", "test": "pytest", "sql": "ops.sql", "delivery": "ops.delivery"}
"""What each target of the Makefile has to run; `make test` is what runs this, and `make run` has a test of its own."""
_numbers = itertools.count()


class App:
    """An app on Heroku, its processes run here; and its desk, on real time but for its worker's shorter naps."""

    def __init__(
        self, stack: AsyncExitStack, desk: Desk, postgres: Callable[[str], str], log: Log, recorded: Path, port: int
    ) -> None:
        self.desk = desk
        self.vault = Infisical()
        self.vault_url = ""
        self.derived: dict[str, str] = {}
        self.token = "the-operators-token"
        self.desk_url = ""
        self.new_desk_url = ""
        self.url = f"http://127.0.0.1:{port}"
        self.config: dict[str, str] = {}
        self.database_url = ""
        self.admin: asyncpg.Connection | None = None
        self._postgres = postgres
        self._log = log
        self._recorded = recorded
        self._port = port
        self._stack = stack
        self._web: AsyncExitStack | None = None
        self._polling: tuple[asyncio.Task[None], asyncio.Event] | None = None
        self._app_keys = [f"base64:{'A' * 42}{number}=" for number in range(2, 9)]
        self._old_app_key = ""
        self._vaults: dict[str, str] = {}
        self._role = f"audit_writer_{os.getpid()}_{next(_numbers)}"
        self.ran: list[str] = []
        self.moment = ""
        """When the answer was false that is reported."""

    # What the pages' words stand for.

    def placeholders(self) -> Mapping[str, str]:
        return {
            "app": NAME,
            "app URL": self.url,
            "desk": self.desk_url,
            "new desk": self.new_desk_url,
            "webhook key": self.desk.webhook_key,
            "API key": self.desk.api_key,
            # What `secret derive` said of the new APP_KEY.
            "new webhook key": self.derived.get("webhook", ""),
            "new API key": self.derived.get("API", ""),
            "token": self.token,
            "vault": self.vault_url,
            "client id": self.vault.client_id,
            "client secret": self.vault.client_secret,
            "project id": self.vault.project_id,
            "recorded deliveries": str(self._recorded),
            "ticket": str(TICKET),
            "lost ticket": str(LOST),
            "password": "a password",
            "moment": self.moment,
        }

    def filled_in(self, text: str) -> str:
        known = self.placeholders()
        return re.sub(r"<([a-zA-Z][a-zA-Z ]*)>", lambda found: known[found[1]], text)

    # What happens at the desk between two blocks.

    async def meanwhile(self, direction: str) -> None:  # noqa: C901, PLR0912 - a table of what happens
        desk = self.desk
        match direction:
            case "APP_KEY changes":
                self._old_app_key = desk.app_key
                desk.change_app_key(self._app_keys.pop(0))
            case "the old APP_KEY is put back":
                desk.change_app_key(self._old_app_key)
            case "the API key is regenerated":
                desk.regenerate_api_key("a salt")
            case "FreeScout does not trust the host name":
                desk.faults.api = ApiFault.UNTRUSTED_HOST
            case "FreeScout trusts the host name":
                desk.faults.api = None
            case "the app has no vault":
                self._vaults = {name: value for name, value in self.config.items() if name.startswith("INFISICAL_")}
                for name in self._vaults:
                    del self.config[name]
                # What it was told before APP_KEY changed.
                self.config |= {"FREESCOUT_AUDIT_WEBHOOK_SECRET": "0" * 32, "FREESCOUT_API_KEY": "0" * 32}
                await self.restart()
            case "the app has its vault again":
                for name in ("FREESCOUT_AUDIT_WEBHOOK_SECRET", "FREESCOUT_API_KEY"):
                    del self.config[name]
                self.config |= self._vaults
                await self.restart()
            case "FreeScout is restarted with the new APP_KEY":
                desk.set_status(LOST, "closed" if desk.get(LOST).status != "closed" else "active")
                await self.until_all_is_sent()
                desk.change_app_key(self._app_keys.pop(0))
                desk.set_status(LOST, "closed" if desk.get(LOST).status != "closed" else "active")
                await self.until_all_is_sent()
            case "5 minutes pass":
                await self.sql("UPDATE freescout_delivery SET received_at = received_at - interval '6 minutes'")
            case "deliveries are lost":
                desk.faults.drop_chance = 1
                for ticket_id in (LOST, LOST + 1):
                    desk.set_status(ticket_id, "spam" if desk.get(ticket_id).status != "spam" else "closed")
                desk.customer_writes()
                await self.until_all_is_sent()
                desk.faults.drop_chance = 0
                self.moment = datetime.now(UTC).isoformat()
            case "the module is deactivated":
                desk.faults.module_active = False
            case "the module is active again":
                desk.faults.module_active = True
            case "the desk is restored":
                row = desk.get(LOST)
                desk.remove(row)
                row.status_code, row.updated = desk.get(TICKET).status_code, row.created
                desk.add(row)
            case "the desk moves":
                self.new_desk_url = await self._stack.enter_async_context(serve_desk(desk))
            case _:
                raise AssertionError(f"nobody knows what happens when {direction}")

    async def until_all_is_sent(self) -> None:
        while self.desk.queue.next_due() is not None:  # noqa: ASYNC110 - the worker wakes nobody
            await asyncio.sleep(0.02)

    # Commands.

    async def execute(self, line: str) -> None:
        """Run a line of a block: programs, `&&`, pipes, and ``# ends with N`` for what has to fail."""
        expected = re.search(r"#.*\bends with (\d)", line)
        words = shlex.shlex(self.filled_in(line), posix=True, punctuation_chars="&|")
        words.whitespace_split = True
        code = 0
        for joined in _split(list(words), "&&"):
            typed: str | None = None
            for command in _split(joined, "|"):
                self.ran.append(" ".join(command[:2]))
                code, typed = await self.program(command, typed)
        assert code == (int(expected[1]) if expected else 0), f"{line}\n{typed}"

    async def program(  # noqa: C901, PLR0911 - a table of the programs there are
        self, words: Sequence[str], typed: str | None
    ) -> tuple[int, str]:
        match words:
            case ["heroku", name, *arguments]:
                return await self.heroku(name, arguments)
            case ["infisical", "secrets", *arguments]:
                await self.infisical(arguments)
            case ["grep", "-E", "^(APP_KEY|APIWEBHOOKS_API_KEY_SALT)=", ".env"]:
                salt = self.desk.api_key_salt
                return 0, f"APP_KEY={self.desk.app_key}\n" + (f"APIWEBHOOKS_API_KEY_SALT={salt}\n" if salt else "")
            case ["grep", "-E", "^(APP_KEY|APIWEBHOOKS_API_KEY_SALT)=", "old.env"]:
                return 0, f"APP_KEY={self._old_app_key}\n"
            case ["grep", "-E", "^(APP_KEY|APIWEBHOOKS_API_KEY_SALT)=", "new.env"]:
                return 0, f"APP_KEY={self._app_keys[0]}\n"
            case ["git", "push", "heroku", "main"]:
                await self.release()
            case ["bin/freescout-audit", *arguments]:
                return await self.console(arguments, typed)
            case ["python", "-m", "db.migrate"]:
                await migrate(normalise(self.database_url))
            case ["make", *arguments]:
                return await self.make(arguments)
            case ["sh"] if typed is not None:
                return await self.curl(shlex.split(typed))
            case ["curl", *_]:
                return await self.curl(words)
            case _:
                raise AssertionError(f"nobody knows how to run {' '.join(words)}")
        return 0, ""

    async def heroku(  # noqa: C901, PLR0912 - a table of what each command does
        self, name: str, arguments: Sequence[str]
    ) -> tuple[int, str]:
        """Do what Heroku's command would do to the app."""
        if name == "create":
            await self.create()
            return 0, ""
        at = arguments.index("--app")
        assert arguments[at + 1] == NAME
        rest = [*arguments[:at], *arguments[at + 2 :]]
        match name, rest:
            case "addons:create", ["heroku-postgresql"]:
                self.config["DATABASE_URL"] = self.database_url
            case "config:set", assignments:
                self.config |= dict(assignment.split("=", 1) for assignment in assignments)
                await self.restart()
            case "config:unset", names:
                for variable in names:
                    del self.config[variable]
                await self.restart()
            case "ps" | "pg:info", []:
                pass  # they only show something
            case "ps:scale", ["poller=1"]:
                await self.start_polling()
            case "ps:scale", ["poller=0"]:
                await self.stop_polling()
            case "run", ["--", *command]:
                return await self.program(command, None)
            case "logs", ["--tail"] | ["--num", _]:
                prefix = "2026-11-25T10:00:00.000000+00:00 app[web.1]: "
                return 0, "".join(prefix + line + "\n" for line in self._log.text.splitlines())
            case "pg:backups:capture", []:
                await self.sql(";".join(f"CREATE TABLE kept_{name} AS TABLE freescout_{name}" for name in TABLES))
            case "pg:backups:restore", ["--confirm", confirmed]:
                assert confirmed == NAME
                await self.sql(
                    ";".join(
                        f"DELETE FROM freescout_{name};"
                        f"INSERT INTO freescout_{name} OVERRIDING SYSTEM VALUE SELECT * FROM kept_{name}"
                        for name in TABLES
                    )
                )
            case "rollback", []:
                await self.restart()
            case _:
                raise AssertionError(f"nobody knows what heroku {name} {' '.join(rest)} does")
        return 0, ""

    async def infisical(self, arguments: Sequence[str]) -> None:
        """Change what the vault holds, and wait until every process of the app has read it, a minute for operators."""
        held = self.vault.folders.get(("prod", PATH.rstrip("/")), {})
        match arguments:
            case ["set", *assignments, "--env=prod", where] if where == f"--path={PATH}":
                held |= dict(assignment.split("=", 1) for assignment in assignments)
            case ["delete", name, "--env=prod", where] if where == f"--path={PATH}":
                del held[name]
            case _:
                raise AssertionError(f"nobody knows what infisical secrets {' '.join(arguments)} does")
        readers = (self._web is not None) + (self._polling is not None)
        before = len(self._log.lines("vault.read"))
        self.vault.put("prod", PATH, **held)
        async with asyncio.timeout(30):
            while len(self._log.lines("vault.read")) < before + readers:  # noqa: ASYNC110 - a log wakes nobody
                await asyncio.sleep(0.02)

    async def make(self, arguments: Sequence[str]) -> tuple[int, str]:
        """Check that a target runs what it says, and do that."""
        (target,) = [word for word in arguments if word in RECIPES]
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
        assert recipe is not None
        assert RECIPES[target] in recipe[1]
        variables = dict(word.split("=", 1) for word in arguments if "=" in word)
        match target:
            case "run":
                await self.create()
                keys = {"FREESCOUT_AUDIT_WEBHOOK_SECRET": self.desk.webhook_key, "FREESCOUT_API_KEY": self.desk.api_key}
                on = {"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1", "FREESCOUT_URL": self.desk_url}
                self.config |= keys | on | {"DATABASE_URL": self.database_url}
                await self.release()
                passes = len(self._log.lines("pass.completed"))
                await self.start_polling()
                # Who reads on has seen a ticket change, and so the first pass.
                async with asyncio.timeout(30):
                    while len(self._log.lines("pass.completed")) == passes:  # noqa: ASYNC110 - a log wakes nobody
                        await asyncio.sleep(0.02)
            case "delivery":
                return await self._typer(delivery.main)
            case "sql":
                return await self._typer(sql.main, *([variables["QUERY"]] if "QUERY" in variables else []))
            case _:
                pass
        return 0, ""

    async def console(self, arguments: Sequence[str], typed: str | None) -> tuple[int, str]:
        if "--key-from-stdin" in arguments:
            typed = self.desk.webhook_key
        said = await asyncio.to_thread(run, *arguments, variables=self.variables(), typed=typed)
        match arguments:
            case ["secret", "derive"]:
                self.derived = dict(re.findall(r"^(webhook|API) key +(\w+)", said.out, flags=re.MULTILINE))
            case ["secret", "new"]:
                self.token = said.out.strip()
        return said.code, said.out + said.err

    async def curl(self, words: Sequence[str]) -> tuple[int, str]:
        headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
        body = words[words.index("-d") + 1].encode() if "-d" in words else None
        (url,) = [word for word in words if word.startswith("http://")]
        async with aiohttp.ClientSession() as client:
            method = client.post if body is not None else client.get
            async with method(url, data=body, headers=headers) as response:
                return (0 if response.status == 200 else 1), await response.text()

    async def sql(self, text: str) -> None:
        assert self.admin is not None
        if not await may_make_roles(self.admin):  # somebody else has made it; the grants are tried on ourselves
            text = re.sub("CREATE ROLE .*;", "", text).replace("audit_writer", "CURRENT_USER")
        await self.admin.execute(text.replace("audit_writer", self._role))

    async def _typer(self, main: Callable[..., None], *arguments: str) -> tuple[int, str]:
        app = typer.Typer()
        app.command()(main)
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=self.variables())
        return result.exit_code, result.stdout

    # The app's processes.

    def variables(self) -> dict[str, str]:
        return {"COLUMNS": "100", "PORT": str(self._port), "POLLER_INTERVAL": "1", "VAULT_INTERVAL": "1"} | self.config

    async def create(self) -> None:
        """Begin anew: an empty database, nothing set, nothing running, nothing registered at the desk."""
        await self.stop()
        self.config.clear()
        self.desk.webhooks.clear()
        name = f"runbook_{os.getpid()}_{next(_numbers)}"
        owner = await asyncpg.connect(self._postgres("postgres"))
        await owner.execute(f"CREATE DATABASE {name}")
        self.database_url = self._postgres(name)
        self.admin = await asyncpg.connect(self.database_url)

        async def drop() -> None:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
            if await may_make_roles(owner):
                await owner.execute(f"DROP ROLE IF EXISTS {self._role}")
            await owner.close()

        self._stack.push_async_callback(drop)
        self._stack.push_async_callback(self.admin.close)

    async def release(self) -> None:
        await migrate(normalise(self.database_url))
        await self._start_web()

    async def restart(self) -> None:
        if self._web is None:
            return
        await self._start_web()
        if self._polling is not None:
            await self.stop_polling()
            await self.start_polling()

    async def _start_web(self) -> None:
        if self._web is not None:
            await self._web.aclose()
        self._web = AsyncExitStack()
        database = Database(normalise(self.database_url))
        self._web.push_async_callback(database.close)
        settings = load_settings(self.variables())
        app = create_app(database, load_environment(self.config), settings)
        await self._web.enter_async_context(serve(app, host="127.0.0.1", port=self._port))

    async def start_polling(self) -> None:
        if self._polling is not None:
            return
        stop = asyncio.Event()

        async def run_poller() -> None:
            database = Database(normalise(self.database_url))
            try:
                await poll(database, load_environment(self.config), load_settings(self.variables()), stop)
            finally:
                await database.close()

        self._polling = asyncio.create_task(run_poller()), stop

    async def stop_polling(self) -> None:
        if self._polling is not None:
            task, stop = self._polling
            self._polling = None
            stop.set()
            await task

    async def stop(self) -> None:
        await self.stop_polling()
        if self._web is not None:
            await self._web.aclose()
            self._web = None

    async def wrong(self) -> dict[int, tuple[str, str]]:
        """Where cache and desk differ: what the cache answers, and what is true."""
        assert self.admin is not None
        truth = {row.id: row.status if row.state == "published" else "none" for row in self.desk.truth()}
        rows = await self.admin.fetch(
            "SELECT id, freescout_ticket_state(id) AS s FROM unnest($1::bigint[]) id", [*truth]
        )
        return {row["id"]: (row["s"], truth[row["id"]]) for row in rows if row["s"] != truth[row["id"]]}


@pytest.fixture
async def app(
    postgres: Callable[[str], str],
    log: Log,
    unused_tcp_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[App]:
    """A desk of twelve tickets, and an app that is yet to be created."""
    monkeypatch.setattr("simulator.worker._NAP", timedelta(seconds=0.05))
    monkeypatch.setattr("ops.commands.doctor.LOOK_EVERY", 0.1)
    monkeypatch.setattr("ops.endtoend.NEXT_SECOND", 0.0)
    desk = Desk(clock=SystemClock(), seed=1)
    for ticket_id in desk.populate(12, days=30):
        desk.get(ticket_id).state = "published"
    recorded = tmp_path / "deliveries.jsonl"
    recorded.write_text(json.dumps({"headers": signed(body(), key=desk.webhook_key), "body": body().decode()}), "utf-8")
    async with AsyncExitStack() as stack:
        app = App(stack, desk, postgres, log, recorded, unused_tcp_port)
        app.vault_url = await stack.enter_async_context(serve_vault(app.vault))
        app.desk_url = await stack.enter_async_context(serve_desk(desk))
        transport = await stack.enter_async_context(HttpTransport())
        working = asyncio.create_task(Worker(desk).run_forever(transport, look_every=0.01))
        stack.push_async_callback(app.stop)
        yield app
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def walk(app: App, file: Path) -> None:
    """Do everything a page says, from top to bottom."""
    for block in blocks(file):
        try:
            await follow(app, block)
        except Exception as error:
            error.add_note(f"{file.name}:{block.line}")
            raise


async def follow(app: App, block: Block) -> None:
    match block.language:
        case "sh":
            for line in block.text.splitlines():
                await app.execute(line)
        case "sql":
            await app.sql(app.filled_in(block.text))
        case "meanwhile":
            await app.meanwhile(block.text)
        case "python":
            compile(block.text, "a block of Python", "exec")
        case "text":
            pass  # shows what something looks like


async def test_the_runbook_is_walked_from_an_empty_database_to_a_rotated_key_and_a_healed_outage(
    app: App, log: Log
) -> None:
    await walk(app, ROOT / "docs" / "runbook.md")

    assert await app.wrong() == {}
    assert app.desk.app_key == f"base64:{'A' * 42}4="
    assert len(app.desk.webhooks) == 1
    assert log.lines("delivery.unverified") == []
    assert app.admin is not None
    assert await app.admin.fetchval("SELECT count(*) FROM freescout_gap") > 0


async def test_the_readme_is_walked(app: App) -> None:
    await walk(app, ROOT / "README.md")

    assert await app.wrong() == {}


@pytest.mark.parametrize(
    "line",
    [
        "heroku ps:kill web.1 --app <app>",
        "heroku run --app <app> -- psql",
        "rm -r .local",
        "heroku config:set A=<something else> --app <app>",
        "bin/freescout-audit statsu",
        "bin/freescout-audit --json",
    ],
)
async def test_a_line_that_nobody_can_run_fails_the_walk(app: App, line: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        await app.execute(line)


@pytest.mark.parametrize("text", ["```\nls\n```", "```bash\nls\n```", "    ls\n"])
def test_code_that_would_be_passed_over_fails_the_walk(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")

    with pytest.raises(AssertionError):
        list(blocks(page))


async def test_the_short_way_to_call_the_console_works_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('not ours')", encoding="utf-8")
    running = await asyncio.create_subprocess_exec(
        ROOT / "bin" / "freescout-audit",
        "--help",
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(running.communicate(), 30)

    assert running.returncode == 0
    assert b"doctor" in said


def _split(words: Sequence[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
