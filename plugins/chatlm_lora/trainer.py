"""Train an adapter with transformers' Trainer, and save the best checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from chatlm import ChatlmError, UsageError, load_pretrained
from chatlm.plugin_kit.training import ProgressListener, TrainingProgress, stop_on_interrupt
from chatlm.plugin_kit.training_runs import TrainingRuns
from chatlm_lora.card import AdapterCard, SampleAnswer, write_card
from chatlm_lora.checkpoints import RUNS, STATE_FILE, HeldOutResult, UnfinishedRun
from chatlm_lora.dataset import MEASURE_PREFIX, Evaluation
from chatlm_lora.effect import greedy_answer
from chatlm_lora.library import ADAPTERS
from chatlm_lora.peft_utils import (
    check_trains_on_text,
    explain_out_of_memory,
    load_checkpoint,
    quiet_transformers,
    resolve_target_modules,
    save_adapter,
    training_dtypes,
)
from chatlm_lora.recipe import PreparedData, TrainingJob, prepare_data

MAX_LOSS_POINTS = 500
"""Approximate number of training losses recorded for the curve."""


def train_adapter(
    job: TrainingJob,
    listener: ProgressListener,
    *,
    options: Mapping[str, Any] | None = None,
    restart: bool = False,
    finish: bool = False,
    runs: TrainingRuns = RUNS,
) -> AdapterCard | None:
    """Train an adapter, evaluate its best checkpoint and save it.

    Under `accelerate launch` each process calls it; only the first one writes and reports.

    Args:
        job: what to train.
        listener: receives the progress.
        options: stored with a new run, see `TrainingRuns.options`.
        restart: discard a run that was stopped, instead of resuming it.
        finish: do not train, but save the best checkpoint of a run that was stopped.
        runs: the unfinished runs of the command that trains.

    Returns:
        The adapter's card; None in processes that do not write.

    Raises:
        UsageError: the name is taken, there is nothing to train on, machines see different
            checkpoints, or there is no checkpoint to finish with.
        TrainingStopped: the user stopped it; what was trained can be continued.
        ChatlmError: disk or memory is full, or the loss is not finite.
    """
    place = ADAPTERS.new(job.name)
    processes = PartialState(cpu=job.use_cpu)
    main = processes.is_main_process
    with (
        runs.open(job.name, job.plan(), options, restart=restart, is_main_process=main) as folder,
        quiet_transformers(),
        explain_out_of_memory("Lower --batch-size or --max-length."),
        stop_on_interrupt(
            runs.hint(job.name), after_step=processes.num_processes == 1
        ) as should_stop,
    ):
        processes.wait_for_everyone()
        work = _TrainingProcess(
            job, UnfinishedRun(folder, runs), listener if main else ProgressListener(), processes
        )
        if finish:
            work.take_best_checkpoint()
        else:
            work.run(should_stop)
        if not main:
            return None
        adapter_card = work.build_card()
        with ADAPTERS.create(place) as new:
            save_adapter(work.model, new, job.base)
            write_card(adapter_card, new)
    return adapter_card


class _TrainingProcess:
    """The part of a training run that one process does."""

    def __init__(
        self,
        job: TrainingJob,
        run: UnfinishedRun,
        listener: ProgressListener,
        process_state: PartialState,
    ) -> None:
        self._job, self._run, self._listener = job, run, listener
        self._is_main_process = process_state.is_main_process
        self._progress = TrainingProgress()
        self._started = time.monotonic()
        self._report("reading the data")
        self._data: PreparedData = prepare_data(job, process_state.num_processes)
        self._report("loading the model")
        set_seed(job.recipe.seed)
        self._dtypes = training_dtypes(job.use_cpu)
        self.model: Any = self._load_peft_model()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Train until the end or early stopping; the model then has the best weights.

        Raises:
            TrainingStopped: `should_stop` was true after a step; a checkpoint was saved.
        """
        checkpoint = self._resume_checkpoint()
        reporting = ReportingCallback(self._progress, self._listener, should_stop)
        trainer = self._build_trainer(reporting)
        if self._is_main_process:
            self._base_result = self._run.load_base_result() or self._measure_base()
            self._progress.base_loss = self._base_result.loss
        if should_stop():
            raise KeyboardInterrupt
        self._data.examples.prepare(self.model, self._report)
        if should_stop():
            raise KeyboardInterrupt
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.state
        if reporting.stopped:
            raise self._run.runs.stopped(self._job.name, state.global_step, state.max_steps)
        early = state.global_step < state.max_steps
        self._end_reason = "early: held-out loss stopped improving" if early else "after all epochs"
        self._steps = state.global_step
        self._best_step = state.best_global_step

    def take_best_checkpoint(self) -> None:
        """Load the checkpoint with the lowest held-out loss into the model.

        Raises:
            UsageError: there is no checkpoint.
        """
        candidates = self._run.best_candidates()
        if not candidates:
            raise UsageError(
                f"The training of {self._job.name} was stopped before its first checkpoint.",
                hint="Continue it with the same command, without --finish.",
            )
        self._base_result = self._run.load_base_result() or self._measure_base()
        self._report("comparing checkpoints")
        losses = {}
        for checkpoint in candidates:
            load_checkpoint(self.model, checkpoint)
            losses[checkpoint] = self._evaluate().loss
        best = min(candidates, key=losses.__getitem__)
        load_checkpoint(self.model, best)
        steps = {path: TrainerState.load_from_json(str(path / STATE_FILE)) for path in candidates}
        newest = steps[candidates[0]]
        for entry in newest.log_history:
            _record_losses(self._progress, int(entry.get("step", 0)), entry)
        self._steps, self._best_step = newest.global_step, steps[best].global_step
        self._progress.step, self._progress.total_steps = newest.global_step, newest.max_steps
        self._progress.tokens = int(newest.num_input_tokens_seen)
        self._end_reason = "stopped by the user"

    def _resume_checkpoint(self) -> Path | None:
        """Return the checkpoint to resume from; all processes must see the same one."""
        found = self._run.latest_checkpoint()
        if len(set(gather_object([found and found.name]))) > 1:
            raise UsageError(
                "The machines do not see the same checkpoints of the run that was stopped.",
                hint="Set CHATLM_HOME to a folder that all of them share, or use --restart.",
            )
        return found

    def build_card(self) -> AdapterCard:
        """Evaluate the trained adapter in the dtype in which it is saved."""
        job, data, progress = self._job, self._data, self._progress
        _round_to_bfloat16(self.model)
        before, after = self._base_result, self._measure("measuring the adapter")
        if not math.isfinite(after.loss):
            raise ChatlmError(
                "The loss became NaN or infinite.", hint="Lower --learning-rate, then --restart."
            )
        answers = zip(data.examples.sample_examples, before.answers, after.answers, strict=True)
        return AdapterCard(
            name=job.name,
            origin="trained",
            base=job.base.name,
            description=job.description,
            licence=job.licence,
            command=job.command,
            source={
                **({"started_from": dict(job.start.history)} if job.start else {}),
                **job.dataset.source(),
                "train": data.examples.train_count,
                "held_out": data.examples.held_out_count,
                "too_long": data.examples.too_long,
            },
            settings=job.dataset.settings()
            | job.recipe.to_dict()
            | {"prompt_format": job.prompt_format},
            scores={
                "held_out_loss_before": before.loss,
                "held_out_loss_after": after.loss,
                "fall": 1 - after.loss / before.loss,
                **after.measures,
                **({"before": dict(before.measures)} if before.measures else {}),
            },
            cost={
                "seconds": round(time.monotonic() - self._started, 1),
                "tokens": progress.tokens,
                "tokens_per_second": round(progress.tokens_per_second or 0.0, 1),
                "steps": self._steps,
                "from_step": progress.start_step,
                "best_step": self._best_step,
                "ended": self._end_reason,
            },
            answers=tuple(
                SampleAnswer(chat[-2].text, chat[-1].text, old, new) for chat, old, new in answers
            ),
            versions={name: version(name) for name in ("torch", "transformers", "peft")},
            curves={
                name: tuple(points)
                for name, points in {"loss": progress.eval_losses, **progress.measures}.items()
            },
        )

    def _load_peft_model(self) -> Any:
        recipe, base = self._job.recipe, self._job.base
        # the Trainer moves it to the device of its process
        model = load_pretrained(base, device="cpu", dtype=self._dtypes.base_weights)
        model.config.use_cache = False
        if hasattr(model.config, "vision_config"):
            check_trains_on_text(model, base)
        if (start := self._job.start) is not None:
            known = LoraConfig.from_pretrained(str(start.folder))
            known.lora_dropout = recipe.dropout
            return PeftModel.from_pretrained(
                model, str(start.folder), is_trainable=True, config=known
            )
        settings = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # peft only divides it
            lora_dropout=recipe.dropout,
            target_modules=resolve_target_modules(model, recipe.targets, base),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, settings)

    def _build_trainer(self, reporting: ReportingCallback) -> Any:
        recipe, data = self._job.recipe, self._data
        arguments = TrainingArguments(
            output_dir=str(self._run.folder),
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=recipe.batch_size,
            gradient_accumulation_steps=recipe.gradient_accumulation,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup_ratio,
            seed=recipe.seed,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps",
            eval_steps=data.eval_steps,
            save_strategy="steps",
            save_steps=data.eval_steps,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            restore_callback_states_from_checkpoint=True,
            prediction_loss_only=True,
            remove_unused_columns=False,
            include_num_input_tokens_seen="non_padding",
            logging_steps=max(data.total_steps // MAX_LOSS_POINTS, 1),
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=self._dtypes.mixed_precision,
            use_cpu=self._job.use_cpu,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = data.examples.build_trainer(
            model=self.model,
            args=arguments,
            callbacks=[
                reporting,
                EarlyStoppingCallback(early_stopping_patience=recipe.patience),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _measure_base(self) -> HeldOutResult:
        with self.model.disable_adapter():
            before = self._measure("measuring the base")
        self._run.save_base_result(before)
        return before

    def _measure(self, activity: str) -> HeldOutResult:
        """Evaluate the held-out loss and sample answers of the model as it is now."""
        data = self._data
        self._report(activity)
        found = self._evaluate()
        self._report("answering held-out prompts")
        answers = [
            greedy_answer(self.model, data.encoder, chat[:-1])
            for chat in data.examples.sample_examples
        ]
        return HeldOutResult(found.loss, tuple(answers), found.measures)

    def _evaluate(self) -> Evaluation:
        return self._data.examples.evaluate(self.model, self._job.recipe.batch_size)

    def _report(self, activity: str) -> None:
        self._progress.activity = activity
        self._listener.update(self._progress)


def _round_to_bfloat16(model: Any) -> None:
    """Round the adapter's weights to the saved dtype, so that the evaluated weights are saved."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16).float()


class ReportingCallback(TrainerCallback):
    """Reports each step and evaluation, and stops after Ctrl-C.

    Args:
        progress: updated by the callback.
        listener: receives `progress`.
        should_stop: called after each step; when it is true, a checkpoint is saved. It is not
            evaluated, so that a run that continues is evaluated at the same steps as one that was
            not stopped.
    """

    def __init__(
        self,
        progress: TrainingProgress,
        listener: ProgressListener,
        should_stop: Callable[[], bool],
    ) -> None:
        self._progress = progress
        self._listener = listener
        self._should_stop = should_stop
        self._start_tokens = 0
        self.stopped = False
        """Whether training ended because of `should_stop`."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start the clock."""
        for entry in state.log_history:  # of a resumed run
            _record_losses(self._progress, int(entry.get("step", 0)), entry)
        self._progress.activity = ""
        self._progress.start(state.global_step, state.max_steps)
        self._start_tokens = int(state.num_input_tokens_seen)
        self._listener.update(self._progress)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Report the step, and stop after Ctrl-C."""
        self._progress.step = state.global_step
        self._progress.tokens = int(state.num_input_tokens_seen) - self._start_tokens
        if self._should_stop() and state.global_step < state.max_steps:
            self.stopped = True
            self._progress.activity = "stopping; a checkpoint is kept"
            control.should_save = control.should_training_stop = True
        self._listener.update(self._progress)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the losses."""
        _record_losses(self._progress, state.global_step, logs or {})
        self._listener.update(self._progress)


def _record_losses(progress: TrainingProgress, step: int, logs: Mapping[str, float]) -> None:
    """Add what a Trainer logged to the curves."""
    if "loss" in logs:
        progress.train_losses.append((step, logs["loss"]))
    if "eval_loss" in logs:
        progress.eval_losses.append((step, logs["eval_loss"]))
    for key, value in logs.items():
        if key.startswith(MEASURE_PREFIX):
            points = progress.measures.setdefault(key.removeprefix(MEASURE_PREFIX), [])
            points.append((step, value))
