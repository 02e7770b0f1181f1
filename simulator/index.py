"""Sorted indexes that stay fast for a million conversations.

A key is one integer, ``second << 32 | id``: all rows of a second lie side by side, in order of their ids.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

ID_BITS = 32
_CHUNK = 2048


def key_of(value: int, row_id: int) -> int:
    """Return the key of a row: its sort value (not negative, such as a Unix second), then its id."""
    return value << ID_BITS | row_id


def id_of(key: int) -> int:
    """Return the row id in a key."""
    return key & (1 << ID_BITS) - 1


class SortedKeys:
    """Distinct integers in ascending order; adding, removing and counting cost microseconds at a million."""

    __slots__ = ("_chunks", "_firsts", "_size")

    def __init__(self, keys: Iterable[int] = ()) -> None:
        ordered = array("Q", sorted(keys))
        self._chunks = [ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK)]
        self._firsts = [chunk[0] for chunk in self._chunks]
        self._size = len(ordered)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        for chunk in self._chunks:
            yield from chunk

    def add(self, key: int) -> None:
        """Put a key in its place."""
        if not self._chunks:
            self._chunks.append(array("Q", [key]))
            self._firsts.append(key)
            self._size = 1
            return
        at = self._chunk_of(key)
        chunk = self._chunks[at]
        chunk.insert(bisect_left(chunk, key), key)
        self._firsts[at] = chunk[0]
        self._size += 1
        if len(chunk) > 2 * _CHUNK:
            self._chunks[at : at + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]
            self._firsts[at : at + 1] = [chunk[0], chunk[_CHUNK]]

    def remove(self, key: int) -> None:
        """Take a key out.

        Raises:
            KeyError: It is not there.
        """
        at = self._chunk_of(key)
        chunk = self._chunks[at] if self._chunks else array("Q")
        position = bisect_left(chunk, key)
        if position == len(chunk) or chunk[position] != key:
            raise KeyError(key)
        del chunk[position]
        self._size -= 1
        if chunk:
            self._firsts[at] = chunk[0]
        else:
            del self._chunks[at], self._firsts[at]

    def position(self, key: int) -> int:
        """Return how many keys are smaller than ``key``."""
        if not self._chunks:
            return 0
        at = self._chunk_of(key)
        return sum(map(len, self._chunks[:at])) + bisect_left(self._chunks[at], key)

    def slice(self, start: int, stop: int) -> list[int]:
        """Return the keys from position ``start`` up to, not including, ``stop``."""
        found: list[int] = []
        for chunk in self._chunks:
            if stop <= 0:
                break
            if start < len(chunk):
                found.extend(chunk[max(start, 0) : stop])
            start -= len(chunk)
            stop -= len(chunk)
        return found

    def walk(self, first: int = 0, *, descending: bool = False) -> Iterator[int]:
        """Yield the keys from position ``first`` to the end, or backwards from the end down to it."""
        if not descending:
            for chunk in self._chunks:
                if first < len(chunk):
                    yield from chunk[max(first, 0) :]
                first -= len(chunk)
            return
        left = self._size - first
        for chunk in reversed(self._chunks):
            if left <= 0:
                return
            yield from reversed(chunk[max(0, len(chunk) - left) :])
            left -= len(chunk)

    def _chunk_of(self, key: int) -> int:
        # The last chunk whose first key is not greater; the first one takes what is smaller than everything.
        at = bisect_left(self._firsts, key + 1) - 1
        return max(at, 0)
