"""The registry: what another consumer of deliveries, such as RV-4, gets by one registration."""

import aiohttp
import pytest
from aiohttp import web

from conftest import Log
from freescout_audit.errors import DatabaseUnavailableError
from receiver.app import serve
from receiver.body import Places
from receiver.endpoints import Endpoint, VerifiedDelivery, register
from receiver.metrics import Metrics
from receiver.refusals import Refusals
from settings import Secret, load_settings
from support.examples import body, signed

RBAC_KEY = "a key of its own"


async def post(app: web.Application, raw: bytes, *, key: str) -> tuple[int, str | None]:
    async with (
        serve(app, host="127.0.0.1", port=0) as port,
        aiohttp.ClientSession() as client,
        client.post(
            f"http://127.0.0.1:{port}/api/internal/freescout-webhook/rbac", data=raw, headers=signed(raw, key=key)
        ) as response,
    ):
        return response.status, response.headers.get("Retry-After")


def application(error: Exception | None = None, *, taken: list[VerifiedDelivery] | None = None) -> web.Application:
    async def handle(delivery: VerifiedDelivery) -> web.Response:
        if error is not None:
            raise error
        if taken is not None:
            taken.append(delivery)
        return web.json_response({})

    app = web.Application()
    endpoint = Endpoint(name="rbac", enabled=lambda: True, secrets=lambda: [Secret(RBAC_KEY)], handle=handle)
    settings = load_settings({}).receiver
    register(
        app,
        endpoint,
        settings=settings,
        metrics=Metrics(),
        places=Places(settings.max_in_flight),
        refusals=Refusals(Metrics()),
    )
    return app


async def test_one_registration_gives_a_path_with_its_own_key_and_the_shared_checks() -> None:
    taken: list[VerifiedDelivery] = []

    assert await post(application(taken=taken), body(), key=RBAC_KEY) == (200, None)
    assert (await post(application(taken=taken), body(), key="another key"))[0] == 401

    assert [(delivery.event, bytes(delivery.body), delivery.signed_with) for delivery in taken] == [
        ("convo.status", body(), "current")
    ]


@pytest.mark.parametrize(
    ("error", "event"),
    [(DatabaseUnavailableError("away"), "delivery.not_saved"), (RuntimeError("customer7"), "receiver.fault")],
)
async def test_whatever_a_handler_ends_in_freescout_is_asked_to_come_again(
    error: Exception, event: str, log: Log
) -> None:
    assert await post(application(error), body(), key=RBAC_KEY) == (503, "60")

    assert [line["endpoint"] for line in log.lines(event)] == ["rbac"]
    assert "customer7" not in log.text
