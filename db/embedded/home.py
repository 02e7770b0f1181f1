"""Where a database lives: in the folder it was asked for, or, when that cannot be, in a private one in the temp folder.

PostgreSQL's user must get into the folder, and it is not always us: a clone below ``/root`` is closed to all others. We
leave permissions as they are, so the database then moves out, and a note in the folder says where to.
"""

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from db.embedded.account import Account, account_for, owner_of
from db.embedded.errors import EmbeddedPostgresError
from db.embedded.locks import Lock, open_file

NOTE = "moved-to"
ANCHOR = "belongs-to"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one database: its cluster, and beside it what we keep about it."""

    path: Path
    account: Account | None
    """Who runs PostgreSQL; None: ourselves."""

    @property
    def data(self) -> Path:
        """The room that belongs to PostgreSQL's user (0700)."""
        return self.path / "data"

    @property
    def cluster(self) -> Path:
        """PostgreSQL's data directory."""
        return self.data / "cluster"

    @property
    def log(self) -> Path:
        """What PostgreSQL has to say."""
        return self.path / "postgres.log"

    @property
    def password(self) -> Path:
        """The password of our database user."""
        return self.path / "password"

    @property
    def address(self) -> Path:
        """The port and the processes, as the supervisor last told them; a hint to try, never a proof of life."""
        return self.path / "address.json"

    @property
    def owners(self) -> Path:
        """The lock that every user of the server shares; the one that gets it alone is the last."""
        return self.path / "owners.lock"

    @property
    def supervisor(self) -> Path:
        """The lock of the one who starts and watches the server."""
        return self.path / "supervisor.lock"

    @property
    def postgres(self) -> Path:
        """The lock every PostgreSQL process inherits: while it is held, the cluster is in use."""
        return self.path / "postgres.lock"


def settle(folder: Path, progress: Callable[[str], None]) -> Home:
    """Return the home of the database asked for in ``folder``, made when missing.

    Raises:
        EmbeddedPostgresError: There is no place we can write and PostgreSQL's user can reach.
    """
    folder = folder.resolve()  # one folder has one name, whatever link led to it
    account = account_for(folder)
    writable = _make(folder, account)
    if writable and _furnish(folder, account):
        return Home(folder, owner_of(folder / "data") if account else None)
    home = _move_out(folder, account, writable=writable)
    if not writable:
        why = f"{folder} cannot be written"
    elif account:
        why = f"PostgreSQL's user {account.name} cannot reach {folder}"
    else:
        why = f"{folder} does not keep permissions"
    progress(f"{why}: the database is kept in {home}")
    if not _furnish(home, account):
        raise EmbeddedPostgresError(
            f"{why}, and {home} will not do either", "run from a folder that others may enter, or set DATABASE_URL"
        )
    return Home(home, owner_of(home / "data") if account else None)


def private_folders(account: Account | None) -> Iterator[Path]:
    """Yield folders of our own (by user id) in the temp folders that the account can enter, made when missing.

    Raises:
        EmbeddedPostgresError: The name is taken by somebody else.
    """
    for temp in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - a folder of our own, checked
        path = Path(temp) / f"freescout-audit-{os.geteuid()}"
        try:
            _make_private(path, account)
        except (PermissionError, FileNotFoundError):
            continue
        if account is None or account.enters(path):
            yield path


def _make(folder: Path, account: Account | None) -> bool:
    """Make the folder and its parents; False: we may not write there."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            owner = account if account and owner_of(path.parent) == account else None
            # A stand-in has to pass through what belongs to root; anybody else is the owner.
            ours = 0o711 if account and owner is None else 0o700
            _make_folder(path, mode=ours if path == folder else 0o755, owner=owner)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _furnish(home: Path, account: Account | None) -> bool:
    """Make the room that belongs to PostgreSQL's user; False: this user does not get there."""
    data = home / "data"
    made = not data.exists()
    try:
        if made:
            _make_folder(data, mode=0o700, owner=account)
        found = data.stat()
        keeper = owner_of(data) if account else None
        reached = keeper.enters(data) if keeper else account is None and found.st_uid == os.geteuid()
        if reached and not found.st_mode & 0o027:  # PostgreSQL takes 0700 and 0750
            return True
    except OSError:
        pass
    if made:
        with suppress(OSError):
            data.rmdir()
    return False


def _move_out(folder: Path, account: Account | None, *, writable: bool) -> Path:
    root = next(private_folders(account), None)
    if root is None:
        raise EmbeddedPostgresError(f"there is no temp folder to use instead of {folder}", "set DATABASE_URL")
    _clear(root, account)
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    home = _noted(folder, root, name) if writable else root / name
    _make_private(home, account)
    anchor = folder if writable else next(path for path in folder.parents if path.exists())
    _publish(home / ANCHOR, str(anchor))
    return home


def _noted(folder: Path, root: Path, name: str) -> Path:
    """Return the home noted in the folder; a folder removed and made again has no note, and gets a new home."""
    note = folder / NOTE
    while True:
        noted = _read(note)
        if noted is not None and Path(noted).parent == root and Path(noted).name.startswith(f"{name}-"):
            return Path(noted)
        if noted is not None:
            note.unlink(missing_ok=True)
        _publish(note, str(root / f"{name}-{secrets.token_hex(4)}"))


def _clear(root: Path, account: Account | None) -> None:
    """Remove the homes whose folders are gone and that no process uses."""
    for home in root.iterdir():
        anchor = _read(home / ANCHOR)
        if anchor is None:
            continue
        with suppress(OSError):  # another process clears too, or we may not look: next time
            gone = _read(Path(anchor) / NOTE) != str(home) if "-" in home.name else not Path(anchor).exists()
            if gone:
                _remove_unused(Home(home, account))


def _remove_unused(home: Home) -> None:
    locks = [Lock(path) for path in (home.owners, home.supervisor, home.postgres)]
    try:
        if all(lock.take() for lock in locks):
            shutil.rmtree(home.path)
    finally:
        for lock in locks:
            lock.close()


def _make_private(path: Path, account: Account | None) -> None:
    """Make a folder only we may change; a stand-in may pass through it, and see only what has its own permissions.

    Raises:
        EmbeddedPostgresError: Somebody else made it, or others may write there.
    """
    wanted = 0o711 if account else 0o700
    if not os.path.lexists(path):
        _make_folder(path, mode=wanted)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedPostgresError(
            f"{path} is not ours alone, so it is not trusted", "remove it, or point TMPDIR to another folder"
        )
    if stat.S_IMODE(found.st_mode) != wanted:
        path.chmod(wanted)


def _make_folder(path: Path, *, mode: int, owner: Account | None = None) -> None:
    """Make a folder that has its permissions from the start; one that another process made meanwhile will do."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.mkdir(mode=0o700)
    try:
        if owner:
            os.chown(draft, owner.uid, owner.gid)
        draft.chmod(mode)
        draft.rename(path)
    except OSError:
        draft.rmdir()
        if not path.is_dir():
            raise


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _publish(path: Path, text: str) -> None:
    """Write a file that is never seen half written; the first one counts."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(open_file(draft), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
