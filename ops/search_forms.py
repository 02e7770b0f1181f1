"""The saved searches in the languages of other tools, all from one definition.

Only the first three can be run here. The others follow their vendors' documentation: Papertrail looks for fragments of
text and compares no numbers; LogQL and Datadog parse our JSON.
"""

import re
from collections.abc import Callable, Mapping

from freescout_audit.logs import LOGGER
from ops.searches import Field, Kind, Search

TICKET = 4711
"""The ticket in the examples."""
STREAM = '{app="freescout-audit"}'
"""Loki's stream of our log; its labels are the site's own."""


def console(search: Search) -> str:
    """Return the arguments of our own console."""
    return f"bin/freescout-audit logs --saved {search.name}" + (f" --ticket {TICKET}" if search.needs_ticket else "")


def jq(search: Search) -> str:
    """Return a pipeline of jq; whatever stands before our object on a line is cut off."""
    cut = rf'capture("(?<ours>[{{]\"logger\": \"{LOGGER}\".*[}}])").ours | fromjson?'
    if search.needs_ticket:
        wanted = f".ticket_id == {TICKET} or (.tickets | arrays | index({TICKET}))"
    else:
        wanted = _or(search, _jq_kind)
    return f"jq -cR '{cut} | select({wanted})'"


def _jq_kind(kind: Kind) -> str:
    return " and ".join([_jq_one_of("event", kind.events), *(_jq_field(field) for field in kind.fields)])


def _jq_field(field: Field) -> str:
    if field.at_least is not None:
        return f".{field.name} >= {field.at_least}"
    return _jq_one_of(field.name, field.values) if field.values else f".{field.name} != null"


def _jq_one_of(name: str, values: tuple[str, ...]) -> str:
    shown = ", ".join(f'"{value}"' for value in values)
    return f".{name} == {shown}" if len(values) == 1 else f"(.{name} | IN({shown}))"


def grep(search: Search) -> str:
    """Return a pipeline of grep."""
    if search.needs_ticket:
        wanted = rf'"ticket_id": {TICKET}[,}}]|"tickets": \[([0-9]+, )*{TICKET}[],]'
    else:
        wanted = "|".join(_grep_kind(kind) for kind in search.kinds)
    return f"grep {LOGGER} | grep -E '{wanted}'"


def _grep_kind(kind: Kind) -> str:
    return ".*".join([f'"event": "{_alternatives(kind.events)}"', *(_grep_field(field) for field in kind.fields)])


def _grep_field(field: Field) -> str:
    if field.at_least is None:
        return f'"{field.name}": ' + (f'"{_alternatives(field.values)}"' if field.values else "")
    digit, more = str(field.at_least)[0], len(str(field.at_least)) - 1
    return f'"{field.name}": ([{digit}-9]{"[0-9]" * more}|[1-9][0-9]{{{more + 1},}})'


def papertrail(search: Search) -> str:
    """Return a search of Papertrail. It compares no numbers, so it shows those lines whatever their number."""
    if search.needs_ticket:
        single = f"'\"ticket_id\": {TICKET},' OR '\"ticket_id\": {TICKET}}}'"
        several = " OR ".join(f"'{before}{TICKET}{after}'" for before in "[ " for after in ",]")
        return f"{LOGGER} ({single} OR ('\"tickets\": [' ({several})))"
    wanted = " OR ".join(_papertrail_kind(kind) for kind in search.kinds)
    return f"{LOGGER} {wanted}" if len(search.kinds) == 1 else f"{LOGGER} ({wanted})"


def _papertrail_kind(kind: Kind) -> str:
    phrases = [_papertrail_one_of("event", kind.events)]
    phrases += [
        _papertrail_one_of(field.name, field.values) if field.values else f"'\"{field.name}\": '"
        for field in kind.fields
    ]
    return phrases[0] if len(phrases) == 1 else f"({' '.join(phrases)})"


def _papertrail_one_of(name: str, values: tuple[str, ...]) -> str:
    shown = " OR ".join(f'\'"{name}": "{value}"\'' for value in values)
    return shown if len(values) == 1 else f"({shown})"


def logql(search: Search) -> str:
    """Return a query of Loki, whose lines are our objects alone."""
    if search.needs_ticket:
        wanted = rf'"ticket_id": {TICKET}[,}}]|"tickets": \[([0-9]+, )*{TICKET}[\],]'
        return f'{STREAM} |= "{LOGGER}" |~ `{wanted}`'
    return f'{STREAM} |= "{LOGGER}" | json | {_or(search, _logql_kind)}'


def _logql_kind(kind: Kind) -> str:
    return " and ".join([_logql_one_of("event", kind.events), *(_logql_field(field) for field in kind.fields)])


def _logql_field(field: Field) -> str:
    if field.at_least is not None:
        return f"{field.name} >= {field.at_least}"
    return _logql_one_of(field.name, field.values) if field.values else f'{field.name} != ""'


def _logql_one_of(name: str, values: tuple[str, ...]) -> str:
    return f'{name} = "{values[0]}"' if len(values) == 1 else f'{name} =~ "{_alternatives(values)[1:-1]}"'


def datadog(search: Search) -> str:
    """Return a search of Datadog, where the names are attributes."""
    if search.needs_ticket:
        return f"@logger:{LOGGER} (@ticket_id:{TICKET} OR @tickets:{TICKET})"
    wanted = _or(search, _datadog_kind)
    return f"@logger:{LOGGER} {wanted}" if len(search.kinds) == 1 else f"@logger:{LOGGER} ({wanted})"


def _datadog_kind(kind: Kind) -> str:
    return " AND ".join([_datadog_one_of("event", kind.events), *(_datadog_field(field) for field in kind.fields)])


def _datadog_field(field: Field) -> str:
    if field.at_least is not None:
        return f"@{field.name}:>={field.at_least}"
    return _datadog_one_of(field.name, field.values) if field.values else f"@{field.name}:*"


def _datadog_one_of(name: str, values: tuple[str, ...]) -> str:
    shown = [f'"{value}"' if " " in value else value for value in values]
    return f"@{name}:{shown[0]}" if len(shown) == 1 else f"@{name}:({' OR '.join(shown)})"


def _or(search: Search, write: Callable[[Kind], str]) -> str:
    """Join what is written of each kind; one with several conditions in brackets, unless it is alone."""
    joint = " OR " if write is _datadog_kind else " or "
    alone = len(search.kinds) == 1
    return joint.join(f"({write(kind)})" if kind.fields and not alone else write(kind) for kind in search.kinds)


def _alternatives(values: tuple[str, ...]) -> str:
    """Return a regular expression of any tool for one of these, in brackets if there are several."""
    shown = [re.sub(r"[.+*?^$|(){}\[\]]", r"[\g<0>]", value) for value in values]
    return shown[0] if len(shown) == 1 else f"({'|'.join(shown)})"


READS_A_STREAM: Mapping[str, Callable[[Search], str]] = {"freescout-audit logs": console, "jq": jq, "grep": grep}
"""What is run in a shell, behind whatever gives the lines."""
ELSEWHERE: Mapping[str, Callable[[Search], str]] = {"Papertrail": papertrail, "Loki": logql, "Datadog": datadog}
"""What is typed into somebody's page."""
