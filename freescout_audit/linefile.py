"""A file for log lines: it writes a line now or refuses it, and never waits for a reader."""

import errno
import io
import os
import select
import stat
import weakref
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class LineFile(io.FileIO):
    """Writes lines to where a stream leads: a pipe, a socket (journald), a terminal or a regular file.

    It does not set O_NONBLOCK on the stream: other processes may share its open file description, and would be
    affected.
    """

    def __init__(self, stream: TextIO) -> None:
        own, self._at_once = _opened_again(stream.fileno())
        super().__init__(own, "w", closefd=False)
        # Closed with this object, but not at exit: lines may come after that.
        weakref.finalize(self, os.close, own).atexit = False
        self._poll = select.poll()
        self._poll.register(own, select.POLLOUT)
        self._cut = False
        """Whether the file ends in the middle of a line."""

    def write(self, line: "ReadableBuffer", /) -> int:
        """Write a line with its newline, and return its length in bytes.

        Raises:
            OSError: The line is not there, or not all of it: the pipe or the disk is full, or the reader is gone. The
                next line begins on a line of its own.
        """
        whole = bytes(line)
        data = b"\n" * self._cut + whole
        written = 0
        try:
            while written < len(data):
                written += self._write_now(data[written:])
        finally:
            if written:
                self._cut = written < len(data)
        return len(whole)

    def _write_now(self, data: bytes) -> int:
        # A pipe that polls as writable takes PIPE_BUF bytes, so the next write is not cut and does not block. Poll
        # even with O_NONBLOCK: otherwise short lines get through where longer ones are refused.
        if not self._poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self.fileno(), data[: self._at_once])


def _opened_again(shared: int) -> tuple[int, int | None]:
    """Return a descriptor of our own for the same file, and how many bytes it takes without waiting; None: any number.

    If the shared one is closed and its number reused, ours still leads to the same file.
    """
    if stat.S_ISREG(os.fstat(shared).st_mode):
        return os.dup(shared), None
    try:
        # Linux makes a new open file description, so O_NONBLOCK is ours alone.
        return os.open(f"/proc/self/fd/{shared}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), None
    except OSError:
        # A socket, another user's pipe, or a system without /proc. When it polls as writable it takes this many bytes
        # without blocking, unless another process writes in between.
        return os.dup(shared), select.PIPE_BUF
