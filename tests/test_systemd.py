"""The units: they start what the Procfile starts, may do little else, and are what next steps name."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from settings.environment import KEYS
from settings.place import PLACES
from support.examples import KEY

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "ops" / "systemd"
SERVICES = ("freescout-audit-migrate", "freescout-audit-web", "freescout-audit-poller")
WORST = 3.0
"""The exposure that systemd-analyze may find: 0 is nothing, 10 is everything."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root with the units in their places, and systemd's own beside them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    own = Path("/lib/systemd/system")
    if not (own / "sysinit.target").exists():
        pytest.skip("systemd's own units are not here")
    shutil.copytree(own, tmp_path / "lib/systemd/system", symlinks=True)
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system")
    python = tmp_path / "opt/freescout-audit/.venv/bin/python"
    python.parent.mkdir(parents=True)
    shutil.copy("/bin/true", python)
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], check=False, capture_output=True, text=True)


def test_systemd_finds_nothing_wrong_with_them(installed: Path) -> None:
    units = [installed / "etc/systemd/system" / f"{name}.service" for name in SERVICES]
    units.append(installed / "etc/systemd/system/freescout-audit.target")

    done = analyze("verify", f"--root={installed}", *map(str, units))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_they_may_do_little(installed: Path, name: str) -> None:
    done = analyze("security", "--offline=true", f"--root={installed}", f"{name}.service")

    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) < WORST


def test_they_start_what_the_procfile_starts() -> None:
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())
    named = {"release": "migrate", "web": "web", "poller": "poller"}

    for process, command in procfile.items():
        unit = (UNITS / f"freescout-audit-{named[process]}.service").read_text(encoding="utf-8")
        assert f"ExecStart=/opt/freescout-audit/.venv/bin/{command}\n" in unit


def test_what_next_steps_name_is_there() -> None:
    place = PLACES["systemd"]
    words = " ".join((place.start_poller, place.restart_poller, place.migrate, place.logs, place.set_variable("X")))
    names = set(re.findall(r"freescout-audit[-.][\w.*]+", words))

    assert names == {"freescout-audit-poller", "freescout-audit-migrate", "freescout-audit.target", "freescout-audit-*"}
    assert (UNITS / "freescout-audit-poller.service").exists()
    assert (UNITS / "freescout-audit-migrate.service").exists()
    assert (UNITS / "freescout-audit.target").exists()
    common = (UNITS / "freescout-audit-.service.d" / "common.conf").read_text(encoding="utf-8")
    (env,) = re.findall(r"^EnvironmentFile=(.+)$", common, flags=re.MULTILINE)
    assert env in place.set_variable("X")


def test_the_example_names_the_keys_and_holds_none() -> None:
    example = (UNITS / "env.example").read_text(encoding="utf-8")

    for name in (*KEYS, "DATABASE_URL", "FREESCOUT_URL"):
        assert re.search(rf"^{name}=$", example, flags=re.MULTILINE), name


def test_the_console_is_told_what_they_are_told(tmp_path: Path, database_url: str) -> None:
    env, command = tmp_path / "env", tmp_path / "freescout-audit"
    env.write_text(f"DATABASE_URL={database_url}\nFREESCOUT_AUDIT_WEBHOOK_SECRET={KEY}\n", encoding="utf-8")
    text = (UNITS / "freescout-audit").read_text(encoding="utf-8")
    # Their user and their folder are not here.
    text = text.replace("/opt/freescout-audit", str(ROOT)).replace("runuser -u freescout-audit -- ", "")
    command.write_text(text.replace("id -u", "echo 0"), encoding="utf-8")

    done = subprocess.run(
        ["sh", command, "doctor", "--json"],
        env={"PATH": os.environ["PATH"], "FREESCOUT_AUDIT_ENV": str(env)},
        check=False,
        capture_output=True,
        text=True,
    )

    assert "set FLAG_FREESCOUT_WEBHOOK_RECEIVE=1 in /etc/freescout-audit/env" in done.stdout, done.stderr


def test_the_console_without_root_reads_a_log_and_asks_for_root_otherwise(tmp_path: Path) -> None:
    command = tmp_path / "freescout-audit"
    text = (UNITS / "freescout-audit").read_text(encoding="utf-8")
    command.write_text(text.replace("/opt/freescout-audit", str(ROOT)).replace("id -u", "echo 1000"), encoding="utf-8")

    logs = subprocess.run(["sh", command, "logs"], input="", check=False, capture_output=True, text=True)
    doctor = subprocess.run(["sh", command, "doctor"], check=False, capture_output=True, text=True)

    assert (logs.returncode, logs.stdout) == (0, "")
    assert (doctor.returncode, doctor.stderr[-28:]) == (2, "sudo freescout-audit doctor\n")
