"""The file of answers that `chatlm ask --batch` writes, and goes on with after any end."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from filelock import FileLock, Timeout

from chatlm.chat.batch_answers import FileAnswer
from chatlm.config.paths import check_regular_file, write_atomically
from chatlm.errors import ChatlmError, ContextTooLong, UsageError
from chatlm.text import one_line
from chatlm.types.events import logprobs_to_dict
from chatlm.types.replies import StopReason

_OPENAI_ID_PREFIX = "batch_req_"


class AnswerFile:
    """Answers as JSON lines, each on disk before the next one is written.

    Used as a context manager, in which no other process can write the file.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.parent / f".{path.name}.lock", timeout=0, is_singleton=False)
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Lock the file.

        Raises:
            UsageError: it cannot be written, or another process writes it.
        """
        name = one_line(str(self.path), 80)
        try:
            if self.path.exists():
                check_regular_file(self.path)
            elif not self.path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, "its folder does not exist")
            self._lock.acquire()
        except Timeout:
            raise UsageError(
                f"Another chatlm is writing {name}.", hint="Wait for it, or name another file: -o"
            ) from None
        except OSError as error:
            raise UsageError(f"{name} cannot be written: {error.strerror or error}.") from None
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.release()

    def resume(self, wanted: Mapping[str | int, str]) -> set[str | int]:
        """Return the ids that are answered; drop failures, and what is left of a cut line.

        Args:
            wanted: the digest of each request by its id.

        Raises:
            UsageError: the file has something else, or answers of other requests.
        """
        kept: list[str] = []
        answered: set[str | int] = set()
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            whole, _, cut = content.rpartition(b"\n")
            lines = whole.decode().split("\n") if whole else []
            for number, line in enumerate(lines, 1):
                answer_id, digest, failed = self._parse(line, number)
                self._check_wanted(answer_id, digest, wanted, number)
                if not failed and answer_id not in answered:
                    answered.add(answer_id)
                    kept.append(line + "\n")
            if cut or len(kept) < len(lines):
                write_atomically(self.path, kept)
        except UnicodeDecodeError:
            raise self._foreign_error("it is not UTF-8") from None
        except OSError as error:
            raise self._write_error(error) from None
        return answered

    def add(self, answer: FileAnswer) -> None:
        """Append an answer, which is on disk when this returns.

        Raises:
            ChatlmError: it cannot be written, such as where the disk is full.
        """
        form = _to_openai if answer.request.openai else _to_own
        line = json.dumps(form(answer), ensure_ascii=False) + "\n"
        try:
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8", newline="")
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._write_error(error) from None

    def _write_error(self, error: OSError) -> ChatlmError:
        return ChatlmError(
            f"{one_line(str(self.path), 80)} cannot be written: {error.strerror or error}.",
            hint="What it has is kept. Make room for it, then start the same command again.",
        )

    def _foreign_error(self, reason: str) -> UsageError:
        return UsageError(
            f"{one_line(str(self.path), 80)} is not a file of answers: {reason}.",
            hint="Nothing was changed. Name another file: -o",
        )

    def _parse(self, line: str, number: int) -> tuple[str | int, str, bool]:
        """Return the id, the digest, and whether the request failed."""
        try:
            values = json.loads(line)
            if "custom_id" in values:
                answer_id = values["custom_id"]
                digest = values["id"].removeprefix(_OPENAI_ID_PREFIX)
            else:
                answer_id, digest = values["id"], values["request"]
            failed = values["error"] is not None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._foreign_error(f"line {number} is no answer") from None
        if type(answer_id) not in (str, int):
            raise self._foreign_error(f"line {number} is no answer")
        return answer_id, digest, failed

    def _check_wanted(
        self, answer_id: str | int, digest: str, wanted: Mapping[str | int, str], number: int
    ) -> None:
        if wanted.get(answer_id) == digest:
            return
        reason = "was asked with other settings, or has changed since"
        if answer_id not in wanted:
            reason = "is not among the requests"
        raise UsageError(
            f"{one_line(str(self.path), 80)}, line {number}: the request "
            f"{one_line(json.dumps(answer_id), 80)} {reason}.",
            hint="Nothing was changed. For other requests or settings, name another file: -o",
        )


def _to_own(answer: FileAnswer) -> dict[str, Any]:
    """Return an answer in the form of `chatlm ask --json`, with `id`, `request` and `error`."""
    head = {"id": answer.request.id, "request": answer.digest}
    if answer.error is not None:
        error = {"message": _message(answer), "hint": answer.error.hint}
        return head | {"error": error}
    return head | {
        "text": answer.text,
        "reasoning": answer.reasoning or None,
        "stop_reason": answer.stop_reason,
        "stop": answer.matched_stop,
        "tool_calls": [call.to_dict() for call in answer.tool_calls],
        "parsed": answer.parsed,
        "seed": answer.sampling.seed,
        "model": answer.model,
        "adapter": answer.adapter,
        "sampling": answer.sampling.to_dict(),
        "usage": answer.usage.to_dict() | {"tokens_per_second": answer.usage.tokens_per_second},
        "logprobs": logprobs_to_dict(answer.tokens, answer.weights),
        "notices": answer.notices,
        "error": None,
    }


def _message(answer: FileAnswer) -> str:
    problem = answer.error.message.rstrip(".") if answer.error else ""
    return f"line {answer.request.line}: {problem}"


_FINISH_REASONS = {
    StopReason.LENGTH: "length",
    StopReason.CONTEXT_FULL: "length",
    StopReason.TOOL_CALLS: "tool_calls",
    StopReason.REFUSAL: "content_filter",
    StopReason.CONTENT_FILTER: "content_filter",
}
"""OpenAI's words for stop reasons; all others are `stop`."""


def _to_openai(answer: FileAnswer) -> dict[str, Any]:
    """Return an answer in the form of OpenAI's batches."""
    head = {"id": f"{_OPENAI_ID_PREFIX}{answer.digest}", "custom_id": answer.request.id}
    if answer.error is not None:
        overflow = isinstance(answer.error, ContextTooLong)
        code = "context_length_exceeded" if overflow else "request_failed"
        error = {"code": code, "message": _message(answer)}
        return head | {"response": None, "error": error}
    usage = answer.usage
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.tool_calls
        ]
    tokens = [token.to_dict() for token in answer.tokens]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": _FINISH_REASONS.get(answer.stop_reason, "stop"),
        "logprobs": {"content": tokens, "refusal": None} if tokens else None,
    }
    body = {
        "id": f"chatcmpl-{answer.digest}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        },
    }
    response = {"status_code": 200, "request_id": answer.digest, "body": body}
    return head | {"response": response, "error": None}
