"""Locks that the kernel takes back when their holders are gone, however they went.

They tell a living holder from a dead one, which a file with a process id cannot: no process inherits a dead holder's
lock, and a zombie holds none.
"""

import fcntl
import os
from pathlib import Path


def open_file(path: Path) -> int:
    """Open a small file of ours to read and write, made when missing (0600), and return its descriptor.

    What root makes belongs to whom the folder belongs, so that its owner can go on without root.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        around, made = path.parent.stat(), os.fstat(descriptor)
        if made.st_uid != around.st_uid:
            os.fchown(descriptor, around.st_uid, around.st_gid)
    return descriptor


class Lock:
    """An advisory lock (``flock``) on a file, made when missing. Never waits."""

    def __init__(self, path: Path) -> None:
        self._descriptor = open_file(path)

    def take(self, *, shared: bool = False) -> bool:
        """Whether the lock is now ours: alone, or with others who share it."""
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """The descriptor: a process that inherits it holds the lock too, also after our :meth:`close`."""
        return self._descriptor

    def close(self) -> None:
        """Let go, unless a process inherited the lock; twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def can_take(path: Path, *, shared: bool = False) -> bool:
    """Whether the lock could be had at this moment."""
    lock = Lock(path)
    try:
        return lock.take(shared=shared)
    finally:
        lock.close()
