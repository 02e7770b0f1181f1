"""The public address of the audit endpoint, as FreeScout has to know it."""

import ipaddress
from urllib.parse import urlsplit

import typer

from receiver.audit import ENDPOINT
from receiver.endpoints import PREFIX

PATH = PREFIX + ENDPOINT


def parse_address(text: str) -> str:
    """Return the audit endpoint's URL for an app's address, with or without the path.

    Raises:
        typer.BadParameter: It is no address of an app.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise typer.BadParameter(f"{text!r} is no address: expected https://app.example.org")
    if parts.path.rstrip("/") not in {"", PATH}:
        raise typer.BadParameter(f"{text!r} has another path than {PATH}: leave the path out")
    if parts.scheme == "http" and not _stays_here(parts.hostname):
        raise typer.BadParameter("deliveries carry whole conversations: the address must begin with https://")
    return f"{parts.scheme}://{parts.netloc}{PATH}"


def _stays_here(host: str) -> bool:
    """Tell whether a host is this machine or in a private network, where no stranger listens."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host
    return address.is_loopback or address.is_private
