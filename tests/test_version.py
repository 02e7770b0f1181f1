"""One version number, wherever the product says which version it is."""

import json
import tomllib
from pathlib import Path

from conftest import Log, Receiver
from freescout_audit import __version__
from support.console_world import run

ROOT = Path(__file__).resolve().parent.parent


def test_the_distribution_takes_its_version_from_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "freescout_audit.__version__"}


def test_the_console_says_it() -> None:
    assert run("--version", variables={}).out == f"freescout-audit {__version__}\n"


async def test_a_receiver_says_it_in_readiness_metrics_and_its_first_line(receiver: Receiver, log: Log) -> None:
    async with receiver.client.get(receiver.url + "/readyz") as response:
        assert json.loads(await response.read())["version"] == __version__
    async with receiver.client.get(receiver.url + "/metrics") as response:
        assert f'freescout_audit_build_info{{version="{__version__}"}} 1.0' in await response.text()

    assert [line["version"] for line in log.lines("receiver.started")] == [__version__]
