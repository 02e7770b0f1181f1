"""Where we run, and how an operator does there what a next step asks for. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["heroku", "container", "systemd", "checkout"]

_DOCKERENV = Path("/.dockerenv")


class Place(NamedTuple):
    """How it is done where we run: commands to copy, and what is set in a few words that follow an arrow."""

    kind: Kind
    console: str
    start_poller: str
    restart_poller: str
    """Starts one that has ended, and ends one that hangs before that."""
    migrate: str
    logs: str
    """Lets `freescout-audit logs` read what was logged lately; empty: where that is we do not know."""
    to_set: str
    to_unset: str

    def set_variable(self, variable: str, value: str = "…") -> str:
        """Return how a variable is set; ``value`` is no secret."""
        return self.to_set.format(variable=variable, value=value)

    def unset_variable(self, variable: str) -> str:
        """Return how a variable is taken away."""
        return self.to_unset.format(variable=variable)


PLACES: Mapping[Kind, Place] = {
    "heroku": Place(
        "heroku",
        "heroku run -- bin/freescout-audit",
        "heroku ps:scale poller=1",
        "heroku ps:restart poller",
        "heroku run -- python -m db.migrate",
        "heroku logs --num 1500 | bin/freescout-audit logs",
        "heroku config:set {variable}={value}",
        "heroku config:unset {variable}",
    ),
    # By the names of compose.yaml.
    "container": Place(
        "container",
        "docker compose exec web bin/freescout-audit",
        "docker compose up --detach poller",
        "docker compose restart poller",
        "docker compose run --rm migrate",
        "docker compose logs | docker compose exec -T web bin/freescout-audit logs",
        "set {variable}={value} in .env, then docker compose up --detach",
        "take {variable} out of .env, then docker compose up --detach",
    ),
    # By the names of ops/systemd.
    "systemd": Place(
        "systemd",
        "sudo freescout-audit",
        "systemctl enable --now freescout-audit-poller",
        "systemctl restart freescout-audit-poller",
        "systemctl restart freescout-audit-migrate",
        "journalctl --since=-2h --output=cat --unit='freescout-audit-*' | freescout-audit logs",
        "set {variable}={value} in /etc/freescout-audit/env, then systemctl restart freescout-audit.target",
        "take {variable} out of /etc/freescout-audit/env, then systemctl restart freescout-audit.target",
    ),
    "checkout": Place(
        "checkout",
        "bin/freescout-audit",
        "python -m poller",
        "python -m poller",
        "python -m db.migrate",
        "",
        "set {variable}={value}, and start the processes again",
        "unset {variable}, and start the processes again",
    ),
}


def where_we_run(variables: Mapping[str, str], *, dockerenv: Path = _DOCKERENV) -> Place:
    """Return the place that these environment variables, and Docker's mark in the file system, tell of."""
    if variables.get("DYNO"):
        return PLACES["heroku"]
    if variables.get("KUBERNETES_SERVICE_HOST") or variables.get("container"):
        return PLACES["container"]
    if variables.get("INVOCATION_ID"):
        return PLACES["systemd"]
    if dockerenv.exists():
        return PLACES["container"]
    return PLACES["checkout"]
