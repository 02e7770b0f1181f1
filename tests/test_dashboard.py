"""The Grafana dashboard: it asks for metrics and labels that there are, in PromQL, in the form that Grafana takes.

Grafana publishes its schema as TypeScript: `Dashboard` and what it holds are the part of it that this dashboard uses.
"""

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Receiver
from support.examples import body

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "ops" / "dashboards" / "freescout-audit.json"
PROMTOOL = shutil.which("promtool")
OF_PROMETHEUS = {"job", "instance", "le"}
VARIABLES = {"$__rate_interval": "5m", "$job": ".*"}
WIDTH = 24


class Struct(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """A part of the schema: every field is known."""


class DataSource(Struct, frozen=True):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Position(Struct, frozen=True):
    x: int
    y: int
    w: int
    h: int


class Target(Struct, frozen=True):
    ref_id: str
    datasource: DataSource
    expr: str
    legend_format: str
    range: bool
    instant: bool


class Step(Struct, frozen=True):
    color: str
    value: float | None


class Thresholds(Struct, frozen=True):
    mode: Literal["absolute"]
    steps: Sequence[Step]


class Mapped(Struct, frozen=True):
    text: str
    color: str
    index: int


class ValueMap(Struct, frozen=True):
    type: Literal["value"]
    options: Mapping[str, Mapped]


class Color(Struct, frozen=True):
    mode: Literal["thresholds", "palette-classic"]


class Defaults(Struct, frozen=True):
    unit: Literal["short", "s", "dateTimeAsIso"]
    color: Color
    thresholds: Thresholds
    mappings: Sequence[ValueMap]
    custom: Mapping[str, Any] = {}


class FieldConfig(Struct, frozen=True):
    defaults: Defaults
    overrides: Sequence[Any]


class Panel(Struct, frozen=True):
    id: int
    type: Literal["stat", "timeseries", "state-timeline"]
    title: str
    description: str
    datasource: DataSource
    grid_pos: Position
    targets: Sequence[Target]
    field_config: FieldConfig
    options: Mapping[str, Any]


class Variable(Struct, frozen=True):
    name: str
    label: str
    type: Literal["datasource", "query"]
    query: str
    refresh: Literal[1, 2]
    regex: str
    hide: Literal[0]
    multi: bool
    options: Sequence[Any]
    include_all: bool
    datasource: DataSource | None = None
    sort: int = 0


class Listed(Struct, frozen=True):
    list: Sequence[Any]


class Variables(Struct, frozen=True):
    list: Sequence[Variable]


class Time(Struct, frozen=True):
    from_: str = msgspec.field(name="from")
    to: str


class Dashboard(Struct, frozen=True):
    uid: str
    title: str
    description: str
    tags: Sequence[str]
    schema_version: int
    version: int
    editable: bool
    graph_tooltip: Literal[0, 1, 2]
    timezone: str
    time: Time
    refresh: str
    annotations: Listed
    links: Sequence[Any]
    templating: Variables
    panels: Sequence[Panel]


DASHBOARD = msgspec.json.decode(FILE.read_bytes(), type=Dashboard)
QUERIES = [target.expr for panel in DASHBOARD.panels for target in panel.targets]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD.panels
    assert len({panel.id for panel in panels}) == len({panel.title for panel in panels}) == len(panels)

    taken = [
        (x, y)
        for at in (panel.grid_pos for panel in panels)
        for x, y in itertools.product(range(at.x, at.x + at.w), range(at.y, at.y + at.h))
    ]

    assert len(set(taken)) == len(taken)
    assert {x for x, _ in taken} <= set(range(WIDTH))
    for panel in panels:
        assert [target.ref_id for target in panel.targets] == list("ABCDEFG"[: len(panel.targets)])


async def test_queries_ask_for_documented_metrics_and_labels_that_they_have(receiver: Receiver) -> None:
    await receiver.deliver(body())
    await receiver.deliver(b"{}", headers={"X-FreeScout-Signature": "wrong"})
    async with receiver.client.get(receiver.url + "/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    labels = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

    for query in QUERIES:
        (metric,) = set(re.findall(r"\bfreescout_audit_\w+", query))
        has = labels[metric] | OF_PROMETHEUS
        matched = re.findall(r'(\w+)(?:=~|!=|!~|=)"', query)
        grouped = [label.strip() for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(",")]
        assert f"| `{metric.removesuffix('_bucket')}` |" in documented
        assert {*matched, *grouped} <= has, query
    for panel in DASHBOARD.panels:
        for target in panel.targets:
            shown = set(re.findall(r"{{(\w+)}}", target.legend_format))
            kept = {label.strip() for by in re.findall(r"by \(([^)]*)\)", target.expr) for label in by.split(",")}
            assert shown <= (kept or OF_PROMETHEUS), target.legend_format


def test_it_shows_every_part_of_the_service_by_variables_alone() -> None:
    assert [variable.name for variable in DASHBOARD.templating.list] == ["datasource", "job"]
    assert all('job=~"$job"' in query for query in QUERIES)
    assert set(re.findall(r"\$\w+", " ".join(QUERIES))) == set(VARIABLES)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")
def test_queries_are_promql(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    expressions = QUERIES
    for name, value in VARIABLES.items():
        expressions = [query.replace(name, value) for query in expressions]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(expressions)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")

    done = subprocess.run([PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
