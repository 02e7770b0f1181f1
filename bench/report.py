"""What the bench has found: a table for the terminal and for docs/performance.md, and a plot."""

import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table; ``met`` is None for what has no target."""

    what: str
    ours: str
    against: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """``met``, ``not met`` or nothing."""
        return "" if self.met is None else "met" if self.met else "**not met**"

    @property
    def cells(self) -> tuple[str, ...]:
        """The line's cells."""
        return self.what, self.ours, self.against, self.ratio, self.target, self.verdict


COLUMNS = ("what", "ours", "against", "ratio", "target", "")


class Point(msgspec.Struct, frozen=True):
    """How one cost grows: a size (bytes, tickets) and milliseconds."""

    size: float
    milliseconds: float


def print_table(console: Console, lines: Sequence[Line], title: str) -> None:
    """Print the table."""
    table = Table(*COLUMNS, title=title)
    for line in lines:
        table.add_row(*(cell.replace("**", "") for cell in line.cells))
    console.print(table)


def machine() -> str:
    """Return what this was measured on."""
    model = "an unknown processor"
    cores: set[str] = set()
    for entry in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = (part.strip() for part in entry.partition(":"))
        if name == "model name":
            model = value
        if name == "processor":
            cores.add(value)
    return f"{len(cores)} cores ({model}), Python {platform.python_version()}"


def write_document(lines: Sequence[Line], *, quick: bool) -> None:
    """Put the table between its marks in docs/performance.md, with the date and the machine."""
    rows = [" | ".join(("", *line.cells, "")).strip() for line in lines]
    head = [" | ".join(("", *COLUMNS, "")).strip(), "|" + "---|" * len(COLUMNS)]
    made = f"Measured on {datetime.now(UTC):%Y-%m-%d} on {machine()}, with `make bench{'-quick' if quick else ''}`."
    block = "\n".join([made, "", *head, *rows])
    text = DOCUMENT.read_text(encoding="utf-8")
    text = re.sub(
        r"(<!-- bench: begin -->\n).*?(\n<!-- bench: end -->)",
        lambda found: found[1] + block + found[2],
        text,
        flags=re.DOTALL,
    )
    DOCUMENT.write_text(text, encoding="utf-8")


def write_plot(curves: dict[str, Sequence[Point]]) -> None:
    """Draw each curve over its own logarithmic axis, side by side."""
    width, height, gap = 320, 200, 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(curves) * (width + gap) + gap}" height="{height + 80}">',
        "<style>text { font: 11px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for index, (title, points) in enumerate(curves.items()):
        parts += _curve(title, points, left=gap + index * (width + gap), width=width, height=height)
    PLOT.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _curve(title: str, points: Sequence[Point], *, left: int, width: int, height: int) -> list[str]:
    top, bottom = 40, 40 + height
    highest = max(point.milliseconds for point in points) * 1.1
    step = width / max(len(points) - 1, 1)
    at = [(left + index * step, bottom - point.milliseconds / highest * height) for index, point in enumerate(points)]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in at)
    parts = [
        f'<text x="{left}" y="20">{title}</text>',
        f'<path d="M{left},{top} V{bottom} H{left + width}" fill="none" stroke="#888"/>',
        f'<polyline points="{line}" fill="none" stroke="#0a6" stroke-width="2"/>',
    ]
    for (x, y), point in zip(at, points, strict=True):
        parts += [
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="#0a6"/>',
            f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="middle">{point.milliseconds:.3g} ms</text>',
            f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{_short(point.size)}</text>',
        ]
    return parts


def _short(size: float) -> str:
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g}{unit}"
    return f"{size:.3g}"
