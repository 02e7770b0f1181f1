"""Where we run, and how an operator does there what a next step asks for. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["heroku", "container", "systemd", "checkout"]

_DOCKERENV = Path("/.dockerenv")


class Place(NamedTuple):
    """How it is done where we run, each in a few words that follow an arrow."""

    kind: Kind
    console: str
    start_poller: str
    restart: str
    look_into_the_log: str
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
        "heroku ps:restart",
        "heroku logs --tail | freescout-audit logs",
        "heroku config:set {variable}={value}",
        "heroku config:unset {variable}",
    ),
    # By the names of compose.yaml.
    "container": Place(
        "container",
        "docker compose exec web bin/freescout-audit",
        "docker compose up --detach poller",
        "docker compose restart web poller",
        "docker compose logs --follow | docker compose exec -T web bin/freescout-audit logs",
        "set {variable}={value} in .env, then docker compose up --detach",
        "take {variable} out of .env, then docker compose up --detach",
    ),
    # By the names of ops/systemd.
    "systemd": Place(
        "systemd",
        "sudo freescout-audit",
        "systemctl enable --now freescout-audit-poller",
        "systemctl restart freescout-audit.target",
        "journalctl --follow --output=cat --unit='freescout-audit-*' | freescout-audit logs",
        "set {variable}={value} in /etc/freescout-audit/env, then systemctl restart freescout-audit.target",
        "take {variable} out of /etc/freescout-audit/env, then systemctl restart freescout-audit.target",
    ),
    "checkout": Place(
        "checkout",
        "bin/freescout-audit",
        "python -m poller, in a process of its own",
        "end the processes, and start them again",
        "freescout-audit logs FILE",
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
