"""The code blocks of a Markdown file, and the stage directions between them, in their order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = {"sh", "sql", "python", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment ``<!-- meanwhile: … -->`` as a block of language ``meanwhile``."""

    language: str
    text: str
    line: int


def blocks(file: Path) -> Iterator[Block]:
    """Yield everything that is to be run, and everything that only shows something (``text``).

    Raises:
        AssertionError: There is code without a language, which nobody could run, or a language nobody knows.
    """
    language, began = "", 0
    inside: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.fullmatch(r"\s*```(\w*)", line)
        if fence and not language:
            language, began, inside = fence[1], number, []
            assert language in LANGUAGES, f"{file.name}:{number}: a block of {language or 'no language'}"
        elif fence:
            yield Block(language, "\n".join(inside), began)
            language = ""
        elif language:
            inside.append(line.strip() if language == "sh" else line)
        else:
            assert not line.startswith("    "), (
                f"{file.name}:{number}: an indented block; fence it and name its language"
            )
            if direction := re.fullmatch(r"<!-- meanwhile: (.+) -->", line):
                yield Block("meanwhile", direction[1], number)


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
