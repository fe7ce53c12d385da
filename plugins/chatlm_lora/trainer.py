"""Train, evaluate, keep the best checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import LoraConfig, get_peft_model
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from chatlm import ChatlmError, UsageError, graceful_interrupt, load_pretrained
from chatlm_lora import card, checkpoints
from chatlm_lora.card import AdapterCard, SampleAnswer
from chatlm_lora.checkpoints import HeldOutResult, UnfinishedRun
from chatlm_lora.dataset import Collator, evaluate_loss
from chatlm_lora.effect import greedy_answer
from chatlm_lora.library import ADAPTERS
from chatlm_lora.peft_utils import (
    explain_out_of_memory,
    quiet_transformers,
    resolve_target_modules,
    save_adapter,
    training_dtypes,
)
from chatlm_lora.recipe import PreparedData, TrainingJob, prepare_data
from chatlm_lora.watching import ProgressListener, TrainingProgress

MAX_LOSS_POINTS = 500
"""About so many losses are kept for the curve."""


RESUME_HINT = "Give the same command again to go on from the last checkpoint."


class TrainingStopped(ChatlmError):
    """The person stopped a training before there was anything to keep."""

    exit_code = 130


def train_adapter(
    order: TrainingJob, watcher: ProgressListener, *, anew: bool = False
) -> AdapterCard | None:
    """Train, keep the best checkpoint, measure it, and put the adapter into its place.

    Under `accelerate launch` each process calls it; the first one writes and reports.

    Args:
        order: what to train.
        watcher: is shown how far it is.
        anew: forget an earlier training that was stopped, else go on with it.

    Returns:
        The card; None in the processes that do not write.

    Raises:
        UsageError: the name is taken, there is nothing to train on, or machines have different
            checkpoints to go on from.
        TrainingStopped: the person did.
        ChatlmError: the disk or the memory is full, or the losses became no numbers.
    """
    place = ADAPTERS.free(order.name)
    processes = PartialState(cpu=order.on_cpu)
    main = processes.is_main_process
    with (
        checkpoints.open_run(order.name, order.plan(), anew=anew, main=main) as run,
        quiet_transformers(),
        explain_out_of_memory("Lower --batch or --longest."),
        _stop_on_interrupt(processes) as stopped,
    ):
        processes.wait_for_everyone()
        work = _TrainingProcess(order, run, watcher if main else ProgressListener(), processes)
        try:
            work.carry_out(stopped)
        except KeyboardInterrupt:
            raise TrainingStopped("Stopped.", hint=RESUME_HINT) from None
        if not main:
            return None
        made = work.card()
        with ADAPTERS.making(place) as new:
            save_adapter(work.model, new, order.base)
            card.write_card(made, new)
        run.forget()
    return made


class _TrainingProcess:
    """One training in one process."""

    def __init__(
        self,
        order: TrainingJob,
        run: UnfinishedRun,
        watcher: ProgressListener,
        processes: PartialState,
    ) -> None:
        self._order, self._run, self._watcher = order, run, watcher
        self._main = processes.is_main_process
        self._progress = TrainingProgress()
        self._started = time.monotonic()
        self._tell("reading the data")
        self._ready: PreparedData = prepare_data(order, processes.num_processes)
        self._collator = Collator(self._ready.encoder.end_id)
        self._tell("loading the model")
        set_seed(order.recipe.seed)
        self._formats = training_dtypes(order.on_cpu)
        self.model: Any = self._adapted()

    def carry_out(self, stopped: Callable[[], bool]) -> None:
        """Train up to the end, an early end, or the person's; the model then is the best one."""
        checkpoint = self._checkpoint()
        trainer = self._trainer(stopped)
        if self._main:
            self._before = self._run.remembered() or self._base()
            self._progress.base = self._before.loss
        if stopped():
            raise KeyboardInterrupt
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self._ended = _describe_end(trainer, stopped)
        self._steps = trainer.state.global_step
        self._best_step = trainer.state.best_global_step

    def _checkpoint(self) -> Path | None:
        """Where an earlier training was stopped; processes that began at different steps would
        train different adapters."""
        found = self._run.checkpoint()
        if len(set(gather_object([found and found.name]))) > 1:
            raise UsageError(
                "The machines do not see the same checkpoints of the training that was stopped.",
                hint="Let CHATLM_HOME be one folder that all of them share, or give --restart.",
            )
        return found

    def card(self) -> AdapterCard:
        """Measure the trained adapter, in the number format it is kept in."""
        order, ready, progress = self._order, self._ready, self._progress
        _round_to_bfloat16(self.model)
        before, after = self._before, self._measured("measuring the adapter")
        if not math.isfinite(after.loss):
            raise ChatlmError(
                "The losses became infinite or no numbers.", hint="Lower --rate, then --restart."
            )
        answers = zip(ready.examples, before.answers, after.answers, strict=True)
        return AdapterCard(
            name=order.name,
            way="trained",
            base=order.base.name,
            description=order.description,
            licence=order.licence,
            command=order.command,
            source={
                "data": order.data.name,
                "sha256": order.data.sha256,
                "train": len(ready.train),
                "held_out": len(ready.held_out),
                "too_long": ready.train.left_out + ready.held_out.left_out,
                "repeated": order.data.repeated,
            },
            settings=order.recipe.to_dict() | {"prompt_format": order.prompt_format},
            scores={
                "held_out_loss_before": before.loss,
                "held_out_loss_after": after.loss,
                "fall": 1 - after.loss / before.loss,
            },
            cost={
                "seconds": round(time.monotonic() - self._started, 1),
                "tokens": progress.tokens,
                "tokens_per_second": round(progress.tokens_per_second or 0.0, 1),
                "steps": self._steps,
                "from_step": progress.first,
                "best_step": self._best_step,
                "ended": self._ended,
            },
            answers=tuple(
                SampleAnswer(chat[-2].content, chat[-1].content, old, new)
                for chat, old, new in answers
            ),
            versions={name: version(name) for name in ("torch", "transformers", "peft")},
        )

    def _adapted(self) -> Any:
        recipe, base = self._order.recipe, self._order.base
        # the Trainer moves it to the device of its process
        model = load_pretrained(base, device="cpu", dtype=self._formats.weights)
        settings = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # peft only divides it
            lora_dropout=recipe.dropout,
            target_modules=resolve_target_modules(model, recipe.targets, base),
            task_type="CAUSAL_LM",
        )
        model.config.use_cache = False
        return get_peft_model(model, settings)

    def _trainer(self, stopped: Callable[[], bool]) -> Trainer:
        recipe, ready = self._order.recipe, self._ready
        arguments = TrainingArguments(
            output_dir=str(self._run.folder),
            per_device_train_batch_size=recipe.batch,
            per_device_eval_batch_size=recipe.batch,
            gradient_accumulation_steps=recipe.accumulation,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup,
            seed=recipe.seed,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps",
            eval_steps=ready.check_every,
            save_strategy="steps",
            save_steps=ready.check_every,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            restore_callback_states_from_checkpoint=True,
            prediction_loss_only=True,
            remove_unused_columns=False,
            include_num_input_tokens_seen="non_padding",
            logging_steps=max(ready.steps // MAX_LOSS_POINTS, 1),
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=self._formats.mixed,
            use_cpu=self._order.on_cpu,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=self.model,
            args=arguments,
            train_dataset=ready.train,
            eval_dataset=ready.held_out,
            data_collator=self._collator,
            callbacks=[
                ReportingCallback(self._progress, self._watcher, stopped),
                EarlyStoppingCallback(early_stopping_patience=recipe.patience),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _base(self) -> HeldOutResult:
        with self.model.disable_adapter():
            before = self._measured("measuring the base")
        self._run.remember(before)
        return before

    def _measured(self, note: str) -> HeldOutResult:
        """The held-out loss and the answers, with the adapter as it is switched now."""
        ready = self._ready
        self._tell(note)
        loss = evaluate_loss(self.model, ready.held_out, self._collator, self._order.recipe.batch)
        self._tell("answering held-out prompts")
        said = [greedy_answer(self.model, ready.encoder, chat[:-1]) for chat in ready.examples]
        return HeldOutResult(loss, tuple(said))

    def _tell(self, note: str) -> None:
        self._progress.note = note
        self._watcher.changed(self._progress)


def _stop_on_interrupt(processes: PartialState) -> AbstractContextManager[Callable[[], bool]]:
    """Ctrl-C after a step, which other processes would take at another step: all end at once."""
    return graceful_interrupt() if processes.num_processes == 1 else nullcontext(lambda: False)


def _describe_end(trainer: Trainer, stopped: Callable[[], bool]) -> str:
    """Why the training ended, in words."""
    if stopped():
        return "stopped by the person"
    early = trainer.state.global_step < trainer.state.max_steps
    return "early, as the held-out loss fell no more" if early else "after all epochs"


def _round_to_bfloat16(model: Any) -> None:
    """Give the adapter's numbers the format they are kept in; half the size, and what is measured
    is what is kept."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16).float()


class ReportingCallback(TrainerCallback):
    """Reports each step and each check.

    Args:
        progress: is kept up to date.
        watcher: is told of it.
        stopped: is asked after each step; then the state is checked and kept before the end.
    """

    def __init__(
        self, progress: TrainingProgress, watcher: ProgressListener, stopped: Callable[[], bool]
    ) -> None:
        self._progress = progress
        self._watcher = watcher
        self._stopped = stopped
        self._tokens = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **more: Any,
    ) -> None:
        """See `TrainerCallback`."""
        for entry in state.log_history:  # of a training that goes on
            self._take(int(entry.get("step", 0)), entry)
        self._progress.note = ""
        self._progress.begin(state.global_step, state.max_steps)
        self._tokens = int(state.num_input_tokens_seen)
        self._watcher.changed(self._progress)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **more: Any,
    ) -> None:
        """See `TrainerCallback`."""
        self._progress.step = state.global_step
        self._progress.tokens = int(state.num_input_tokens_seen) - self._tokens
        if self._stopped():
            self._progress.note = "stopping; the best so far is kept"
            control.should_evaluate = control.should_save = control.should_training_stop = True
        self._watcher.changed(self._progress)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **more: Any,
    ) -> None:
        """See `TrainerCallback`."""
        self._take(state.global_step, logs or {})
        self._watcher.changed(self._progress)

    def _take(self, step: int, logs: dict[str, float]) -> None:
        if "loss" in logs:
            self._progress.train.append((step, logs["loss"]))
        if "eval_loss" in logs:
            self._progress.checks.append((step, logs["eval_loss"]))
