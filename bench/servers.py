"""What to compare with: servers that do less than ours, and nothing that ours may leave out.

``verify``: our receiver with all its checks, that decodes a delivery and answers without a commit or a line of log.
``bare``: a plain aiohttp handler that verifies and decodes. ``read``: one that reads the body and computes its HMAC.
``empty``: one that answers at once. ``python -m bench.servers verify 8090`` serves one on 127.0.0.1 until it is ended.
"""

import asyncio
import hashlib
import hmac
import signal

import msgspec
import typer
import uvloop
from aiohttp import web

from bench.load import KEY
from freescout_audit import verify_freescout_hmac
from freescout_audit.delivery import read_claim
from freescout_audit.endpoints import AUDIT
from receiver.body import Places
from receiver.endpoints import Endpoint, VerifiedDelivery, register
from receiver.metrics import Metrics
from receiver.refusals import Refusals
from settings import Secret, load_settings


async def decode(delivery: VerifiedDelivery) -> web.Response:
    """Decode what our gate has verified."""
    claim = read_claim(delivery.event, delivery.body)
    return web.json_response({"outcome": "applied" if claim is not None else "ignored"})


async def bare(request: web.Request) -> web.Response:
    """Verify and decode."""
    body = await request.read()
    if not verify_freescout_hmac(body, request.headers.get("X-FreeScout-Signature"), secrets=[KEY]):
        return web.json_response({"error": "unauthorized"}, status=401)
    claim = read_claim(request.headers.get("X-FreeScout-Event", ""), body)
    return web.json_response({"outcome": "applied" if claim is not None else "ignored"})


async def read(request: web.Request) -> web.Response:
    """Read and compute the HMAC, and look at neither."""
    hmac.new(KEY.encode(), await request.read(), hashlib.sha1).digest()
    return web.Response(body=msgspec.json.encode({"outcome": "applied"}), content_type="application/json")


async def empty(_request: web.Request) -> web.Response:
    """Answer."""
    return web.Response()


async def serve(name: str, port: int) -> None:
    """Serve until SIGTERM."""
    app = web.Application(client_max_size=2**30)
    if name == "verify":
        endpoint = Endpoint(name=AUDIT, enabled=lambda: True, secrets=lambda: [Secret(KEY)], handle=decode)
        settings = load_settings({}).receiver
        register(
            app,
            endpoint,
            settings=settings,
            metrics=Metrics(),
            places=Places(settings.max_in_flight),
            refusals=Refusals(Metrics()),
        )
    else:
        app.router.add_post("/{path:.*}", {"bare": bare, "read": read, "empty": empty}[name])
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


def main(name: str, port: int) -> None:
    """Serve ``name`` on a port of 127.0.0.1."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(name, port))


if __name__ == "__main__":
    typer.run(main)
