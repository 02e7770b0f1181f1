"""The test of the tests: our own code, broken on purpose in ways that look harmless; each has to be caught.

A mutant replaces pieces of source text while a module is imported; nothing on disk changes.
"""

import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType

RULE, TRUST, DESK_CLOCK = "freescout_audit.rule", "freescout_audit.trust", "freescout_audit.desk_clock"
STATEMENTS, LEASE = "db.statements", "db.lease"
STORE = "db.store"
PASSES, WALK, DELETIONS, PEEK = "poller.passes", "poller.walk", "poller.deletions", "poller.peek"
ANSWER, ASKED, PAGE, UNLISTED = "poller.answer", "poller.asked", "poller.page", "poller.unlisted"
STAGED_CACHE = "proof.histories.cache"


class MutantError(Exception):
    """A mutant does not fit the code any more: the text that it replaces is not there exactly once."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break the code: module, text, and what stands there instead."""

    name: str
    changes: Sequence[tuple[str, str, str]]
    theme: str | None = None
    """What the histories are about that it is looked for in; see `proof.histories.mix.THEMES`."""
    first: int = 0
    """The seed it is looked for from; in none of those before it does what it breaks matter."""


_AS_THEY_ARE_NOW = (
    "freescout_write_tickets($1::json, coalesce((SELECT versions::jsonb FROM freescout_read_tickets(ARRAY("
    "SELECT (r ->> 'ticket_id')::bigint FROM json_array_elements($1::json) r))), $2::jsonb),"
)

_BELIEVED_WHATEVER_ITS_STAMPS = """
    CASE WHEN NOT t.gone AND t.state = 'published' AND t.status IS NOT NULL AND t.updated_at IS NOT NULL
              AND coalesce(t.grace_until > freescout_now(), true)
              AND greatest(t.expires_at, l.lease_until) > freescout_now() THEN t.status ELSE 'none' END,
"""

MUTANTS = (
    Mutant(
        "within a second the last arrival wins",
        ((RULE, "and said.updated_at > row.updated_at", "and said.updated_at >= row.updated_at"),),
    ),
    Mutant(
        "a duplicate prolongs trust",
        (
            (
                RULE,
                'row=held, reason="known")',
                'row=_believed(row, said, now, alive=alive, expires_at=now + terms.ttl), reason="known")',
            ),
        ),
    ),
    Mutant("what a pass has seen is ignored", ((RULE, "[lease.seen_through] if alive", "[] if alive"),)),
    Mutant(
        "what a pass has seen is saved when it ends",
        (
            (LEASE, "seen_through=noted.seen_through,\n                cov", "cov"),
            (
                LEASE,
                "            covered_through=covered_through,\n",
                "            **{'covered_through': covered_through, 'seen_through': func.greatest(_seen, clock.at)},\n",
            ),
            (
                LEASE,
                "_FORGETTING = 600.0",
                "_FORGETTING, _seen = 600.0, schema.lease.c.seen_through",
            ),
        ),
        theme="fleeting",
    ),
    Mutant(
        "what a pass has seen follows the desk's clock back",
        ((DESK_CLOCK, "seen = date if lease.seen_through is None else max(lease.seen_through, date)", "seen = date"),),
        theme="past",
    ),
    Mutant(
        "a clock that was set back is not remembered",
        (
            (DESK_CLOCK, "max(lease.seen_through or date, date, would_read)", "max(lease.seen_through or date, date)"),
            (DESK_CLOCK, "return _repeating(noted, would_read", "return noted  # (would_read"),
        ),
        theme="past",
    ),
    Mutant(
        "an hour that is dated ahead is not noticed",
        ((DESK_CLOCK, " if late else noted", " if False else noted"),),
        theme="ahead",
    ),
    Mutant(
        "dates repeat no later than the row that shows it",
        ((DESK_CLOCK, "_repeating(noted, min(late) + REPEATED_HOUR,", "_repeating(noted, max(late),"),),
        theme="ahead",
    ),
    Mutant(
        "without a poller only the last pass's own date counts",
        ((RULE, "[lease.complete_through, lease.covered_through]", "[lease.complete_through]"),),
        theme="past",
    ),
    Mutant(
        "a read of the ticket itself has not seen further",
        (
            (
                RULE,
                "if row is not None and row.truth_at is not None:\n        seen.append(row.truth",
                "if False:\n        seen.append(row.truth",
            ),
        ),
        theme="past",
    ),
    Mutant(
        "claims from the future are believed",
        ((RULE, "FUTURE_TOLERANCE = timedelta(seconds=60)", "FUTURE_TOLERANCE = timedelta(days=60)"),),
        theme="clock",
    ),
    Mutant(
        "news settle a dispute while the poller is alive",
        ((RULE, "return told if alive else _settled(told)", "return _settled(told)"),),
    ),
    Mutant(
        "a dispute's end moves",
        ((RULE, "    if before.disputed_at is not None:\n", "    if False:\n"),),
    ),
    Mutant(
        "an older truth overwrites a newer one",
        (
            (RULE, "and truth.asked_at <= row.truth_at:", "and truth.asked_at <= row.truth_at and False:"),
            (RULE, "truth.asked_at <= row.truth_until and _differs(row, truth):", "False:"),
        ),
    ),
    Mutant(
        "of two reads that overlap the one that was asked later is true",
        ((RULE, "truth.asked_at <= row.truth_until and _differs(row, truth):", "False:"),),
        theme="pollers",
    ),
    Mutant(
        "a truth overwrites a claim that came meanwhile",
        ((RULE, "row.touched_at is None or row.touched_at < truth.asked_at:", "True:"),),
        theme="race",
    ),
    Mutant(
        "what is written meanwhile is overwritten",
        (
            (
                STATEMENTS,
                "freescout_write_tickets($1::json, $2::jsonb,",
                _AS_THEY_ARE_NOW,
            ),
        ),
        theme="race",
    ),
    Mutant(
        "a claim revives a tombstone",
        (
            (
                RULE,
                '        return dispute("about_a_tombstone")',
                "        row = None",
            ),
        ),
    ),
    Mutant(
        "old news are believed",
        ((RULE, "if horizon is not None and said.updated_at <= horizon:", "if False:"),),
    ),
    Mutant(
        "an overlap of two minutes",
        ((PASSES, "self._overlap = overlap", "self._overlap = timedelta(minutes=2)"),),
        theme="hour",
    ),
    Mutant(
        "a cursor that turns pages",
        (
            (
                WALK,
                "        cursor = since\n        while True:\n",
                "        cursor, turned = since, 0\n        while True:\n            turned += 1\n",
            ),
            (
                WALK,
                "            read = await self._read(cursor, by=by, mailboxes=mailboxes)\n            yield read\n",
                """\
            query = {"updatedAt": {"updated_since": since}, "createdAt": {"created_since": since}}[by]
            ask = partial(self.desk.page, sort=by, mailboxes=mailboxes, **query)
            read = await self._ask(ask, size=self.size, number=turned, cursor=since)
            yield read
""",
            ),
            (WALK, "if not dates or (cursor is not None and max(dates) <= cursor):", "if not dates:"),
        ),
    ),
    Mutant(
        "what moves past a walk is not missed",
        ((PASSES, "        return missing != 0\n", "        return False\n"),),
        theme="hour",
    ),
    Mutant(
        "a clock that is set back during a pass lets it vouch",
        ((ANSWER, "    if before > timedelta():\n", "    if False:\n"),),
        theme="abrupt",
    ),
    Mutant(
        "without a poller any news settle a dispute",
        ((RULE, "if said.updated_at <= max(through, lease.seen_through or through):", "if False:"),),
        theme="push",
    ),
    Mutant(
        "old recordings buy a whole ttl",
        ((RULE, "if alive or said.updated_at < heard - RETRIED_FOR else", "if alive else"),),
        theme="push",
    ),
    Mutant(
        "what was not believed once is news when it comes again",
        ((RULE, "if newer and doubted is not None and said.updated_at <= doubted:", "if False:"),),
        theme="ahead",
    ),
    Mutant(
        "a total counts who we do not hold",
        ((DELETIONS, "        if await self._finds_new_ones(latest):\n", "        if False:\n"),),
        theme="deletions",
    ),
    Mutant(
        "what comes in a repeated hour bears no early date",
        ((PASSES, "            since=clock.at - self._overlap,\n", "            since=clock.at,\n"),),
        theme="early",
    ),
    Mutant(
        "the newest are left out of the count",
        (
            (
                DELETIONS,
                "            differed = await self._compare(newest, [read])\n",
                "            differed = False\n",
            ),
        ),
    ),
    Mutant(
        "deletions are not looked for",
        (
            (DELETIONS, "        for _ in range(TRIES):\n", "        for _ in ():\n"),
            (DELETIONS, 'raise DeskUnavailableError("the desk changes so', 'return  # ("the desk changes so'),
        ),
    ),
    Mutant(
        "the lease is renewed after a broken pass",
        (
            (
                PASSES,
                "        await deletions.search()\n",
                "        with __import__('contextlib').suppress(Exception): await deletions.search()\n",
            ),
        ),
    ),
    Mutant(
        "a peek moves what passes have seen",
        (
            (
                PEEK,
                "        found = await self._write(read.truths)\n",
                """\
        await lease.see_through(self._database, read.page.desk_clock, asked_at=read.asked_at)
        found = await self._write(read.truths)
""",
            ),
        ),
        theme="peek",
    ),
    Mutant(
        "a peek renews the lease",
        (
            (
                PEEK,
                "        found = await self._write(read.truths)\n",
                """\
        found, beginning = await self._write(read.truths), await lease.read_beginning(self._database)
        clock = await lease.see_through(self._database, read.page.desk_clock, asked_at=read.asked_at)
        seen = {"clock": clock, "covered_through": clock.seen_through, "terms": self._terms}
        await lease.renew(self._database, beginning, rows=found, requests=1, **seen)
""",
            ),
        ),
        theme="peek",
    ),
    Mutant(
        "a peek is a heartbeat",
        (
            (
                PEEK,
                "        found = await self._write(read.truths)\n",
                """\
        await lease.beat(self._database, self._terms)
        found = await self._write(read.truths)
""",
            ),
        ),
        theme="peek",
    ),
    Mutant(
        "a peek prolongs what it finds as it was",
        ((STORE, "if peeked and known and before is not None", "if False and before is not None"),),
        theme="peek",
    ),
    Mutant(
        "a peek's rows are true as of their answer",
        (
            (
                WALK,
                "        return await self._ask(ask, size=size, patient=retries > 0)\n",
                """        read = await self._ask(ask, size=size, patient=retries > 0)
        return msgspec.structs.replace(read, asked_at=await self.clock())
""",
            ),
        ),
        theme="peek",
    ),
    Mutant(
        "who a pass may lack is revived by an earlier read",
        ((RULE, "truth.asked_at < begun <= now", "False"),),
        theme="peek",
    ),
    Mutant(
        "a later pass's lease is overwritten",
        (
            (
                LEASE,
                "            or_(renewed.is_(None), renewed < beginning.asked_at, renewed > schema.now + AHEAD),\n",
                "",
            ),
        ),
        theme="pollers",
    ),
    Mutant(
        "an answer's age is ignored",
        ((ANSWER, '    if age.strip("0, "):\n', "    if False:\n"),),
        theme="cached",
    ),
    Mutant(
        "an answer from before the question is believed",
        ((ANSWER, "    if before > timedelta():\n", "    if False:\n"),),
        theme="cached",
    ),
    Mutant(
        "a cache's answer is taken for a clock that was set back",
        ((PASSES, "        if older:\n", "        if False:\n"),),
        theme="cached",
    ),
    Mutant(
        "a page with fewer rows than were asked for is the last",
        ((PAGE, "ends=holds_all and rows < limit", "ends=rows < asked.size"),),
        theme="capped",
    ),
    Mutant(
        "the order of a list is whatever it is",
        ((ASKED, "        if not self._is_sorted(sightings):\n", "        if False:\n"),),
        theme="dropped",
    ),
    Mutant(
        "the page of a list is whatever it is",
        ((ASKED, "if number is not None and number != self.number:", "if False:"),),
        theme="dropped",
    ),
    Mutant(
        "a pass vouches for what it could not list",
        (
            (
                PASSES,
                "_, self._nameless = await self._unlisted.account(Listed(updated_since=since), shown)",
                "pass",
            ),
        ),
        theme="poison",
    ),
    Mutant(
        "what answers nothing, not even alone, is not disputed",
        ((UNLISTED, "                await self._distrust(ticket_id, second, asked_at, held=held)\n", ""),),
        theme="poison",
    ),
    Mutant(
        "a Date far from our clock is believed",
        ((ANSWER, "if is_absurd(date, asked_at):", "if False:"),),
        theme="dates",
    ),
    Mutant(
        "readers believe stamps from our own future",
        ((STAGED_CACHE, "freescout_ticket_state(t.ticket_id),", _BELIEVED_WHATEVER_ITS_STAMPS),),
        theme="ours",
    ),
    Mutant(
        "the rule takes stamps from our own future as they are",
        (
            (
                TRUST,
                "    if row is None or not any(\n        is_ahead",
                "    if row is None or not any(\n        False and is_ahead",
            ),
        ),
        theme="ours",
    ),
    Mutant(
        "stamps from our own future are left where they are",
        ((PASSES, "        await self._clear_stamps_ahead()\n", ""),),
        theme="ours",
    ),
    Mutant(
        "parts of a page lack no row",
        ((WALK, "            apart = True\n", "            apart = holes > 0\n"),),
        theme="parts",
    ),
    Mutant(
        "what a walk could not name is not counted",
        ((PASSES, "            nameless=self._nameless,\n", ""),),
        theme="nameless",
    ),
    Mutant(
        "an answer that is dated after its question is of now",
        ((ANSWER, "if asked is not None and dated > asked + LATEST:", "if False:"),),
        theme="rewound",
    ),
    Mutant(
        "a peek takes what a cache gives",
        ((PEEK, "self._ahead = beginning.ahead", "self._ahead = None"),),
        theme="rewound",
    ),
    Mutant(
        "a walk begins no earlier after the clock was set back",
        ((PASSES, "went_back = clock.went_back(beginning.complete_offset)", "went_back = timedelta()"),),
        theme="back",
    ),
    Mutant(
        "what a second holds beyond a page is left out",
        (
            (
                WALK,
                "(cursor is not None and max(dates) <= cursor):\n",
                "(cursor is not None and max(dates) <= cursor):\n                return\n",
            ),
        ),
        theme="capped",
    ),
    Mutant(
        "the size of a list is whatever it is",
        ((ASKED, "if rows > self.size:", "if False:"),),
        theme="dropped",
    ),
    Mutant(
        "the last word against a row bounds its dispute",
        ((RULE, "through = max(through, disputed_through(before, lease))", "pass"),),
        theme="push",
    ),
)


BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def install(name: str) -> None:
    """Break the code that is imported from now on.

    Raises:
        MutantError: There is no such mutant, or its modules are imported already.
    """
    mutant = BY_NAME.get(name)
    if mutant is None:
        raise MutantError(f"there is no mutant {name!r}")
    changes: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in mutant.changes:
        if module in sys.modules:
            raise MutantError(f"{module} is imported already")
        changes.setdefault(module, []).append((old, new))
    sys.meta_path.insert(0, _Finder(changes))


class _Finder(importlib.machinery.PathFinder):
    """Finds the modules to be changed."""

    def __init__(self, changes: Mapping[str, list[tuple[str, str]]]) -> None:
        self._changes = changes

    def find_spec(  # type: ignore[override] # ours belongs to one mutant, not to the class
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if fullname not in self._changes or spec is None or spec.origin is None:
            return None
        spec.loader = _Loader(fullname, spec.origin, self._changes[fullname])
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module with its changes, past every cache."""

    def __init__(self, fullname: str, path: str, changes: list[tuple[str, str]]) -> None:
        super().__init__(fullname, path)
        self._changes = changes

    def get_code(self, fullname: str) -> CodeType:
        """Compile the module anew."""
        del fullname  # a loader knows its one module
        return compile(changed(self.get_data(self.path).decode(), self._changes), self.path, "exec")


def changed(source: str, changes: Sequence[tuple[str, str]]) -> str:
    """Return the source with its changes.

    Raises:
        MutantError: A text is not there exactly once.
    """
    for old, new in changes:
        if source.count(old) != 1:
            raise MutantError(f"this stands {source.count(old)} times in the source, and not once: {old!r}")
        source = source.replace(old, new)
    return source
