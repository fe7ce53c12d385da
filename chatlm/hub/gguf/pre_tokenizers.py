"""How byte-level vocabularies split text before merging, by the name that GGUF files give it.

The patterns are those of the models' own tokenizer.json. A name that is not listed is refused: with
another pattern a model reads other tokens than it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

DIGITS = r"\p{Nd}"
"""The step that isolates every digit."""


@dataclass(frozen=True)
class Splitting:
    """How text is split.

    The steps are patterns, each of which isolates what it matches. GPT-2's own comes last if
    `gpt2`.
    """

    steps: tuple[str, ...] = ()
    gpt2: bool = False
    ignore_merges: bool = False
    """Whether words of the vocabulary are tokens even if no merges produce them."""
    normalize: bool = False
    """Whether text is first brought into the Unicode form NFC."""
    bos: bool = False
    """Whether a text starts with the token of the beginning if the file does not say."""

    def pre_tokenizer(self) -> PreTokenizer:
        """Return it as a part of a `tokenizers` pipeline."""
        from tokenizers import Regex, pre_tokenizers

        steps = [
            pre_tokenizers.Digits(individual_digits=True)
            if step is DIGITS
            else pre_tokenizers.Split(Regex(step), behavior="isolated")
            for step in self.steps
        ]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2)
        return pre_tokenizers.Sequence([*steps, last]) if steps else last


_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_END}"


_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_END}"


_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_CASED_WORD = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    "%(contraction)s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    "%(contraction)s"
)


_CASED_END = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_TEKKEN = _CASED_WORD % {"contraction": ""} + r"|\p{N}" + _CASED_END


_GPT4O = _CASED_WORD % {"contraction": f"{_CONTRACTION}?"} + r"|\p{N}{1,3}" + _CASED_END


_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)


_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_LETTERS}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    DIGITS,
)


_DEEPSEEK_CODER = (
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    DIGITS,
)


_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)


_SEED = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _same(splitting: Splitting, *names: str) -> dict[str, Splitting]:
    return dict.fromkeys(names, splitting)


SPLITTINGS: Mapping[str, Splitting] = {
    **_same(Splitting(gpt2=True), "gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "a.x-4.0"),
    **_same(Splitting(gpt2=True), "mellum", "trillion", "granite-docling", "exaone4"),
    **_same(Splitting((DIGITS,), gpt2=True), "smollm", "starcoder", "refact", "command-r"),
    **_same(Splitting((DIGITS,), gpt2=True), "codeshell", "exaone", "minerva-7b", "mellum2"),
    **_same(
        Splitting((_LLAMA3,), ignore_merges=True, bos=True),
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    ),
    **_same(Splitting((_LLAMA3,)), "dbrx", "smaug-bpe", "chatglm-bpe"),
    **_same(Splitting((_LLAMA3,), ignore_merges=True), "glm4", "glm5"),
    **_same(Splitting((_QWEN2,), normalize=True), "qwen2", "stablelm2"),
    **_same(Splitting((_QWEN2,)), "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan"),
    "qwen35": Splitting((_QWEN35,), normalize=True),
    "tekken": Splitting((_TEKKEN,), ignore_merges=True, bos=True),
    **_same(Splitting((_GPT4O,)), "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    "deepseek-llm": Splitting(_DEEPSEEK_LLM),
    "deepseek-coder": Splitting(_DEEPSEEK_CODER),
    **_same(Splitting(_DEEPSEEK_V3), "deepseek-v3", "hunyuan-dense", "joyai-llm"),
    "seed-coder": Splitting((_SEED,)),
}
"""By `tokenizer.ggml.pre`."""
