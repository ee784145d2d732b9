"""The command ``adamas``: gathers the commands, and turns errors into one line and an exit status.

Exit status: 0 done, 1 a run failed, 2 the input cannot be used (nothing was written), 130 interrupted.

May import the standard library and adamas.lab.launch; typer and the commands only inside functions, since a library that they
import may be missing.
"""

import io
import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import adamas
from adamas.extras import MissingExtraError, needs
from adamas.lab import launch
from adamas.lab.commands.ending import stop

if TYPE_CHECKING:
    import typer


def main() -> NoReturn:
    """Run the command line in ``sys.argv``; does not return."""
    try:
        with needs("train"):
            _run()
    except MissingExtraError as error:
        _stop(2, str(error))
    except SystemExit as end:
        if launch.launched() and isinstance(end.code, int | None):
            # A thread of gloo that holds a tensor while the interpreter shuts down aborts the process (PyTorch issue 190489).
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(end.code or 0)
        raise


def _run() -> NoReturn:
    import typer

    from adamas.lab.inputs import InputError
    from adamas.lab.users_code import in_foreign_step, in_users_code

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a × that the terminal cannot show must not end a run
    # Some versions of typer include click, others depend on it; in both cases this is its error for a command line that
    # does not parse.
    usage_error: type[typer.BadParameter] = typer.BadParameter.__mro__[1]
    try:
        sys.exit(application()(prog_name="adamas", standalone_mode=False))
    except InputError as error:
        before, other, after = error.problem.rpartition(error.other) if error.other else (error.problem, "", "")
        _stop(2, f"{_typed(error.parameter)} {before}{_typed(other) if other else ''}{after}", error.shown)
    except usage_error as error:
        _stop(2, _misused(error.format_message(), getattr(error, "param", None)))
    except Exception as error:
        if raised := in_users_code(error):
            _stop(1, *raised)
        if failed := in_foreign_step(error):
            _stop(1, f"--optimizer {failed}")
        if isinstance(error, OSError):
            _stop(1, str(error))
        if launch.ranks() == 1:
            raise
        _stop(1, f"{type(error).__name__}: {error}", traceback.format_exc())


def application() -> "typer.Typer":
    """Make the command line; needs the ``train`` extra."""
    import typer

    from adamas.lab.commands.compare import CompareCommand, compare
    from adamas.lab.commands.find_lr import find_lr
    from adamas.lab.commands.report import report
    from adamas.lab.commands.schedule import schedule
    from adamas.lab.commands.tasks import tasks
    from adamas.lab.commands.train import TrainCommand, train

    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    kinds = {train: TrainCommand, compare: CompareCommand}
    for command in (train, compare, report, tasks, find_lr, schedule):
        application.command(name=command.__name__.replace("_", "-"), cls=kinds.get(command))(command)

    @application.callback(invoke_without_command=True)
    def adamas_command(
        context: typer.Context,
        version: bool = typer.Option(False, "--version", help="Print the version."),
    ) -> None:
        """Adamas: the Adam family of optimizers in one engine."""
        if version:
            typer.echo(f"adamas {adamas.__version__}")
        elif context.invoked_subcommand is None:
            typer.echo(context.get_help())
        elif context.invoked_subcommand != train.__name__:
            launch.check_alone(sys.argv[1:])

    return application


def _typed(parameter: str) -> str:
    """The name of a parameter on the command line."""
    is_argument = parameter in ("command", "task", "expression", "runs", "study")
    return parameter if is_argument else f"--{parameter.replace('_', '-')}"


def _misused(message: str, parameter: object) -> str:
    """The problem with the command line; for an option that is not a number, also the given value."""
    option = next(iter(getattr(parameter, "opts", [])), "")
    kinds = {"integer": "a whole number", "number": "a number", "float": "a number"}  # by a word in typer's message
    kind = next((kind for word, kind in kinds.items() if word in message), None)
    words = [word for given in sys.argv[1:] for word in given.split("=", 1)]
    if kind is None or option not in words[:-1]:
        return f"{message} (see --help)"
    return f"{option} must be {kind}, got {words[words.index(option) + 1]!r}"


def _stop(status: int, line: str, shown: str = "") -> NoReturn:
    stop(status, " ".join(line.split()), shown)


if __name__ == "__main__":
    main()
