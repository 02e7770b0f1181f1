"""The embedded PostgreSQL, with real processes: every kill here is a real one."""

import asyncio
import importlib.util
import json
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from db.embedded import EmbeddedPostgres, EmbeddedPostgresError, binaries, default_folder
from db.embedded.account import Account, owner_of, succeeds
from db.embedded.binaries import Binaries, find_binaries
from db.embedded.home import NOTE, settle

REPOSITORY = Path(__file__).resolve().parent.parent
FAST = {"fsync": "off"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused and replaced")
as_ordinary_user = pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")

OWNER = """
import importlib.util, json, signal, sys, types
from pathlib import Path

# What the package around it imports takes most of a second, and the server needs none of it.
db = types.ModuleType("db")
db.__path__ = importlib.util.find_spec("db").submodule_search_locations
sys.modules["db"] = db

from db.embedded import EmbeddedPostgres

# Whoever runs the tests in the background may ignore it, and so would we.
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(**what):
    print(json.dumps(what), flush=True)

server = EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"}, progress=lambda line: say(progress=line))
with server:
    try:
        say(url=server.url(), pid=server.pid, supervisor=server.supervisor_pid)
        sys.stdin.read()
    except KeyboardInterrupt:
        server.create_database("after_the_interrupt")
        say(interrupted=True)
say(stopped=True)
"""


class Owner:
    """A process that uses the server until its standard input ends."""

    def __init__(self, folder: Path, *, python: str = sys.executable, temp: str = "", **popen: Any) -> None:
        packages = os.pathsep.join((str(REPOSITORY), sysconfig.get_path("purelib")))
        temp = temp or tempfile.gettempdir()
        self.process = subprocess.Popen(
            [python, "-c", OWNER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": temp},
            bufsize=0,  # what is read ahead is invisible to select
            start_new_session=True,
            **popen,
        )
        self.progress: list[str] = []

    def hears(self, word: str, seconds: float = 20) -> Any:
        """Return what the process says next under this word."""
        assert self.process.stdout is not None
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], seconds)
            line = self.process.stdout.readline() if ready else b""
            assert line, f"the owner did not say {word}, but {self.progress}"
            said = json.loads(line)
            if word in said:
                return said[word] if len(said) == 1 else said
            self.progress += [said["progress"]]

    def leave(self) -> None:
        """End in order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)

    def killed(self) -> None:
        """End at once, with no chance to clean up."""
        self.process.kill()
        self.process.wait(20)

    def close(self) -> None:
        self.killed()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def bare_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not exist yet; where we are root, nobody else can get there."""
    yield tmp_path / "postgres"
    remove(tmp_path / "postgres")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a database that is not running, to be left as it was: making one takes most of a second."""
    folder = tmp_path_factory.mktemp("cluster") / "postgres"
    with EmbeddedPostgres(folder, options=FAST, progress=quietly):
        pass
    yield folder
    remove(folder)


@pytest.fixture
def folder(bare_folder: Path, cluster: Path) -> Path:
    """A folder with a database of its own, for who leaves something in it or breaks it."""
    copy(cluster, bare_folder)
    return bare_folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, cluster: Path) -> Iterator[EmbeddedPostgres]:
    """A server to look at, not to break."""
    folder = tmp_path_factory.mktemp("running") / "postgres"
    copy(cluster, folder)
    with EmbeddedPostgres(folder, progress=quietly) as server:
        yield server
    remove(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can reach."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "postgres"


@pytest.fixture
def owner() -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def make(folder: Path, **options: Any) -> Owner:
        owners.append(Owner(folder, **options))
        return owners[-1]

    yield make
    for one in owners:
        one.close()


def quietly(_line: str) -> None:
    """Take progress that no test looks at."""


def copy(source: Path, target: Path) -> None:
    """Give a folder the database of another, which must not be running."""
    old, new = settle(source, quietly), settle(target, quietly)
    sparse = ["--sparse=always"] if sys.platform == "linux" else []  # half of it is empty log
    subprocess.run(["cp", "-a", *sparse, old.cluster, new.cluster], check=True)
    subprocess.run(["cp", "-a", old.password, new.password], check=True)


def remove(folder: Path) -> None:
    """Remove the database of a folder, wherever it lives."""
    with suppress(FileNotFoundError):
        shutil.rmtree((folder / NOTE).read_text().strip())


def query(url: str, statement: str) -> Any:
    async def ask() -> Any:
        connection = await asyncpg.connect(url, ssl=False, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether there is such a process that is more than a zombie."""
    if Path("/proc/self/stat").exists():
        with suppress(FileNotFoundError, ProcessLookupError):
            _, _, after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            return after_name.split()[0] != "Z"
        return False
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def exists(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_server_is_private_durable_and_speaks_utf8_and_utc(running: EmbeddedPostgres) -> None:
    names = ("server_encoding", "TimeZone", "listen_addresses", "unix_socket_directories", "fsync")

    shown = {name: query(running.url(), f"SHOW {name}") for name in names}

    assert shown == {
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "on",
    }
    assert query(running.url(), "SELECT datlocale FROM pg_database WHERE datname = current_database()") == "C.UTF-8"


def test_wrong_password_is_refused_and_the_right_one_is_ours_alone_to_read(running: EmbeddedPostgres) -> None:
    _, _, place = running.url().rpartition("@")

    with pytest.raises(asyncpg.InvalidPasswordError):
        query(f"postgresql://freescout_audit:guessed@{place}", "SELECT 1")

    assert stat.S_IMODE((running.log_file.parent / "password").stat().st_mode) == 0o600


def test_further_databases_are_made_once(running: EmbeddedPostgres) -> None:
    running.create_database('an "odd" one')
    running.create_database('an "odd" one')

    assert query(running.url('an "odd" one'), "SELECT current_database()") == 'an "odd" one'


async def test_calls_work_inside_an_event_loop(running: EmbeddedPostgres) -> None:
    running.create_database("made_inside_a_loop")

    connection = await asyncpg.connect(running.url("made_inside_a_loop"), ssl=False)
    await connection.close()


def test_rows_and_port_survive_a_restart_and_nothing_is_left_running(bare_folder: Path) -> None:
    lines: list[str] = []
    with EmbeddedPostgres(bare_folder, progress=lines.append) as server:
        query(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
        before, processes = server.url(), (server.pid, server.supervisor_pid)

    assert not any(exists(pid) for pid in processes)
    with EmbeddedPostgres(bare_folder, progress=lines.append) as server:
        assert query(server.url(), "SELECT answer FROM kept") == 42
        assert server.url() == before
    assert len([line for line in lines if "making the database" in line]) == 1


def test_killed_owner_takes_the_server_along(folder: Path, owner: Callable[..., Owner]) -> None:
    only = owner(folder)
    ready = only.hears("url")

    only.killed()

    eventually(lambda: not is_running(ready["pid"]) and not is_running(ready["supervisor"]), 10)


def test_start_right_after_the_owner_was_killed_finds_its_rows(folder: Path, owner: Callable[..., Owner]) -> None:
    first = owner(folder)
    query(first.hears("url")["url"], "CREATE TABLE kept AS SELECT 42 AS answer")

    first.killed()

    with EmbeddedPostgres(folder, options=FAST) as server:
        assert query(server.url(), "SELECT answer FROM kept") == 42


def test_start_after_everything_was_killed_recovers(folder: Path, owner: Callable[..., Owner]) -> None:
    first = owner(folder)
    ready = first.hears("url")
    query(ready["url"], "CREATE TABLE kept AS SELECT 42 AS answer")

    os.kill(ready["supervisor"], signal.SIGSTOP)  # so that it cannot clean up
    os.kill(ready["pid"], signal.SIGKILL)
    os.kill(ready["supervisor"], signal.SIGKILL)
    first.killed()

    with EmbeddedPostgres(folder, options=FAST) as server:
        assert query(server.url(), "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("kind", ["zombie", "somebody else's process"])
def test_process_id_left_in_the_cluster_is_not_believed(cluster: Path, kind: str) -> None:
    with subprocess.Popen(["true"] if kind == "zombie" else ["cat"], stdin=subprocess.PIPE) as stranger:
        if kind == "zombie":
            eventually(lambda: exists(stranger.pid) and not is_running(stranger.pid))
        data = settle(cluster, quietly).cluster
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n")

        with EmbeddedPostgres(cluster, options=FAST) as server:
            assert query(server.url(), "SELECT 1") == 1
        assert (kind == "zombie") or is_running(stranger.pid)


def test_killed_postmaster_comes_back_on_the_same_port(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        url, killed = server.url(), server.pid
        query(url, "CREATE TABLE kept AS SELECT 42 AS answer")

        os.kill(killed, signal.SIGKILL)

        def answers() -> bool:
            with suppress(OSError, asyncpg.PostgresError):
                return server.pid != killed and query(url, "SELECT answer FROM kept") == 42
            return False

        eventually(answers)


@on_linux
def test_killed_supervisor_leaves_no_server_behind(folder: Path, owner: Callable[..., Owner]) -> None:
    first = owner(folder)
    ready = first.hears("url")

    os.kill(ready["supervisor"], signal.SIGKILL)

    eventually(lambda: not is_running(ready["pid"]))
    with EmbeddedPostgres(folder, options=FAST) as server:  # and the owner that stayed has its server back
        assert server.url() == ready["url"]


def test_server_outlives_the_first_owner_while_another_is_there(folder: Path, owner: Callable[..., Owner]) -> None:
    first, second = owner(folder), owner(folder)
    ready, same = first.hears("url"), second.hears("url")

    first.leave()

    assert ready == same
    assert query(ready["url"], "SELECT 1") == 1
    second.leave()
    assert not is_running(ready["pid"])
    eventually(lambda: not is_running(ready["supervisor"]))


def test_processes_that_start_at_once_make_and_share_one_server(open_folder: Path, owner: Callable[..., Owner]) -> None:
    owners = [owner(open_folder) for _ in range(4)]

    pids = {one.hears("url")["pid"] for one in owners}

    assert len(pids) == 1
    for one in owners:
        one.leave()
    assert not is_running(pids.pop())


def test_interrupt_from_the_terminal_reaches_the_application_alone(folder: Path, owner: Callable[..., Owner]) -> None:
    only = owner(folder)
    ready = only.hears("url")

    os.killpg(only.process.pid, signal.SIGINT)

    assert only.hears("interrupted")  # it could still make a database
    assert only.hears("stopped")
    assert not exists(ready["pid"])
    assert not exists(ready["supervisor"])


def test_half_made_cluster_is_made_again(bare_folder: Path) -> None:
    left = settle(bare_folder, quietly).data / "new"
    left.mkdir()
    (left / "PG_VERSION").write_text("18\n")

    with EmbeddedPostgres(bare_folder, options=FAST) as server:
        assert query(server.url(), "SELECT 1") == 1
    assert not left.exists()


def test_server_that_does_not_start_says_what_its_log_says(cluster: Path) -> None:
    server = EmbeddedPostgres(cluster, options={**FAST, "shared_buffers": "plenty"})

    with pytest.raises(
        EmbeddedPostgresError, match=r"(?s)PostgreSQL does not start.*shared_buffers.*DATABASE_URL"
    ) as told:
        server.start()

    password = settle(cluster, quietly).password.read_text().strip()
    assert password not in str(told.value)


def test_database_of_another_version_is_not_touched(cluster: Path) -> None:
    version = settle(cluster, quietly).cluster / "PG_VERSION"
    ours = version.read_text()
    version.write_text("17\n")

    with pytest.raises(EmbeddedPostgresError, match="PostgreSQL 17, and the installed one is 18"):
        EmbeddedPostgres(cluster).start()

    assert version.read_text() == "17\n"
    version.write_text(ours)


def test_missing_wheel_points_to_database_url(bare_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(EmbeddedPostgresError, match="set DATABASE_URL"):
        EmbeddedPostgres(bare_folder).start()


def test_default_folder_is_in_the_checkout() -> None:
    assert default_folder() == REPOSITORY / ".local" / "postgres"


@as_root
def test_root_becomes_somebody_else_in_the_folder_itself(open_folder: Path, cluster: Path) -> None:
    copy(cluster, open_folder)
    lines: list[str] = []

    with EmbeddedPostgres(open_folder, options=FAST, progress=lines.append) as server:
        assert owner_of(Path(f"/proc/{server.pid}")) is not None
        assert settle(open_folder, lines.append).path == open_folder
    assert not any("kept in" in line for line in lines)


@as_root
def test_root_becomes_the_owner_of_the_checkout_who_can_go_on_without_root(
    open_folder: Path, owner: Callable[..., Owner]
) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(open_folder.parent, nobody.pw_uid, nobody.pw_gid)

    with EmbeddedPostgres(open_folder, options=FAST) as server:
        query(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
        runs_as = Path(f"/proc/{server.pid}").stat().st_uid

    assert runs_as == nobody.pw_uid
    assert {path.stat().st_uid for path in (open_folder, *open_folder.iterdir())} == {nobody.pw_uid}
    later = owner(open_folder, python=python_for_nobody(), user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
    assert query(later.hears("url")["url"], "SELECT answer FROM kept") == 42


@as_root
def test_below_a_folder_of_roots_own_the_database_moves_out(folder: Path) -> None:
    folder.parent.chmod(0o700)
    above = {path: path.stat() for path in folder.parents}
    lines: list[str] = []

    with EmbeddedPostgres(folder, options=FAST, progress=lines.append) as server:
        assert query(server.url(), "SELECT 1") == 1
        moved = [line for line in lines if "kept in" in line]

    home = Path((folder / NOTE).read_text().strip())
    assert len(moved) == 1
    assert str(home) in moved[0]
    assert home.stat().st_uid == 0
    assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700
    assert all(
        (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) == (was.st_mode, was.st_uid, was.st_gid)
        for path, was in above.items()
    )


@as_root
def test_database_that_moved_out_is_cleared_away_when_its_folder_is_gone(tmp_path: Path) -> None:
    first, second = settle(tmp_path / "first", quietly), settle(tmp_path / "second", quietly)
    shutil.rmtree(tmp_path / "first")

    third = settle(tmp_path / "third", quietly)

    assert not first.path.exists()
    assert second.path.exists()
    for home in (second, third):
        shutil.rmtree(home.path)


@as_root
def test_folder_made_again_gets_a_database_of_its_own(bare_folder: Path) -> None:
    first = settle(bare_folder, quietly)
    shutil.rmtree(bare_folder)

    assert settle(bare_folder, quietly).path != first.path


@as_root
@pytest.mark.parametrize("squat", ["folder of somebody else", "open folder", "link"])
def test_taken_name_in_the_temp_folder_is_refused(
    bare_folder: Path, open_folder: Path, squat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder.parent))
    taken = open_folder.parent / "freescout-audit-0"
    if squat == "link":
        taken.symlink_to(bare_folder.parent)
    else:
        taken.mkdir()
        taken.chmod(0o777 if squat == "open folder" else 0o711)
        os.chown(taken, 0 if squat == "open folder" else pwd.getpwnam("nobody").pw_uid, 0)

    with pytest.raises(EmbeddedPostgresError, match="not ours alone"):
        settle(bare_folder, quietly)


@as_root
def test_programs_out_of_reach_are_copied_once_and_repaired(
    tmp_path: Path, open_folder: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(cluster, open_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder.parent))
    site = find_binaries(None, quietly).site
    for name in (binaries.PACKAGE, f"{binaries.PACKAGE}.libs"):
        (tmp_path / name).symlink_to(site / name)
    monkeypatch.setattr(binaries, "_installed", lambda: Binaries(tmp_path))
    lines: list[str] = []

    with EmbeddedPostgres(open_folder, options=FAST, progress=lines.append) as server:
        assert query(server.url(), "SELECT 1") == 1
    copied = find_binaries(settle(open_folder, quietly).account, lines.append)
    copied.initdb.unlink()
    repaired = find_binaries(settle(open_folder, quietly).account, lines.append)

    assert copied.site.parent == open_folder.parent / "freescout-audit-0"
    assert repaired.initdb.exists()
    assert len([line for line in lines if "copying" in line]) == 1


@as_root
def test_ordinary_user_without_a_folder_to_write_gets_one_in_the_temp_folder(
    open_folder: Path, owner: Callable[..., Owner]
) -> None:
    nobody = pwd.getpwnam("nobody")
    temp = open_folder.parent / "temp"
    temp.mkdir()
    temp.chmod(0o1777)

    only = owner(
        open_folder,
        python=python_for_nobody(),
        temp=str(temp),
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
    )

    assert query(only.hears("url")["url"], "SELECT 1") == 1
    assert f"{open_folder} cannot be written" in only.progress[0]
    only.leave()


@as_ordinary_user
def test_folder_we_cannot_write_is_replaced_by_one_in_the_temp_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)

    home = settle(closed / "postgres", quietly).path

    assert home.parent == tmp_path / f"freescout-audit-{os.geteuid()}"
    assert home == settle(closed / "postgres", quietly).path
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def python_for_nobody() -> str:
    """Return an interpreter like ours that an ordinary user can run; root's own may be out of reach."""
    python = found_for_nobody()
    if python is None:
        pytest.skip("no interpreter that nobody can run")
    return python


@cache
def found_for_nobody() -> str | None:
    nobody = pwd.getpwnam("nobody")
    account = Account("nobody", nobody.pw_uid, nobody.pw_gid)
    paths = [str(REPOSITORY), sysconfig.get_path("purelib")]
    for python in (sys.executable, "/usr/bin/python3"):
        if succeeds(account, python, "-c", f"import sys; sys.path += {paths}; import asyncpg, db.embedded"):
            return python
    return None
