"""``python -m proof.histories.play DATABASE_URL FIRST LAST``: plays the histories of some seeds, a JSON line for each.

``--mutant NAME`` plays them on broken code and stops at the first that is caught; ``--theme NAME`` says what each of
them is about; ``--tell`` adds what happened.
"""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer

from proof.histories.mutants import install

_VACUUM_EVERY = 200


async def _play(
    database_url: str, first: int, last: int, *, steps: int | None, theme: str | None, tell: bool, until_wrong: bool
) -> None:
    # Imported here: a mutant changes what these import.
    from sqlalchemy.engine import make_url  # noqa: PLC0415

    from db.migrate import migrate  # noqa: PLC0415
    from freescout_audit.logs import set_up_logs  # noqa: PLC0415
    from proof.histories.cache import StagedCache  # noqa: PLC0415
    from proof.histories.faults import FaultLog  # noqa: PLC0415
    from proof.histories.history import STEPS, History  # noqa: PLC0415

    log = FaultLog()
    set_up_logs(process="proof", style="json", level="error", factory=log)
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    await migrate(url)
    if socket := url.query.get("host"):
        url = url.set(host=str(socket), port=int(str(url.query["port"])), query={})
    cache = StagedCache(url)
    await cache.install()
    try:
        for seed in range(first, last):
            history = History(cache, seed, log, steps=STEPS if steps is None else steps, theme=theme, tell=tell)
            outcome = await history.play()
            print(json.dumps(asdict(outcome)), flush=True)  # noqa: T201 - this is our answer
            if until_wrong and outcome.wrong is not None:
                return
            if seed % _VACUUM_EVERY == 0:
                await cache.vacuum()
    finally:
        await cache.close()


def main(
    database_url: str,
    first: int,
    last: int,
    *,
    steps: Annotated[int | None, typer.Option()] = None,
    theme: Annotated[str | None, typer.Option()] = None,
    mutant: Annotated[str | None, typer.Option()] = None,
    tell: Annotated[bool, typer.Option()] = False,
) -> None:
    """Play histories on an empty database of their own."""
    if mutant is not None:
        install(mutant)

    from proof.histories.stage import StageLoop  # noqa: PLC0415

    with asyncio.Runner(loop_factory=StageLoop) as runner:
        until_wrong = mutant is not None
        runner.run(_play(database_url, first, last, steps=steps, theme=theme, tell=tell, until_wrong=until_wrong))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
