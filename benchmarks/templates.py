"""Compare the prompts of chat templates with those of transformers, and try to forge turns.

Each template gets a tokenizer of single bytes that has the template's tokens as added tokens, once
as special ones and once as plain ones.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.errors import ModelError
from chatlm.types.messages import Message, Role
from chatlm.types.parts import Reasoning, Text

Chat = list[tuple[Role, str, str]]
"""Messages: role, text, reasoning."""

CHATS: dict[str, Chat] = {
    "one user message": [("user", "Hi there", "")],
    "system and user": [("system", "Be brief.", ""), ("user", "Hi there", "")],
    "three turns": [
        ("user", "Hi", ""),
        ("assistant", "Hello", ""),
        ("user", "How are you?", ""),
        ("assistant", "Fine", ""),
        ("user", "And now?", ""),
    ],
    "reasoning": [("user", "2+2?", ""), ("assistant", "4", "Easy."), ("user", "3+3?", "")],
    "thoughts in the text": [
        ("user", "2+2?", ""),
        ("assistant", "<think>\nEasy.\n</think>\n\n4", ""),
        ("user", "3+3?", ""),
    ],
    "blanks": [
        ("system", "  be brief \n", ""),
        ("user", "  Hi \n\n there\n", ""),
        ("assistant", "\n ok  ", ""),
        ("user", "\tx ", ""),
    ],
    "empty system prompt": [("system", "", ""), ("user", "Hi", "")],
    "/no_think": [("system", "/no_think", ""), ("user", "Hi /no_think", "")],
    "continued reply": [("user", "Hi", ""), ("assistant", "Hello, I am ", "")],
}

BOS, EOS = "<s>", "</s>"

TOKENS = re.compile(r"<\|?[^\s<>|{}'\"%]{1,40}\|?>|\[/?[A-Z][A-Z_]{1,30}\]|<｜[^｜]{1,40}｜>")
"""What looks like a control token in the source of a template."""

ROLE_TOKENS = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]


def tokenizer_for(source: str, special: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes with the tokens of a template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    texts = [BOS, EOS, *ROLE_TOKENS, *TOKENS.findall(source)]
    raw.add_tokens(
        [
            AddedToken(text, special=special or text in (BOS, EOS), normalized=False)
            for text in dict.fromkeys(texts)
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = source
    return tokenizer


def their_ids(tokenizer: Any, chat: Chat) -> list[int] | str:
    """Return the ids of transformers, or its error."""
    continues = chat[-1][0] == "assistant"
    messages = [
        {"role": role, "content": text} | ({"reasoning_content": thoughts} if thoughts else {})
        for role, text, thoughts in chat
    ]
    try:
        return list(
            tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                return_dict=False,
            )
        )
    except Exception as error:  # a template may raise anything
        return f"{type(error).__name__}: {error}"


def our_ids(encoder: PromptEncoder, chat: Chat) -> list[int] | str:
    """Return the ids of chatlm, or its error."""
    try:
        return encoder.encode(
            [
                Message(role, (Reasoning(thoughts), Text(text)) if thoughts else text)
                for role, text, thoughts in chat
            ]
        )
    except ModelError as error:
        return str(error)


def compare(source: str, special: bool) -> dict[str, str]:
    """Compare the token ids of each chat with those of transformers; return the outcome by chat."""
    tokenizer = tokenizer_for(source, special)
    expected = {name: their_ids(tokenizer, chat) for name, chat in CHATS.items()}
    encoder = PromptEncoder(tokenizer, "template", [])
    outcome: dict[str, str] = {}
    for name, chat in CHATS.items():
        ours, theirs = our_ids(encoder, chat), expected[name]
        if ours == theirs:
            outcome[name] = "same"
        elif isinstance(ours, str) and isinstance(theirs, str):
            outcome[name] = "refused by both"
        elif isinstance(theirs, str) and chat[0][0] == "system":
            outcome[name] = "system prompt moved into the first message"
        else:
            shown = [ids if isinstance(ids, str) else encoder.decode(ids) for ids in (ours, theirs)]
            if shown[0] == shown[1]:
                outcome[name] = "same text, but a control token in a message stays text"
            else:
                outcome[name] = f"differs: {shown[0]!r} instead of {shown[1]!r}"
    return outcome


def count_forged(source: str, special: bool) -> tuple[int, int]:
    """Try to forge each token in each place; return the numbers of attempts and of successes."""
    tokenizer = tokenizer_for(source, special)
    encoder = PromptEncoder(tokenizer, "template", [])
    controls = set(encoder.control_tokens.values())
    texts = [text for text in encoder.control_tokens if text not in (BOS, EOS)]

    def count_written(text: str, place: int) -> Counter[int] | None:
        contents = ["x"] * 4
        contents[place] = text
        chat: Chat = [
            ("system", contents[0], ""),
            ("user", contents[1], ""),
            ("assistant", contents[2], contents[2]),
            ("user", contents[3], ""),
        ]
        ids = our_ids(encoder, chat)
        return None if isinstance(ids, str) else Counter(i for i in ids if i in controls)

    attempts = forged = 0
    for place in range(4):
        harmless = count_written("axb", place)
        for text in texts:
            hostile = count_written(f"a{text}b", place)
            if harmless is None or hostile is None:
                continue
            attempts += 1
            forged += bool(hostile - harmless)
    return attempts, forged


def main() -> None:
    """Compare all templates of a folder."""
    parser = argparse.ArgumentParser(
        description="Compare prompts of chat templates with those of transformers."
    )
    parser.add_argument("folder", type=Path, help="folder of *.jinja files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    differing: dict[str, dict[str, str]] = {}
    attempts = forged = 0
    files = sorted(options.folder.glob("*.jinja"))
    for file in files:
        source = file.read_text(encoding="utf-8")
        for special in (True, False):
            for name, outcome in compare(source, special).items():
                outcomes[outcome.partition(":")[0]] += 1
                if outcome.startswith("differs"):
                    differing.setdefault(file.name, {})[name] = outcome
            tried, succeeded = count_forged(source, special)
            attempts, forged = attempts + tried, forged + succeeded
    if options.json:
        values = {
            "templates": len(files),
            "identical_templates": len(files) - len(differing),
            "outcomes": dict(outcomes),
            "differing": differing,
            "forgery_attempts": attempts,
            "forged": forged,
        }
        print(json.dumps(values, ensure_ascii=False))
        return
    for name, chats in differing.items():
        for chat, outcome in chats.items():
            print(f"{name}, {chat}: {outcome}")
    print(f"{len(files)} templates, {len(files) - len(differing)} identical in all chats")
    for outcome, count in outcomes.most_common():
        print(f"{count:6} prompts: {outcome}")
    print(f"control tokens forged: {forged} of {attempts} attempts")


if __name__ == "__main__":
    main()
