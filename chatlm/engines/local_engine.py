"""The engine for local models: chat formats, prompt cache, sampling and stopping around a model."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from chatlm.engines.adapters import AdapterCache, FindAdapter, no_adapter
from chatlm.engines.call_constraints import ReplyConstraint
from chatlm.engines.chat_tokenizer import ChatTokenizer
from chatlm.engines.constraint_compiler import ConstraintCompiler
from chatlm.engines.context_fit import FittedPrompt, compute_reply_reserve, fit_prompt
from chatlm.engines.continuous_batch import ActiveSequence, LocalBatch, PrefillTask
from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.draft_loading import load_draft_model
from chatlm.engines.draft_model import Drafter
from chatlm.engines.generation_state import GenerationState, TokenLimits
from chatlm.engines.image_ids import plain_ids
from chatlm.engines.load import load
from chatlm.engines.machine_speed import OtherLoad
from chatlm.engines.model import NO_IMAGES, ImageModel, Model, Unsupported
from chatlm.engines.native.kv_cache import KVFormat
from chatlm.engines.prompt_cache import CachedPrompt, PromptCache
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.prompt_tokens import count_message_tokens, prompt_tokens
from chatlm.engines.samplers import Sampler
from chatlm.engines.saved_caches import SavedCaches, describe_computation
from chatlm.engines.speculative import Speculator
from chatlm.engines.stopping import EosStoppingCriteria, StopStringFilter
from chatlm.engines.tokenizer import load_tokenizer
from chatlm.engines.torch_threads import single_torch_thread
from chatlm.errors import OutOfMemoryError, UsageError
from chatlm.hub.mmproj import mmproj_hint
from chatlm.hub.weights import count_parameters
from chatlm.types.engine import EngineInfo, check_no_method, check_parts
from chatlm.types.events import EngineEvent, Finished, Prefill, PromptReady
from chatlm.types.memory import MemoryBudget
from chatlm.types.messages import Message
from chatlm.types.parts import Image
from chatlm.types.replies import Usage
from chatlm.types.requests import Prompt, Request, prompt_hash
from chatlm.types.runtimes import GgufRuntime
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling
from chatlm.types.schemas import GRAMMAR_KINDS

T = TypeVar("T")

MAX_INLINE_CHARACTERS = 20_000
"""Characters of a prompt that are encoded at once; more would delay the other replies of a batch
by more than a token."""

MESSAGE_CHARACTERS = 100
"""Characters that take as long as the template's text around a message."""

MESSAGE_TOKENS = 64
"""Tokens by which the next message lengthens a prompt that is read ahead, at least as a rule."""


def _ignore_usage(usage: Usage, others: float) -> None:
    """Do nothing."""


class LocalEngine:
    """The engine of one local model.

    A plugin that computes a model in its own way passes its `chatlm.Model` and a tokenizer; the
    engine adds chat formats, context fitting, the prompt cache, sampling, stop conditions,
    log-probabilities, batches and the preview of prompts.

    Args:
        name: of the model, as the user calls it.
        model: computes logits.
        tokenizer: a fast tokenizer of transformers, or what `chatlm.load_tokenizer` returns.
        prompt_format: one of `chatlm.engines.prompt_renderer.PROMPT_FORMATS`.
        context: limit of the context in tokens; None for the model's own.
        catalogue_sampling: sampling known to suit the model; wins over its generation config.
        find_adapter: finds the adapters that requests name.
        num_parameters: of the model; None when unknown.
        memory: limits of the context and the prompt cache; None for none.
        report_usage: called with the usage of each reply of `stream` that ended, and the share of
            the processors that other programs took from it.
        saved_caches: keeps the KV caches of chats on disk; None keeps none.
        draft_model: drafts tokens for the model, which must be able to drop them exactly; None
            for none.
        notes: for the user, besides those of the model.
        image_hint: what to do about images that it does not read; empty for nothing.

    Raises:
        ModelError: the tokenizer cannot be used with the prompt format.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        tokenizer: ChatTokenizer,
        *,
        prompt_format: str = "auto",
        context: int | None = None,
        catalogue_sampling: Sampling | None = None,
        find_adapter: FindAdapter = no_adapter,
        num_parameters: int | None = None,
        memory: MemoryBudget | None = None,
        report_usage: Callable[[Usage, float], object] = _ignore_usage,
        saved_caches: SavedCaches | None = None,
        draft_model: Drafter | None = None,
        notes: Sequence[str] = (),
        image_hint: str = "",
    ) -> None:
        self._report_usage = report_usage
        model_info = model.info
        limit = context or (memory.context_length if memory else model_info.context_length)
        self._images = model.images if isinstance(model, ImageModel) else None
        self.prompt_encoder = PromptEncoder(
            tokenizer, prompt_format, model_info.eos_token_ids, self._images
        )
        end_ids = {*model_info.eos_token_ids, self.prompt_encoder.eos_token_id}
        end_sequences = [
            *([number] for number in end_ids if number is not None),
            *self.prompt_encoder.end_sequences,
        ]
        self._eos_criteria = EosStoppingCriteria(end_sequences)
        self._raw_eos_criteria = EosStoppingCriteria(
            [*end_sequences, *self.prompt_encoder.as_raw().end_sequences]
        )
        self.constraints = ConstraintCompiler(
            self.prompt_encoder, (each[0] for each in end_sequences if len(each) == 1)
        )
        """Compiles what answers must be."""
        self._adapters = AdapterCache(model, find_adapter)
        self._lock = threading.Lock()
        self._slow_work_lock = threading.Lock()
        notes = (*model_info.notes, *self.prompt_encoder.notes, *notes)
        why_blind = next((note for note in notes if note.startswith(NO_IMAGES)), "")
        image_hint = " ".join(filter(None, (why_blind, image_hint)))
        suggested = (catalogue_sampling or Sampling()).with_fallback(
            model_info.recommended_sampling
        )
        self.info = EngineInfo(
            model=name,
            device=model_info.device,
            weights=model_info.weights,
            kv_cache=model_info.kv_cache,
            draft_model=draft_model.name if draft_model else "",
            context_length=min(model_info.context_length, limit),
            prompt_format=self.prompt_encoder.format,
            default_sampling=suggested.with_fallback(DEFAULT_SAMPLING),
            recommended_sampling=suggested,
            notes=notes,
            part_hints={"image": image_hint} if image_hint else {},
            versions={name: version(name) for name in ("torch", "transformers", "tokenizers")}
            | dict(model_info.versions),
            num_parameters=num_parameters,
            memory=memory,
            accepts=frozenset(
                {
                    "text",
                    *(("tool_call", "tool_result") if self.prompt_encoder.calls_tools else ()),
                    *(("image",) if self.prompt_encoder.reads_images else ()),
                }
            ),
            tools_in_system_prompt=not self.prompt_encoder.knows_tools,
            constraints=frozenset({"schema", *GRAMMAR_KINDS}),
            thinks=self.prompt_encoder.thinks,
            raw_prompts=frozenset({"text", "gap"} if self.prompt_encoder.gap_format else {"text"}),
            thinking_levels=self.prompt_encoder.thinking_levels,
        )
        # two whole contexts, so that switching an adapter on and off needs no new prefill
        cached = memory.cached_tokens if memory else 2 * self.info.context_length
        per_prompt = memory.tokens_per_prompt if memory else 0
        self._prompt_cache = PromptCache(cached, model_info.block_rules, per_prompt)
        self._reuses_prompts = model_info.block_rules.several
        self._saved_caches = saved_caches
        self._draft_model = draft_model

    @classmethod
    def from_folder(
        cls,
        name: str,
        folder: Path,
        placement: Placement,
        *,
        prompt_format: str = "auto",
        context: int | None = None,
        catalogue_sampling: Sampling | None = None,
        engine: str = "auto",
        weights: str = "auto",
        kv_cache: KVFormat = "auto",
        find_adapter: FindAdapter = no_adapter,
        memory: MemoryBudget | None = None,
        runtimes: Mapping[str, GgufRuntime] | None = None,
        report_usage: Callable[[Usage, float], object] = _ignore_usage,
        chat_cache: int = 0,
        draft_model: tuple[str, Path] | None = None,
        notes: Sequence[str] = (),
    ) -> LocalEngine:
        """Load a model in the format of transformers.

        Args:
            name: of the model, as the user calls it.
            folder: config.json, weights and tokenizer.
            placement: device, and dtype of the computation.
            prompt_format: see `LocalEngine`.
            context: see `LocalEngine`.
            catalogue_sampling: see `LocalEngine`.
            engine: see `chatlm.engines.load.load`.
            weights: see `chatlm.engines.load.load`.
            kv_cache: see `chatlm.engines.load.load`.
            find_adapter: see `LocalEngine`.
            memory: see `LocalEngine`.
            runtimes: see `chatlm.engines.load.load`.
            report_usage: see `LocalEngine`.
            chat_cache: limit of the bytes of saved KV caches of chats; 0 keeps none.
            draft_model: name and folder of a small model with the same tokenizer, which drafts
                tokens. Where it cannot, the engine's notes say why.
            notes: see `LocalEngine`.

        Raises:
            ModelError: the folder does not hold a usable model.
            OutOfMemoryError: the device has too little memory.
        """
        model = load(
            name,
            folder,
            placement,
            engine,
            weights,
            kv_cache,
            context=context or (memory.context_length if memory else None),
            runtimes=runtimes,
        )
        tokenizer = load_tokenizer(name, folder)
        drafts, notes = None, list(notes)
        if draft_model:
            try:
                drafts = load_draft_model(
                    *draft_model, model=model, folder=folder, tokenizer=tokenizer, kv_cache=kv_cache
                )
            except Unsupported as reason:
                notes.append(f"The draft model {draft_model[0]} is not used: {reason}.")
        return cls(
            name,
            model,
            tokenizer,
            prompt_format=prompt_format,
            context=context,
            catalogue_sampling=catalogue_sampling,
            find_adapter=find_adapter,
            num_parameters=count_parameters(folder),
            memory=memory,
            report_usage=report_usage,
            saved_caches=SavedCaches(describe_computation(folder, model), chat_cache)
            if chat_cache
            else None,
            draft_model=drafts,
            notes=notes,
            image_hint="" if engine in (runtimes or ()) else mmproj_hint(folder, bool(runtimes)),
        )

    def preview(self, request: Request) -> Prompt:
        """Return the prompt that `stream` would read."""
        check_parts(request, self.info)
        encoder = self._encoder(request)
        prompt = self._fit_prompt(request)
        counts = list(encoder.estimate_message_tokens(request.messages))
        included = [request.messages[index] for index in prompt.included]
        for index, count in zip(
            prompt.included, count_message_tokens(encoder, included), strict=True
        ):
            counts[index] = count
        return Prompt(
            tokens=tuple(prompt_tokens(encoder, request.messages, prompt.included)),
            message_tokens=tuple(counts),
            omitted=prompt.omitted,
            context_length=self.info.context_length,
            reply_reserve=compute_reply_reserve(request, self.info),
            hash=prompt_hash(prompt.ids),
        )

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Count the tokens of the messages in a prompt, control tokens included."""
        return len(self.prompt_encoder.encode(list(messages)))

    def image_tokens(self, width: int, height: int) -> int:
        """Count the tokens of an image in a prompt, see `chatlm.ImageEngine`."""
        if not self.prompt_encoder.reads_images:
            raise UsageError(
                f"{self.info.model} cannot read images", hint="Choose a model that can."
            )
        return self.prompt_encoder.image_tokens(width, height)

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        with self._lock:
            self._prompt_cache.clear()
            if self._images is not None:
                self._images.clear()
            self._adapters.close()
            self._draft_model = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate a reply, see `chatlm.Engine`."""
        with self._lock, closing(self._open_batch(nullcontext())) as batch:
            batch.add(request)
            others = OtherLoad()
            while len(batch):
                for _, event in batch.step():
                    if isinstance(event, Exception):
                        raise event
                    if isinstance(event, Prefill):  # the reply's tokens come after the last one
                        others = OtherLoad()
                    if isinstance(event, Finished):
                        self._report_usage(event.usage, others.share())
                    yield event

    def batch(self) -> LocalBatch:
        """Open a batch that decodes several requests at once where the model can."""
        return self._open_batch(self._lock)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """Prefill the request's prompt, so that a later one with the same start comes sooner."""
        check_parts(request, self.info)
        if not self._reuses_prompts:
            return
        prompt = self._fit_prompt(
            request,
            # so that turns which the next message pushes out are dropped now, while nobody waits
            message_reserve=self.info.context_length // 16,
        )
        try:
            with (
                self._lock,
                self._images_of(request),
                self._borrow_cache(request, prompt.ids) as cached,
            ):
                for done in cached.read_ahead(prompt.ids, MESSAGE_TOKENS):
                    yield Prefill(done, len(prompt.ids))
                for done in self._save_cache(request, cached):
                    yield Prefill(done, len(prompt.ids))
        except Exception as error:
            raise self._as_user_error(error)  # noqa: B904  # it has its cause

    def _open_batch(self, lock: AbstractContextManager[object]) -> LocalBatch:
        return LocalBatch(self._adapters.model, self._prefill, lock, self._as_user_error)

    def _as_user_error(self, error: Exception) -> Exception:
        """Turn an error into one for the user; free memory if it ran out."""
        if not is_out_of_memory(error):
            return error
        self._prompt_cache.clear()
        if self._images is not None:
            self._images.clear()
        user_error = OutOfMemoryError(
            f"Out of memory on {self.info.device}",
            hint="The chat is saved. Start a new chat, lower `chatlm config set context`, "
            "or choose a smaller model.",
        )
        user_error.__cause__ = error
        return user_error

    def _images_of(self, request: Request) -> AbstractContextManager[None]:
        """Let the model read the images of a request within the context.

        Raises:
            UsageError: the bytes of one are not here.
        """
        images = [
            part
            for message in request.messages
            for part in message.parts
            if isinstance(part, Image)
        ]
        if self._images is None or not images:
            return nullcontext()
        for image in images:
            if image.sha256 not in request.images:
                request.image_bytes(image)  # which says so
        return self._images.available({image.sha256 for image in images}, request.images)

    def _fit_prompt(self, request: Request, message_reserve: int = 0) -> FittedPrompt:
        """Fit the prompt into the context."""
        messages = request.messages
        encoder = self._encoder(request)
        return fit_prompt(
            messages,
            lambda indices: encoder.encode([messages[index] for index in indices]),
            encoder.estimate_message_tokens(messages),
            context_length=self.info.context_length,
            reply_reserve=compute_reply_reserve(request, self.info),
            message_reserve=message_reserve,
        )

    def _wait_for(self, compute: Callable[[], T]) -> Generator[Future[Any], None, T]:
        """Compute what takes long while other replies go on; one at a time, to leave them a core.

        Yields:
            The future of the result, until it is done.
        """
        future: Future[T] = Future()

        def work() -> None:
            with self._slow_work_lock:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    future.set_result(compute())
                except BaseException as error:
                    future.set_exception(error)

        # a daemon, since an abandoned request must not delay the program's end
        threading.Thread(target=work, name="prepare-request", daemon=True).start()
        try:
            while not future.done():
                yield future
        finally:
            future.cancel()
        return future.result()

    def _compile_constraint(
        self, request: Request
    ) -> Generator[Future[Any], None, ReplyConstraint | None]:
        """Compile what the reply must be; None if it is free."""
        if not (request.sampling.schema or request.sampling.grammar or request.tools):
            return None
        return (yield from self._wait_for(lambda: self.constraints.compile(request)))

    def _encoder(self, request: Request) -> PromptEncoder:
        """Return the encoder of a request's prompt."""
        if request.raw:
            return self.prompt_encoder.as_raw()
        thinking = request.sampling.thinking or "auto"
        return self.prompt_encoder.with_options(thinking, request.tools)

    @contextmanager
    def _borrow_cache(self, request: Request, prompt: Sequence[int]) -> Iterator[CachedPrompt]:
        """Take the best KV cache for a request's prompt, and store it again afterwards."""
        adapter = request.adapter
        cached = self._prompt_cache.acquire(adapter, self._adapters.get(adapter), prompt)
        try:
            if self._saved_caches and request.cache_folder:
                digest = self._adapters.digest(adapter)
                self._saved_caches.load(request.cache_folder, cached, prompt, digest)
            yield cached
        finally:
            self._prompt_cache.release(adapter, cached)

    def _save_cache(self, request: Request, cached: CachedPrompt) -> Iterator[int]:
        if self._saved_caches and request.cache_folder:
            digest = self._adapters.digest(request.adapter)
            yield from self._saved_caches.save(request.cache_folder, cached, digest)

    def _prefill(self, request: Request) -> PrefillTask:
        """Fit the prompt into the context and prefill it."""
        check_parts(request, self.info)
        check_no_method(request)
        started = time.perf_counter()
        sampling = request.sampling.with_fallback(self.info.default_sampling)
        request = dataclasses.replace(request, sampling=sampling)
        constraint = yield from self._compile_constraint(request)
        if _prompt_size(request) > MAX_INLINE_CHARACTERS:
            prompt = yield from self._wait_for(lambda: self._fit_prompt(request))
        else:
            prompt = self._fit_prompt(request)
        total, limit = len(prompt.ids), self.info.context_length
        room = limit - total
        encoder = self._encoder(request)
        parser = encoder.reply_parser([request.messages[index] for index in prompt.included])
        if constraint is not None and parser.part != "reasoning":
            constraint.expect(*encoder.answer_openings())
        omitted = tuple(request.messages[index] for index in prompt.omitted)
        continues = request.raw or (
            bool(request.messages) and request.messages[-1].role == "assistant"
        )
        # the model and the sampler know one id for all images; caches tell them apart
        ids = plain_ids(prompt.ids, encoder.placeholder_id)
        with ExitStack() as borrowed:
            borrowed.enter_context(self._images_of(request))
            cached_prompt = borrowed.enter_context(self._borrow_cache(request, prompt.ids))
            cached = cached_prompt.reuse_prefix(prompt.ids)
            yield PromptReady(total, limit, omitted, cached, prompt_hash(prompt.ids))
            for done in cached_prompt.prefill_in_parts(prompt.ids):
                yield None if done is None else Prefill(done, total)
            logits = cached_prompt.logits
            with single_torch_thread():
                sampler = Sampler(
                    sampling,
                    torch.tensor(ids),
                    logits.shape[-1],
                    logits.device,
                    self.prompt_encoder.token_bytes,
                    self.prompt_encoder.encode_text,
                )
            state = GenerationState(
                prompt_ids=ids,
                request=request,
                sampler=sampler,
                token_bytes=self.prompt_encoder.token_bytes,
                detokenizer=encoder.detokenizer(ids[-8:] if continues else ()),
                parser=parser,
                stop_filter=StopStringFilter([*sampling.stop, *encoder.stop_strings]),
                format_stop_strings=frozenset(encoder.stop_strings) - frozenset(sampling.stop),
                eos_criteria=self._raw_eos_criteria if request.raw else self._eos_criteria,
                limits=TokenLimits(
                    answer=sampling.max_tokens or limit,
                    # a quarter of the room is left for the answer
                    thought=min(sampling.thinking_budget or room, max(1, room * 3 // 4)),
                    total=min(request.max_new_tokens or room, room),
                    context=room,
                ),
                end_of_thought=encoder.end_of_thought(),
                usage=Usage(prompt_tokens=total, cached_tokens=cached),
                started_at=started,
                constraint=constraint,
                call_head=encoder.call_format.head if request.tools else None,
            )
            yield ActiveSequence(
                state,
                Speculator(cached_prompt, ids, sampler, self._draft_model),
                cached_prompt,
                borrowed.pop_all().close,
            )


def _prompt_size(request: Request) -> int:
    """Estimate the work of encoding a prompt, in characters of plain text."""
    tools = sum(len(str(tool.parameters)) + len(tool.description) for tool in request.tools)
    return tools + sum(MESSAGE_CHARACTERS + len(message.text) for message in request.messages)
