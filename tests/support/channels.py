"""What lines are written into, with a reader that can stop reading: pipes, sockets, terminals."""

import os
import pty
import socket
import tty
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from threading import Thread
from typing import TypeVar

Channel = tuple[int, int]
"""The descriptor that is read, the one that is written to."""
Result = TypeVar("Result")


def pipe(stack: ExitStack) -> Channel:
    return _closed_by(stack, *os.pipe())


def unix_socket(stack: ExitStack) -> Channel:
    reading, writing = socket.socketpair()
    return stack.enter_context(reading).fileno(), stack.enter_context(writing).fileno()


def terminal(stack: ExitStack) -> Channel:
    """Make a terminal that changes no byte."""
    reading, writing = pty.openpty()
    tty.setraw(writing)
    return _closed_by(stack, reading, writing)


def _closed_by(stack: ExitStack, reading: int, writing: int) -> Channel:
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    return reading, writing


def drain(reading: int) -> bytes:
    """Read all there is."""
    os.set_blocking(reading, False)
    found = b""
    while True:
        try:
            piece = os.read(reading, 2**20)
        except BlockingIOError:
            return found
        found += piece


def at_once(act: Callable[[], Result]) -> Result:
    """Do something that must not wait for a reader; fail instead of waiting for ever."""
    done: Future[Result] = Future()

    def work() -> None:
        try:
            done.set_result(act())
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)

    Thread(target=work, daemon=True).start()
    return done.result(timeout=20)
