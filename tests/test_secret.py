"""`secret`: keys are made, derived and checked, and the usual mistakes are recognised."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner, Result

from freescout_audit.signature import api_key, webhook_key
from ops.commands import secret
from ops.diagnosis import Candidate, KeyFinding, diagnose
from simulator import Desk, SystemClock
from simulator.infisical import Infisical
from support.examples import KEY, body, signed
from support.recordings import MODULE_82, MODULE_87, Recording
from support.vaults import variables

APP_KEY = "base64:" + base64.b64encode(bytes(range(32))).decode()
RAW = b'{"id":7,"subject":"Gr\\u00fc\\u00dfe","status":"closed","url":"https:\\/\\/desk.example.org\\/7"}'


def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
    """Run a command with no other environment than these variables."""
    names = ("DATABASE_URL", "FREESCOUT_AUDIT_WEBHOOK_SECRET", "FREESCOUT_API_KEY")
    environment: dict[str, str | None] = {**dict.fromkeys(names), **variables}
    # The log is the test's: a command would turn it to its own stderr.
    with mock.patch("ops.runner.set_up_logs"):
        return CliRunner().invoke(secret.app, list(arguments), input=stdin, env=environment)


def test_a_new_secret_is_48_random_bytes_and_alone_on_stdout() -> None:
    first, second = run("new"), run("new", "--json")

    made = json.loads(second.stdout)["secret"]
    assert first.exit_code == second.exit_code == 0
    assert len(base64.urlsafe_b64decode(made)) == len(base64.urlsafe_b64decode(first.stdout.strip())) == 48
    assert made != first.stdout.strip()
    assert "cannot be chosen" in " ".join(first.stderr.split())


@pytest.mark.parametrize("given", [APP_KEY, f"{APP_KEY}\n", f"APP_KEY={APP_KEY}\n", f"X=1\nAPP_KEY='{APP_KEY}'\nY=2\n"])
def test_the_keys_of_an_instance_follow_from_its_app_key(given: str) -> None:
    desk = Desk(clock=SystemClock(), app_key=APP_KEY)

    result = run("derive", "--json", stdin=given)

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "webhook_key": desk.webhook_key,
        "api_key": desk.api_key,
        "salted": False,
        "warning": None,
    }


def test_the_api_key_follows_from_its_salt_too_once_it_was_made_anew() -> None:
    """Measured: ``md5(APP_KEY + "api_key" + salt)``; the webhook key stays."""
    desk = Desk(clock=SystemClock(), app_key="base64:a")
    desk.regenerate_api_key("pepper")
    lines = "APIWEBHOOKS_API_KEY_SALT='pepper'\nAPP_KEY=base64:a\n"

    result = run("derive", "--json", stdin=lines)

    assert json.loads(result.stdout) == {
        "webhook_key": hashlib.md5(b"base64:awebhook_key").hexdigest(),
        "api_key": hashlib.md5(b"base64:aapi_keypepper").hexdigest(),
        "salted": True,
        "warning": None,
    }
    assert json.loads(result.stdout)["api_key"] == desk.api_key
    assert "pepper" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("", 2, "nothing came on standard input"),
        ("X=1\nY=2", 2, "there is no APP_KEY= line"),
        (KEY, 0, "looks like a key that was derived already"),
        (APP_KEY.removeprefix("base64:"), 0, "usually begins with base64:"),
        (APP_KEY, 0, 'if "Regenerate" was ever pressed'),
        (f"APIWEBHOOKS_API_KEY_SALT=pepper\nX={APP_KEY}", 2, "there is no APP_KEY= line"),
    ],
)
def test_what_is_strange_about_an_app_key_is_said_and_the_key_is_not(given: str, code: int, said: str) -> None:
    result = run("derive", stdin=given)

    assert result.exit_code == code
    assert said in " ".join(result.stderr.split())
    assert not given or given not in result.stderr


def headers(*, key: str = KEY) -> dict[str, str]:
    return {name.lower(): value for name, value in signed(RAW, key=key).items()}


def look(
    raw: bytes = RAW, sent: Mapping[str, str] | None = None, key: str = KEY, others: Mapping[str, str] | None = None
) -> KeyFinding:
    known = [Candidate(name, value) for name, value in (others or {}).items()]
    return diagnose(raw, headers() if sent is None else sent, [Candidate("the key given", key)], known)


def sha256(raw: bytes) -> str:
    return base64.b64encode(hmac.digest(KEY.encode(), raw, hashlib.sha256)).decode()


DECODED = json.loads(RAW)


@pytest.mark.parametrize(
    ("finding", "reason", "next_step"),
    [
        (look(), "verified", "the key given signed it"),
        (look(sent={}), "no_signature", "did a proxy take it away"),
        (look(sent={"x-hub-signature-256": "x"}), "no_signature", "it has x-hub-signature-256"),
        (look(sent={"x-freescout-signature": ""}), "empty_signature", "lacks its hash extension"),
        (look(sent={"x-freescout-signature": sha256(RAW)}), "not_sha1", "the signature is SHA-256"),
        (look(sent={"x-freescout-signature": "sha256=" + "ab" * 32}), "not_sha1", "the signature is SHA-256"),
        (look(sent={"x-freescout-signature": "ab" * 20}), "not_sha1", "something else than SHA-1"),
        (look(sent=headers(key=webhook_key(APP_KEY)), key=APP_KEY), "app_key", "run secret derive"),
        (
            look(sent=headers(key=webhook_key(APP_KEY)), key=APP_KEY.removeprefix("base64:")),
            "app_key",
            "run secret derive",
        ),
        (look(key=f'"{KEY.upper()}"'), "mistyped_key", "copy it again"),
        (look(key=api_key(APP_KEY), others={"FREESCOUT_API_KEY": api_key(APP_KEY)}), "api_key", "signs nothing"),
        (look(key="x", others={"FREESCOUT_API_KEY": KEY}), "other_key", "FREESCOUT_API_KEY signed it, not the key"),
        (look(key="x", others={"the current key": KEY}), "other_key", "the current key signed it, not the key given"),
        (look(RAW + b"\n"), "body_encoded_anew", "a line end that the delivery did not have"),
        (look(json.dumps(DECODED).encode()), "body_encoded_anew", "verify and keep the raw bytes"),
        (look(json.dumps(DECODED, ensure_ascii=False).encode()), "body_encoded_anew", "keep the raw bytes"),
        (look(json.dumps(DECODED, indent=2).encode()), "body_encoded_anew", "keep the raw bytes"),
        (
            look(json.dumps(DECODED).encode(), sent=headers(key=webhook_key(APP_KEY)), key=APP_KEY),
            "app_key",
            "but not these bytes",
        ),
        (look(RAW[:50], sent=headers() | {"content-length": str(len(RAW))}), "body_incomplete", "50 bytes"),
        (look(key="x"), "unknown_key", "a new APP_KEY changes the key"),
        (look(json.dumps(DECODED).encode(), key="x"), "body_encoded_anew", "seems to have been encoded anew"),
    ],
)
def test_each_usual_mistake_is_recognised_and_its_next_step_named(
    finding: KeyFinding, reason: str, next_step: str
) -> None:
    assert (finding.reason, finding.verified) == (reason, reason == "verified")
    assert next_step in finding.message
    assert not any(secret in finding.message for secret in (KEY, APP_KEY, api_key(APP_KEY), webhook_key(APP_KEY)))


def record(raw: bytes) -> str:
    return json.dumps({"headers": signed(raw), "body": raw.decode("ascii")}) + "\n"


class TestCheck:
    def test_every_line_of_a_file_is_checked_against_the_configured_keys(self, tmp_path: Path) -> None:
        file = tmp_path / "deliveries.jsonl"
        file.write_text(record(body()) + "\n" + record(body("closed")), encoding="utf-8")

        result = run("check", str(file), "--json", FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY)

        assert result.exit_code == 0
        found: dict[str, Any] = json.loads(result.stdout)
        assert (found["verified"], found["of"]) == (2, 2)
        assert [(one["line"], one["event"], one["finding"]["key"]) for one in found["deliveries"]] == [
            (1, "convo.status", "the current key"),
            (3, "convo.status", "the current key"),
        ]

    def test_a_key_on_standard_input_is_checked_instead(self, tmp_path: Path) -> None:
        file = tmp_path / "delivery"
        file.write_text(record(body()), encoding="utf-8")

        good = run("check", str(file), "--key-from-stdin", stdin=KEY)
        bad = run("check", str(file), "--key-from-stdin", stdin="x", FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY)

        assert (good.exit_code, bad.exit_code) == (0, 1)
        assert "the current key signed it, not the key given" in " ".join(bad.stdout.split())
        assert KEY not in good.output + bad.output

    def test_headers_and_body_may_stand_in_two_files(self, tmp_path: Path) -> None:
        raw = body("closed")
        (tmp_path / "headers").write_text(
            "POST / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in signed(raw).items()),
            encoding="ascii",
        )
        (tmp_path / "body").write_bytes(raw)

        result = run(
            "check",
            "--headers",
            str(tmp_path / "headers"),
            "--body",
            str(tmp_path / "body"),
            FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY,
        )

        assert result.exit_code == 0, result.output
        assert "1 of 1 verified" in result.stdout

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "holds no delivery"),
            ("{", "line 1 of deliveries is no recorded delivery"),
            ('{"headers": [], "body": ""}', "is no recorded delivery"),
            (None, "cannot be read"),
        ],
    )
    def test_a_file_that_is_none_is_said_to_be(self, tmp_path: Path, content: str | None, said: str) -> None:
        file = tmp_path / "deliveries"
        if content is not None:
            file.write_text(content, encoding="utf-8")

        result = run("check", str(file), FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY)

        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())

    def test_without_a_file_or_a_key_it_says_what_is_missing(self, tmp_path: Path) -> None:
        file = tmp_path / "delivery"
        file.write_text(record(body()), encoding="utf-8")

        assert "name a file of deliveries" in run("check", FREESCOUT_AUDIT_WEBHOOK_SECRET=KEY).stderr
        assert "no webhook key is configured" in " ".join(run("check", str(file)).stderr.split())

    def test_a_vault_that_is_away_is_unavailable(self, tmp_path: Path, unused_tcp_port: int) -> None:
        file = tmp_path / "delivery"
        file.write_text(record(body()), encoding="utf-8")
        vault = Infisical()

        result = run("check", str(file), **variables(vault, f"http://127.0.0.1:{unused_tcp_port}"))

        assert result.exit_code == 3
        assert "is INFISICAL_URL right, and is it up?" in " ".join(result.stderr.split())

    @pytest.mark.parametrize(("recording", "count"), [(MODULE_82, 66), (MODULE_87, 90)], ids=["1.0.82", "1.0.87"])
    def test_the_recordings_of_a_real_freescout_verify(self, recording: Recording, count: int) -> None:
        result = run("check", str(recording.path), "--key-from-stdin", stdin=recording.key)

        assert result.exit_code == 0
        assert f"{count} of {count} verified" in result.stdout
