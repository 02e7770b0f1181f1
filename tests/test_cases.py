"""Answers that are not FreeScout's or Infisical's own, as people met them: each says who gave it and what to do.

The inputs are in ``tests/recordings/cases``, and are served over real sockets, byte for byte.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from poller.answer import DeskBrokeOffError
from poller.freescout import DeskError, DeskRefusedError, DeskUnavailableError
from settings import load_environment
from settings.vault.client import Vault
from settings.vault.infisical import VaultError
from settings.vault.transport import http_send
from support.cases import CASES, CERTIFICATE, ask, case, http, serving
from support.processes import ROOT

LET_THROUGH = "let /api/* through for this app"
MODULE = "is FREESCOUT_URL right, and is the API & Webhooks module active?"
LOGIN = '{"accessToken": "made-up", "expiresIn": 7200}'


async def refusal(answer: bytes) -> DeskError:
    """What comes of an answer to a list request."""
    async with serving(answer) as url:
        with pytest.raises(DeskError) as raised:
            await ask(url)
    return raised.value


@pytest.mark.parametrize(
    ("answer", "kind", "problem", "next_step"),
    [
        (
            case("11-cloudflare-challenge-403.http"),
            DeskRefusedError,
            "a proxy in front of FreeScout refuses us with 403 (Cloudflare challenge)",
            LET_THROUGH,
        ),
        (
            http("403 Forbidden", "<h1>Forbidden</h1>", "Server: waf", kind="text/html"),
            DeskRefusedError,
            "a proxy in front of FreeScout refuses us with 403 (server: waf)",
            LET_THROUGH,
        ),
        (
            http("401 Unauthorized", "", 'WWW-Authenticate: Basic realm="staging"', kind="text/html"),
            DeskRefusedError,
            "a web server in front of FreeScout answers 401 and asks for a user and a password",
            f"{LET_THROUGH} without them",
        ),
        (
            http("401 Unauthorized", '{"message": "No API key found in request"}', "Via: 1.1 gateway"),
            DeskRefusedError,
            "a proxy in front of FreeScout refuses us with 401 (via: 1.1 gateway)",
            LET_THROUGH,
        ),
        (
            http("401 Unauthorized", '{"message": "Not Authorized"}'),
            DeskRefusedError,
            "FreeScout answers 401",
            "compare FREESCOUT_API_KEY with Manage » Settings » API & Webhooks; a new APP_KEY changes it",
        ),
        (
            http("403 Forbidden", '{"message": "Untrusted Host: 10.0.0.7. Add it to APP_TRUSTED_HOSTS"}'),
            DeskRefusedError,
            "FreeScout answers 403, it does not trust the host name in FREESCOUT_URL",
            "set FREESCOUT_URL to the desk's APP_URL, or add the host name to APP_TRUSTED_HOSTS in the desk's .env",
        ),
        (
            case("13-redirect-to-login-302.http"),
            DeskRefusedError,
            "FreeScout answers 302, a redirect to its log-in page (/login): the module's API is not there",
            MODULE,
        ),
        (
            case("14-cloudflare-access-302.http"),
            DeskRefusedError,
            "an access gateway in front of FreeScout answers 302 and leads to team.cloudflareaccess.example",
            f"{LET_THROUGH} without a log-in",
        ),
        (
            http("301 Moved Permanently", "", "Location: https://desk.example.org/help/api/conversations?page=1"),
            DeskRefusedError,
            "FreeScout answers 301, a redirect to https://desk.example.org/help",
            "set FREESCOUT_URL to https://desk.example.org/help",
        ),
        (
            http("302 Found", "", "Location: /dashboard"),
            DeskRefusedError,
            "FreeScout answers 302, a redirect to /dashboard: the module's API is not there",
            MODULE,
        ),
        (
            http("302 Found", "", "Location: https://[desk"),
            DeskRefusedError,
            "FreeScout answers 302, a redirect that does not say where to",
            MODULE,
        ),
        (
            http("200 OK", '<form><input type="password" name="password"></form>', kind="text/html"),
            DeskRefusedError,
            "a log-in page answers instead of FreeScout's API",
            f"does an access gateway stand in front? {LET_THROUGH}",
        ),
        (
            case("15-php-deprecated-before-json.http"),
            DeskUnavailableError,
            "PHP prints a message around FreeScout's JSON",
            "turn display_errors off in the desk's php.ini; the message is in its error log",
        ),
        (
            http("200 OK", '{"page": {}}\nPHP Warning:  something in /var/www/secret.php on line 7', kind="text/html"),
            DeskUnavailableError,
            "PHP prints a message around FreeScout's JSON",
            "turn display_errors off in the desk's php.ini; the message is in its error log",
        ),
        (
            case("29-rate-limit-429.http"),
            DeskUnavailableError,
            "FreeScout answers 429, too many requests",
            "set a smaller POLLER_CONCURRENCY or a longer POLLER_INTERVAL, or let our address past the limit",
        ),
        (
            http("502 Bad Gateway", "<html>", "Server: cloudflare", kind="text/html"),
            DeskBrokeOffError,
            "a web server or proxy in front of FreeScout answers 502 (server: cloudflare)",
            "is the desk up, its PHP too, and does the proxy reach it?",
        ),
        (
            http("503 Service Unavailable", '{"message": ""}'),
            DeskUnavailableError,
            "FreeScout answers 503",
            "is the desk up? php artisan up ends a maintenance",
        ),
    ],
)
async def test_what_is_not_the_list_says_who_answers_and_what_to_do(
    answer: bytes, kind: type[DeskError], problem: str, next_step: str
) -> None:
    error = await refusal(answer)

    assert (type(error), error.problem, error.next_step) == (kind, problem, next_step)


@pytest.mark.parametrize("name", ["17-long-csp-header.http", "28-hal-json-list.http"])
async def test_a_list_in_unusual_dress_is_read(name: str) -> None:
    async with serving(case(name)) as url:
        assert (await ask(url)).total == 1


async def test_capitals_in_a_content_type_do_not_matter() -> None:
    answer = case("28-hal-json-list.http").replace(b"application/hal+json", b"Application/JSON; Charset=UTF-8")

    async with serving(answer) as url:
        assert (await ask(url)).total == 1


async def test_a_header_that_is_longer_than_anybodys_is_named_by_its_size() -> None:
    error = await refusal(http("200 OK", "{}", "X-Long: " + "x" * 70_000))

    assert error.problem.endswith("answers with a header of more than 65,536 bytes")
    assert error.next_step == "is it FreeScout that answers at FREESCOUT_URL, or a proxy in front?"


async def test_what_is_no_http_is_named_so() -> None:
    assert (await refusal(b"SSH-2.0-OpenSSH_9.6\r\n")).problem.endswith("does not answer in HTTP")


class TestConnecting:
    async def test_a_refused_connection_names_host_and_port(self) -> None:
        async with serving(b"") as url:
            pass

        with pytest.raises(DeskUnavailableError) as raised:
            await ask(url)

        assert raised.value.problem == f"cannot connect to {url.removeprefix('http://')} (connection refused)"
        assert raised.value.next_step == "is FREESCOUT_URL right, and is the desk up?"

    async def test_a_name_that_nobody_has_is_said_to_be_none(self) -> None:
        with pytest.raises(DeskUnavailableError, match=r"cannot connect to desk\.invalid:443 \(no such host name\)"):
            await ask("https://desk.invalid")

    async def test_a_connection_that_is_closed_without_an_answer_is_said_to_be(self) -> None:
        assert "does not answer, it closes the connection" in (await refusal(b"")).problem

    async def test_https_where_nobody_speaks_it_is_said_to_be(self) -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(DeskUnavailableError, match=rf"127\.0\.0\.1:{port} \(it speaks no TLS that we know\)"):
                await ask(f"https://127.0.0.1:{port}")

    async def test_a_certificate_that_signs_itself_is_no_desk_that_is_away(self) -> None:
        async with serving(case("28-hal-json-list.http"), tls=True) as url:
            with pytest.raises(DeskRefusedError) as raised:
                await ask(url)
            with pytest.raises(DeskRefusedError) as by_name:
                await ask(url.replace("127.0.0.1", "localhost"))

        assert raised.value.problem == "the certificate of FREESCOUT_URL is not trusted (self-signed)"
        assert raised.value.next_step == "renew or replace it, or name its CA in SSL_CERT_FILE"
        assert by_name.value.problem.startswith("the certificate of FREESCOUT_URL is not trusted")

    async def test_a_certificate_in_ssl_cert_file_is_trusted(self) -> None:
        program = "import asyncio, sys; from support.cases import ask; print(asyncio.run(ask(sys.argv[1])).total)"
        async with serving(case("28-hal-json-list.http"), tls=True) as url:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                program,
                url,
                env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "SSL_CERT_FILE": str(CERTIFICATE)},
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()

        assert out == b"1\n"


@pytest.mark.parametrize(
    ("key", "strange"),
    [
        ("6c2b1677\nnote", "a line end"),
        ("6c2b1677\r", "a line end"),
        ("6c2b\N{NO-BREAK SPACE}1677", "a non-breaking space"),
        ("\N{ZERO WIDTH NO-BREAK SPACE}6c2b1677", "a byte order mark"),
        ("6c2b1677\N{ZERO WIDTH SPACE}", "a zero-width space"),
        ("6c2b\N{LEFT-TO-RIGHT MARK}1677", "an invisible character"),
        ("6c2b\N{LINE SEPARATOR}1677", "a line end"),
        ("6c2b\x001677", "a control character"),
    ],
)
async def test_a_key_with_what_nobody_sees_is_refused_by_name_before_it_is_sent(key: str, strange: str) -> None:
    async with serving({}) as url:
        with pytest.raises(DeskRefusedError) as raised:
            await ask(url, key=key)

    assert raised.value.problem == f"there is {strange} in FREESCOUT_API_KEY"
    assert "6c2b" not in repr(raised.value)


@asynccontextmanager
async def vault(answers: Mapping[str, bytes] | bytes) -> AsyncIterator[Vault]:
    """The keys as a vault gives them whose every answer is the same, or by the request's path."""
    async with serving(answers) as url:
        access = load_environment(
            {
                "INFISICAL_URL": url,
                "INFISICAL_CLIENT_ID": "made-up",
                "INFISICAL_CLIENT_SECRET": "made-up",
                "INFISICAL_PROJECT_ID": "made-up",
                "INFISICAL_ENVIRONMENT": "prod",
            }
        ).vault
        assert access is not None
        async with http_send(access.url, patience=5) as send:
            yield Vault(access, names=("FREESCOUT_AUDIT_WEBHOOK_SECRET",), send=send)


@pytest.mark.parametrize(
    ("answers", "problem", "next_step"),
    [
        (
            http("404 Not Found", (CASES / "22-wrong-region-login-404.json").read_text(encoding="utf-8")),
            "Infisical answers 404 to the login: there is no such identity",
            "is INFISICAL_URL the right region (app, us, eu), and INFISICAL_CLIENT_ID right?",
        ),
        (
            {
                "/api/v1/auth/universal-auth/login": http("200 OK", LOGIN),
                "/api/v4/secrets": http("200 OK", (CASES / "21-unresolved-reference.json").read_text(encoding="utf-8")),
            },
            "FREESCOUT_AUDIT_WEBHOOK_SECRET is a reference that Infisical did not resolve",
            "let the machine identity read what it refers to, or put the value itself there",
        ),
        (
            case("29-rate-limit-429.http"),
            "Infisical answers 429, too many requests; it is asked again",
            "set a longer VAULT_INTERVAL, or let fewer processes read it",
        ),
        (
            case("11-cloudflare-challenge-403.http"),
            "a proxy in front of Infisical refuses us with 403",
            LET_THROUGH,
        ),
        (
            case("14-cloudflare-access-302.http"),
            "an access gateway in front of Infisical answers 302 and leads to team.cloudflareaccess.example",
            f"{LET_THROUGH} without a log-in",
        ),
        (
            case("13-redirect-to-login-302.http"),
            "Infisical answers 302, a redirect",
            "is INFISICAL_URL right?",
        ),
        (
            {"/api/v1/auth/universal-auth/login": http("200 OK", LOGIN.replace("made-up", "made\\nup"))},
            "there is a line end in Infisical's access token",
            "is it Infisical?",
        ),
    ],
)
async def test_what_is_not_the_vaults_answer_says_who_answers_and_what_to_do(
    answers: Mapping[str, bytes] | bytes, problem: str, next_step: str
) -> None:
    async with vault(answers) as reader:
        with pytest.raises(VaultError) as raised:
            await reader.read()

    assert (raised.value.problem, raised.value.next_step) == (problem, next_step)
