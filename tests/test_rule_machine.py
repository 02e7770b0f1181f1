"""No history makes the cache say what is not true; a rule broken on purpose lets one through.

``make test`` tries the same histories every time; ``RULE_MACHINE=2000`` so many new ones, and longer.
"""

import os
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from freescout_audit import rule
from support.caches import Cache, Judges, RuleCache, store_cache
from support.rule_machine import Histories

MORE = int(os.environ.get("RULE_MACHINE", "0"))
TWEAKS = settings(
    database=None,
    deadline=None,
    derandomize=not MORE,
    print_blob=True,
    stateful_step_count=50 if MORE else 30,
    suppress_health_check=list(HealthCheck),
)


def machine_on(cache: Cache) -> type[Histories]:
    return type("Machine", (Histories,), {"cache": cache})


def test_the_store_keeps_every_promise(database_url: str) -> None:
    with store_cache(database_url) as cache:
        run_state_machine_as_test(machine_on(cache), settings=settings(TWEAKS, max_examples=MORE or 12))


def test_a_question_that_a_later_list_overtook_settles_nothing() -> None:
    """Disputed, asked about and found alive, deleted for ever, missed by a pass: only then came the answer."""
    history = machine_on(RuleCache())()
    history.begin(offset=0)
    delivered = history.change(pause=0, ticket=1, content=("active", "published"), at_once=True)
    history.deliver(pause=1, claims=[delivered], forged=True)
    history.what_is_read_is_what_was_promised()
    history.ask()
    history.change(pause=1, ticket=1, content=None, at_once=False)
    history.begin_a_pass()
    history.end_a_pass()

    history.answer()

    history.what_is_read_is_what_was_promised()
    assert history.disputed() == [1]
    history.come_to_rest()


def test_the_rule_keeps_every_promise() -> None:
    run_state_machine_as_test(machine_on(RuleCache()), settings=settings(TWEAKS, max_examples=MORE or 100))


SOURCE = Path(rule.__file__).read_text(encoding="utf-8")
BELIEVED_GONE = (
    "gone = Truth(ticket_id=said.ticket_id, sighting=None, asked_at=now);"
    " return judge_truth(row, gone, lease=lease, terms=terms, now=now)"
)
BROKEN = {
    "a replay prolongs trust": (
        'return Verdict(outcome="duplicate", row=held, reason="known")',
        'return Verdict(outcome="duplicate", row=msgspec.structs.replace(row, expires_at=now + terms.ttl), reason="")',
    ),
    "news settles a dispute while the poller is alive": (
        "return told if alive else _settled(told)",
        "return _settled(told)",
    ),
    "no pass has ever seen anything": ("horizon = _horizon(row, lease, alive=alive)", "horizon = None"),
    "only complete passes have seen": (
        "[lease.seen_through] if alive else [lease.complete_through, lease.covered_through]",
        "[lease.complete_through]",
    ),
    "a claim revives a tombstone": ('return dispute("about_a_tombstone")', "row = None"),
    "truths in any order": ("truth.asked_at <= row.truth_at:", "False:"),
    "a truth overwrites what came meanwhile": (
        "if row is None or row.touched_at is None or row.touched_at < truth.asked_at:",
        "if True:",
    ),
    "a dispute begins anew with each claim": (
        "    if before.disputed_at is not None:\n        began",
        "    if False:\n        began",
    ),
    "the last of a second wins": ("and said.updated_at > row.updated_at", "and said.updated_at >= row.updated_at"),
    "who says it is gone is believed": (
        'return dispute("said_to_be_gone", dated=False)',
        BELIEVED_GONE,
    ),
    "a contested row is not disputed": (
        "row=_dispute(held, row, lease=lease, now=now, terms=terms), reason=",
        "row=held, reason=",
    ),
    "the bound of a dispute is only its first": (
        "through = max(through, disputed_through(before, lease))",
        "through = disputed_through(before, lease)",
    ),
    "an equal truth settles what is disputed": ("if row.disputed_at is None and equal and", "if equal and"),
    "what a list lacks is not asked about": (
        'return Verdict(outcome="disputed", row=missed, reason="missing_from_the_list")',
        'return Verdict(outcome="dropped", row=row, reason="")',
    ),
    "any date of the content we hold is a replay": (
        "row.updated_at is not None and said.updated_at <= row.updated_at:",
        "True:",
    ),
    "news does not touch": ("told = msgspec.structs.replace(told, touched_at=now)", "pass"),
}


SOON_FOUND = (
    "a replay prolongs trust",
    "news settles a dispute while the poller is alive",
    "a dispute begins anew with each claim",
)
"""These take a dozen histories each; docs/proof.md says what the others take."""


def broken(name: str) -> Judges:
    """The rule with one line changed."""
    good, bad = BROKEN[name]
    assert SOURCE.count(good) == 1, "the rule reads otherwise now: break the line that does this"
    module = types.ModuleType(rule.__name__)
    exec(compile(SOURCE.replace(good, bad), rule.__file__, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", BROKEN)
def test_each_way_to_break_the_rule_still_does(name: str) -> None:
    assert broken(name) is not rule


@pytest.mark.parametrize("name", BROKEN if MORE else SOON_FOUND)
def test_a_broken_rule_is_found_out(name: str) -> None:
    machine = machine_on(RuleCache(broken(name)))

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            machine,
            settings=settings(
                TWEAKS, max_examples=5000 if MORE else 300, stateful_step_count=50, phases=[Phase.generate]
            ),
        )
