"""Answers as people met them, from ``tests/recordings/cases``, and a server that gives them byte for byte."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from poller.freescout import FreeScout, Page
from poller.transport import http_transport
from settings import Secret

CASES = Path(__file__).resolve().parent.parent / "recordings" / "cases"
CERTIFICATE = CASES / "18-self-signed.pem"
DATE = "Date: Thu, 26 Nov 2026 09:05:00 GMT\n"


def case(name: str) -> bytes:
    """An answer as it goes over the wire."""
    head, _, body = (CASES / name).read_bytes().partition(b"\n\n")
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


def http(status: str, body: str = "", *headers: str, kind: str = "application/json") -> bytes:
    """An answer that nobody recorded."""
    head = "\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers, DATE])
    return head.replace("\n", "\r\n").encode() + b"\r\n" + body.encode()


@asynccontextmanager
async def serving(answers: Mapping[str, bytes] | bytes, *, tls: bool = False) -> AsyncIterator[str]:
    """A server that gives the same bytes to whoever asks, or some by the request's path, and closes."""
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].partition(b"?")[0].decode()
            writer.write(answers if isinstance(answers, bytes) else answers[path])
            await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"


async def ask(url: str, *, key: str = "a-key") -> Page:
    async with http_transport(url, lambda: Secret(key), patience=5) as transport:
        return await FreeScout(transport).page(size=50, retries=0)
