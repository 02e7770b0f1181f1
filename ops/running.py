"""What `make run` started on, written where the other commands of this checkout find it.

It is there while a `make run` holds a lock of the kernel's, and no longer, however that ends. No secret of a real desk
is written: who gave `make run` one gives it to the other commands as well.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from freescout_audit.errors import FreescoutAuditError, SettingsError
from settings.environment import KEYS

MADE_UP = "the made-up desk of make run"
"""What the database of a made-up desk is tied to."""
_FOLDER = Path(__file__).resolve().parent.parent / ".local"
_TRIES, _PAUSE = 10, 0.1
"""Who looks whether `make run` is running holds its lock for a moment."""
_VAULT = "INFISICAL_"
_PLACES = ("DATABASE_URL", "FREESCOUT_URL")
"""Variables that say where a command looks."""


class AlreadyRunningError(FreescoutAuditError):
    """Another `make run` of this checkout is running."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A `make run` that is running; ``url`` is its receiver's."""

    pid: int
    url: str
    made_up: bool
    """Its desk is made up."""
    variables: dict[str, str]
    """The environment that the others need to work beside it."""
    needs: list[str]
    """Variables that it was given and that are not written here."""

    def __repr__(self) -> str:
        return f"Running(pid={self.pid}, url={self.url!r}, made_up={self.made_up})"


@contextmanager
def be_the_only_one(folder: Path | None = None) -> Iterator[None]:
    """Hold the checkout's lock.

    Raises:
        AlreadyRunningError: Another has it.
    """
    # Imported here: the console needs no locks where nothing was ever run.
    from db.embedded.locks import Lock  # noqa: PLC0415

    folder = folder or _FOLDER
    folder.mkdir(exist_ok=True)
    lock = Lock(folder / "run.lock")
    try:
        for _ in range(_TRIES):
            if lock.take():
                break
            time.sleep(_PAUSE)
        else:
            other = _read(folder / "run.json")
            where = "" if other is None else f" (process {other.pid}, {other.url})"
            raise AlreadyRunningError(
                f"make run is running in this checkout already{where}", "end it first, or use another checkout"
            )
        yield
    finally:
        with suppress(OSError):
            if lock.take():
                (folder / "run.json").unlink(missing_ok=True)
        lock.close()


def tell_the_others(
    url: str, variables: Mapping[str, str], *, made_up: bool, given: Mapping[str, str], folder: Path | None = None
) -> None:
    """Write down what this `make run` started on, for its user only; call it within `be_the_only_one`.

    ``given`` is the environment that it was called with. Beside a made-up desk all that the others need is in
    ``variables``; beside a real one the secrets are only named.
    """
    folder = folder or _FOLDER
    needs = [] if made_up else [name for name in given if given[name] and _is_secret(name)]
    running = Running(pid=os.getpid(), url=url, made_up=made_up, variables=dict(variables), needs=needs)
    unfinished = folder / "run.json.new"
    with suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(running))
    unfinished.replace(folder / "run.json")


def who_is_running(folder: Path | None = None) -> Running | None:
    """Return the `make run` of this checkout; None when there is none, or it does not listen yet."""
    folder = folder or _FOLDER
    if not (folder / "run.json").exists():
        return None
    from db.embedded.locks import can_take  # noqa: PLC0415 - as above

    return None if can_take(folder / "run.lock", shared=True) else _read(folder / "run.json")


def beside(running: Running | None, variables: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the environment to work beside a `make run` with; None when these variables say to look elsewhere.

    Raises:
        SettingsError: It was given what these variables lack.
    """
    if running is None or any(
        variables.get(name, "").strip() not in {"", running.variables.get(name, "")}
        for name in _PLACES
        if name not in running.needs
    ):
        return None
    if missing := [name for name in running.needs if not variables.get(name, "").strip()]:
        raise SettingsError(
            f"make run was given {', '.join(missing)}, and this command was not", "set it here too, or end make run"
        )
    kept = {name: value for name, value in variables.items() if not (running.made_up and name.startswith(_VAULT))}
    return kept | running.variables


def _is_secret(name: str) -> bool:
    return name == "DATABASE_URL" or name in KEYS or name.startswith(_VAULT)


def _read(path: Path) -> Running | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
