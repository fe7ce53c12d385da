"""Validators for what hooks return: each returns the valid result or raises what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from chatlm.errors import ChatlmError, UsageError
from chatlm.text import one_line
from chatlm.types.messages import Message, Passage
from chatlm.types.parts import MAX_IMAGES
from chatlm.types.requests import Request
from chatlm.types.type_hints import describe_hint, field_hints, matches_hint


def instance_of(kind: type, original: Any = None) -> Callable[[Any], Any]:
    """Return a validator for instances of a dataclass.

    Args:
        kind: the dataclass; the validator raises TypeError for a field of another type.
        original: a valid instance; fields that the result shares with it are not checked again.
    """

    def accept(result: Any) -> Any:
        if not isinstance(result, kind):
            raise TypeError(f"returned {type(result).__name__}, not {kind.__name__}")
        for name, hint in field_hints(kind).items():
            value = getattr(result, name)
            if original is not None and value is getattr(original, name):
                continue
            if not matches_hint(value, hint):
                got = f"{type(value).__name__} {one_line(repr(value), 60)}"
                raise TypeError(
                    f"returned {kind.__name__} with {name} = {got}, not {describe_hint(hint)}"
                )
        return result

    return accept


def nonempty_text(result: Any) -> str:
    """Validate a string that is not blank.

    Raises:
        TypeError: it is no string.
        ValueError: it is blank.
    """
    if not matches_hint(result, str):
        raise TypeError(
            f"returned {type(result).__name__} {one_line(repr(result), 60)}, not a text"
        )
    if not result.strip():
        raise ValueError("returned an empty text")
    return str(result)


def text_or_refusal(result: Any) -> str | UsageError:
    """Validate a `UsageError` or a string that is not blank; raises as `nonempty_text`."""
    return result if isinstance(result, UsageError) else nonempty_text(result)


def text_or_error(result: Any) -> str | ChatlmError:
    """Validate a `ChatlmError` or a string that is not blank; raises as `nonempty_text`."""
    return result if isinstance(result, ChatlmError) else nonempty_text(result)


def text_mapping(result: Any) -> dict[str, str]:
    """Validate a mapping of strings to strings.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"returned {type(result).__name__}, not texts by name")
    for name, value in result.items():
        if not matches_hint(name, str) or not matches_hint(value, str):
            shown = one_line(f"{name!r}: {value!r}", 60)
            raise TypeError(f"returned {shown}, not a name and a text")
    return dict(result)


def folder_or_error(result: Any) -> Path | ChatlmError:
    """Validate a `ChatlmError` or the path of an existing folder.

    Raises:
        TypeError: it is neither.
        ValueError: the folder does not exist.
    """
    if isinstance(result, ChatlmError):
        return result
    if not isinstance(result, Path):
        raise TypeError(f"returned {type(result).__name__}, not a path")
    if not result.is_dir():
        raise ValueError(f"returned {result}, which is not a folder")
    return result


def list_of(kind: type) -> Callable[[Any], list[Any]]:
    """Return a validator for lists of a dataclass; it raises as that of `instance_of`."""
    accept_one = instance_of(kind)

    def accept(result: Any) -> list[Any]:
        if not isinstance(result, list | tuple):
            raise TypeError(f"returned {type(result).__name__}, not a list of {kind.__name__}")
        return [accept_one(value) for value in result]

    return accept


def valid_passages(result: Any) -> list[Passage]:
    """Validate passages and the bytes of their images.

    Raises:
        TypeError: it is not a list of passages.
        ValueError: there are too many images, or the bytes of one are missing or others.
    """
    accepted: list[Passage] = list_of(Passage)(result)
    count = sum(len(passage.images) for passage in accepted)
    if count > MAX_IMAGES:
        raise ValueError(f"returned {count} images in passages, more than {MAX_IMAGES}")
    for passage in accepted:
        hashes = {image.sha256 for image in passage.images}
        if hashes != passage.contents.keys() or any(
            sha256(content).hexdigest() != name for name, content in passage.contents.items()
        ):
            raise ValueError(
                "returned a passage whose images and their bytes differ; use Passage.with_images"
            )
    return accepted


def valid_messages(result: Any) -> list[Message]:
    """Validate messages that a model can answer.

    Raises:
        TypeError: it is not a list of messages.
        ValueError: `check_message_order` refuses them.
    """
    accepted = list_of(Message)(result)
    check_message_order(accepted)
    return accepted


def check_message_order(messages: Sequence[Message]) -> None:
    """Check that a model can answer the messages.

    A system message may come first; then the user speaks, the assistant never twice in a row, and
    the last message is not blank.

    Raises:
        ValueError: the order is wrong.
    """
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    if any(message.role == "system" for message in spoken):
        raise ValueError("returned a system message that is not the first message")
    if not spoken:
        raise ValueError("returned no message of the user")
    if spoken[0].role == "assistant":
        raise ValueError("returned messages in which the assistant speaks before the user")
    if any(before.role == after.role == "assistant" for before, after in pairwise(spoken)):
        raise ValueError("returned two messages of the assistant in a row")
    if not spoken[-1].text.strip():
        raise ValueError("returned messages of which the last is empty")


def adjusted_request(result: Any, original: Request) -> Request:
    """Validate a request that a plugin returned for `original`.

    Raises:
        TypeError: it is no request, or a field has another type.
        ValueError: its messages are in no valid order, or it is complete without a reply.
    """
    request: Request = instance_of(Request, original)(result)
    if request.messages != original.messages:
        check_message_order(request.messages)
    last = request.messages[-1]
    if request.reply_complete and (last.role != "assistant" or not last.text):
        raise ValueError("returned a complete request without a reply")
    return request


def accept_any(result: Any) -> Any:
    """Accept whatever a hook returned."""
    return result
