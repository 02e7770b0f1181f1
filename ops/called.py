"""How the console is called, and how it ends when that goes wrong: in one line or, with ``--json``, in JSON."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from typer import Abort
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

_WRONG, _USAGE = 1, 2


class Command(TyperCommand):
    """A command whose help says no ``<bool>`` of an option that takes nothing."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return _without_bool(super().get_params(ctx))


class Group(TyperGroup):
    """A group of such commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return _without_bool(super().get_params(ctx))


class MainGroup(Group):
    """The whole console: whatever happens, no traceback reaches an operator."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - Typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,
    ) -> NoReturn:
        """Run the command that was called, and end the process with its code."""
        called = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in called
        try:
            code = super().main(
                called, prog_name, complete_var, standalone_mode and not as_json, windows_expand_args, **extra
            )
        except TyperException as error:
            _end(error.format_message(), f"{prog_name} --help says how it is called", _USAGE, as_json=as_json)
        except Abort:
            _end("nothing was changed", "", _WRONG, as_json=as_json)
        except Exception as error:  # noqa: BLE001 - an operator gets a line, whatever it is
            # Imported here, as the help needs no log.
            from freescout_audit.logs import where  # noqa: PLC0415

            broken = f"the console itself fails ({type(error).__name__} at {where(error)})"
            _end(broken, "please report this line", _WRONG, as_json=as_json)
        sys.exit(code or 0)


def _without_bool(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag and param.metavar is None:
            param.metavar = ""
    return params


def _end(problem: str, next_step: str, code: int, *, as_json: bool) -> NoReturn:
    # Imported here, as the help needs neither errors nor JSON.
    from freescout_audit.errors import FreescoutAuditError  # noqa: PLC0415
    from ops.output import tell_failure  # noqa: PLC0415

    tell_failure(FreescoutAuditError(problem, next_step), code, as_json=as_json)
    sys.exit(code)
