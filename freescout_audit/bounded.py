"""Reads an answer's bytes up to a bound: its sender decides how many come, and a few may unpack to gigabytes."""

from collections.abc import AsyncIterable


class TooLargeError(Exception):
    """More bytes than the bound came."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than {limit >> 20} MiB")


async def read_within(limit: int, chunks: AsyncIterable[bytes]) -> bytes:
    """Return all the bytes, as they are after decompression.

    Raises:
        TooLargeError: There are more than ``limit``; no more than that and a chunk have been taken.
    """
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise TooLargeError(limit)
    return bytes(body)
