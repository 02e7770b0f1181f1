"""Why no answer came from a server, in words. Nothing of a request is ever in them: a request holds keys."""

import errno
import os
import ssl
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import LineTooLong

LONGEST_HEADER = 1 << 16
"""Bytes of one header, or of the status line, that our clients read: aiohttp's own limit is 8,190."""

_CONNECTION = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "no route to it",
    errno.ENETUNREACH: "no route to its network",
    errno.ETIMEDOUT: "timed out",
}
_CERTIFICATE = {
    9: "not valid yet",
    10: "expired",
    18: "self-signed",
    19: "signed by a CA that is not known here",
    20: "signed by a CA that is not known here, or its chain is incomplete",
    21: "its chain is incomplete",
    62: "for another host name",
    64: "for another IP address",
}
"""OpenSSL's codes, `man 3 X509_STORE_CTX_get_error`."""

SSL_CERT_FILE = "renew or replace it, or name its CA in SSL_CERT_FILE"
"""What to do about a certificate that is not trusted."""


class NoAnswer(NamedTuple):
    """Why no answer came, in one line, and what that is about."""

    problem: str
    about: Literal["connection", "certificate", "protocol"]


def why_no_answer(  # noqa: C901, PLR0911 - a table of errors
    error: aiohttp.ClientError | OSError, url: str, *, name: str, patience: float
) -> NoAnswer:
    """Return why no answer came from ``url``.

    Args:
        error: What aiohttp raised.
        url: What was asked; its host and port are named.
        name: What the operator calls the address: the variable it was given in.
        patience: The seconds within which the answer had to come.
    """
    there = _host_and_port(url)
    match error:
        case aiohttp.InvalidURL():
            return NoAnswer(f"{name} is no address that can be asked", "protocol")
        case aiohttp.ClientConnectorCertificateError():
            return NoAnswer(f"the certificate of {name} is not trusted ({_certificate(error)})", "certificate")
        case aiohttp.ClientConnectorDNSError():
            return NoAnswer(f"cannot connect to {there} (no such host name)", "connection")
        case aiohttp.ClientConnectorSSLError():
            return NoAnswer(f"cannot connect to {there} (it speaks no TLS that we know)", "connection")
        case TimeoutError():
            return NoAnswer(f"{there} does not answer within {patience:g} s", "connection")
        case aiohttp.ClientConnectorError():
            return NoAnswer(f"cannot connect to {there} ({_connection(error.os_error)})", "connection")
        case aiohttp.ServerDisconnectedError():
            return NoAnswer(f"{there} does not answer, it closes the connection", "connection")
        case aiohttp.ClientPayloadError():
            return NoAnswer(f"{there} does not answer to the end, it breaks off", "connection")
        case OSError():
            return NoAnswer(f"{there} does not answer ({_connection(error)})", "connection")
        case _ if _is_too_long(error):
            return NoAnswer(f"{there} answers with a header of more than {LONGEST_HEADER:,} bytes", "protocol")
        case _:
            return NoAnswer(f"{there} does not answer in HTTP", "protocol")


def _is_too_long(error: BaseException) -> bool:
    """Tell whether an error comes from a header that is too long; aiohttp wraps its parser's errors."""
    cause = error.__cause__
    return cause is not None and (isinstance(cause, LineTooLong) or _is_too_long(cause))


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _connection(error: OSError) -> str:
    """Return what the operating system says, by its number."""
    number = error.errno
    if number is None:
        return "connection broken"
    return _CONNECTION.get(number) or os.strerror(number).lower()


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Return what is wrong with a certificate, by OpenSSL's number."""
    reason = error.certificate_error
    code = reason.verify_code if isinstance(reason, ssl.SSLCertVerificationError) else None
    return _CERTIFICATE.get(code or 0, "OpenSSL does not verify it")
