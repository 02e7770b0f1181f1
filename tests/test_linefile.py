"""Lines on their way into pipes, sockets, terminals and files: written now and whole, or refused."""

import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from freescout_audit.linefile import LineFile
from support.channels import Channel, at_once, drain, pipe, terminal, unix_socket

LINE = b"x" * 300 + b"\n"
LONG = b"y" * 200_000 + b"\n"
"""Longer than what any of them takes at once."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def file(stack: ExitStack) -> Callable[[int], LineFile]:
    """Make a LineFile of a descriptor."""
    return lambda writing: LineFile(stack.enter_context(open(writing, "w", closefd=False, encoding="utf-8")))


@pytest.fixture(params=[pipe, unix_socket, terminal])
def channel(stack: ExitStack, request: pytest.FixtureRequest) -> Channel:
    """Something whose reader can stop reading."""
    made: Channel = request.param(stack)
    return made


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writing end leads to cannot be opened again: another system, or a pipe of another user."""

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("freescout_audit.linefile.os.open", refuse)


def fill(file: LineFile, line: bytes = LINE) -> int:
    """Write until a line is refused; return how many were written."""
    written = 0
    while True:
        try:
            assert file.write(line) == len(line)
        except BlockingIOError:
            return written
        written += 1


def test_what_is_full_refuses_a_line_and_takes_the_next_ones_whole(
    channel: Channel, file: Callable[[int], LineFile]
) -> None:
    reading, writing = channel
    lines = file(writing)

    written = at_once(lambda: fill(lines))
    there = drain(reading)
    lines.write(b"next\n")
    lines.write(b"and next\n")

    assert written >= 10
    assert there.startswith(LINE * written)
    assert (there + drain(reading)).removeprefix(LINE * written).lstrip(b"x\n") == b"next\nand next\n"


def test_a_line_that_was_cut_off_is_not_glued_to_the_next(channel: Channel, file: Callable[[int], LineFile]) -> None:
    reading, writing = channel
    lines = file(writing)

    with pytest.raises(BlockingIOError):
        at_once(lambda: lines.write(LONG))
    cut = drain(reading)
    lines.write(b"next\n")
    lines.write(b"and next\n")

    assert set(cut) == {ord("y")}
    assert drain(reading) == b"\nnext\nand next\n"


def test_what_is_full_refuses_short_lines_too(stack: ExitStack, file: Callable[[int], LineFile]) -> None:
    """The lines that are lost are those of one time, not the long ones."""
    reading, writing = pipe(stack)
    lines = file(writing)
    at_once(lambda: fill(lines))

    for _ in range(3):
        with pytest.raises(BlockingIOError):
            at_once(lambda: lines.write(b"-\n"))

    assert b"-" not in drain(reading)


@pytest.mark.usefixtures("without_proc")
def test_a_pipe_that_cannot_be_opened_again_is_asked_for_each_piece(
    stack: ExitStack, file: Callable[[int], LineFile]
) -> None:
    reading, writing = pipe(stack)
    lines = file(writing)

    written = at_once(lambda: fill(lines))
    there = drain(reading)
    with pytest.raises(BlockingIOError):
        at_once(lambda: lines.write(LONG))
    cut = drain(reading)
    lines.write(b"next\n")

    assert there == LINE * written
    assert set(cut) == {ord("y")}
    assert drain(reading) == b"\nnext\n"


@pytest.mark.parametrize("reopened", [True, False])
def test_who_shares_the_descriptor_still_waits_as_before(
    stack: ExitStack, file: Callable[[int], LineFile], request: pytest.FixtureRequest, *, reopened: bool
) -> None:
    if not reopened:
        request.getfixturevalue("without_proc")
    _, writing = pipe(stack)

    lines = file(writing)
    lines.write(LINE)

    assert os.get_blocking(writing)
    assert os.get_blocking(lines.fileno()) is not reopened


def test_a_reader_that_is_gone_is_an_error(file: Callable[[int], LineFile]) -> None:
    reading, writing = os.pipe()
    lines = file(writing)
    os.close(reading)

    with pytest.raises(BrokenPipeError):
        lines.write(LINE)
    os.close(writing)


def test_a_regular_file_takes_a_long_line_in_one_piece_where_others_have_written(
    tmp_path: Path, file: Callable[[int], LineFile]
) -> None:
    path = tmp_path / "log"
    with path.open("a", encoding="utf-8") as stream:
        lines = file(stream.fileno())
        lines.write(LONG)
        stream.write("somebody else's\n")
        stream.flush()
        lines.write(LINE)

    assert path.read_bytes() == LONG + b"somebody else's\n" + LINE


def test_a_full_disk_cuts_a_line_and_the_next_begins_on_its_own(
    tmp_path: Path, file: Callable[[int], LineFile]
) -> None:
    path = tmp_path / "log"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("a", encoding="utf-8") as stream:
        lines = file(stream.fileno())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            lines.write(LINE * 3)
            with pytest.raises(OSError, match="File too large"):
                lines.write(LINE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        lines.write(b"next\n")

    assert path.read_bytes() == LINE * 3 + b"x" * 97 + b"\nnext\n"


def test_when_the_stream_is_closed_its_number_may_mean_another_file(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    stream = log.open("w", encoding="utf-8")
    lines, number = LineFile(stream), stream.fileno()
    stream.close()

    with other.open("w", encoding="utf-8") as another:
        assert another.fileno() == number
        lines.write(LINE)

    assert (log.read_bytes(), other.read_bytes()) == (LINE, b"")


def test_its_descriptor_goes_with_it(stack: ExitStack, file: Callable[[int], LineFile]) -> None:
    lines = file(pipe(stack)[1])
    own = lines.fileno()

    del lines

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own)


def test_a_stream_without_a_descriptor_is_refused() -> None:
    with pytest.raises(io.UnsupportedOperation):
        LineFile(io.StringIO())
