"""``secret``: makes keys, derives FreeScout's, and tells whether a key is the one that signs."""

import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from freescout_audit.delivery import event_name
from freescout_audit.signature import api_key, webhook_key
from ops.diagnosis import Candidate, KeyFinding, diagnose
from ops.drawing import facts
from ops.output import AsJson
from ops.result import CommandError, CommandResult, Exit
from ops.runner import run_command
from ops.workplace import Workplace
from settings.environment import API_KEY

RANDOM_BYTES = 48
_HEX_DIGITS = frozenset("0123456789abcdef")
_FORM = '{"headers": {…}, "body": "…"}'
"""A recorded delivery."""
_SALT = "APIWEBHOOKS_API_KEY_SALT"
_NO_SALT = (
    f'if "Regenerate" was ever pressed, FreeScout has {_SALT} in its .env,'
    " and another API key comes out: give that line too"
)

app = typer.Typer(no_args_is_help=True, help="Make keys, derive FreeScout's, and check which one signs.")


class NewSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What ``secret new --json`` says."""

    secret: str
    use: tuple[str, ...] = ("OPS_TOKEN", "RV-4")


class DerivedKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What ``secret derive --json`` says; ``salted``: the API key's salt was given.

    ``warning`` when the text does not look like an APP_KEY.
    """

    webhook_key: str
    api_key: str
    salted: bool
    warning: str | None = None


class CheckedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery of what ``secret check --json`` says; ``line`` counts from 1."""

    line: int
    event: str
    finding: KeyFinding


class CheckedDeliveries(msgspec.Struct, frozen=True, kw_only=True):
    """What ``secret check --json`` says."""

    verified: int
    of: int
    deliveries: Sequence[CheckedDelivery]


class RecordedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as somebody recorded it; header names in lower case."""

    line: int
    headers: Mapping[str, str]
    body: bytes


@app.command()
def new(*, as_json: AsJson = False) -> None:
    """Make a random key, for OPS_TOKEN or for RV-4's own path. FreeScout's webhook key cannot be chosen."""

    async def make(workplace: Workplace) -> CommandResult:
        made = NewSecret(secret=secrets.token_urlsafe(RANDOM_BYTES))
        workplace.remark(
            "For OPS_TOKEN, or for RV-4's own path. FreeScout's webhook key cannot be chosen or pasted in: it follows"
            " from FreeScout's APP_KEY (secret derive)."
        )
        return CommandResult(made, Text(made.secret, no_wrap=True, overflow="ignore"))

    run_command(make, as_json=as_json)


@app.command()
def derive(*, as_json: AsJson = False) -> None:
    """Derive an instance's webhook key and API key from its APP_KEY, which is read from standard input.

    Give the value, its line of FreeScout's .env, or all of .env: the API key follows from APIWEBHOOKS_API_KEY_SALT too,
    which is there once "Regenerate" was pressed.
    """

    async def work(workplace: Workplace) -> CommandResult:
        given = _read_secret("APP_KEY")
        app_key, salt = app_key_of(given), _value_of(_SALT, given) or ""
        keys = DerivedKeys(
            webhook_key=webhook_key(app_key),
            api_key=api_key(app_key, salt),
            salted=bool(salt),
            warning=what_is_strange(app_key),
        )
        if keys.warning is not None:
            workplace.warn(keys.warning)
        if not keys.salted:
            workplace.remark(_NO_SALT)
        return CommandResult(keys, facts(("webhook key", keys.webhook_key), ("API key", keys.api_key)))

    run_command(work, as_json=as_json)


@app.command()
def check(
    delivery: Annotated[
        Path | None, typer.Argument(help='Recorded deliveries, a line each: {"headers": {…}, "body": "…"}.')
    ] = None,
    *,
    headers: Annotated[Path | None, typer.Option(help="The headers of one delivery, a line each.")] = None,
    body: Annotated[Path | None, typer.Option(help="Its body, byte for byte.")] = None,
    stdin: Annotated[
        bool, typer.Option("--key-from-stdin", help="Check the key on standard input, not the configured ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether a key signed a recorded delivery and, if not, what the mistake is."""

    async def work(workplace: Workplace) -> CommandResult:
        recorded = _recorded(delivery, headers, body)
        configured, others = await _configured(workplace)
        keys = configured
        if stdin:
            keys, others = [Candidate("the key given", _read_secret("key"))], [*configured, *others]
        if not keys:
            raise CommandError(
                "no webhook key is configured", "set FREESCOUT_AUDIT_WEBHOOK_SECRET, or --key-from-stdin"
            )
        checked = [
            CheckedDelivery(
                line=one.line,
                event=event_name(one.headers.get("x-freescout-event")),
                finding=diagnose(one.body, one.headers, keys, others),
            )
            for one in recorded
        ]
        good = sum(one.finding.verified for one in checked)
        found = CheckedDeliveries(verified=good, of=len(checked), deliveries=checked)
        return CommandResult(found, picture(found), Exit.GOOD if good == len(checked) else Exit.WRONG)

    run_command(work, as_json=as_json)


def picture(found: CheckedDeliveries) -> Group:
    """Return what people see of a check: each different finding once, with the first delivery it is about."""
    first: dict[str, CheckedDelivery] = {}
    counts: dict[str, int] = {}
    for one in found.deliveries:
        first.setdefault(one.finding.message, one)
        counts[one.finding.message] = counts.get(one.finding.message, 0) + 1
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for message, one in first.items():
        mark = "[green]✓[/green]" if one.finding.verified else "[red]✗[/red]"
        many = f", and {counts[message] - 1} more" if counts[message] > 1 else ""
        table.add_row(mark, f"line {one.line} ({escape(one.event or 'no event')}){many}: {escape(message)}")
    return Group(table, "", f"{found.verified} of {found.of} verified")


def app_key_of(text: str) -> str:
    """Return the APP_KEY out of what was given: the value, its line of ``.env``, or all of ``.env``."""
    if (app_key := _value_of("APP_KEY", text)) is not None:
        return app_key
    if len(text.splitlines()) > 1:
        raise CommandError(
            "there is no APP_KEY= line on standard input",
            "give that line of FreeScout's .env, or its value",
            Exit.USAGE,
        )
    return text.strip("\"'")


def _value_of(variable: str, text: str) -> str | None:
    """Return a variable's value out of lines of ``.env``; None when it is not there."""
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip().removeprefix("export ").strip() == variable:
            return value.strip().strip("\"'")
    return None


def what_is_strange(app_key: str) -> str | None:
    """Return a line about a text that does not look like an APP_KEY; None when it does."""
    if app_key.startswith("base64:"):
        return None
    if len(app_key) == len(webhook_key("")) and set(app_key) <= _HEX_DIGITS:
        return "this looks like a key that was derived already, not like an APP_KEY: the keys below are of no use then"
    return "APP_KEY usually begins with base64:, which belongs to it; without it other keys come out"


def _read_secret(what: str) -> str:
    """Read a secret from standard input, never from an argument, which others could see."""
    given: str = typer.prompt(what, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    if not given.strip():
        raise CommandError("nothing came on standard input", f"give the {what} there", Exit.USAGE)
    return given.strip()


async def _configured(workplace: Workplace) -> tuple[list[Candidate], list[Candidate]]:
    """Return the webhook keys that are accepted now, at either endpoint, and what else may have been taken for one."""
    keys = await workplace.keys()
    rbac = [key for key in (keys.rbac, keys.rbac_previous) if key is not None]
    named = [
        *zip(("the current key", "the previous key"), keys.webhook, strict=False),
        *(("a key of RV-4's path", key) for key in rbac if key not in keys.webhook),
    ]
    webhook = [Candidate(name, key.reveal()) for name, key in named]
    return webhook, [] if keys.api_key is None else [Candidate(API_KEY, keys.api_key.reveal())]


def _recorded(delivery: Path | None, headers: Path | None, body: Path | None) -> Sequence[RecordedDelivery]:
    """Read the deliveries that were named.

    Raises:
        CommandError: None was, or a file is not what it should be.
    """
    if delivery is not None and headers is None and body is None:
        lines = _bytes(delivery).splitlines()
        found = [_line(number, line, delivery.name) for number, line in enumerate(lines, 1) if line.strip()]
        if found:
            return found
        raise CommandError(f"{delivery.name} holds no delivery", f"give it a line each, {_FORM}", Exit.USAGE)
    if delivery is None and headers is not None and body is not None:
        text = _bytes(headers).decode("latin-1")
        named = (line.partition(":") for line in text.splitlines() if ":" in line)
        return [
            RecordedDelivery(
                line=1, headers={name.strip().lower(): value.strip() for name, _, value in named}, body=_bytes(body)
            )
        ]
    raise CommandError("no delivery is named", "name a file of deliveries, or both --headers and --body", Exit.USAGE)


def _line(number: int, line: bytes, file: str) -> RecordedDelivery:
    try:
        record = json.loads(line)
        headers = {str(name).lower(): str(value) for name, value in record["headers"].items()}
        return RecordedDelivery(line=number, headers=headers, body=str(record["body"]).encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CommandError(
            f"line {number} of {file} is no recorded delivery", f"write each as {_FORM}", Exit.USAGE
        ) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path.name} cannot be read ({error.strerror})", "name another file", Exit.USAGE) from None
