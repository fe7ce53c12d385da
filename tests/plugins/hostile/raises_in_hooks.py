"""Raises in every hook, each time something else."""

from typing import Any

from chatlm import hookimpl


class NotEvenAnException(BaseException):
    def __str__(self) -> str:
        raise ValueError("no words")


@hookimpl
def startup(context: Any) -> None:
    raise RuntimeError("startup \x1b[31m went wrong")


@hookimpl
def shutdown() -> None:
    raise NotEvenAnException


@hookimpl
def register_commands(cli: Any) -> None:
    raise SystemExit(5)


@hookimpl
def register_engines(register: Any) -> None:
    raise GeneratorExit


@hookimpl
def annotate_message(conversation: Any, message: Any) -> None:
    raise RecursionError


@hookimpl
def retrieve_passages(conversation: Any, message: Any) -> None:
    raise NotEvenAnException


@hookimpl
def build_messages(conversation: Any, turn: Any) -> None:
    raise StopIteration


@hookimpl
def adjust_request(request: Any, turn: Any, engine: Any) -> None:
    raise MemoryError


@hookimpl
def turn_finished(conversation: Any, turn: Any) -> None:
    raise AssertionError
