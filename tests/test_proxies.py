"""The proxies of ops/proxies pass a delivery on as it was sent, however large, and the page's events as they come."""

import asyncio
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import ENVIRONMENT, Receive, Receiver
from ops.address import PATH
from receiver.page.views import PATH as PAGE
from settings import Secret
from support.examples import body, signed

pytestmark = pytest.mark.usefixtures("no_housekeeping")

PROXIES = Path(__file__).resolve().parent.parent / "ops" / "proxies"
MEGABYTES = 54
"""What 2,400 long threads make."""
BEARER = {"Authorization": "Bearer a-token"}


def nginx(folder: Path, port: int, receiver: int) -> list[str]:
    """nginx as a user without rights runs it: our file as it is, but for its port, its certificate and its receiver."""
    ours = (PROXIES / "nginx.conf").read_text(encoding="utf-8")
    for known, here in (
        ("    listen 443 ssl;\n    listen [::]:443 ssl;\n", f"    listen 127.0.0.1:{port};\n"),
        ("127.0.0.1:8080", f"127.0.0.1:{receiver}"),
    ):
        assert known in ours
        ours = ours.replace(known, here)
    ours = "\n".join(line for line in ours.splitlines() if "ssl_certificate" not in line)
    (folder / "ours.conf").write_text(ours, encoding="utf-8")
    kept = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\n"
        f"http {{ access_log off;\n{kept}include {folder}/ours.conf; }}\n",
        encoding="utf-8",
    )
    return ["nginx", "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]


def caddy(folder: Path, port: int, receiver: int) -> list[str]:
    """Caddy with our file as it is, but for its port and its receiver."""
    ours = (PROXIES / "Caddyfile").read_text(encoding="utf-8")
    for known, here in (
        ("audit.example.org {", f"http://127.0.0.1:{port} {{"),
        ("127.0.0.1:8080", f"127.0.0.1:{receiver}"),
    ):
        assert known in ours
        ours = ours.replace(known, here)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + ours, encoding="utf-8")
    return ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


@asynccontextmanager
async def running(command: list[str], folder: Path, port: int) -> AsyncIterator[None]:
    """Run a proxy until the end."""
    if shutil.which(command[0]) is None:
        package = {"nginx": "nginx-light", "caddy": "caddy"}[command[0]]
        pytest.skip(f"{command[0]} is not installed (apt-get install {package})")
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None, "the proxy does not start"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield
    finally:
        if process.returncode is None:
            process.kill()  # Caddy waits for its clients otherwise
            await process.wait()


@pytest.fixture(params=[nginx, caddy])
async def proxied(
    request: pytest.FixtureRequest, receive: Receive, tmp_path: Path, unused_tcp_port: int
) -> AsyncIterator[Receiver]:
    """A receiver as it is reached through a proxy."""
    command: Callable[[Path, int, int], list[str]] = request.param
    environment = replace(ENVIRONMENT, ops_token=Secret("a-token"))
    async with (
        receive(environment) as receiver,
        running(command(tmp_path, unused_tcp_port, receiver.port), tmp_path, unused_tcp_port),
    ):
        yield replace(receiver, port=unused_tcp_port, url=f"http://127.0.0.1:{unused_tcp_port}")


async def test_the_largest_delivery_arrives_as_it_was_signed(proxied: Receiver) -> None:
    threads = [{"id": number, "body": "x" * 22_000} for number in range(MEGABYTES * 1_000_000 // 22_000)]
    raw = json.dumps(json.loads(body("closed")) | {"_embedded": {"threads": threads}}).encode()
    assert len(raw) > MEGABYTES * 1_000_000

    async with proxied.client.post(
        proxied.url + PATH, data=io.BytesIO(raw), headers=signed(raw), expect100=True
    ) as response:
        assert (response.status, await response.json()) == (200, {"outcome": "applied"})


@pytest.mark.parametrize("proxied", [nginx], indirect=True)  # Caddy may end the connection before its 413 is read
async def test_a_body_over_the_limit_is_refused(proxied: Receiver) -> None:
    too_large = io.BytesIO(bytes(64 * 1024 * 1024 + 1))

    async with proxied.client.post(proxied.url + PATH, data=too_large, headers=signed(b""), expect100=True) as response:
        assert response.status == 413


async def test_the_page_is_closed_to_who_comes_through_it_and_live_to_who_may_see_it(proxied: Receiver) -> None:
    async with proxied.client.get(proxied.url + PAGE) as stranger:
        assert stranger.status == 401
    async with proxied.client.get(proxied.url + PAGE + "live", headers=BEARER) as live:
        assert live.content_type == "text/event-stream"
        first = await asyncio.wait_for(live.content.readline(), 10)

    assert first
