"""chatlm's public names, each imported only when it is first used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlm.chat.downloads import Download, DownloadRules, check_address, download
    from chatlm.chat.images import read_image
    from chatlm.chat.ocr import RecognisedText, can_recognise_text, recognise_text
    from chatlm.chat.pdf_pages import render_pages
    from chatlm.chat.session import ChatSession
    from chatlm.chat.side_chats import side_chats
    from chatlm.chat.web_addresses import AddressRefused, CheckedConnections
    from chatlm.chat.word_diff import diff_words
    from chatlm.config.config import Config, load_config
    from chatlm.config.paths import (
        bundled_dir,
        check_regular_file,
        config_dir,
        data_dir,
        expand_path,
        write_atomically,
    )
    from chatlm.engines.batching import SequentialBatch, stream_many
    from chatlm.engines.estimated_tokens import EstimatedTokens
    from chatlm.engines.image_ids import ImageUnit, find_images, image_ids, is_image_id
    from chatlm.engines.image_sources import ImageSources
    from chatlm.engines.local_engine import LocalEngine
    from chatlm.engines.model import (
        AdaptedModel,
        BlockRules,
        ImageModel,
        ImageReader,
        LanguageModel,
        Model,
        ModelInfo,
        SequenceCache,
        Unsupported,
    )
    from chatlm.engines.model_families import ReasoningFormat
    from chatlm.engines.peft_lora import PeftLora, read_peft_lora
    from chatlm.engines.reply_parser import ReasoningParser, StreamedText
    from chatlm.engines.stopping import StopStringFilter
    from chatlm.engines.tokenizer import load_tokenizer
    from chatlm.engines.training_api import ChatEncoder, ChatTokens, fast_dtype, load_pretrained
    from chatlm.errors import (
        ChatlmError,
        ContentFiltered,
        ContextTooLong,
        ContinuationUnsupported,
        EngineError,
        MessageRefused,
        ModelError,
        OutOfMemoryError,
        UsageError,
    )
    from chatlm.hub.catalogue import EmbedderFacts, embedder_facts
    from chatlm.hub.checksums import FileRecord, find_mismatch, find_quick_mismatch, record_file
    from chatlm.hub.disk import fsync_tree, human_bytes
    from chatlm.hub.gguf.lora import convert_gguf_lora
    from chatlm.hub.installed import (
        ModelDetails,
        ModelLocation,
        find_installed_model,
        find_model,
        list_installed_models,
    )
    from chatlm.hub.pull import ensure_model
    from chatlm.hub.weights import fingerprint_weights, tensor_shapes
    from chatlm.plugin_host.hookspecs import (
        AskOption,
        Commands,
        PluginContext,
        ResourceSource,
        hookimpl,
    )
    from chatlm.plugin_host.lifecycle import service
    from chatlm.plugin_host.settings import load_plugin_settings, save_setting
    from chatlm.plugin_host.ui_api import Panel, PluginScreen, ProgressReporter, SlashCommand, Ui
    from chatlm.plugin_kit.artifacts import Artifact, Artifacts
    from chatlm.plugin_kit.progress import graceful_interrupt
    from chatlm.plugin_kit.screens import PluginCard
    from chatlm.store.database import Database
    from chatlm.store.store import Store
    from chatlm.text import dump_json, escape_controls, one_line
    from chatlm.tui import run_ui
    from chatlm.types.conversations import (
        ContextPolicy,
        Conversation,
        ConversationHeader,
        PluginData,
        Turn,
    )
    from chatlm.types.engine import (
        Batch,
        Engine,
        EngineInfo,
        EngineOpener,
        ImageEngine,
        ModelListing,
        count_image_tokens,
        thinking_problem,
    )
    from chatlm.types.events import (
        Delta,
        EngineEvent,
        Finished,
        LogprobBuffer,
        Prefill,
        PromptReady,
        TokenLogprob,
        ToolCallDelta,
        ToolPreview,
    )
    from chatlm.types.memory import MemoryBudget
    from chatlm.types.messages import Annotation, Message, Passage, Role
    from chatlm.types.methods import ReplyMethod
    from chatlm.types.parts import (
        File,
        Image,
        Part,
        PreparedImage,
        Reasoning,
        Text,
        ToolCall,
        ToolResult,
    )
    from chatlm.types.projects import Project
    from chatlm.types.replies import Reply, ReplyStep, StopReason, StreamedPart, Usage
    from chatlm.types.requests import (
        LogitsProcessor,
        Prompt,
        PromptToken,
        Request,
        StoppingCriterion,
        ToolDefinition,
    )
    from chatlm.types.runtimes import GgufModel, GgufRuntime, Mmproj, StoredLinear
    from chatlm.types.sampling import LogitBias, Sampling
    from chatlm.types.schemas import (
        Grammar,
        Schema,
        SchemaMismatch,
        check_schema,
        parse_grammar,
        parse_reply,
        parse_schema,
    )
    from chatlm.types.services import Adapters, Classifier, Documents, Judge, Ratings
    from chatlm.types.setups import (
        OfferedTemplate,
        RenderedTemplate,
        Setup,
        SideChat,
        SideChats,
        TemplateRenderer,
        TextFacts,
    )
    from chatlm.types.tool_rules import ChatTools, ToolSettings
    from chatlm.types.tools import (
        Tool,
        ToolCancelled,
        ToolContext,
        ToolOutput,
        tool,
    )

    __version__: str

if "OMP_WAIT_POLICY" not in os.environ:
    # torch's threads wait for each other in a busy loop, which takes the processors from the decode
    # kernel's threads and from all other programs; so they sleep soon. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_MODULE_OF = {
    "AdaptedModel": "chatlm.engines.model",
    "Adapters": "chatlm.types.services",
    "AddressRefused": "chatlm.chat.web_addresses",
    "Annotation": "chatlm.types.messages",
    "Artifact": "chatlm.plugin_kit.artifacts",
    "Artifacts": "chatlm.plugin_kit.artifacts",
    "AskOption": "chatlm.plugin_host.hookspecs",
    "Batch": "chatlm.types.engine",
    "BlockRules": "chatlm.engines.model",
    "ChatEncoder": "chatlm.engines.training_api",
    "ChatSession": "chatlm.chat.session",
    "ChatTokens": "chatlm.engines.training_api",
    "ChatTools": "chatlm.types.tool_rules",
    "ChatlmError": "chatlm.errors",
    "CheckedConnections": "chatlm.chat.web_addresses",
    "Classifier": "chatlm.types.services",
    "Commands": "chatlm.plugin_host.hookspecs",
    "Config": "chatlm.config.config",
    "ContentFiltered": "chatlm.errors",
    "ContextPolicy": "chatlm.types.conversations",
    "ContextTooLong": "chatlm.errors",
    "ContinuationUnsupported": "chatlm.errors",
    "Conversation": "chatlm.types.conversations",
    "ConversationHeader": "chatlm.types.conversations",
    "Database": "chatlm.store.database",
    "Delta": "chatlm.types.events",
    "Documents": "chatlm.types.services",
    "Download": "chatlm.chat.downloads",
    "DownloadRules": "chatlm.chat.downloads",
    "EmbedderFacts": "chatlm.hub.catalogue",
    "Engine": "chatlm.types.engine",
    "EngineError": "chatlm.errors",
    "EngineEvent": "chatlm.types.events",
    "EngineInfo": "chatlm.types.engine",
    "EngineOpener": "chatlm.types.engine",
    "EstimatedTokens": "chatlm.engines.estimated_tokens",
    "File": "chatlm.types.parts",
    "FileRecord": "chatlm.hub.checksums",
    "Finished": "chatlm.types.events",
    "GgufModel": "chatlm.types.runtimes",
    "GgufRuntime": "chatlm.types.runtimes",
    "Grammar": "chatlm.types.schemas",
    "Image": "chatlm.types.parts",
    "ImageEngine": "chatlm.types.engine",
    "ImageModel": "chatlm.engines.model",
    "ImageReader": "chatlm.engines.model",
    "ImageSources": "chatlm.engines.image_sources",
    "ImageUnit": "chatlm.engines.image_ids",
    "Judge": "chatlm.types.services",
    "LanguageModel": "chatlm.engines.model",
    "LocalEngine": "chatlm.engines.local_engine",
    "LogitBias": "chatlm.types.sampling",
    "LogitsProcessor": "chatlm.types.requests",
    "LogprobBuffer": "chatlm.types.events",
    "MemoryBudget": "chatlm.types.memory",
    "Message": "chatlm.types.messages",
    "MessageRefused": "chatlm.errors",
    "Mmproj": "chatlm.types.runtimes",
    "Model": "chatlm.engines.model",
    "ModelDetails": "chatlm.hub.installed",
    "ModelError": "chatlm.errors",
    "ModelInfo": "chatlm.engines.model",
    "ModelListing": "chatlm.types.engine",
    "ModelLocation": "chatlm.hub.installed",
    "OfferedTemplate": "chatlm.types.setups",
    "OutOfMemoryError": "chatlm.errors",
    "Panel": "chatlm.plugin_host.ui_api",
    "Part": "chatlm.types.parts",
    "Passage": "chatlm.types.messages",
    "PeftLora": "chatlm.engines.peft_lora",
    "PluginCard": "chatlm.plugin_kit.screens",
    "PluginContext": "chatlm.plugin_host.hookspecs",
    "PluginData": "chatlm.types.conversations",
    "PluginScreen": "chatlm.plugin_host.ui_api",
    "Prefill": "chatlm.types.events",
    "PreparedImage": "chatlm.types.parts",
    "ProgressReporter": "chatlm.plugin_host.ui_api",
    "Project": "chatlm.types.projects",
    "Prompt": "chatlm.types.requests",
    "PromptReady": "chatlm.types.events",
    "PromptToken": "chatlm.types.requests",
    "Ratings": "chatlm.types.services",
    "Reasoning": "chatlm.types.parts",
    "ReasoningFormat": "chatlm.engines.model_families",
    "ReasoningParser": "chatlm.engines.reply_parser",
    "RecognisedText": "chatlm.chat.ocr",
    "RenderedTemplate": "chatlm.types.setups",
    "Reply": "chatlm.types.replies",
    "ReplyMethod": "chatlm.types.methods",
    "ReplyStep": "chatlm.types.replies",
    "Request": "chatlm.types.requests",
    "ResourceSource": "chatlm.plugin_host.hookspecs",
    "Role": "chatlm.types.messages",
    "Sampling": "chatlm.types.sampling",
    "Schema": "chatlm.types.schemas",
    "SchemaMismatch": "chatlm.types.schemas",
    "SequenceCache": "chatlm.engines.model",
    "SequentialBatch": "chatlm.engines.batching",
    "Setup": "chatlm.types.setups",
    "SideChat": "chatlm.types.setups",
    "SideChats": "chatlm.types.setups",
    "SlashCommand": "chatlm.plugin_host.ui_api",
    "StopReason": "chatlm.types.replies",
    "StopStringFilter": "chatlm.engines.stopping",
    "StoppingCriterion": "chatlm.types.requests",
    "Store": "chatlm.store.store",
    "StoredLinear": "chatlm.types.runtimes",
    "StreamedPart": "chatlm.types.replies",
    "StreamedText": "chatlm.engines.reply_parser",
    "TemplateRenderer": "chatlm.types.setups",
    "Text": "chatlm.types.parts",
    "TextFacts": "chatlm.types.setups",
    "TokenLogprob": "chatlm.types.events",
    "Tool": "chatlm.types.tools",
    "ToolCall": "chatlm.types.parts",
    "ToolCallDelta": "chatlm.types.events",
    "ToolCancelled": "chatlm.types.tools",
    "ToolContext": "chatlm.types.tools",
    "ToolDefinition": "chatlm.types.requests",
    "ToolOutput": "chatlm.types.tools",
    "ToolPreview": "chatlm.types.events",
    "ToolResult": "chatlm.types.parts",
    "ToolSettings": "chatlm.types.tool_rules",
    "Turn": "chatlm.types.conversations",
    "Ui": "chatlm.plugin_host.ui_api",
    "Unsupported": "chatlm.engines.model",
    "Usage": "chatlm.types.replies",
    "UsageError": "chatlm.errors",
    "bundled_dir": "chatlm.config.paths",
    "can_recognise_text": "chatlm.chat.ocr",
    "check_address": "chatlm.chat.downloads",
    "check_regular_file": "chatlm.config.paths",
    "check_schema": "chatlm.types.schemas",
    "config_dir": "chatlm.config.paths",
    "convert_gguf_lora": "chatlm.hub.gguf.lora",
    "count_image_tokens": "chatlm.types.engine",
    "data_dir": "chatlm.config.paths",
    "diff_words": "chatlm.chat.word_diff",
    "download": "chatlm.chat.downloads",
    "dump_json": "chatlm.text",
    "embedder_facts": "chatlm.hub.catalogue",
    "ensure_model": "chatlm.hub.pull",
    "escape_controls": "chatlm.text",
    "expand_path": "chatlm.config.paths",
    "fast_dtype": "chatlm.engines.training_api",
    "find_images": "chatlm.engines.image_ids",
    "find_installed_model": "chatlm.hub.installed",
    "find_mismatch": "chatlm.hub.checksums",
    "find_model": "chatlm.hub.installed",
    "find_quick_mismatch": "chatlm.hub.checksums",
    "fingerprint_weights": "chatlm.hub.weights",
    "fsync_tree": "chatlm.hub.disk",
    "graceful_interrupt": "chatlm.plugin_kit.progress",
    "hookimpl": "chatlm.plugin_host.hookspecs",
    "human_bytes": "chatlm.hub.disk",
    "image_ids": "chatlm.engines.image_ids",
    "is_image_id": "chatlm.engines.image_ids",
    "list_installed_models": "chatlm.hub.installed",
    "load_config": "chatlm.config.config",
    "load_plugin_settings": "chatlm.plugin_host.settings",
    "load_pretrained": "chatlm.engines.training_api",
    "load_tokenizer": "chatlm.engines.tokenizer",
    "one_line": "chatlm.text",
    "parse_grammar": "chatlm.types.schemas",
    "parse_reply": "chatlm.types.schemas",
    "parse_schema": "chatlm.types.schemas",
    "read_image": "chatlm.chat.images",
    "read_peft_lora": "chatlm.engines.peft_lora",
    "recognise_text": "chatlm.chat.ocr",
    "record_file": "chatlm.hub.checksums",
    "render_pages": "chatlm.chat.pdf_pages",
    "run_ui": "chatlm.tui",
    "save_setting": "chatlm.plugin_host.settings",
    "service": "chatlm.plugin_host.lifecycle",
    "side_chats": "chatlm.chat.side_chats",
    "stream_many": "chatlm.engines.batching",
    "tensor_shapes": "chatlm.hub.weights",
    "thinking_problem": "chatlm.types.engine",
    "tool": "chatlm.types.tools",
    "write_atomically": "chatlm.config.paths",
}
"""The module that defines each public name."""

__all__ = [
    "AdaptedModel",
    "Adapters",
    "AddressRefused",
    "Annotation",
    "Artifact",
    "Artifacts",
    "AskOption",
    "Batch",
    "BlockRules",
    "ChatEncoder",
    "ChatSession",
    "ChatTokens",
    "ChatTools",
    "ChatlmError",
    "CheckedConnections",
    "Classifier",
    "Commands",
    "Config",
    "ContentFiltered",
    "ContextPolicy",
    "ContextTooLong",
    "ContinuationUnsupported",
    "Conversation",
    "ConversationHeader",
    "Database",
    "Delta",
    "Documents",
    "Download",
    "DownloadRules",
    "EmbedderFacts",
    "Engine",
    "EngineError",
    "EngineEvent",
    "EngineInfo",
    "EngineOpener",
    "EstimatedTokens",
    "File",
    "FileRecord",
    "Finished",
    "GgufModel",
    "GgufRuntime",
    "Grammar",
    "Image",
    "ImageEngine",
    "ImageModel",
    "ImageReader",
    "ImageSources",
    "ImageUnit",
    "Judge",
    "LanguageModel",
    "LocalEngine",
    "LogitBias",
    "LogitsProcessor",
    "LogprobBuffer",
    "MemoryBudget",
    "Message",
    "MessageRefused",
    "Mmproj",
    "Model",
    "ModelDetails",
    "ModelError",
    "ModelInfo",
    "ModelListing",
    "ModelLocation",
    "OfferedTemplate",
    "OutOfMemoryError",
    "Panel",
    "Part",
    "Passage",
    "PeftLora",
    "PluginCard",
    "PluginContext",
    "PluginData",
    "PluginScreen",
    "Prefill",
    "PreparedImage",
    "ProgressReporter",
    "Project",
    "Prompt",
    "PromptReady",
    "PromptToken",
    "Ratings",
    "Reasoning",
    "ReasoningFormat",
    "ReasoningParser",
    "RecognisedText",
    "RenderedTemplate",
    "Reply",
    "ReplyMethod",
    "ReplyStep",
    "Request",
    "ResourceSource",
    "Role",
    "Sampling",
    "Schema",
    "SchemaMismatch",
    "SequenceCache",
    "SequentialBatch",
    "Setup",
    "SideChat",
    "SideChats",
    "SlashCommand",
    "StopReason",
    "StopStringFilter",
    "StoppingCriterion",
    "Store",
    "StoredLinear",
    "StreamedPart",
    "StreamedText",
    "TemplateRenderer",
    "Text",
    "TextFacts",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCancelled",
    "ToolContext",
    "ToolDefinition",
    "ToolOutput",
    "ToolPreview",
    "ToolResult",
    "ToolSettings",
    "Turn",
    "Ui",
    "Unsupported",
    "Usage",
    "UsageError",
    "__version__",
    "bundled_dir",
    "can_recognise_text",
    "check_address",
    "check_regular_file",
    "check_schema",
    "config_dir",
    "convert_gguf_lora",
    "count_image_tokens",
    "data_dir",
    "diff_words",
    "download",
    "dump_json",
    "embedder_facts",
    "ensure_model",
    "escape_controls",
    "expand_path",
    "fast_dtype",
    "find_images",
    "find_installed_model",
    "find_mismatch",
    "find_model",
    "find_quick_mismatch",
    "fingerprint_weights",
    "fsync_tree",
    "graceful_interrupt",
    "hookimpl",
    "human_bytes",
    "image_ids",
    "is_image_id",
    "list_installed_models",
    "load_config",
    "load_plugin_settings",
    "load_pretrained",
    "load_tokenizer",
    "one_line",
    "parse_grammar",
    "parse_reply",
    "parse_schema",
    "read_image",
    "read_peft_lora",
    "recognise_text",
    "record_file",
    "render_pages",
    "run_ui",
    "save_setting",
    "service",
    "side_chats",
    "stream_many",
    "tensor_shapes",
    "thinking_problem",
    "tool",
    "write_atomically",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from chatlm.version import version

        value: Any = version()
    elif name in _MODULE_OF:
        from importlib import import_module

        value = getattr(import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'chatlm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
