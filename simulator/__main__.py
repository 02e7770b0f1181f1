"""``python -m simulator``: a live desk. It serves the API, changes by itself, and sends its deliveries."""

import asyncio
import signal
from contextlib import suppress
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Console
from rich.markup import escape

from simulator import Change, Desk, Fate, HttpTransport, Report, SystemClock, Worker, run_life, serve, step

DEFAULT_TARGET = "http://127.0.0.1:8080/api/internal/freescout-webhook/audit"

_console = Console(highlight=False, soft_wrap=True)


def main(
    *,
    host: Annotated[str, typer.Option(help="Address to serve the API on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve the API on; 0 for any.", min=0, max=65535)] = 8091,
    target: Annotated[str, typer.Option(help="Where the deliveries go.")] = DEFAULT_TARGET,
    app_key: Annotated[
        str, typer.Option(help="FreeScout's APP_KEY, with its base64: prefix; both keys follow from it.")
    ] = "base64:c2ltdWxhdG9yLWFwcC1rZXktMzItYnl0ZXMtbG9uZyE=",
    rate: Annotated[float, typer.Option(help="Changes a minute.", min=0.1, max=6000)] = 20.0,
    seed: Annotated[int, typer.Option(help="All chance follows from it.")] = 1,
    tickets: Annotated[int, typer.Option(help="Conversations to begin with.", min=0, max=1_000_000)] = 20,
    lose: Annotated[float, typer.Option(help="Share of changes whose deliveries are lost.", min=0, max=1)] = 0.05,
    timezone: Annotated[str, typer.Option(help="APP_TIMEZONE; anything but UTC has a repeated hour.")] = "UTC",
) -> None:
    """Run a desk to rehearse against until Ctrl-C."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise typer.BadParameter(f"{timezone}: not a time zone such as Europe/Berlin") from error
    desk = Desk(clock=SystemClock(), seed=seed, app_key=app_key, timezone=zone)
    desk.populate(tickets, days=30)
    desk.register_webhook(target)
    try:
        with suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(_run(desk, host=host, port=port, every=60 / rate, lose=lose))
    except OSError as error:
        _console.print(f"[red]cannot serve on {host}:{port}[/red]: {escape(str(error))}; try --port 0")
        raise typer.Exit(1) from error


async def _run(desk: Desk, *, host: str, port: int, every: float, lose: float) -> None:
    task = asyncio.current_task()
    if task is not None:
        for end in (signal.SIGINT, signal.SIGTERM):
            # Windows has no such handlers; there Ctrl-C interrupts.
            with suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(end, task.cancel)
    async with serve(desk, host=host, port=port) as url, HttpTransport() as transport, asyncio.TaskGroup() as tasks:
        _console.print(f"Desk at [bold]{url}/api[/bold], {len(desk.conversations)} tickets")
        _console.print(f"  API key      {desk.api_key}")
        _console.print(f"  webhook key  {desk.webhook_key}")
        _console.print(f"  deliveries   {escape(next(iter(desk.webhooks.values())).url)}")
        _show_change(step(desk))
        worker = Worker(desk, report=_show_report)
        tasks.create_task(worker.run_forever(transport))
        tasks.create_task(run_life(desk, every=every, lose_chance=lose, report=_show_change))


def _show_change(change: Change) -> None:
    arrow = f"{change.before} → {change.after}" if change.before != change.after else change.after
    note = " [red](its deliveries will be lost)[/red]" if change.lost else ""
    silent = " [dim](no delivery)[/dim]" if not change.deliveries else ""
    _console.print(f"{change.at:%H:%M:%S}  ticket {change.conversation_id}: {arrow}  {change.operation}{silent}{note}")


def _show_report(report: Report) -> None:
    if report.fate is Fate.MAIL:
        return
    colour = "dim" if report.fate is Fate.SENT else "red"
    what = f"{report.event} {report.fate}{': ' + escape(report.why) if report.why else ''}"
    _console.print(f"{report.at:%H:%M:%S}  [{colour}]  ticket {report.conversation_id}: {what}[/{colour}]")


if __name__ == "__main__":
    typer.run(main)
