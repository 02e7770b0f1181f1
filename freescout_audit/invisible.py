"""The invisible characters that come along when a key or an address is copied. Pure."""

import unicodedata

_NAMES = {
    "\n": "a line end",
    "\r": "a line end",
    "\t": "a tab",
    " ": "a space",
    "'": "a quote",
    '"': "a quote",
    "\N{NO-BREAK SPACE}": "a non-breaking space",
    "\N{ZERO WIDTH SPACE}": "a zero-width space",
    "\N{ZERO WIDTH NO-BREAK SPACE}": "a byte order mark",
}
_KINDS = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Zs": "an unusual space",
    "Zl": "a line end",
    "Zp": "a line end",
}
"""By Unicode's categories."""


def what_does_not_belong(value: str) -> str | None:
    """Return the name of the first character that no key or address has; None when there is none."""
    for character in value:
        if name := _NAMES.get(character) or _KINDS.get(unicodedata.category(character)):
            return name
    return None
