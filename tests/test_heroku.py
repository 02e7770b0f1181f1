"""What Heroku is told: app.json has the fields that Heroku's schema has, and fits the Procfile and our settings."""

import json
from pathlib import Path

import pytest

from settings import load_environment
from settings.environment import KEYS

ROOT = Path(__file__).resolve().parent.parent
APP = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())
FIELDS = {
    *("addons", "buildpacks", "description", "env", "environments", "formation", "image", "keywords", "logo", "name"),
    *("repository", "scripts", "stack", "success_url", "website"),
}
"""Of https://devcenter.heroku.com/articles/app-json-schema."""
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_heroku_knows_each_field() -> None:
    assert set(APP) <= FIELDS
    assert all(set(variable) <= {"description", "value", "required", "generator"} for variable in APP["env"].values())
    assert all(set(process) == {"quantity", "size"} for process in APP["formation"].values())


def test_each_process_but_the_release_is_in_the_formation() -> None:
    assert set(APP["formation"]) == set(PROCFILE) - {"release"}


@pytest.mark.parametrize("name", APP["env"])
def test_each_variable_is_ours_and_described(name: str) -> None:
    assert f"`{name}`" in SETTINGS
    assert APP["env"][name]["description"]


def test_no_secret_stands_in_it_and_its_values_are_taken() -> None:
    values = {name: variable["value"] for name, variable in APP["env"].items() if "value" in variable}

    assert not set(values) & set(KEYS)
    assert load_environment(values).receive is False
