"""The log of a history: only what must never stand there is told."""

from structlog.testing import CapturingLoggerFactory

_MUST_NOT_BE = ('"event": "receiver.fault"', '"event": "poller.fault"')


class FaultLog(CapturingLoggerFactory):
    """Takes finished lines, and tells those of unexpected errors."""

    def clear(self) -> None:
        """Forget what was logged."""
        self.logger.calls.clear()

    @property
    def lines(self) -> list[str]:
        """The unexpected errors; a database that is away is expected, and carries no ``error``."""
        written = [call.args[0].decode() for call in self.logger.calls]
        return [line for line in written if '"error":' in line and any(event in line for event in _MUST_NOT_BE)]
