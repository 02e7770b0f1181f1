"""The log of a history: only what must never stand there is kept."""

import io

_MUST_NOT_BE = ('"event": "receiver.fault"', '"event": "poller.fault"')


class FaultLog(io.StringIO):
    """A stream that keeps the lines of unexpected errors, and forgets the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        """Take a line; a database that is away is expected, and carries no ``error``."""
        if '"error":' in text and any(event in text for event in _MUST_NOT_BE):
            self.lines.append(text.strip())
        return len(text)
