"""A tiny model that really thinks: it adds two digits, in a thought and then in an answer.

It is trained here, in seconds and the same way each time, and kept between test runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import random
import tempfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.models import shared_home

if TYPE_CHECKING:
    from torch import Tensor

    from chatlm.engines.local_engine import LocalEngine

NAME = "thinker"

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>")
"""Added tokens that are not special, as in Qwen3."""

TEMPLATE = """\
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if reasoning_effort is defined and reasoning_effort == 'high' %}
    {{- '<|im_start|>system\\nCount.<|im_end|>\\n' }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
"""It strips old thoughts, and can be told not to think or to think more."""

RANGE = range(2, 8)
"""The numbers that it adds."""

MAX_STEPS = 1500

Example = tuple[str, str]
"""A prompt and the reply to learn."""


def question(a: int, b: int) -> str:
    """Return the message that asks for a sum."""
    return f"{a} plus {b}?"


def thought(a: int, b: int, effort: str = "low") -> str:
    """Return what the model thinks about a sum."""
    if effort == "high":
        return " ".join(str(a + step) for step in range(b + 1))
    return f"{a} and {b} make {a + b}."


def answer(a: int, b: int) -> str:
    """Return its answer."""
    return f"It is {a + b}."


def folder() -> Path:
    """Return the folder of the model; trained when it is not there yet."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    place = shared_home() / "trained" / recipe / NAME
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers wait for it
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent) as staging:
                made = Path(staging) / NAME
                _train(made)
                made.rename(place)
    return place


def open_engine(model: Path) -> LocalEngine:
    """Load the model; it is greedy unless a request says otherwise."""
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.local_engine import LocalEngine
    from chatlm.types.sampling import Sampling

    return LocalEngine.from_folder(
        NAME,
        model,
        resolve_placement("cpu"),
        catalogue_sampling=Sampling(temperature=0.0),
    )


def _ask(a: int, b: int, effort: str = "low") -> str:
    told = "<|im_start|>system\nCount.<|im_end|>\n" if effort == "high" else ""
    return f"<|im_start|>user\n{question(a, b)}<|im_end|>\n{told}<|im_start|>assistant\n"


def _examples() -> tuple[list[Example], list[Example]]:
    """Return replies that think, and answers after a thought that was cut short or left out."""
    thinking: list[Example] = []
    answering: list[Example] = []
    for a in RANGE:
        for b in RANGE:
            end = f"{answer(a, b)}<|im_end|>"
            answering.append((f"{_ask(a, b)}<think>\n\n</think>\n\n", end))
            for effort in ("low", "high"):
                asked, words = _ask(a, b, effort), thought(a, b, effort).split(" ")
                thinking.append((asked, f"<think>\n{' '.join(words)}\n</think>\n\n{end}"))
                for count in range(1, len(words)):
                    begun = f"<think>\n{' '.join(words[:count])}\n</think>\n\n"
                    answering.append((asked + begun, end))
    return thinking, answering


def _train(place: Path) -> None:
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    thinking, answering = _examples()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet
    )
    raw.train_from_iterator(map(_plain_text, thinking), trainer)
    raw.add_tokens([AddedToken(text, normalized=False, special=False) for text in MARKERS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(place)

    threads, generator = torch.get_num_threads(), random.Random(1)
    torch.set_num_threads(1)
    try:
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = LlamaForCausalLM(config)
        _fit(model, tokenizer, thinking, answering, generator)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(place)


def _plain_text(example: Example) -> str:
    text = "".join(example)
    for token in (*SPECIAL_TOKENS, *MARKERS):
        text = text.replace(token, "")
    return text


def _fit(
    model: Any,
    tokenizer: Any,
    thinking: list[Example],
    answering: list[Example],
    generator: random.Random,
) -> None:
    """Train until the model is sure of each token of every reply, also in a later turn."""
    import torch

    earlier = [f"{_ask(a, b)}{answer(a, b)}<|im_end|>\n" for a, b in product(RANGE, RANGE)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(MAX_STEPS):
        chosen = generator.choices(thinking, k=16) + generator.choices(answering, k=8)
        turns = [generator.choice(earlier) * generator.randrange(2) for _ in chosen]
        examples = [
            (turn + prompt, reply) for turn, (prompt, reply) in zip(turns, chosen, strict=True)
        ]
        ids, labels = _batch(tokenizer, examples)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24 and float(loss.detach()) < 0.02:
            later = [(generator.choice(earlier) + prompt, reply) for prompt, reply in thinking]
            if _is_sure(model, tokenizer, [*thinking, *later, *answering]):
                return
    raise AssertionError(f"the model did not learn to add in {MAX_STEPS} steps")


def _batch(tokenizer: Any, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Return ids, and as labels those of the replies."""
    import torch

    pairs = [tuple(map(tokenizer.encode, example)) for example in examples]
    length = max(len(prompt) + len(reply) for prompt, reply in pairs)
    ids = torch.full((len(pairs), length), tokenizer.eos_token_id)
    labels = torch.full((len(pairs), length), -100)
    for row, (prompt, reply) in enumerate(pairs):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : end] = torch.tensor(reply)
    return ids, labels


def _is_sure(model: Any, tokenizer: Any, examples: list[Example]) -> bool:
    """Return whether each token is so likely that rounded weights choose it as well."""
    import torch

    ids, labels = _batch(tokenizer, examples)
    wanted = labels[:, 1:]
    with torch.inference_mode():
        chances = model(input_ids=ids).logits[:, :-1].softmax(-1)
        of_wanted = chances.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return bool(((of_wanted > 0.8) | (wanted == -100)).all())
