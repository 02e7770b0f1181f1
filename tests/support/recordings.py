"""The recordings of a real FreeScout in ``tests/recordings``; the README there says what they are."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings"


@dataclass(frozen=True)
class Recorded:
    """One delivery as it arrived."""

    n: int
    received_at: datetime
    headers: dict[str, str]
    raw: bytes

    @property
    def event(self) -> str:
        return self.headers["X-FreeScout-Event"]

    def conversation(self) -> dict[str, Any]:
        """The body, decoded; a customer's for a ``customer.*`` event."""
        document: dict[str, Any] = json.loads(self.raw)
        return document


@dataclass(frozen=True)
class Recording:
    """What one instance sent, and the key it signed with."""

    module: str
    path: Path
    key: str

    def deliveries(self) -> list[Recorded]:
        return [
            Recorded(
                n=line["n"],
                received_at=datetime.fromtimestamp(line["received_at"], UTC),
                headers=line["headers"],
                raw=line["body"].encode("ascii"),
            )
            for line in _lines(self.path)
        ]


MODULE_82 = Recording("1.0.82", RECORDINGS / "deliveries.jsonl", "c7668316c98c87f71747d80a9e34c526")
MODULE_87 = Recording("1.0.87", RECORDINGS / "deliveries_87.jsonl", "c6e8357fade8ae571299c325a3971499")
BOTH = (MODULE_82, MODULE_87)


def operations() -> list[dict[str, Any]]:
    """What was done with module 1.0.82, and what FreeScout's own database held afterwards."""
    return _lines(RECORDINGS / "operations.jsonl")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
