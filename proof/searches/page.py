"""The page of the saved searches, docs/log-searches.md: made from their definitions and from recorded lines."""

import re
import textwrap
from collections.abc import Iterator

from ops.commands.logs import draw
from ops.loglines import Filter, LogLine, read_line
from ops.search_forms import ELSEWHERE, READS_A_STREAM, STREAM, TICKET
from ops.searches import SEARCHES, Search
from proof.live import ROOT

PAGE = ROOT / "docs" / "log-searches.md"
RECORDINGS = ROOT / "tests" / "recordings" / "logs"
_WIDTH = 120
_LINES = "heroku logs --num 1500 --app <app>"
_SHOWN = 4
"""Lines in an example."""
_EXAMPLES = {
    "sending": "healthy",
    "refused": "refused",
    "ticket": "ticket",
    "lost": "lost",
    "untrusted": "untrusted",
    "changed": "changed",
    "late": "late",
    "passes": "passes",
    "keys": "keys",
    "asked": "ticket",
}
"""The recorded scene that has each search's trouble in it."""
_TICKET_OF_THE_SCENE = 15

_HEAD = f"""# Log searches

What an on-call asks the log. Each search has a name in our console, and is written here for other tools, all from one
definition (`ops/searches.py`); this page is made by `python -m proof.searches`, and a test compares them. The lines are
from a run of our processes at a simulated desk, as the console shows them, cut. [logs.md](logs.md) has every event.

    bin/freescout-audit logs --saved list

The first three of each read whatever gives the lines. Where that is not Heroku, put `docker compose logs --no-color`,
`journalctl -o cat -u <unit>` or `cat <file>` before the first `|`. Heroku keeps 1,500 lines of all processes together:
what is older only a log drain has, such as one to Papertrail, Loki or Datadog.

- `logs --saved NAME` can be said again for several, and takes `--ticket`, `--since`, `--level` and `--by` as well. It
  alone reads Docker's json-file, `journalctl -o json` and `log.format=text`.
- `jq` and `grep` need `log.format=json` (what a pipe gets anyway), and take a prefix such as Heroku's. `jq` cuts it
  off, and with it the name of the dyno. Behind `--tail`, give the first `grep` `--line-buffered`.
- Papertrail looks for fragments of our JSON. It compares no numbers: `late` shows every delivery with its `lag_s`.
- Loki: `{STREAM}` stands for the labels of your stream, whose lines have to be our JSON without a prefix.
- Datadog: `@event` and the others are attributes of our JSON; one that is compared with a number has to be a measure.

The first three are run by tests on those recorded logs: each finds its trouble, and nothing in the others. The forms
for Papertrail, Loki and Datadog are made from the same conditions by their documentation; none of these has been run.
"""


def write_page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(_section(search) for search in SEARCHES)])


def _section(search: Search) -> str:
    parts = [f"## {search.question}", "", *textwrap.wrap(search.answer, _WIDTH, break_on_hyphens=False), ""]
    parts += ["```text", *example(search), "```", ""]
    parts += ["```sh", *(f"{_LINES} | {write(search)}" for write in READS_A_STREAM.values()), "```", ""]
    for name, write in ELSEWHERE.items():
        parts += [f"{name}:", "", "```text", write(search), "```", ""]
    return "\n".join(parts)


def example(search: Search) -> list[str]:
    """Return lines that a search finds in its scene, the first of each event and their next, cut."""
    ticket = _TICKET_OF_THE_SCENE if search.needs_ticket else None
    wanted = Filter(saved=[search], ticket_id=ticket)
    found = [line for line in read_scene(_EXAMPLES[search.name]) if wanted.wants(line)]
    first: dict[str, LogLine] = {}
    for line in found:
        first.setdefault(line.event, line)
    chosen = [line for line in found if first[line.event] is line][:_SHOWN]
    chosen += [line for line in found if line not in chosen][: max(0, _SHOWN - len(chosen))]
    drawn = [str(draw(line)).rstrip() for line in sorted(chosen, key=lambda line: line.at)]
    if ticket is not None:
        drawn = [re.sub(rf"\b{ticket}\b(?=[ \]]|$)", str(TICKET), each) for each in drawn]
    return [each if len(each) <= _WIDTH else f"{each[: _WIDTH - 2]} …" for each in drawn]


def read_scene(name: str) -> Iterator[LogLine]:
    """Yield the lines of a recorded scene."""
    for text in (RECORDINGS / f"{name}.jsonl").read_text(encoding="ascii").splitlines():
        line = read_line(text)
        if line is not None:
            yield line
