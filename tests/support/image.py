"""The image, built by buildah where there is no Docker, on a base of this machine's own Python.

The base stands in for ``python:3.13-slim-bookworm``, which has to be downloaded: the Python of the tests at /usr/local,
and the few commands and libraries that a build and a start need. What is tested is what our Dockerfile does on it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/base"
_COMMANDS = ("sh", "env", "id", "ls", "cat", "mkdir", "groupadd", "useradd", "nologin", "dirname", "tail")
_FILES = ("/etc/passwd", "/etc/group", "/etc/login.defs", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt")
_LEFT_OUT = ("test", "idlelib", "tkinter", "__pycache__", "config-*", "*.a", "site-packages")
_OPENED = (
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libresolv.so.2",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
)
"""What the name service and the wheels want beside that."""


def why_not() -> str | None:
    """Return why no image can be built here, or None."""
    if shutil.which("buildah") is None:
        return "buildah is not installed (apt-get install buildah)"
    if os.geteuid() != 0:
        return "an image is built and mounted here by root only"
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        return "this machine may not mount"
    if sys.base_prefix == "/usr":
        return "this Python is the system's, and cannot be told from the rest of /usr"
    return None


@dataclass(frozen=True)
class Image:
    """An image that was built, and its files."""

    config: dict[str, object]
    """As the image's own document has it: User, Env, Cmd, Labels, Healthcheck, StopSignal, WorkingDir."""
    files: Path
    """Where its root is mounted."""

    @contextmanager
    def run(
        self, *command: str, tmpfs: Sequence[str] = ("/tmp",), **variables: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command as a container does: its user, its environment, a root that no one can write, an empty /tmp.

        The network is the machine's. It is killed at the end if it still runs.
        """
        for name in tmpfs:
            (self.files / name.lstrip("/")).mkdir(exist_ok=True)
        mounts = [
            f"mount --bind {self.files} {self.files}",
            f"mount -o remount,ro,bind {self.files}",
            f"mount --bind /dev {self.files}/dev",
            f"mount -t proc proc {self.files}/proc",
            *(f"mount -t tmpfs -o mode=1777 tmpfs {self.files}{name}" for name in tmpfs),
        ]
        script = "\n".join([*mounts, 'exec "$@"'])
        apart = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh")
        process = subprocess.Popen(
            [*apart, *self._inside(command, variables)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def ask(self, *command: str, **variables: str) -> tuple[int, str]:
        """Run a command to its end, as `docker run` does; return its code and what it said."""
        with self.run(*command, **variables) as process:
            said, _ = process.communicate(timeout=60)
            return process.returncode, said.decode()

    def ask_beside(self, process: subprocess.Popen[bytes], *command: str, **variables: str) -> tuple[int, str]:
        """Run a command to its end beside a process that runs, as `docker exec` does."""
        into = ("nsenter", f"--target={process.pid}", "--mount")
        done = subprocess.run(
            [*into, *self._inside(command, variables)], check=False, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    def _inside(self, command: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        """Return the words that change into the image's files, its user and its environment."""
        told = [*map(str, _list(self.config["Env"])), *(f"{name}={value}" for name, value in variables.items())]
        uid, _, gid = str(self.config["User"]).partition(":")
        # A chroot begins at its root.
        script = f'cd {self.config["WorkingDir"]} && exec "$@"'
        return [
            *("env", "-i", *told),
            *("/usr/sbin/chroot", f"--userspec={uid}:{gid}", f"--groups={gid}", str(self.files)),
            *("/bin/sh", "-c", script, "sh", *command),
        ]

    @property
    def command(self) -> Sequence[str]:
        """What it runs unless another command is given."""
        return [str(word) for word in _list(self.config["Cmd"])]

    @property
    def health_check(self) -> Sequence[str]:
        """What Docker runs to see whether it is healthy."""
        health = self.config["Healthcheck"]
        assert isinstance(health, dict)
        kind, *words = map(str, _list(health["Test"]))
        assert kind == "CMD"
        return words


@contextmanager
def built(folder: Path) -> Iterator[Image]:
    """Build the image in a storage of its own in ``folder``, and mount it."""
    storage = ("--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs")

    def buildah(*words: str) -> str:
        done = subprocess.run(["buildah", *storage, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.strip()

    base = folder / "base"
    _make_base(base)
    empty = buildah("from", "scratch")
    buildah("copy", empty, str(base), "/")
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", empty)
    buildah("commit", "--rm", empty, BASE)
    built_as = ("--isolation", "chroot", "--format", "docker", "--layers=false", "--build-arg", f"PYTHON={BASE}")
    buildah("build", *built_as, "--tag", "localhost/freescout-audit", str(ROOT))
    container = buildah("from", "localhost/freescout-audit")
    document = json.loads(buildah("inspect", "--type", "image", "localhost/freescout-audit"))
    try:
        yield Image(document["Docker"]["config"], Path(buildah("mount", container)))
    finally:
        buildah("rm", container)
        buildah("rmi", "--all", "--force")


def _make_base(folder: Path) -> None:
    """Lay out the base's files."""
    for name in ("tmp", "proc", "sys", "dev", "var/tmp", "root", "etc", "usr/bin", "usr/lib", "usr/sbin", "usr/local"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "usr/lib64").mkdir()
    python = Path(sys.base_prefix)
    shutil.copytree(python / "bin", folder / "usr/local/bin", symlinks=True)
    shutil.copytree(python / "lib", folder / "usr/local/lib", symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    shutil.copytree(python / packages / "pip", folder / "usr/local" / packages / "pip")
    if not (folder / "usr/local/bin/python").exists():
        (folder / "usr/local/bin/python").symlink_to(f"python{sys.version_info.major}.{sys.version_info.minor}")
    programs = [
        Path(found) for name in _COMMANDS if (found := shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin"))
    ]
    binaries = [*programs, *(folder / "usr/local").rglob("*.so*"), folder / "usr/local/bin/python"]
    for path in {*programs, *_libraries(binaries), *map(Path, _FILES)}:
        _take(path, folder)
    (folder / "etc/ld.so.conf").write_text("/usr/local/lib\n", encoding="utf-8")
    subprocess.run(["/sbin/ldconfig", "-r", str(folder)], check=True)
    # Where this machine's pip looks, and which authorities it trusts: the base is thrown away.
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    wanted = ("global.index-url", "global.extra-index-url", "global.cert")
    lines = [line.removeprefix("global.").replace("'", "") for line in told.splitlines() if line.startswith(wanted)]
    (folder / "etc/pip.conf").write_text("\n".join(["[global]", *lines]) + "\n", encoding="utf-8")


def _libraries(binaries: Sequence[Path]) -> set[Path]:
    """Return the shared libraries that these need, and the loader."""
    found = subprocess.run(["ldd", *map(str, binaries)], check=False, capture_output=True, text=True).stdout
    words = [word for line in found.splitlines() for word in line.split() if word.startswith("/")]
    libraries = {Path(word) for word in words if ".so" in word and not word.endswith(":") and "/usr/local/" not in word}
    beside = next(path.parent for path in libraries if path.name.startswith("libc.so"))
    return {path for path in libraries | {beside / name for name in _OPENED} if path.exists()}


def _take(path: Path, folder: Path) -> None:
    """Copy a file to the same place, by its real folder."""
    if not path.exists():
        return
    where = str(path.parent if path.parts[1] == "etc" else path.parent.resolve()).lstrip("/")
    if where.startswith(str(sys.base_prefix).lstrip("/")):
        return
    target = folder / where / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
