"""Settings: one table, and what wrong values lead to."""

import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from db import READER_CONNECTIONS
from freescout_audit.errors import SettingsError
from freescout_audit.rule import Terms
from ops.workplace import CONNECTIONS as CONSOLE_CONNECTIONS
from settings import load_environment, load_settings, table, unwise

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_config_toml_holds_every_setting_with_its_default_and_a_comment() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)

    in_file = {f"{section}.{name}": value for section, keys in document.items() for name, value in keys.items()}
    commented = re.findall(r"^#.*\n(\w+) =", text, flags=re.MULTILINE)

    assert in_file == {setting.key: setting.default for setting in table()}
    assert commented == [setting.name for setting in table()]


def test_the_docs_list_every_setting_with_its_default_and_range() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")

    rows = [line for line in text.splitlines() if line.startswith("| `") and "." in line.split("`")[1]]

    assert rows == [
        f"| `{setting.key}` | `{setting.variable}` | {setting.default} | {setting.range} | {setting.help} |"
        for setting in table()
    ]


def test_the_connections_of_everybody_fit_a_small_plan() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    connections = load_settings({}).database.connections

    table = re.search(r"^\| who \|.*\n\|---.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert table is not None
    *documented, total = (int(number) for number in re.findall(r"^\|[^|]*\| \**(\d+)", table[1], flags=re.MULTILINE))

    assert documented == [connections, connections, CONSOLE_CONNECTIONS, 1, READER_CONNECTIONS]
    assert total == sum(documented) <= 20


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "[cache]\nlease = 700\nttl = 5000\n")

    settings = load_settings({"CACHE_LEASE": "800", "CACHE_TTL": ""}, file)

    assert (settings.cache.lease, settings.cache.ttl, settings.cache.dispute_grace) == (800, 5000, 5)


def test_the_rule_is_given_the_settings_of_the_cache() -> None:
    settings = load_settings({"CACHE_LEASE": "800", "CACHE_TTL": "5000", "CACHE_DISPUTE_GRACE": "3"})

    assert settings.cache.terms == Terms(
        lease=timedelta(seconds=800), ttl=timedelta(seconds=5000), dispute_grace=timedelta(seconds=3)
    )
    assert load_settings({}).cache.terms == Terms()


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path / "config.toml") == load_settings({})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CACHE_LEASE", "soon", "CACHE_LEASE must be a number from 1 to 86400, not 'soon'"),
        ("CACHE_LEASE", "nan", "CACHE_LEASE must be a number from 1 to 86400"),
        ("POLLER_INTERVAL", "301", "POLLER_INTERVAL must be a number from 1 to 300"),
        ("POLLER_PAGE_SIZE", "2.5", "POLLER_PAGE_SIZE must be a whole number from 2 to 1000"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT must be one of auto, json, text"),
    ],
)
def test_a_wrong_variable_names_itself_and_its_range(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings({variable: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cache]\nlease = '900'", "config.toml: cache.lease must be a number from 1 to 86400, not '900'"),
        ("[cache]\nlease = true", "config.toml: cache.lease must be a number"),
        ("[cache]\nleese = 900", "config.toml: there is no setting cache.leese"),
        ("lease = 900", "config.toml: lease stands outside a [section]"),
        ("[receiver]\nhost = ''", "config.toml: receiver.host must be text"),
        ("[cache", "config.toml is not valid TOML"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings({}, write(tmp_path, text))


def test_a_wrong_setting_says_what_to_do_apart_from_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as unknown:
        load_settings({}, write(tmp_path, "[cache]\nleese = 900"))
    with pytest.raises(SettingsError) as shown:
        load_environment({"FREESCOUT_URL": "https://user:hidden@desk.example.org"})

    assert unknown.value.problem == "config.toml: there is no setting cache.leese"
    assert unknown.value.next_step == "docs/settings.md lists them all"
    assert shown.value.problem == "FREESCOUT_URL holds a user or a password, which would be stored and shown"
    assert shown.value.next_step == "leave them out"


def test_a_lease_under_three_intervals_is_unwise() -> None:
    assert unwise(load_settings({})) == []
    assert ["cache.lease (359 s)" in line for line in unwise(load_settings({"CACHE_LEASE": "359"}))] == [True]
    assert ["poller.overlap" in line for line in unwise(load_settings({"POLLER_OVERLAP": "120"}))] == [True]


def test_the_environment_of_a_bare_laptop() -> None:
    environment = load_environment({})

    assert environment.database_url is None
    assert environment.port == 8080
    assert not environment.receive
    assert not environment.receive_rbac
    assert environment.endpoints == ()
    assert environment.webhook_secrets == ()
    assert environment.rbac_secret is None


def test_keys_are_accepted_in_order_and_never_shown() -> None:
    environment = load_environment(
        {
            "FREESCOUT_AUDIT_WEBHOOK_SECRET": "key-one",
            "FREESCOUT_AUDIT_WEBHOOK_SECRET_PREVIOUS": "key-two",
            "FREESCOUT_API_KEY": "key-three",
            "OPS_TOKEN": "key-four",
            "DATABASE_URL": "postgres://user:key-five@host/name",
        }
    )

    assert [secret.reveal() for secret in environment.webhook_secrets] == ["key-one", "key-two"]
    assert "key" not in repr(environment).replace("api_key", "").replace("webhook_key", "")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "http"}, "PORT must be"),
        ({"PORT": "65536"}, "PORT must be"),
        ({"FLAG_FREESCOUT_WEBHOOK_RECEIVE": "yes"}, "FLAG_FREESCOUT_WEBHOOK_RECEIVE must be 1 (on) or 0 (off)"),
        ({"FREESCOUT_URL": "desk.example.org"}, "FREESCOUT_URL must begin with https://"),
        ({"FREESCOUT_URL": "https://ops:secret@desk.example.org"}, "FREESCOUT_URL holds a user or a password"),
    ],
)
def test_a_wrong_environment_names_the_variable(variables: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_environment(variables)
