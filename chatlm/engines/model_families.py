"""The families of models: how each marks its thoughts, and how it writes tool calls.

`FAMILIES` is the one table of such facts. Chat templates write what a model reads, so they are
asked for the rest: roles, results of tools, and whether old thoughts are shown again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from chatlm.engines import tool_call_grammars, tool_call_syntax
from chatlm.engines.tool_call_grammars import WriteGrammar
from chatlm.engines.tool_call_syntax import ReadCalls, WriteCalls
from chatlm.types.parts import ToolCall
from chatlm.types.sampling import Thinking


@dataclass(frozen=True)
class ReasoningFormat:
    """How a family marks its thoughts."""

    starts: tuple[str, ...]
    """Texts that begin a thought."""
    ends: tuple[str, ...]
    """Texts that end it; the answer follows."""
    ignored: tuple[str, ...] = ()
    """Markers of the answer, which are no text of it."""
    is_sectioned: bool = False
    """Whether thoughts may follow parts of the answer."""
    before_end: str = ""
    after_end: str = ""
    """White space that the model writes around the end of a thought."""

    @property
    def ending(self) -> str:
        """Text that ends a thought, and starts the answer, as the model would write it."""
        return self.before_end + self.ends[0] + self.after_end

    @property
    def markers(self) -> tuple[str, ...]:
        """All markers."""
        return self.starts + self.ends + self.ignored

    def is_open_after(self, text: str) -> bool:
        """Whether a text of the format begins a thought and does not end it."""
        opened = max((text.rfind(marker.strip()) for marker in self.starts), default=-1)
        return opened > max((text.rfind(marker.strip()) for marker in self.ends), default=-1)


@dataclass(frozen=True)
class ToolCallFormat:
    """How a family writes tool calls."""

    starts: tuple[str, ...]
    """Texts that begin a block of calls; none is the beginning of another."""
    ends: tuple[str, ...]
    """Texts that end it; the end of the reply ends it as well."""
    read: ReadCalls
    """Reads what is between them."""
    grammar: WriteGrammar
    """Writes the grammar of what follows a start marker, to the end of the block."""
    bare_start: str = ""
    """Text that begins a call where the answer begins, and is part of the call. Only a call of a
    tool that was offered counts, since an answer may begin in the same way."""
    interrupts_thoughts: bool = False
    """Whether a call may begin inside a thought, which it ends."""
    inner: tuple[str, ...] = ()
    """Control tokens inside a block that `read` looks for."""
    end_tokens: tuple[str, ...] = ()
    """Control tokens with which the model ends its turn to wait for results."""
    is_parallel: bool = True
    """Whether a template takes several calls in one message."""
    call_id: Callable[[ToolCall, int], str] = lambda call, number: call.id
    """`(call, number of calls before it in the chat) -> id`: the id that the template expects."""
    write: WriteCalls | None = None
    """Writes calls of an earlier turn for templates that do not read `tool_calls`."""
    tools_variable: str = "tools"
    """Variable of the template with the tools that are offered."""

    @property
    def markers(self) -> tuple[str, ...]:
        """All markers."""
        return self.starts + self.ends + self.inner

    @property
    def head(self) -> re.Pattern[str] | None:
        """What precedes the arguments of a call, which are JSON; None where they are not."""
        return tool_call_syntax.HEADS.get(self.read)


@dataclass(frozen=True)
class ModelFamily:
    """What is known of the models of a family; None where they have no such format.

    The reasoning and the tool calls of one model may come from two rows of the table.
    """

    name: str
    reasoning: ReasoningFormat | None = None
    reasoning_signs: tuple[str, ...] = ()
    """Texts that all occur in the chat template or among the tokens of a family with this
    reasoning; where there are none, any of its markers is enough."""
    tool_calls: ToolCallFormat | None = None
    tool_call_signs: tuple[str, ...] = ()
    """Texts that all occur in the chat template or among the tokens of a family with this
    format."""


def _mistral_id(call: ToolCall, number: int) -> str:
    if re.fullmatch("[A-Za-z0-9]{9}", call.id):
        return call.id
    return hashlib.sha256(call.id.encode()).hexdigest()[:9]


def _channel(name: str) -> str:
    return f"<|channel|>{name}<|message|>"


_NEXT = "<|end|><|start|>assistant"

HARMONY = ReasoningFormat(
    starts=(_channel("analysis"), _NEXT + _channel("analysis")),
    ends=(_NEXT + _channel("final"), _NEXT + _channel("commentary")),
    ignored=(_channel("final"), _channel("commentary")),
    is_sectioned=True,
)
"""gpt-oss: sections of the channels analysis, commentary and final."""

_TO = " to=functions."

HARMONY_CALLS = ToolCallFormat(
    starts=(
        "<|channel|>commentary" + _TO,
        "<|channel|>analysis" + _TO,
        _NEXT + "<|channel|>commentary" + _TO,
        _NEXT + "<|channel|>analysis" + _TO,
        _NEXT + _TO,
    ),
    ends=("<|call|>",),
    read=tool_call_syntax.read_harmony,
    grammar=tool_call_grammars.harmony,
    inner=("<|constrain|>",),
    bare_start=_TO.strip(),
    interrupts_thoughts=True,
    end_tokens=("<|call|>",),
    is_parallel=False,
)

THINK = ReasoningFormat(("<think>",), ("</think>",), before_end="\n", after_end="\n\n")

HERMES_CALLS = ToolCallFormat(
    ("<tool_call>",),
    ("</tool_call>",),
    tool_call_syntax.read_json,
    tool_call_grammars.json_object,
    write=tool_call_syntax.write_json,
)

GENERIC_CALLS = HERMES_CALLS
"""For models whose template describes no tools: chatlm describes them in the system prompt."""

FUNCTION_TAG_CALLS = ToolCallFormat(
    ("<tool_call>",),
    ("</tool_call>",),
    tool_call_syntax.read_function_tags,
    tool_call_grammars.FUNCTION_TAGS,
)

FAMILIES: tuple[ModelFamily, ...] = (
    ModelFamily(
        "gpt-oss",
        reasoning=HARMONY,
        reasoning_signs=("<|channel|>", "<|message|>"),
        tool_calls=HARMONY_CALLS,
        tool_call_signs=("<|channel|>", "functions."),
    ),
    ModelFamily(
        "Gemma 4",
        reasoning=ReasoningFormat(
            ("<|channel>thought\n", "<|channel>thought"), ("<channel|>",), before_end="\n"
        ),
        tool_calls=ToolCallFormat(
            ("<|tool_call>",),
            ("<tool_call|>",),
            tool_call_syntax.read_gemma,
            tool_call_grammars.gemma,
            inner=('<|"|>',),
            end_tokens=("<|tool_response>",),
        ),
        tool_call_signs=("<|tool_call>",),
    ),
    ModelFamily(
        "Seed-OSS",
        reasoning=ReasoningFormat(("<seed:think>",), ("</seed:think>",)),
        tool_calls=ToolCallFormat(
            ("<seed:tool_call>",),
            ("</seed:tool_call>",),
            tool_call_syntax.read_function_tags,
            tool_call_grammars.FUNCTION_TAGS,
        ),
        tool_call_signs=("<seed:tool_call>",),
    ),
    ModelFamily(
        "Mistral, Ministral, Magistral, Devstral",
        reasoning=ReasoningFormat(("[THINK]",), ("[/THINK]",)),
        tool_calls=ToolCallFormat(
            ("[TOOL_CALLS]",),
            (),
            tool_call_syntax.read_mistral,
            tool_call_grammars.mistral,
            inner=("[ARGS]", "[CALL_ID]"),
            call_id=_mistral_id,
        ),
        tool_call_signs=("[TOOL_CALLS]",),
    ),
    ModelFamily(
        "Command A, Command R7B",
        reasoning=ReasoningFormat(
            ("<|START_THINKING|>",),
            ("<|END_THINKING|>",),
            ignored=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        tool_calls=ToolCallFormat(
            ("<|START_ACTION|>",),
            ("<|END_ACTION|>",),
            tool_call_syntax.read_json,
            tool_call_grammars.command_list,
        ),
        tool_call_signs=("<|START_ACTION|>",),
    ),
    ModelFamily(
        "Apertus",
        reasoning=ReasoningFormat(("<|inner_prefix|>",), ("<|inner_suffix|>",)),
        tool_calls=ToolCallFormat(
            ("<|tools_prefix|>",),
            ("<|tools_suffix|>",),
            tool_call_syntax.read_named_objects,
            tool_call_grammars.named_objects,
        ),
        tool_call_signs=("<|tools_prefix|>",),
    ),
    ModelFamily("Kimi-VL", reasoning=ReasoningFormat(("◁think▷",), ("◁/think▷",))),
    ModelFamily(
        "Granite 3.2, Apriel",
        reasoning=ReasoningFormat(
            (
                "Here is my thought process:",
                "Here's my thought process:",
                "Here are my reasoning steps:",
            ),
            ("Here is my response:", "Here's my response:", "[BEGIN FINAL RESPONSE]"),
            ignored=("[END FINAL RESPONSE]",),
            before_end="\n",
            after_end="\n",
        ),
    ),
    ModelFamily(
        "Granite 3.3",
        reasoning=replace(THINK, ignored=("<response>", "</response>")),
        reasoning_signs=("<think>", "<response>"),
    ),
    ModelFamily(
        "Qwen3, QwQ, DeepSeek, GLM, Kimi K2, MiniMax, Nemotron, SmolLM3, LFM2.5",
        reasoning=THINK,
    ),
    ModelFamily(
        "Kimi K2",
        tool_calls=ToolCallFormat(
            ("<|tool_calls_section_begin|>",),
            ("<|tool_calls_section_end|>",),
            tool_call_syntax.read_kimi,
            tool_call_grammars.kimi,
            inner=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
            interrupts_thoughts=True,
            call_id=lambda call, number: f"functions.{call.name}:{number}",
        ),
        tool_call_signs=("<|tool_calls_section_begin|>",),
    ),
    ModelFamily(
        "MiniMax",
        tool_calls=ToolCallFormat(
            ("<minimax:tool_call>",),
            ("</minimax:tool_call>",),
            tool_call_syntax.read_invoke_tags,
            tool_call_grammars.INVOKE_TAGS,
        ),
        tool_call_signs=("<minimax:tool_call>",),
    ),
    ModelFamily(
        "DeepSeek V3.2, V4",
        tool_calls=ToolCallFormat(
            ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
            ("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
            tool_call_syntax.read_dsml,
            tool_call_grammars.dsml,
            inner=("｜DSML｜",),
        ),
        tool_call_signs=("｜DSML｜",),
    ),
    ModelFamily(
        "DeepSeek R1, V3, V3.1",
        tool_calls=ToolCallFormat(
            ("<｜tool▁calls▁begin｜>",),
            ("<｜tool▁calls▁end｜>",),
            tool_call_syntax.read_deepseek,
            tool_call_grammars.deepseek,
            inner=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        ),
        tool_call_signs=("<｜tool▁calls▁begin｜>",),
    ),
    ModelFamily(
        "LFM2",
        tool_calls=ToolCallFormat(
            ("<|tool_call_start|>",),
            ("<|tool_call_end|>",),
            tool_call_syntax.read_python,
            tool_call_grammars.python_list,
            write=tool_call_syntax.write_python,
        ),
        tool_call_signs=("<|tool_call_start|>",),
    ),
    ModelFamily(
        "GLM 4.5 and later",
        tool_calls=ToolCallFormat(
            ("<tool_call>",),
            ("</tool_call>",),
            tool_call_syntax.read_argument_tags,
            tool_call_grammars.ARGUMENT_TAGS,
            inner=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
            end_tokens=("<|observation|>",),
        ),
        tool_call_signs=("<tool_call>", "<arg_key>"),
    ),
    ModelFamily(
        "Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5",
        tool_calls=FUNCTION_TAG_CALLS,
        tool_call_signs=("<tool_call>", "<function=", "<parameter="),
    ),
    ModelFamily(
        "SmolLM3",
        tool_calls=ToolCallFormat(
            ("<tool_call>",),
            ("</tool_call>",),
            tool_call_syntax.read_json,
            tool_call_grammars.json_object,
            write=tool_call_syntax.write_json,
            tools_variable="xml_tools",
        ),
        tool_call_signs=("<tool_call>", "xml_tools"),
    ),
    ModelFamily(
        "Phi-4-mini",
        tool_calls=ToolCallFormat(
            ("<|tool_call|>",),
            ("<|/tool_call|>",),
            tool_call_syntax.read_json,
            tool_call_grammars.json_list,
        ),
        tool_call_signs=("<|tool_call|>", "<|/tool_call|>"),
    ),
    ModelFamily(
        "Granite 3",
        tool_calls=ToolCallFormat(
            ("<|tool_call|>",),
            (),
            tool_call_syntax.read_json,
            tool_call_grammars.json_list,
            write=tool_call_syntax.write_json_list,
        ),
        tool_call_signs=("<|tool_call|>",),
    ),
    ModelFamily(
        "Nemotron Nano 2, Super",
        tool_calls=ToolCallFormat(
            ("<TOOLCALL>",),
            ("</TOOLCALL>",),
            tool_call_syntax.read_json,
            tool_call_grammars.json_list,
        ),
        tool_call_signs=("<TOOLCALL>",),
    ),
    ModelFamily(
        "Apriel",
        tool_calls=ToolCallFormat(
            ("<tool_calls>",),
            ("</tool_calls>",),
            tool_call_syntax.read_json,
            tool_call_grammars.json_list,
        ),
        tool_call_signs=("<tool_calls>",),
    ),
    ModelFamily(
        "Hermes, Qwen2.5, Qwen3, QwQ, Granite 4, MiMo",
        tool_calls=HERMES_CALLS,
        tool_call_signs=("<tool_call>",),
    ),
    ModelFamily(
        "GigaChat 3.1",
        tool_calls=ToolCallFormat(
            ("<|function_call|>",), (), tool_call_syntax.read_json, tool_call_grammars.json_object
        ),
        tool_call_signs=("<|function_call|>",),
    ),
    ModelFamily(
        "Functionary 3.1",
        tool_calls=ToolCallFormat(
            ("<function=",),
            ("</function>",),
            tool_call_syntax.read_functionary,
            tool_call_grammars.functionary,
            end_tokens=("<|eom_id|>",),
        ),
        tool_call_signs=("<function=", "</function>", "<|eom_id|>"),
    ),
    ModelFamily(
        "Llama 3.1, 3.2, 3.3",
        tool_calls=ToolCallFormat(
            ("<|python_tag|>",),
            (),
            tool_call_syntax.read_json,
            tool_call_grammars.llama_object,
            bare_start="{",
            end_tokens=("<|eom_id|>",),
            is_parallel=False,
        ),
        tool_call_signs=('"parameters": ', "ipython"),
    ),
)
"""Most specific first: of the rows that fit, the first decides."""


def find_family(template_texts: Iterable[str], tokens: Collection[str]) -> ModelFamily:
    """Return how a model marks its thoughts and writes its tool calls.

    Args:
        template_texts: texts, constants and names of variables of its chat templates.
        tokens: texts of its added tokens.
    """
    written = "\0".join(template_texts)

    def shows(text: str) -> bool:
        return text.strip() in written or text.strip() in tokens

    def thinks(family: ModelFamily) -> bool:
        form = family.reasoning
        if form is None:
            return False
        if family.reasoning_signs:
            return all(map(shows, family.reasoning_signs))
        return any(map(shows, form.starts + form.ends))

    def calls(family: ModelFamily) -> bool:
        return family.tool_calls is not None and all(map(shows, family.tool_call_signs))

    thinking = next(filter(thinks, FAMILIES), ModelFamily(""))
    calling = next(filter(calls, FAMILIES), ModelFamily(""))
    return ModelFamily(
        name="; ".join(dict.fromkeys(filter(None, (thinking.name, calling.name)))),
        reasoning=thinking.reasoning,
        tool_calls=calling.tool_calls,
    )


def thinking_variables(thinking: Thinking) -> dict[str, Any]:
    """Return what chat templates read to switch thinking, under the names of all families."""
    if thinking == "auto":
        return {}
    if thinking == "off":  # gpt-oss cannot be switched off
        return {
            "enable_thinking": False,
            "thinking": False,
            "reasoning": False,
            "reasoning_effort": "low",
            "thinking_budget": 0,
        }
    return {
        "enable_thinking": True,
        "thinking": True,
        "reasoning": True,
        "reasoning_effort": thinking,
    }


def thinking_levels(variables: Collection[str]) -> tuple[Thinking, ...]:
    """Return the values of `thinking` that a chat template follows, by the variables it reads."""
    if not {"enable_thinking", "thinking", "reasoning"}.isdisjoint(variables):
        return ("off", "low", "medium", "high")
    if "reasoning_effort" in variables:
        return ("low", "medium", "high")
    return ("off",) if "thinking_budget" in variables else ()
