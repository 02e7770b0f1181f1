"""Requests as bytes: as FreeScout sends them, and as no client should."""

from collections.abc import Callable, Sequence
from random import Random

from freescout_audit.signature import sign
from proof.fuzz.bodies import mutated

PATH = b"/api/internal/freescout-webhook/audit"
KEY = "0123456789abcdef0123456789abcdef"

Header = tuple[bytes, bytes]


def request(
    headers: Sequence[Header],
    body: bytes | None,
    rest: bytes = b"",
    *,
    method: bytes = b"POST",
    path: bytes = PATH,
    version: bytes = b"HTTP/1.1",
    length: int | None = None,
) -> bytes:
    """Return a request; without ``body`` it is up to ``rest`` to be framed, or to ``length`` to be believed."""
    lines = [b"%s %s %s" % (method, path, version), b"Host: receiver.test"]
    lines += [name + b": " + value for name, value in headers]
    if body is not None or length is not None:
        lines.append(b"Content-Length: %d" % (len(body or b"") if length is None else length))
    elif rest:
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"") + rest


def signature(body: bytes, key: str = KEY) -> Header:
    """Return the header that FreeScout signs a body with."""
    return b"X-FreeScout-Signature", sign(body, key).encode()


def delivery(body: bytes, event: bytes) -> bytes:
    """Return a delivery as FreeScout sends it."""
    headers = [(b"Content-Type", b"application/json"), (b"X-FreeScout-Event", event), signature(body)]
    return request(headers, body)


def chunks(chance: Random, body: bytes) -> bytes:
    """Return a body in chunks of any size, with extensions and a trailer now and then."""
    pieces, begin = [], 0
    while begin < len(body):
        piece = body[begin : begin + chance.choice((1, 7, 500, 5000))]
        extension = chance.choice((b"", b"", b";a=b", b';a="b c"'))
        pieces.append(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece))
        begin += len(piece)
    return b"".join(pieces) + chance.choice((b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-Trailer: x\r\n\r\n"))


def broken(chance: Random, body: bytes) -> tuple[bytes, int]:
    """Return bytes that are no HTTP, or can be read in more than one way, and how many signed deliveries they hold."""
    return chance.choice(_SHAPES)(chance, body)


def _signed(body: bytes) -> list[Header]:
    return [(b"X-FreeScout-Event", b"convo.status"), signature(body)]


def _random(chance: Random, _body: bytes) -> tuple[bytes, int]:
    return chance.randbytes(chance.randint(1, 4000)), 0


def _damaged_head(chance: Random, body: bytes) -> tuple[bytes, int]:
    head = delivery(body, b"convo.status")[: -len(body)]
    return mutated(chance, head) + body, 1


def _bad_start(chance: Random, body: bytes) -> tuple[bytes, int]:
    good = delivery(body, b"convo.status")
    return chance.choice(_BAD_STARTS) + good[good.index(b"\r\n") :], 1


def _bad_header(chance: Random, body: bytes) -> tuple[bytes, int]:
    return request([*_signed(body), chance.choice(_BAD_HEADERS)], body), 1


def _wrong_length(chance: Random, body: bytes) -> tuple[bytes, int]:
    return request([*_signed(body), (b"Content-Length", b"%d" % chance.randint(0, 2 * len(body)))], None) + body, 1


def _bad_length(chance: Random, body: bytes) -> tuple[bytes, int]:
    return request([*_signed(body), (b"Content-Length", chance.choice(_BAD_LENGTHS))], None) + body, 1


def _two_lengths(_chance: Random, body: bytes) -> tuple[bytes, int]:
    return request([*_signed(body), (b"Content-Length", b"%d" % len(body))], body), 1


def _broken_chunks(chance: Random, body: bytes) -> tuple[bytes, int]:
    return request(_signed(body), None, mutated(chance, chunks(chance, body))), 1


def _bad_coding(chance: Random, body: bytes) -> tuple[bytes, int]:
    coding = (b"Transfer-Encoding", chance.choice(_BAD_CODINGS))
    return request([*_signed(body), coding], None) + chunks(chance, body), 1


def _smuggled(chance: Random, body: bytes) -> tuple[bytes, int]:
    """Two framings at once, and a delivery that is in the body by the one and behind it by the other."""
    good = delivery(body, b"convo.status")
    both = [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"%d" % chance.choice((0, 5, 5 + len(good))))]
    chance.shuffle(both)
    return request(both, None) + b"0\r\n\r\n" + good, 1


def _other_version(chance: Random, body: bytes) -> tuple[bytes, int]:
    version = chance.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/11", b"http/1.1"))
    keep = chance.choice(([], [(b"Connection", b"keep-alive")], [(b"Expect", b"100-continue")]))
    return request([*_signed(body), *keep], body, version=version), 1


def _upgrade(chance: Random, body: bytes) -> tuple[bytes, int]:
    upgrade = (b"Upgrade", chance.choice((b"websocket", b"h2c", b"TLS/1.0")))
    first = request([*_signed(body), (b"Connection", b"Upgrade"), upgrade], body)
    return first + delivery(body, b"convo.status"), 2


def _garbage_behind(chance: Random, body: bytes) -> tuple[bytes, int]:
    good = delivery(body, b"convo.status")
    return good + chance.choice((b"GARBAGE\r\n\r\n", b"\x00" * 50, b"\r\n\r\n\r\n", b"GET\r\n\r\n", good[:50])), 1


_SHAPES: tuple[Callable[[Random, bytes], tuple[bytes, int]], ...] = (
    _random,
    _damaged_head,
    _bad_start,
    _bad_header,
    _wrong_length,
    _bad_length,
    _two_lengths,
    _broken_chunks,
    _bad_coding,
    _smuggled,
    _other_version,
    _upgrade,
    _garbage_behind,
)
_BAD_STARTS = (
    b"",
    b"POST",
    b"POST ",
    b"POST / HTTP/1.1 x",
    b"POST  " + PATH + b" HTTP/1.1",
    b"POST " + PATH,
    b"POST " + PATH + b" HTTP/1.1\r",
    b"P\xc3\x96ST " + PATH + b" HTTP/1.1",
    b"post " + PATH + b" HTTP/1.1",
    b"POST " + PATH + b"\x00 HTTP/1.1",
    b"POST " + PATH + b"\xff\xfe HTTP/1.1",
    b"POST http://other.test" + PATH + b" HTTP/1.1",
    b"POST http://[::1" + PATH + b" HTTP/1.1",
    b"POST http://other.test:99999/ HTTP/1.1",
    b"POST //other.test:x/ HTTP/1.1",
    b"POST * HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT other.test:443 HTTP/1.1",
    b"CONNECT " + PATH + b" HTTP/1.1",
    b"POST other HTTP/1.1",
    b"POST ?x HTTP/1.1",
    b"POST #x HTTP/1.1",
    b"POST " + PATH + b"#fragment HTTP/1.1",
    b"POST /" + b"a" * 9000 + b" HTTP/1.1",
    b"A" * 9000,
    b"PRI * HTTP/2.0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
_BAD_HEADERS = (
    (b"", b"x"),
    (b"X Y", b"x"),
    (b"X\x00", b"x"),
    (b"X", b"a\x00b"),
    (b"X", b"a\rb"),
    (b"X", b"a\nb"),
    (b"X", b"a\r\n folded"),
    (b"X", b"a\x01\x1b[31m"),
    (b"X-FreeScout-Event", b"convo.deleted_forever\x00"),
    (b"X-FreeScout-Event", b"a\x1b[31mb"),
    (b"X-Request-ID", b"a\x01b"),
    (b"X-FreeScout-Signature", b"x" * 9000),
    (b"x" * 9000, b"y"),
    (b"Host", b"another"),
    (b"Host", b"\xff"),
    (b"Connection", b"close, keep-alive, upgrade"),
    (b"Content-Length ", b"5"),
    (b"Expect", b"200-maybe"),
    (b"Expect", b"100-continue"),
    *((b"X", b"y\r\n" + b"Z: z\r\n" * 200 + b"A: a"),),
)
_BAD_LENGTHS = (
    b"",
    b"-1",
    b"+5",
    b"5, 5",
    b"5\r\nContent-Length: 6",
    b"5\r\nContent-Length: 5",
    b"0x10",
    b"1e3",
    b"5.0",
    b"1_000",
    b" 5 5",
    b"18446744073709551616",
    b"9" * 400,
    b"\xd9\xa5",
)
_BAD_CODINGS = (
    b"gzip, chunked",
    b"chunked, chunked",
    b"chunked, gzip",
    b"identity",
    b"xchunked",
    b"CHUNKED",
    b"chunked;q=1",
    b"\x0bchunked",
    b"",
    b"chunked\r\nTransfer-Encoding: identity",
)
