"""The public address of an app and of its endpoints, as FreeScout has to know them."""

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

import typer

from freescout_audit.endpoints import AUDIT, ENDPOINTS, path_of
from ops.result import CommandError, Exit

PATH = path_of(AUDIT)


class Address(NamedTuple):
    """An app's address, and the endpoint that it was given with; None: it was given without a path."""

    app: str
    endpoint: str | None

    def url(self, endpoint: str) -> str:
        """Return the URL of an endpoint."""
        return self.app + path_of(endpoint)

    def meant(self, endpoint: str | None) -> str:
        """Return which endpoint is meant: the one named, the one of the address, or the audit's.

        Raises:
            CommandError: They are two.
        """
        if endpoint is not None and self.endpoint not in {None, endpoint}:
            raise CommandError(
                f"the address is that of another endpoint than {endpoint}", "leave the path out", Exit.USAGE
            )
        return endpoint or self.endpoint or AUDIT


def parse_address(text: str) -> Address:
    """Return an app's address, which may be given with the path of an endpoint or without.

    Raises:
        typer.BadParameter: It is no address of an app.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise typer.BadParameter(f"{text!r} is no address: expected https://app.example.org")
    paths: dict[str, str | None] = {"": None} | {path_of(endpoint): endpoint for endpoint in ENDPOINTS}
    if parts.path.rstrip("/") not in paths:
        raise typer.BadParameter(f"{text!r} has another path than {PATH}: leave the path out")
    if parts.scheme == "http" and not _stays_here(parts.hostname):
        raise typer.BadParameter("deliveries carry whole conversations: the address must begin with https://")
    return Address(f"{parts.scheme}://{parts.netloc}", paths[parts.path.rstrip("/")])


def parse_endpoint(text: str) -> str:
    """Return the name of an endpoint.

    Raises:
        typer.BadParameter: There is none of that name.
    """
    if text not in ENDPOINTS:
        raise typer.BadParameter(f"{text!r} is no endpoint: {' or '.join(ENDPOINTS)}")
    return text


def option_of(endpoint: str) -> str:
    """Return what names an endpoint on a command line, after a space; the audit's needs nothing."""
    return "" if endpoint == AUDIT else f" --endpoint {endpoint}"


def _stays_here(host: str) -> bool:
    """Tell whether a host is this machine or in a private network, where no stranger listens."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host
    return address.is_loopback or address.is_private
