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
    "container": Place(
        "container",
        "docker compose exec web bin/freescout-audit",
        "start a container that runs python -m poller",
        "restart the containers",
        "docker compose logs -f | freescout-audit logs",
        "set {variable}={value} in the containers' environment, and make them anew",
        "take {variable} out of the containers' environment, and make them anew",
    ),
    "systemd": Place(
        "systemd",
        "bin/freescout-audit",
        "start the unit that runs python -m poller: systemctl start",
        "systemctl restart the units",
        "journalctl -f -o cat | freescout-audit logs",
        "set {variable}={value} in the units' environment, and restart them",
        "take {variable} out of the units' environment, and restart them",
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
    if variables.get("KUBERNETES_SERVICE_HOST") or variables.get("container") or dockerenv.exists():
        return PLACES["container"]
    if variables.get("INVOCATION_ID"):
        return PLACES["systemd"]
    return PLACES["checkout"]
