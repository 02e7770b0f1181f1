"""Makes PostgreSQL's data directory, once."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable

from db.embedded.binaries import MAJOR, Binaries
from db.embedded.errors import EmbeddedPostgresError
from db.embedded.home import Home
from db.embedded.locks import Lock, open_file

USER = "freescout_audit"


def ensure_cluster(
    home: Home, binaries: Binaries, *, guard: Lock, durable: bool, progress: Callable[[str], None]
) -> None:
    """Make the cluster when it is missing; half-made ones never count.

    ``guard`` is the lock that keeps everybody else away; ``initdb`` inherits it, so that it holds until that is done
    even when we are killed in between.

    Raises:
        EmbeddedPostgresError: It cannot be made, or is one of another PostgreSQL version.
    """
    if home.cluster.exists():
        _check_version(home)
        return
    progress(f"making the database in {home.path} (once, a few seconds) …")
    draft = home.data / "new"
    shutil.rmtree(draft, ignore_errors=True)
    account = home.account
    password = read_password(home) or _new_password(home)
    password_file = home.path / "password-for-initdb"  # not in the data folder, where another user could swap it
    with os.fdopen(open_file(password_file), "w", encoding="ascii") as file:
        file.write(password)
        file.truncate()
        if account is not None:
            os.fchown(file.fileno(), account.uid, account.gid)
    command = (
        str(binaries.initdb),
        f"--pgdata={draft}",
        f"--username={USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--set=scram_iterations=1",  # a random password of 192 bits needs no stretching
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        *(() if durable else ("--no-sync",)),
    )
    try:
        done = subprocess.run(  # noqa: S603 - our own command, no shell
            command,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            cwd="/",
            env=environment(),
            pass_fds=(guard.fileno(),),
            start_new_session=True,  # a Ctrl-C is for us: we end it
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    finally:
        password_file.unlink(missing_ok=True)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-8:]
        raise EmbeddedPostgresError(
            f"the database in {home.path} cannot be made; initdb said: {' | '.join(said)}",
            "make room or rights there, or set DATABASE_URL",
        )
    draft.rename(home.cluster)


def read_password(home: Home) -> str | None:
    """Return the database password; None: there is none yet."""
    try:
        return home.password.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def environment() -> dict[str, str]:
    """Return the variables PostgreSQL's programs get: none of our secrets, and no PG… that would redirect them."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}


def _new_password(home: Home) -> str:
    password = secrets.token_hex(24)
    with os.fdopen(open_file(home.password), "w", encoding="ascii") as file:
        file.write(password + "\n")
    return password


def _check_version(home: Home) -> None:
    try:
        found = (home.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = "an unknown version"
    if found != str(MAJOR):
        raise EmbeddedPostgresError(
            f"{home.cluster} is a database of PostgreSQL {found}, and the installed one is {MAJOR}",
            f"move {home.path} away (a new one is made, and the poller fills it again), or set DATABASE_URL",
        )
