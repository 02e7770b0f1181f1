"""The image and compose.yaml: what is in them, what is not, and that the image works as it is built.

Building takes a minute, so `make containers` does it; the suite looks at the files.
"""

import asyncio
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from freescout_audit import __version__
from ops.address import PATH
from settings.environment import KEYS
from settings.place import PLACES
from support import image
from support.examples import KEY, body, signed
from support.image import Image

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
PACKAGES = ("freescout_audit", "settings", "db", "receiver", "poller", "ops", "simulator")


def taken_in() -> list[str]:
    """What .dockerignore lets into the image."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    return [line[1:] for line in lines if line.startswith("!")]


class TestDockerfile:
    def test_it_has_the_version(self) -> None:
        assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE

    def test_its_python_is_the_one_that_heroku_takes(self) -> None:
        version = (ROOT / ".python-version").read_text(encoding="utf-8").strip()

        assert f"ARG PYTHON=python:{version}-slim-" in DOCKERFILE

    def test_each_package_is_taken_in_and_compiled(self) -> None:
        (compiled,) = re.findall(r"unchecked-hash (.+)$", DOCKERFILE, flags=re.MULTILINE)

        assert set(compiled.split()) == set(PACKAGES)
        assert {*PACKAGES, "bin", "docs", "config.toml", "requirements.txt"} == set(taken_in())
        assert all((ROOT / name).exists() for name in taken_in())

    @pytest.mark.parametrize("name", [".env", ".git", ".venv", ".local", "tests", "proof", "requirements-dev.txt"])
    def test_nothing_else_is(self, name: str) -> None:
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in taken_in())

    def test_packages_are_installed_by_hash_and_never_compiled(self) -> None:
        assert "--require-hashes" in DOCKERFILE
        assert "--only-binary :all:" in DOCKERFILE

    def test_it_runs_as_nobody_in_particular(self) -> None:
        assert re.findall(r"^USER (.+)$", DOCKERFILE, flags=re.MULTILINE) == ["10001:10001"]


Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """What compose.yaml comes to, with an .env as somebody has filled it in: ``compose("another.yaml")``."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (apt-get install docker-compose)")
    folder = tmp_path_factory.mktemp("compose")
    for name in ("compose.yaml", "compose.freescout.yaml"):
        shutil.copy(ROOT / name, folder)
    filled_in = EXAMPLE.replace("\nPOSTGRES_PASSWORD=\n", "\nPOSTGRES_PASSWORD=s3cret\n")
    (folder / ".env").write_text(filled_in, encoding="utf-8")

    @cache
    def read(*others: str) -> dict[str, Any]:
        files = [word for name in ("compose.yaml", *others) for word in ("--file", name)]
        said = subprocess.run(
            [program, *files, "config"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert said.returncode == 0, said.stderr
        # docker-compose brings a reader of YAML to the system's Python.
        to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", to_json], input=said.stdout, check=True, capture_output=True, text=True
        )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    return read


class TestCompose:
    """As Docker Compose reads it."""

    def test_the_service_is_a_database_a_migration_web_and_poller(self, compose: Compose) -> None:
        services = compose()["services"]

        assert {name for name, service in services.items() if "service" in service["profiles"]} == {
            *("db", "migrate", "web", "poller")
        }
        for name in ("web", "poller"):
            assert services[name]["depends_on"] == {
                "db": {"condition": "service_healthy"},
                "migrate": {"condition": "service_completed_successfully"},
            }
            assert services[name]["restart"] == "unless-stopped"
        for name in ("migrate", "web", "poller", "demo"):
            assert services[name]["read_only"] is True
            assert services[name]["cap_drop"] == ["ALL"]
            assert "/tmp" in services[name]["tmpfs"]

    def test_what_is_published_is_published_on_loopback(self, compose: Compose) -> None:
        services = compose()["services"]

        published = [port for service in services.values() for port in service.get("ports", [])]
        assert published
        assert all(str(port).startswith("127.0.0.1:") for port in published)

    def test_the_demo_needs_no_env_file(self, compose: Compose) -> None:
        demo = compose()["services"]["demo"]

        assert demo["command"] == ["python", "-m", "ops.run"]
        assert not {*KEYS, "FREESCOUT_URL"} & set(demo["environment"])

    def test_a_freescout_beside_it_is_joined(self, compose: Compose) -> None:
        document = compose("compose.freescout.yaml")

        assert document["networks"]["freescout"]["external"] is True
        assert document["services"]["web"]["networks"]["freescout"] == {"aliases": ["freescout-audit"]}
        assert set(document["services"]["poller"]["networks"]) == {"default", "freescout"}

    def test_the_database_is_named_with_the_password_of_env(self, compose: Compose) -> None:
        services = compose()["services"]

        url = "postgresql://freescout_audit:s3cret@db:5432/freescout_audit"
        assert {services[name]["environment"]["DATABASE_URL"] for name in ("migrate", "web", "poller")} == {url}
        assert services["db"]["environment"]["POSTGRES_PASSWORD"] == "s3cret"


def test_no_secret_stands_in_what_is_kept() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")

    for name in (*KEYS, "POSTGRES_PASSWORD"):
        assert re.search(rf"^{name}=$", EXAMPLE, flags=re.MULTILINE), name
        assert not re.search(rf"{name}: (?!\$)", compose), name
    assert "/.env\n" in (ROOT / ".gitignore").read_text(encoding="utf-8")


def test_what_next_steps_name_is_there() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    place = PLACES["container"]

    for words in (place.console, place.start_poller, place.restart_poller, place.migrate, place.logs):
        for name in re.findall(r"\b(web|poller|migrate)\b", words):
            assert f"\n  {name}:\n" in compose
    assert (ROOT / "bin" / "freescout-audit").exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if not os.environ.get("CONTAINERS"):
        pytest.skip("make containers builds the image, which takes a minute")
    if reason := image.why_not():
        pytest.skip(reason)
    with image.built(tmp_path_factory.mktemp("image")) as made:
        yield made


class TestImage:
    def test_it_is_configured_as_documented(self, built: Image) -> None:
        assert built.config["User"] == "10001:10001"
        assert built.config["StopSignal"] == "SIGTERM"
        assert built.command == ["python", "-m", "receiver"]
        labels = built.config["Labels"]
        assert isinstance(labels, dict)
        assert labels["org.opencontainers.image.version"] == __version__

    def test_it_holds_what_runs_and_nothing_else(self, built: Image) -> None:
        app = built.files / "app"

        assert {path.name for path in app.iterdir()} == {*taken_in(), ".venv"}
        assert not list(app.rglob("*.env"))
        assert not any((app / ".venv" / "bin" / name).exists() for name in ("pip", "gcc", "pytest"))
        assert "pixeltable" not in str(list((app / ".venv").rglob("*pgserver*")))

    def test_its_user_can_write_nothing_but_tmp(self, built: Image) -> None:
        tries = "import os; print(os.getuid(), [os.access(p, os.W_OK) for p in ('/app', '/app/config.toml', '/tmp')])"

        assert built.ask("python", "-c", tries) == (0, "10001 [False, False, True]\n")

    async def test_it_migrates_takes_a_delivery_answers_and_ends(
        self, built: Image, postgres: Callable[[str], str], sql: asyncpg.Connection, unused_tcp_port: int
    ) -> None:
        name = f"image_{os.getpid()}"
        await sql.execute(f"CREATE DATABASE {name}")
        told = {
            "DATABASE_URL": postgres(name),
            "PORT": str(unused_tcp_port),
            "FREESCOUT_AUDIT_WEBHOOK_SECRET": KEY,
            "FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1",
            "OPS_TOKEN": "a-token",
        }
        assert "database.migrated" in built.ask("python", "-m", "db.migrate", **told)[1]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        delivery = body("closed", updatedAt=now)
        with built.run(*built.command, **told) as receiver:
            await wait_for(unused_tcp_port)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as client:
                async with client.post(PATH, data=delivery, headers=signed(delivery)) as response:
                    assert (response.status, await response.json()) == (200, {"outcome": "applied"})
                bearer = {"Authorization": "Bearer a-token"}
                async with client.get("/internal/freescout-audit/runbook", headers=bearer) as page:
                    assert (page.status, "First set-up" in await page.text()) == (200, True)
            health = built.ask_beside(receiver, *built.health_check, **told)
            ticket = built.ask_beside(receiver, "bin/freescout-audit", "ticket", "7", "--json", **told)
            receiver.send_signal(signal.SIGTERM)
            said, _ = receiver.communicate(timeout=10)
        down = built.ask(*built.health_check, **told)
        state = await sql_of(postgres(name), "SELECT freescout_ticket_state(7)")
        await sql.execute(f"DROP DATABASE {name} WITH (FORCE)")

        assert state == "closed"
        assert '"answer":"closed"' in ticket[1]
        assert health == (0, "")
        assert down[0] == 1
        assert receiver.returncode == 0, said

    async def test_the_demo_runs_on_what_compose_gives_it(
        self, built: Image, postgres: Callable[[str], str], sql: asyncpg.Connection, unused_tcp_port: int
    ) -> None:
        name = f"demo_{os.getpid()}"
        await sql.execute(f"CREATE DATABASE {name}")
        told = {"DATABASE_URL": postgres(name), "RECEIVER_HOST": "0.0.0.0", "PORT": str(unused_tcp_port)}
        with built.run("python", "-m", "ops.run", tmpfs=("/tmp", "/app/.local"), **told) as demo:
            await wait_for(unused_tcp_port)
            delivery = built.ask_beside(demo, "python", "-m", "ops.delivery", **told)
            ticket = built.ask_beside(demo, "bin/freescout-audit", "ticket", "7", "--json", **told)
            demo.send_signal(signal.SIGTERM)
            said, _ = demo.communicate(timeout=10)
        await sql.execute(f"DROP DATABASE {name} WITH (FORCE)")

        assert delivery[1].startswith(f"curl -sS http://127.0.0.1:{unused_tcp_port}{PATH}")
        assert '"ticket_id":7' in ticket[1]
        assert "with the token" in said.decode()
        assert demo.returncode == 0


async def wait_for(port: int) -> None:
    """Wait until something listens there."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


async def sql_of(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
