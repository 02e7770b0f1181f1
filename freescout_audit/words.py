"""How times, durations and a ticket's status are written for people."""

from datetime import UTC, datetime


def moment(at: datetime | None, *, day: bool = True) -> str:
    """Return a time as the console writes it, with its zone, UTC."""
    if at is None:
        return "never"
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC" if day else "%H:%M:%S UTC")


def cell(at: datetime | None, *, day: bool = True) -> str:
    """Return a time as a table shows it under a heading that says UTC: without its year or, if need be, its day."""
    if at is None:
        return ""
    return at.astimezone(UTC).strftime("%m-%d %H:%M:%S" if day else "%H:%M:%S")


def span(seconds: float) -> str:
    """Return a duration for people: ``40 ms``, ``3 min``, ``2 h 5 min``, ``4 d``."""
    seconds = abs(seconds)
    for unit, size, next_size in (("d", 86400, 3600), ("h", 3600, 60), ("min", 60, 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            smaller = {"d": "h", "h": "min", "min": "s"}[unit]
            part = rest // next_size
            return f"{whole} {unit}" + (f" {part} {smaller}" if part and whole < 10 else "")  # noqa: PLR2004 - two figures are enough
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - the same


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, or how far it lies ahead."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(seconds)}"


def content(status: str | None, state: str | None) -> str:
    """Return a status as people read it: the state only where it is not the ordinary one."""
    if state == "gone":
        return "gone"
    if status is None and state is None:
        return "-"
    return (status or "?") if state == "published" else f"{status or '?'} ({state or '?'})"
