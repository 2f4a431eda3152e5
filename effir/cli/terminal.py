"""What all commands share: path arguments, the option --json, and how a result is printed."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PATH = click.Path(path_type=Path)
Decorator = Callable[[Any], Any]


def json_option(what: str = "object") -> Decorator:
    """Add the option that prints one JSON object, or ``what`` else is printed."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print one JSON {what}, for programs.")


def options(*each: Decorator) -> Decorator:
    """Join several options to one decorator; the help lists them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(each):
            command = option(command)
        return command

    return decorate


def answer(value: Any, text: str, as_json: bool) -> None:
    """Print ``value``, which may hold dataclasses, as JSON for a program, or ``text`` for a person."""
    click.echo(json.dumps(value, default=asdict, ensure_ascii=False) if as_json else text)


def console(piped: int) -> "Console":
    """Return a console for tables; lines have ``piped`` characters if the output is not a terminal."""
    from rich.console import Console

    made = Console(file=sys.stdout, highlight=False)
    if not made.is_terminal:
        made.width = piped
    return made
