"""Chooses the user that runs PostgreSQL: ourselves, or, because it refuses to be root, an ordinary one that exists."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from db.embedded.errors import EmbeddedPostgresError

STAND_INS = ("postgres", "nobody")
"""Who may run it for root where nothing belongs to an ordinary user."""


@dataclass(frozen=True, slots=True)
class Account:
    """The ordinary user that runs PostgreSQL when we are root."""

    name: str
    uid: int
    gid: int

    def enters(self, folder: Path) -> bool:
        """Whether this user gets into the folder, through all its parents."""
        return succeeds(self, "/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder))


def succeeds(account: Account | None, *command: str) -> bool:
    """Whether the command exits with 0 when the account (None: ourselves) runs it: the honest test of permissions.

    Raises:
        EmbeddedPostgresError: We are a root that may not become this user.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own commands, no shell
            command,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.SubprocessError as error:  # how Python reports a failed setuid
        raise _confined(account) from error
    except OSError as error:
        if account is not None and error.filename != command[0]:  # it was not even tried
            raise _confined(account) from error
        return False
    return done.returncode == 0


def _confined(account: Account | None) -> EmbeddedPostgresError:
    return EmbeddedPostgresError(
        f"PostgreSQL does not run as root, and this root may not become {account.name if account else 'anybody'}",
        "run this as an ordinary user, or set DATABASE_URL",
    )


def account_for(folder: Path) -> Account | None:
    """Return who should run the database of this folder; None: ourselves, for we are not root.

    As root: the owner of the checkout around it, else a stand-in.

    Raises:
        EmbeddedPostgresError: Root, and no ordinary user to be.
    """
    if os.geteuid() != 0:
        return None
    around = next(path for path in (folder, *folder.parents) if path.exists())
    return owner_of(around) or _stand_in()


def owner_of(path: Path) -> Account | None:
    """Return the ordinary user the path belongs to; None: root, a stranger to this system, or there is no path."""
    try:
        entry = pwd.getpwuid(path.stat().st_uid)
    except (FileNotFoundError, KeyError):  # a mounted folder may belong to a number without a name: initdb wants one
        return None
    return None if entry.pw_uid == 0 else Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _stand_in() -> Account:
    for name in STAND_INS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(STAND_INS)}",
        "run this as an ordinary user, or set DATABASE_URL",
    )
