"""Commands that are imported when asked for: the help of all needs their names and a line of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from attnprof.commands.plain_values import take_plain_values


@dataclass(frozen=True, slots=True)
class Deferred:
    """A command: its function, as ``module:name`` in ``attnprof.commands``, and its line in the help."""

    place: str
    short_help: str
    context_settings: Mapping[str, Any] = field(default_factory=dict)

    def function(self) -> Callable[..., None]:
        """What the command calls, its module imported."""
        module, _, name = self.place.partition(":")
        found: Callable[..., None] = getattr(import_module(f"attnprof.commands.{module}"), name)
        return found

    def add_to(self, app: typer.Typer, name: str, function: Callable[..., None]) -> None:
        """Registers ``function`` as this command."""
        settings = dict(self.context_settings)
        app.command(name, cls=_Command, short_help=self.short_help, context_settings=settings)(function)

    def built(self, name: str) -> Any:
        """The command with its options."""
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        self.add_to(alone, name, self.function())
        return typer.main.get_command(alone)


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return take_plain_values(super().get_params(ctx))


def deferring(commands: Mapping[str, Deferred]) -> type[TyperGroup]:
    """A group that builds each of ``commands`` when it is the one that is called."""

    class Group(TyperGroup):
        """Holds, of a command that was not asked for yet, the name and the line alone."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self._built: set[str] = set()
            self._lists = False

        def get_params(self, ctx: Any) -> Any:
            return take_plain_values(super().get_params(ctx))

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if not self._lists and cmd_name in commands and cmd_name not in self._built:
                self.commands[cmd_name] = commands[cmd_name].built(cmd_name)
                self._built.add(cmd_name)
            return super().get_command(ctx, cmd_name)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with self._listing():
                super().format_commands(ctx, formatter)

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            with self._listing():
                return super().shell_complete(ctx, incomplete)

        @contextmanager
        def _listing(self) -> Iterator[None]:
            self._lists = True
            try:
                yield
            finally:
                self._lists = False

    return Group


def undecided() -> None:
    """Stands for a command in the list of all."""
