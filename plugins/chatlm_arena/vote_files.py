"""Read votes from CSV and JSON lines, and write them as training examples."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from chatlm import UsageError, check_regular_file, one_line
from chatlm_arena.contestants import MAX_NAME_CHARACTERS
from chatlm_arena.records import Ballot, Exchanges, ImportedVote, Match, MatchReply
from chatlm_arena.votes import Verdict

IMPORTED_JUDGE = "imported"
"""The judge of imported votes that do not name one."""

WINNER_VERDICTS = {
    "left": Verdict.LEFT,
    "right": Verdict.RIGHT,
    "tie": Verdict.TIE,
    "both_bad": Verdict.BOTH_BAD,
    "model_a": Verdict.LEFT,
    "model_b": Verdict.RIGHT,
    "tie (bothbad)": Verdict.BOTH_BAD,
    "bothbad": Verdict.BOTH_BAD,
}
"""The verdicts by their names in files."""

FORMAT_HELP = (
    "Expected: CSV with the columns left,right,winner, where winner is left, right or tie; or JSON "
    "lines with model_a, model_b and winner, as in LMArena's data."
)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hash of a file as hex digits.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def read_votes(path: Path) -> Iterator[ImportedVote]:
    """Yield the votes of a file, in order.

    Raises:
        UsageError: the file cannot be read, or a line, which is named, is invalid.
    """
    try:
        check_regular_file(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (
                _read_csv(file, path) if path.suffix.lower() == ".csv" else _read_jsonl(file, path)
            )
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}).", hint=FORMAT_HELP) from None


def _read_csv(file: TextIO, path: Path) -> Iterator[ImportedVote]:
    lines = _csv_rows(file, path)
    _, first = next(lines, (1, []))
    header = [name.strip() for name in first]
    missing = {"left", "right", "winner"} - set(header)
    if missing:
        raise UsageError(f"{path} has no column {', '.join(sorted(missing))}.", hint=FORMAT_HELP)
    for number, values in lines:
        if values:
            if len(values) != len(header):
                _reject(path, number, f"has {len(values)} values, not {len(header)}")
            row = dict(zip(header, values, strict=True))
            verdict = _parse_verdict(row["winner"], path, number)
            yield ImportedVote(
                *_parse_names(row, ("left", "right"), path, number), verdict, IMPORTED_JUDGE
            )


def _csv_rows(file: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each CSV row, with the number of the line in which it ends."""
    table = csv.reader(file, strict=True)
    try:
        for values in table:
            yield table.line_num, values
    except csv.Error as error:
        _reject(path, table.line_num, f"is not CSV: {error}")


def _read_jsonl(file: TextIO, path: Path) -> Iterator[ImportedVote]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{path}, line {number}: not JSON: {error}", hint=FORMAT_HELP
            ) from None
        if not isinstance(row, dict):
            _reject(path, number, "is not a JSON object")
        verdict = _parse_verdict(row.get("winner"), path, number)
        judge = row.get("judge")
        named = isinstance(judge, str) and judge.strip()
        yield ImportedVote(
            *_parse_names(row, ("model_a", "model_b"), path, number),
            verdict,
            one_line(str(judge), MAX_NAME_CHARACTERS) if named else IMPORTED_JUDGE,
            _parse_chats(row.get("conversation_a"), row.get("conversation_b")),
        )


def _parse_chats(left: Any, right: Any) -> tuple[Exchanges, Exchanges] | None:
    """Return both chats if they are text and have the same user messages, otherwise None."""
    one, other = _parse_exchanges(left), _parse_exchanges(right)
    if not one or [message for message, _ in one] != [message for message, _ in other]:
        return None
    return one, other


def _parse_exchanges(chat: Any) -> Exchanges:
    rows = chat if isinstance(chat, list) else []
    texts = []
    for number, row in enumerate(rows):
        role = ("user", "assistant")[number % 2]
        if not isinstance(row, dict) or row.get("role") != role:
            return ()
        if not isinstance(text := row.get("content"), str):
            return ()
        texts.append(text)
    return tuple(zip(texts[::2], texts[1::2], strict=True)) if len(texts) % 2 == 0 else ()


def _parse_names(
    row: Mapping[str, Any], columns: tuple[str, str], path: Path, line_number: int
) -> tuple[str, str]:
    names = []
    for column in columns:
        name = row.get(column)
        if not isinstance(name, str) or not name.strip():
            _reject(path, line_number, f"has no name in {column}")
        if name.strip() != one_line(name, MAX_NAME_CHARACTERS):
            problem = f"is not a single line of at most {MAX_NAME_CHARACTERS} characters"
            _reject(path, line_number, f"has a name in {column} that {problem}")
        names.append(name.strip())
    if names[0] == names[1]:
        _reject(path, line_number, f"has {one_line(names[0], 40)} on both sides")
    return names[0], names[1]


def _parse_verdict(winner: Any, path: Path, line_number: int) -> Verdict:
    verdict = WINNER_VERDICTS.get(winner.strip().lower()) if isinstance(winner, str) else None
    if verdict is None:
        _reject(path, line_number, f"has an unknown winner: {one_line(repr(winner), 60)}")
    return verdict


def _reject(path: Path, line_number: int, problem: str) -> NoReturn:
    raise UsageError(f"{path}, line {line_number}: it {problem}.", hint=FORMAT_HELP)


JudgedMatches = Iterable[tuple[Ballot, Match]]

FindImage = Callable[[str], bytes]
"""SHA-256 of an image -> its bytes; such as `ArenaStore.image`."""


def sft_examples(judged: JudgedMatches, find_image: FindImage) -> Iterator[dict[str, Any]]:
    """Yield the better replies as `{"messages": […]}`, for `chatlm adapters train` and TRL's
    SFTTrainer; ties are skipped."""
    for ballot, match in judged:
        if sides := _better_first(ballot, match):
            first = _user_message(sides[0][0], find_image)
            yield {"messages": [first, *_messages_after_first(sides[0], find_image)]}


def dpo_examples(judged: JudgedMatches, find_image: FindImage) -> Iterator[dict[str, Any]]:
    """Yield `prompt`, `chosen` and `rejected`, each a list of messages, for TRL's DPOTrainer.

    For a match with several turns, the prompt is the first message, and chosen and rejected are the
    rest of both chats.
    """
    for ballot, match in judged:
        if sides := _better_first(ballot, match):
            better, worse = sides
            if [reply.text.strip() for reply in better] != [reply.text.strip() for reply in worse]:
                yield {
                    "prompt": [_user_message(better[0], find_image)],
                    "chosen": _messages_after_first(better, find_image),
                    "rejected": _messages_after_first(worse, find_image),
                }


def _better_first(
    ballot: Ballot, match: Match
) -> tuple[tuple[MatchReply, ...], tuple[MatchReply, ...]] | None:
    left, right = match.left_replies, match.right_replies
    if not left or not right or not all(reply.has_answer for reply in (*left, *right)):
        return None
    match Verdict(ballot.verdict):
        case Verdict.LEFT:
            return left, right
        case Verdict.RIGHT:
            return right, left
    return None


def _user_message(reply: MatchReply, find_image: FindImage) -> dict[str, Any]:
    """Return a message in OpenAI's form, images as data URLs."""
    if not reply.images:
        return {"role": "user", "content": reply.prompt}
    urls = [
        f"data:{image.media_type};base64,{base64.b64encode(find_image(image.sha256)).decode()}"
        for image in reply.images
    ]
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*images, {"type": "text", "text": reply.prompt}]}


def _messages_after_first(
    replies: tuple[MatchReply, ...], find_image: FindImage
) -> list[dict[str, Any]]:
    """Return all messages after the first user message."""
    messages = []
    for turn, reply in enumerate(replies):
        if turn:
            messages.append(_user_message(reply, find_image))
        messages.append({"role": "assistant", "content": reply.text})
    return messages
