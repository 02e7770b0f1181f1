"""The vault: what is asked of Infisical, what its answers mean, and which keys are in use, over real sockets."""

import asyncio
import gzip
import re
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
import typer
from aiohttp import web
from typer.testing import CliRunner

from conftest import Log
from db.database import Database
from freescout_audit.errors import SettingsError
from freescout_audit.signature import sign
from ops import delivery
from receiver.app import create_app, serve
from settings import Environment, LiveSecrets, Secret, load_environment, load_settings
from settings.environment import VaultAccess
from settings.vault.client import Vault
from settings.vault.infisical import VaultError, VaultResponse, read_login
from settings.vault.keys import Keys, ignored_variables, keys_from_vault
from settings.vault.transport import http_send
from simulator.infisical import Infisical, VaultFault, serve_vault
from support.vaults import PATH, Seconds, Waits, variables

SETTINGS = load_settings({}).vault
NAMES = tuple(SETTINGS.names.values())
NEW, OLD, API, OPS = ("new-webhook-key", "old-webhook-key", "the-api-key", "the-ops-token")
FULL = {"FREESCOUT_AUDIT_WEBHOOK_SECRET": NEW, "FREESCOUT_API_KEY": API, "OPS_TOKEN": OPS}


def access(vault: Infisical, url: str, **more: str) -> VaultAccess:
    found = load_environment(variables(vault, url, **more)).vault
    assert found is not None
    return found


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def vault(seconds: Seconds) -> Infisical:
    """A vault with every key in its place."""
    vault = Infisical(clock=seconds)
    vault.put("prod", PATH, **FULL, UNRELATED="somebody else's")
    return vault


@pytest.fixture
async def url(vault: Infisical) -> AsyncIterator[str]:
    async with serve_vault(vault) as url:
        yield url


@asynccontextmanager
async def reading(
    vault: Infisical, url: str, *, clock: Callable[[], float] | None = None, patience: float = 5, **more: str
) -> AsyncIterator[Vault]:
    found = access(vault, url, **more)
    async with http_send(found.url, patience=patience) as send:
        yield Vault(found, names=NAMES, send=send, clock=clock or Seconds())


def revealed(held: Mapping[str, Secret]) -> dict[str, str]:
    return {name: value.reveal() for name, value in held.items()}


class TestReading:
    async def test_our_keys_are_read_and_nothing_else(self, vault: Infisical, url: str) -> None:
        async with reading(vault, url) as reader:
            assert revealed(await reader.read()) == FULL

    async def test_one_login_serves_until_the_token_grows_old(
        self, vault: Infisical, url: str, seconds: Seconds
    ) -> None:
        vault.token_lifetime = 600
        async with reading(vault, url, clock=seconds) as reader:
            for _ in range(3):
                await reader.read()
            assert vault.requests["/api/v1/auth/universal-auth/login"] == 1

            seconds.at += 541
            assert revealed(await reader.read()) == FULL
            assert vault.requests["/api/v1/auth/universal-auth/login"] == 2

    async def test_a_token_that_ends_before_its_time_is_replaced_at_once(self, vault: Infisical, url: str) -> None:
        async with reading(vault, url) as reader:
            await reader.read()
            vault.revoke_tokens()

            assert revealed(await reader.read()) == FULL

    async def test_a_server_that_does_not_know_the_newer_route_is_asked_by_the_older(
        self, vault: Infisical, url: str
    ) -> None:
        vault.old = True
        async with reading(vault, url) as reader:
            assert revealed(await reader.read()) == FULL
            await reader.read()

        assert vault.requests["/api/v4/secrets"] == 1
        assert vault.requests["/api/v3/secrets/raw"] == 2

    async def test_values_come_without_the_blanks_around_them_and_empty_ones_not_at_all(
        self, vault: Infisical, url: str
    ) -> None:
        vault.put("prod", PATH, FREESCOUT_AUDIT_WEBHOOK_SECRET=f" {NEW}\n", OPS_TOKEN=" ")
        async with reading(vault, url) as reader:
            assert revealed(await reader.read()) == {"FREESCOUT_AUDIT_WEBHOOK_SECRET": NEW}


def wrong_client_secret(vault: Infisical) -> None:
    vault.client_secret += "x"


def no_member(vault: Infisical) -> None:
    vault.member = False


def hidden(vault: Infisical) -> None:
    vault.describe_only = {"OPS_TOKEN"}


def path_away(vault: Infisical) -> None:
    vault.folders = {("prod", "/"): {"X": "y"}}


def path_away_404(vault: Infisical) -> None:
    path_away(vault)
    vault.missing_folder_is_404 = True


def environment_away(vault: Infisical) -> None:
    vault.folders = {("dev", "/"): {"X": "y"}}
    vault.missing_folder_is_404 = True


def project_away(vault: Infisical) -> None:
    vault.project_id = "another"


def other_names(vault: Infisical) -> None:
    vault.put("prod", PATH, WEBHOOK_KEY=NEW)


def fault(fault: VaultFault) -> Callable[[Infisical], None]:
    def make(vault: Infisical) -> None:
        vault.fault = fault

    return make


@pytest.mark.parametrize(
    ("make", "next_step"),
    [
        (wrong_client_secret, "make a new client secret for the machine identity"),
        (no_member, "add it to the project with a role that may read there"),
        (hidden, "may see that OPS_TOKEN exists, but not read it: allow its role to read values"),
        (path_away, f"shows no secrets at {PATH} (prod): check INFISICAL_PATH"),
        (path_away_404, f"does not find {PATH} (prod): check INFISICAL_PATH"),
        (environment_away, "check INFISICAL_ENVIRONMENT"),
        (project_away, "check INFISICAL_PROJECT_ID"),
        (other_names, "vault.webhook_secret_name"),
        (fault(VaultFault.DROP), "does not answer, it closes the connection: is INFISICAL_URL right"),
        (fault(VaultFault.HANG), "does not answer within 0.3 s"),
        (fault(VaultFault.SERVER_ERROR), "Infisical answers 500; it is asked again"),
        (fault(VaultFault.BAD_GATEWAY), "Infisical answers 502; it is asked again"),
        (
            fault(VaultFault.TOO_MANY_REQUESTS),
            "429, too many requests; it is asked again: set a longer VAULT_INTERVAL",
        ),
        (fault(VaultFault.NOT_INFISICAL), "is no Infisical: set it to the address of the server"),
        (fault(VaultFault.REDIRECT), "a redirect: set INFISICAL_URL to https://vault.example.org"),
        (fault(VaultFault.EMPTY), "shows no secrets at"),
    ],
)
async def test_whatever_is_wrong_the_error_names_the_next_step_and_no_secret(
    vault: Infisical, url: str, make: Callable[[Infisical], None], next_step: str
) -> None:
    async with reading(vault, url, patience=0.3) as reader:
        make(vault)
        with pytest.raises(VaultError, match=re.escape(next_step)) as raised:
            await reader.read()

    assert not any(secret in repr(raised.value) for secret in (NEW, API, OPS, vault.client_secret))
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("packed", [True, False])
async def test_an_answer_without_bound_is_not_taken(vault: Infisical, *, packed: bool) -> None:
    body = b" " * (32 << 20)

    async def answer(_: web.Request) -> web.Response:
        headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if packed else {})
        return web.Response(body=gzip.compress(body, 1) if packed else body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with reading(vault, f"http://127.0.0.1:{runner.addresses[0][1]}") as reader:
            with pytest.raises(VaultError, match="sends an answer larger than 1 MiB"):
                await reader.read()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"accessToken":' + b"[" * 100_000])
def test_nesting_without_end_is_no_infisical(document: bytes) -> None:
    with pytest.raises(VaultError, match="is no Infisical"):
        read_login(VaultResponse(status=200, headers={"content-type": "application/json"}, body=document))


async def test_an_identity_that_is_locked_out_is_told_to_wait(vault: Infisical, url: str) -> None:
    async with reading(vault, url, INFISICAL_CLIENT_SECRET="wrong") as reader:
        for _ in range(3):
            with pytest.raises(VaultError, match="make a new client secret"):
                await reader.read()

        with pytest.raises(VaultError, match="locked the machine identity for some minutes"):
            await reader.read()


async def test_a_site_that_is_no_infisical_at_any_route_is_recognised(vault: Infisical, url: str) -> None:
    async with reading(vault, url, INFISICAL_URL=url + "/vault") as reader:
        with pytest.raises(VaultError, match="INFISICAL_URL"):
            await reader.read()


class TestEnvironment:
    def test_all_of_it_or_none(self) -> None:
        assert load_environment({}).vault is None
        with pytest.raises(SettingsError, match="the vault needs INFISICAL_CLIENT_ID, INFISICAL_PROJECT_ID as well"):
            load_environment(
                {"INFISICAL_URL": "https://v", "INFISICAL_CLIENT_SECRET": "hidden", "INFISICAL_ENVIRONMENT": "prod"}
            )
        with pytest.raises(SettingsError, match="INFISICAL_URL"):
            load_environment({"INFISICAL_PATH": "/elsewhere"})

    def test_the_address_may_end_as_infisical_shows_it(self, vault: Infisical) -> None:
        assert access(vault, "https://vault.example.org/api/").url == "https://vault.example.org"
        assert access(vault, "https://vault.example.org").path == PATH

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("INFISICAL_URL", "vault.example.org", "INFISICAL_URL must begin with https://"),
            ("INFISICAL_PATH", "MooseQuest", "INFISICAL_PATH must begin with /"),
        ],
    )
    def test_what_cannot_be_right_is_refused(self, vault: Infisical, name: str, value: str, message: str) -> None:
        with pytest.raises(SettingsError, match=re.escape(message)):
            load_environment(variables(vault, "https://v") | {name: value})

    def test_no_secret_is_shown(self, vault: Infisical) -> None:
        environment = load_environment(variables(vault, "https://v", OPS_TOKEN=OPS))

        assert vault.client_secret not in repr(environment)
        assert OPS not in repr(environment)


NOTHING = Keys(webhook=(), api_key=None, ops_token=None)


def choose(held: Mapping[str, str], before: Keys = NOTHING, **variables: str) -> Keys:
    return keys_from_vault(
        {name: Secret(value) for name, value in held.items()},
        names=SETTINGS.names,
        variables={name: Secret(value) for name, value in variables.items()},
        before=before,
    )


class TestChoice:
    def test_the_vault_wins_over_the_environment(self) -> None:
        keys = choose(FULL, FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS=OLD, FREESCOUT_API_KEY="theirs", OPS_TOKEN=OPS)

        assert revealed(keys.values()) == FULL
        assert keys.lacking == ()

    def test_what_it_never_held_comes_from_the_environment_but_never_a_webhook_key(self) -> None:
        keys = choose({"OPS_TOKEN": OPS}, FREESCOUT_AUDIT_WEBHOOK_SECRET=OLD, FREESCOUT_API_KEY=API)

        assert revealed(keys.values()) == {"FREESCOUT_API_KEY": API, "OPS_TOKEN": OPS}
        assert keys.lacking == ("FREESCOUT_AUDIT_WEBHOOK_SECRET",)

    def test_both_keys_of_a_rotation_are_accepted_and_the_old_one_goes_when_it_is_gone(self) -> None:
        both = choose(FULL | {"FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": OLD})
        after = choose(FULL, before=both)

        assert [key.reveal() for key in both.webhook] == [NEW, OLD]
        assert [key.reveal() for key in after.webhook] == [NEW]
        assert "FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS" not in after.from_vault

    def test_a_key_that_disappears_stays_in_use_and_is_missed(self) -> None:
        both = choose(FULL | {"FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": OLD})

        after = choose({"UNRELATED": "x"}, before=both, FREESCOUT_API_KEY="an older one")

        assert after.values() == both.values()
        assert after.lacking == ("FREESCOUT_AUDIT_WEBHOOK_SECRET", "FREESCOUT_API_KEY", "OPS_TOKEN")

    def test_the_ignored_variables_are_those_that_say_otherwise(self) -> None:
        def ignored(keys: Keys, **variables: str) -> tuple[str, ...]:
            return ignored_variables({name: Secret(value) for name, value in variables.items()}, keys)

        assert ignored(choose(FULL), **FULL) == ()
        assert ignored(choose(FULL), FREESCOUT_API_KEY="other", OPS_TOKEN=OPS) == ("FREESCOUT_API_KEY",)
        assert ignored(choose({"OPS_TOKEN": OPS}), FREESCOUT_API_KEY=API) == ()
        assert ignored(choose(FULL), FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS=OLD) == (
            "FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS",
        )

    def test_the_key_of_rv4s_path_comes_from_the_vault_alone_and_without_one_the_audits_are_accepted(self) -> None:
        theirs = "the environment's"
        without = choose(FULL | {"FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": OLD}, FREESCOUT_RBAC_WEBHOOK_SECRET=theirs)
        with_one = choose(FULL | {"FREESCOUT_RBAC_WEBHOOK_SECRET": "its own"}, FREESCOUT_RBAC_WEBHOOK_SECRET=theirs)

        assert [key.reveal() for key in without.accepted("rbac")] == [NEW, OLD]
        assert [key.reveal() for key in with_one.accepted("rbac")] == ["its own"]
        given = {"FREESCOUT_RBAC_WEBHOOK_SECRET": Secret(theirs)}
        assert ignored_variables(given, without) == ignored_variables(given, with_one) == tuple(given)

    def test_a_rotation_of_its_own_key_ends_when_the_previous_one_is_gone(self) -> None:
        own = {"FREESCOUT_RBAC_WEBHOOK_SECRET": "its own"}
        both = choose(FULL | own | {"FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS": "its old one"})
        after = choose(FULL | own, before=both)

        assert [key.reveal() for key in both.accepted("rbac")] == ["its own", "its old one"]
        assert [key.reveal() for key in after.accepted("rbac")] == ["its own"]
        assert (after.lacking, "FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS" in after.from_vault) == ((), False)

    def test_its_own_key_that_disappears_stays_in_use_and_is_missed(self) -> None:
        own = {"FREESCOUT_RBAC_WEBHOOK_SECRET": "its own", "FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS": "its old one"}

        after = choose(FULL, before=choose(FULL | own))

        assert [key.reveal() for key in after.accepted("rbac")] == ["its own", "its old one"]
        assert after.lacking == ("FREESCOUT_RBAC_WEBHOOK_SECRET",)

    def test_beside_the_audits_keys_its_previous_one_goes_when_it_is_gone_and_not_with_all_the_others(self) -> None:
        before = choose(FULL | {"FREESCOUT_RBAC_WEBHOOK_SECRET_PREVIOUS": "its old one"})
        emptied = choose({"UNRELATED": "x"}, before=before)
        over = choose(FULL, before=before)

        assert [key.reveal() for key in before.accepted("rbac")] == [NEW, "its old one"]
        assert [key.reveal() for key in emptied.accepted("rbac")] == [NEW, "its old one"]
        assert [key.reveal() for key in over.accepted("rbac")] == [NEW]

    def test_a_vault_may_hold_its_key_alone(self) -> None:
        alone = choose({"FREESCOUT_RBAC_WEBHOOK_SECRET": "its own"})
        lost = choose({"FREESCOUT_RBAC_WEBHOOK_SECRET": "its own"}, before=choose(FULL))

        assert (alone.accepted("audit"), alone.lacking) == ((), ())
        assert "FREESCOUT_AUDIT_WEBHOOK_SECRET" in lost.lacking


@asynccontextmanager
async def live(environment: Environment, waits: Waits, seconds: Seconds, **more: str) -> AsyncIterator[LiveSecrets]:
    settings = load_settings({"VAULT_TIMEOUT": "0.3", **more}).vault
    secrets = LiveSecrets(environment, settings, sleep=waits, clock=seconds)
    refreshing = asyncio.create_task(secrets.keep_fresh())
    try:
        await waits.first()
        yield secrets
    finally:
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing


class TestLive:
    async def test_a_rotated_value_is_picked_up_at_the_next_reading(
        self, vault: Infisical, url: str, seconds: Seconds, log: Log
    ) -> None:
        waits = Waits()
        async with live(load_environment(variables(vault, url)), waits, seconds) as secrets:
            assert waits.asked == [60]
            vault.put("prod", PATH, **FULL | {"FREESCOUT_AUDIT_WEBHOOK_SECRET": "newer-webhook-key"})
            assert [key.reveal() for key in secrets.webhook()] == [NEW]

            assert await waits.read_again() == 60

            assert [key.reveal() for key in secrets.webhook()] == ["newer-webhook-key"]
        assert [line["names"] for line in log.lines("vault.read")] == [
            ["FREESCOUT_API_KEY", "FREESCOUT_AUDIT_WEBHOOK_SECRET", "OPS_TOKEN"],
            ["FREESCOUT_AUDIT_WEBHOOK_SECRET"],
        ]

    async def test_when_it_is_away_the_last_known_stay_and_it_says_since_when(
        self, vault: Infisical, url: str, seconds: Seconds, log: Log
    ) -> None:
        waits = Waits()
        async with live(load_environment(variables(vault, url)), waits, seconds) as secrets:
            vault.fault = VaultFault.SERVER_ERROR
            pauses = [await waits.read_again() for _ in range(8)]
            assert secrets.vault is not None
            assert secrets.vault.state == "failed"
            assert secrets.vault.detail.startswith("Infisical answers 500")
            assert (secrets.vault.meanwhile, secrets.vault.next_step) == (
                "the last known keys stay in use",
                "is it up?",
            )
            failed_since = secrets.vault.since
            assert [key.reveal() for key in secrets.webhook()] == [NEW]

            vault.fault = None
            assert await waits.read_again() == 60
            assert (secrets.vault.state, secrets.vault.since > failed_since) == ("ok", True)

        assert all(min(2**n, 60) / 2 <= pause <= min(2**n, 60) for n, pause in enumerate(pauses))
        assert pauses[6] != pauses[7], "who failed together does not come back together"
        assert [line["event"] for line in log.lines() if line["event"] != "vault.read"] == [
            "vault.failed",
            "vault.restored",
        ]

    async def test_one_that_was_back_is_asked_again_as_soon_as_after_its_first_failure(
        self, vault: Infisical, url: str, seconds: Seconds
    ) -> None:
        waits = Waits()
        async with live(load_environment(variables(vault, url)), waits, seconds):
            vault.fault = VaultFault.SERVER_ERROR
            for _ in range(5):
                await waits.read_again()
            vault.fault = None
            await waits.read_again()

            vault.fault = VaultFault.SERVER_ERROR

            assert await waits.read_again() <= 1

    async def test_an_answer_that_asks_for_a_pause_gets_it(self, vault: Infisical, url: str, seconds: Seconds) -> None:
        waits = Waits()
        async with live(load_environment(variables(vault, url)), waits, seconds):
            vault.fault = VaultFault.TOO_MANY_REQUESTS

            assert await waits.read_again() == 7

    async def test_wrong_credentials_are_never_tried_so_fast_that_the_identity_is_locked_out(
        self, vault: Infisical, url: str, seconds: Seconds
    ) -> None:
        waits = Waits()
        wrong = load_environment(variables(vault, url) | {"INFISICAL_CLIENT_SECRET": "wrong"})
        async with live(wrong, waits, seconds, VAULT_INTERVAL="1") as secrets:
            for _ in range(5):
                seconds.at += await waits.read_again()

            assert secrets.vault is not None
            assert "make a new client secret" in secrets.vault.next_step
            assert secrets.vault.meanwhile == "no key is known yet"

    async def test_until_it_is_read_the_environment_gives_no_key(
        self, vault: Infisical, url: str, seconds: Seconds, log: Log
    ) -> None:
        vault.fault = VaultFault.BAD_GATEWAY
        waits = Waits()
        stale = {"FREESCOUT_AUDIT_WEBHOOK_SECRET": OLD, "FREESCOUT_API_KEY": "stale-api", "OPS_TOKEN": "stale-token"}
        async with live(load_environment(variables(vault, url, **stale)), waits, seconds) as secrets:
            assert (secrets.webhook(), secrets.api_key()) == ((), None)
            token = secrets.ops_token()
            assert token is not None
            assert token.reveal() != "stale-token"
            assert secrets.ignored == ()

            vault.fault = None
            await waits.read_again()

            assert revealed(secrets.keys.values()) == FULL
            assert secrets.ignored == tuple(stale)
            await waits.read_again()
        assert [line["variable"] for line in log.lines("vault.variable_ignored")] == list(stale)

    async def test_a_receiver_does_not_wait_for_ever_for_its_first_reading(
        self, vault: Infisical, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("receiver.app.FIRST_KEY_PATIENCE", 0.05)
        vault.fault = VaultFault.HANG
        environment = load_environment(variables(vault, url) | {"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "1"})
        app = create_app(database, environment, load_settings({"VAULT_TIMEOUT": "60"}))

        async with (
            asyncio.timeout(10),
            serve(app, host="127.0.0.1", port=0) as port,
            aiohttp.ClientSession() as client,
            client.post(f"http://127.0.0.1:{port}/api/internal/freescout-webhook/audit") as answer,
        ):
            assert answer.status == 503

    async def test_a_folder_emptied_by_mistake_takes_no_key_away(
        self, vault: Infisical, url: str, seconds: Seconds, log: Log
    ) -> None:
        waits = Waits()
        async with live(load_environment(variables(vault, url)), waits, seconds) as secrets:
            vault.put("prod", PATH)
            await waits.read_again()
            assert revealed(secrets.keys.values()) == FULL
            assert secrets.vault is not None
            assert secrets.vault.state == "failed"

            vault.put("prod", PATH, OPS_TOKEN=OPS)
            await waits.read_again()
            assert revealed(secrets.keys.values()) == FULL
            assert secrets.vault.detail == ("the vault does not hold FREESCOUT_AUDIT_WEBHOOK_SECRET, FREESCOUT_API_KEY")
        told = [(line["next_step"], line["meanwhile"]) for line in log.lines("vault.failed")]
        assert len(told) == 2
        assert told[1] == ("put it back", "the last known stays in use until a restart")

    async def test_without_a_vault_the_environment_holds_and_nothing_is_read(self) -> None:
        secrets = LiveSecrets(load_environment({"FREESCOUT_AUDIT_WEBHOOK_SECRET": NEW}), SETTINGS)

        await asyncio.gather(secrets.keep_fresh(), secrets.tried(), secrets.known(), secrets.read_once())

        assert [key.reveal() for key in secrets.webhook()] == [NEW]
        assert secrets.vault is None
        assert secrets.ops_token() is None

    async def test_nothing_secret_is_ever_logged_or_shown(
        self, vault: Infisical, url: str, seconds: Seconds, log: Log
    ) -> None:
        waits = Waits()
        environment = load_environment(variables(vault, url, FREESCOUT_API_KEY="stale-api"))
        shown = [repr(environment)]
        async with live(environment, waits, seconds) as secrets:
            for failure in (*VaultFault, None):
                vault.fault = failure
                await waits.read_again()
                shown += [repr(secrets.keys), repr(secrets.vault), repr(vars(secrets))]
            for make in (hidden, no_member, other_names, wrong_client_secret):
                make(vault)
                vault.revoke_tokens()
                await waits.read_again()
                shown.append(repr(secrets.vault))

        everything = log.text + "".join(shown)
        told = [NEW, API, OPS, "stale-api", environment.vault.client_secret.reveal()] if environment.vault else []
        assert len(log.lines("vault.failed")) >= 8
        assert [secret for secret in told if secret in everything] == []
        assert "<hidden-by-infisical>" not in everything


async def test_the_delivery_that_is_printed_for_make_run_is_signed_with_the_vaults_key(
    vault: Infisical, url: str
) -> None:
    app = typer.Typer()
    app.command()(delivery.main)
    desk = "https://desk.example.org"
    environment = variables(vault, url, FREESCOUT_URL=desk, FREESCOUT_AUDIT_WEBHOOK_SECRET=OLD, PORT="8080")

    result = await asyncio.to_thread(CliRunner().invoke, app, ["--ticket", "7"], env=environment)

    words = shlex.split(result.stdout)
    body = words[words.index("-d") + 1].encode()
    assert f"X-FreeScout-Signature: {sign(body, NEW)}" in words
    assert len(result.stdout.splitlines()) == 1
