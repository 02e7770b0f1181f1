"""How a delivery or an answer of the simulator is held against a recorded one."""

from simulator import Attempt
from support.recordings import Recorded

# What people typed, what they are called, and what counts from the moment of sending.
TEXTS = {
    "firstName",
    "lastName",
    "email",
    "subject",
    "preview",
    "body",
    "text",
    "friendly",
    "value",
    "to",
    "name",
    "url",
}


def assert_same_headers(ours: Attempt, theirs: Recorded) -> None:
    assert [name for name, _ in ours.headers] == list(theirs.headers)
    for name in ("User-Agent", "Content-Type"):
        assert dict(ours.headers)[name] == theirs.headers[name]


def assert_same(ours: object, theirs: object, where: str) -> None:
    """Names, their order, types and values are the same; of texts only the type."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            if key in TEXTS:
                assert type(ours[key]) is type(theirs[key]), f"{where}.{key}"
            else:
                assert_same(by_id(ours[key]), by_id(theirs[key]), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, f"{where}[{index}]")
    else:
        assert ours == theirs, where


def by_id(value: object) -> object:
    # Threads of one second come in any order: FreeScout does not define it.
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "id" in entry for entry in value):
        return sorted(value, key=lambda entry: int(entry["id"]))
    return value


def assert_same_shape(ours: object, theirs: object, where: str) -> None:
    """Names, their order and types are the same; a list's first element stands for all; null fits anything."""
    if ours is None or theirs is None:
        return
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same_shape(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and ours and theirs:
        assert_same_shape(ours[0], theirs[0], where)
