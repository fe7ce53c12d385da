"""Neural models of the lab: build a network, train it, save it with a card; open it again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from chatlm import Artifact, TrainingCheckpoint, UsageError, human_bytes
from chatlm.plugin_kit.training import (
    EvaluatedProgress,
    ProgressListener,
    TrainingStopped,
    stop_on_interrupt,
    training_display,
)
from chatlm_lab.architectures import Architecture, OpenedModel, TrainingJob
from chatlm_lab.models import LAB_MODELS, RUNS, LabCard, write_card
from chatlm_lab.network_recipe import (
    AttentionRecipe,
    DecoderRecipe,
    LlamaRecipe,
    NetworkRecipe,
    RecurrentRecipe,
    restore_recipe,
)
from chatlm_lab.tokenizer_kinds import encode_stream, load_tokenizer, save_tokenizer
from chatlm_lab.training import (
    Stopwatch,
    TrainingData,
    folder_bytes,
    prepare_data,
    require_memory,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer
    from torch import Tensor

    from chatlm_lab.network import LanguageNetwork
    from chatlm_lab.network_model import NetworkModel, NetworkPredictor

WEIGHTS_FILE = "weights.safetensors"

CURVE_POINTS = 200
"""Steps whose training loss is on the card."""

SAMPLE_TOKENS = 60
"""Tokens of the samples that are shown during training."""

TITLES = {
    "rnn": "Elman RNN",
    "gru": "GRU",
    "lstm": "LSTM",
    "minlstm": "minLSTM",
    "decoder": "decoder",
    "llama": "Llama",
}


class OpenedNetwork(OpenedModel):
    """A network with its weights.

    Args:
        card: of the model.
        tokenizer: of the model.
        network: with its weights.
        context: tokens of a sequence that it was trained with.
    """

    def __init__(
        self, card: LabCard, tokenizer: Tokenizer, network: LanguageNetwork, context: int
    ) -> None:
        super().__init__(card, tokenizer)
        self.network, self.context = network, context

    def predictor(self, options: Mapping[str, Any]) -> NetworkPredictor:
        """Return what the model is evaluated by.

        Raises:
            UsageError: there is an option, since a network has none.
        """
        from chatlm_lab.network_model import NetworkPredictor

        for option in options:
            raise UsageError(
                f"--{option} has no meaning for {self.card.name}, which is no n-gram model.",
                hint="Evaluate the n-gram models separately.",
            )
        return NetworkPredictor(self.network, self.context)

    def language_model(self) -> NetworkModel:
        """Return the model as chatlm's engine runs it."""
        from chatlm_lab.network_model import NetworkModel

        return NetworkModel(self.network, self.tokenizer)


class NetworkArchitecture(Architecture):
    """What all neural architectures share."""

    recipe_type: ClassVar[type[NetworkRecipe]]

    @abstractmethod
    def build(self, recipe: Any, vocabulary: int) -> LanguageNetwork:
        """Build a network with new weights, which torch's seed determines.

        Args:
            recipe: has its width and layers.
            vocabulary: number of tokens.
        """

    def fit_width(self, recipe: NetworkRecipe, vocabulary: int) -> NetworkRecipe:
        """Return the recipe with the width that has about as many parameters as it asks for.

        Raises:
            UsageError: the vocabulary alone takes more, or the largest width has fewer.
        """
        if not recipe.params:
            return recipe
        step = recipe.width_step

        def count(steps: int) -> int:
            chosen = replace(recipe, params=0, width=steps * step)
            return self.count_parameters(chosen, vocabulary)

        low, high = max(-(-4 // step), 1), 4096 // step
        if count(low) > 1.5 * recipe.params:
            raise UsageError(
                f"With {vocabulary:,} tokens and {recipe.layers} layers the smallest model has "
                f"{count(low):,} parameters, not {recipe.params:,}.",
                hint="Use a smaller vocabulary: --vocabulary, or --tokenizer bytes",
            )
        if count(high) < recipe.params / 1.5:
            raise UsageError(
                f"With {recipe.layers} layers the largest model has {count(high):,} parameters, "
                f"not {recipe.params:,}.",
                hint="Use more layers: --layers",
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle) <= recipe.params else (low, middle)
        nearest = min((low, high), key=lambda steps: abs(count(steps) - recipe.params))
        return replace(recipe, params=0, width=nearest * step)

    def count_parameters(self, recipe: NetworkRecipe, vocabulary: int) -> int:
        """Return how many parameters a network would have, without allocating it."""
        import torch

        with torch.device("meta"):
            return self.build(recipe, vocabulary).num_parameters

    def train(self, job: TrainingJob, recipe: NetworkRecipe) -> LabCard:
        """Train with a loss curve on stderr; see `Architecture.train`."""
        with (
            stop_on_interrupt(RUNS.hint(job.name)) as should_stop,
            training_display() as listener,
        ):
            return train_network(self, job, recipe, listener, should_stop)

    def save(self, network: LanguageNetwork, recipe: Any, folder: Path) -> None:
        """Write the weights to a model's folder.

        Args:
            network: which was trained.
            recipe: it was built by.
            folder: of the model, which has the tokenizer already.

        Raises:
            OSError: the disk is full.
        """
        from safetensors.torch import save_file

        save_file(network.state_dict(), folder / WEIGHTS_FILE)

    def load(self, folder: Path, recipe: Any) -> dict[str, Tensor]:
        """Return the weights that `save` wrote, by their names in the network.

        Raises:
            KeyError, OSError, SafetensorError: they cannot be read.
        """
        from safetensors.torch import load_file

        return load_file(folder / WEIGHTS_FILE)

    def open(self, place: Artifact, card: LabCard) -> OpenedNetwork:
        """Load the weights; see `Architecture.open`."""
        import torch
        from safetensors import SafetensorError

        recipe = restore_recipe(self.recipe_type, card.settings)
        tokenizer = load_tokenizer(place.path)
        if card.vocabulary != tokenizer.get_vocab_size():
            raise ValueError("its tokenizer and card have different vocabularies")
        with torch.device("meta"):
            network = self.build(recipe, card.vocabulary)
        try:
            network.load_state_dict(self.load(place.path, recipe), assign=True)
        except (KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError("its weights do not fit its card") from error
        return OpenedNetwork(card, tokenizer, network.requires_grad_(False), recipe.context)

    def summary(self, card: LabCard) -> str:
        """Return the size, the steps and why they ended."""
        cost = card.cost
        return (
            f"{human_bytes(cost['bytes'])}; "
            f"{cost['steps']:,} steps in {cost['training_seconds']:,.0f} s, the best after "
            f"{cost['best_step']:,}; ended {cost['ended']}"
        )


class RecurrentArchitecture(NetworkArchitecture):
    """Elman RNN, GRU, LSTM and minLSTM."""

    recipe_type = RecurrentRecipe

    def build(self, recipe: RecurrentRecipe, vocabulary: int) -> LanguageNetwork:
        """Build the network of the architecture's name; see `NetworkArchitecture.build`."""
        from chatlm_lab.recurrent import build_recurrent

        return build_recurrent(self.name, vocabulary, recipe.width, recipe.layers, recipe.dropout)


class DecoderArchitecture(NetworkArchitecture):
    """The book's decoder."""

    recipe_type = DecoderRecipe

    def build(self, recipe: DecoderRecipe, vocabulary: int) -> LanguageNetwork:
        """Build the decoder; see `NetworkArchitecture.build`."""
        from chatlm_lab.decoder import build_decoder

        return build_decoder(
            vocabulary, recipe.width, recipe.layers, recipe.heads, recipe.window, recipe.dropout
        )


class LlamaArchitecture(NetworkArchitecture):
    """A decoder in Llama's form; its folder is also a model folder as transformers reads it."""

    recipe_type = LlamaRecipe

    def build(self, recipe: LlamaRecipe, vocabulary: int) -> LanguageNetwork:
        """Build the decoder; see `NetworkArchitecture.build`."""
        from chatlm_lab.llama import build_llama

        return build_llama(
            vocabulary,
            recipe.width,
            recipe.layers,
            recipe.heads,
            recipe.kv_heads,
            recipe.context,
            recipe.dropout,
        )

    def save(self, network: LanguageNetwork, recipe: LlamaRecipe, folder: Path) -> None:
        """Write a model folder with Llama's names; see `NetworkArchitecture.save`."""
        from chatlm_lab.llama import save_llama

        save_llama(network, recipe, folder)

    def load(self, folder: Path, recipe: LlamaRecipe) -> dict[str, Tensor]:
        """Return the weights by their names in the network; see `NetworkArchitecture.load`."""
        from chatlm_lab.llama import load_llama

        return load_llama(folder, recipe)


def train_network(
    architecture: NetworkArchitecture,
    job: TrainingJob,
    recipe: NetworkRecipe,
    listener: ProgressListener,
    should_stop: Callable[[], bool],
) -> LabCard:
    """Train a network, or continue a training that was stopped, and save it.

    Args:
        architecture: builds the network.
        job: what to train.
        recipe: how to train.
        listener: receives the progress.
        should_stop: called after each step; when it is true, a checkpoint is saved.

    Raises:
        UsageError: the name, the recipe or the data cannot be used, or there is no checkpoint to
            finish with.
        TrainingStopped: `should_stop` returned true.
        ChatlmError: there is too little memory, or the disk is full; the training diverged.
    """
    LAB_MODELS.new(job.name)
    waiting = EvaluatedProgress()

    def report(done: int, total: int, activity: str) -> None:
        if should_stop():
            raise TrainingStopped(
                "Stopped before the first step.", hint="The same command starts again."
            )
        waiting.activity = activity
        listener.update(waiting)

    watch = Stopwatch()
    data = prepare_data(job, recipe, report, watch)
    vocabulary = data.tokenizer.get_vocab_size()
    if len(data.ids) < 2 * recipe.context:
        raise UsageError(
            f"The data has {len(data.ids):,} tokens to train on, too few for a context of "
            f"{recipe.context}.",
            hint=f"Add text, or use a shorter context: --context {max(len(data.ids) // 8, 2)}",
        )
    recipe = architecture.fit_width(recipe, vocabulary)
    parameters = architecture.count_parameters(recipe, vocabulary)
    require_memory(
        _needed_memory(parameters, vocabulary, recipe),
        f"Training {parameters:,} parameters",
        "Use a lower --batch-size, a shorter --context or a smaller --vocabulary.",
    )
    plan = {
        "architecture": architecture.name,
        "recipe": recipe.to_dict(),
        "data": data.sha256,
        "tokenizer": data.tokenizer.to_str(),
    }
    with RUNS.open(job.name, plan, job.options, restart=job.restart) as folder:
        return _train_and_save(
            architecture,
            job,
            recipe,
            data,
            listener,
            should_stop,
            TrainingCheckpoint(folder),
            watch,
        )


def _train_and_save(
    architecture: NetworkArchitecture,
    job: TrainingJob,
    recipe: NetworkRecipe,
    data: TrainingData,
    listener: ProgressListener,
    should_stop: Callable[[], bool],
    checkpoint: TrainingCheckpoint,
    watch: Stopwatch,
) -> LabCard:
    import torch

    from chatlm_lab.evaluation import evaluate
    from chatlm_lab.network_model import NetworkPredictor
    from chatlm_lab.network_training import fit_network, load_best

    place = LAB_MODELS.new(job.name)
    tokenizer, corpus = data.tokenizer, data.corpus
    held_out = encode_stream(tokenizer, recipe.tokenizer, corpus.held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = architecture.build(recipe, tokenizer.get_vocab_size())
        with watch.timed("training"):
            if job.finish:
                found = load_best(network, held_out, recipe, checkpoint)
                if found is None:
                    raise UsageError(
                        f"The training of {job.name} was stopped before its first checkpoint.",
                        hint="Continue it with the same command, without --finish.",
                    )
                progress = found
            else:
                progress = fit_network(
                    network,
                    data.ids,
                    held_out,
                    recipe,
                    listener,
                    should_stop,
                    checkpoint,
                    lambda trained: sample_text(trained, tokenizer, recipe.seed),
                )
    if progress.stopped:
        raise RUNS.stopped(job.name, progress.step, progress.total_steps)
    progress.activity = "measuring"
    listener.update(progress)
    scores: dict[str, Any] = {}
    if corpus.held_out:
        with watch.timed("validation"):
            predictor = NetworkPredictor(network, recipe.context)
            scores = evaluate(predictor, tokenizer, recipe.tokenizer, corpus.held_out).to_dict()
    with LAB_MODELS.create(place) as folder:
        save_tokenizer(tokenizer, folder)
        architecture.save(network, recipe, folder)
        card = LabCard(
            name=job.name,
            architecture=architecture.name,
            description=_describe(architecture.name, recipe, tokenizer.get_vocab_size(), network),
            tokenizer=recipe.tokenizer,
            vocabulary=tokenizer.get_vocab_size(),
            settings=recipe.to_dict(),
            command=job.command,
            data=data.describe(job),
            size={"parameters": network.num_parameters},
            held_out=scores,
            curve=_curve(progress),
            cost={
                **watch.seconds,
                "steps": progress.step,
                "best_step": progress.best.step if progress.best else progress.step,
                "tokens": progress.tokens,
                "ended": progress.end_reason,
                "sample": sample_text(network, tokenizer, recipe.seed),
                "bytes": folder_bytes(folder),
            },
            licence=job.licence,
        )
        write_card(card, folder)
    return card


def sample_text(network: LanguageNetwork, tokenizer: Tokenizer, seed: int) -> str:
    """Return a text that a network generates."""
    from chatlm_lab.network import generate

    return str(tokenizer.decode(generate(network, SAMPLE_TOKENS, seed)))


def _describe(name: str, recipe: NetworkRecipe, vocabulary: int, network: LanguageNetwork) -> str:
    layers = f"{recipe.layers} layer{'s' if recipe.layers > 1 else ''} of {recipe.width}"
    heads = f", {recipe.heads} heads" if isinstance(recipe, AttentionRecipe) else ""
    return (
        f"{TITLES[name]}, {layers}{heads}, "
        f"{network.num_parameters:,} parameters, {vocabulary:,} tokens ({recipe.tokenizer})"
    )


def _curve(progress: EvaluatedProgress) -> dict[str, list[list[float]]]:
    step = -(-len(progress.train_losses) // CURVE_POINTS) or 1
    train = progress.train_losses[::-1][::step][::-1]
    return {
        "train": [[at, round(loss, 4)] for at, loss in train],
        "held_out": [[at, round(loss, 4)] for at, loss in progress.eval_losses],
    }


def _needed_memory(parameters: int, vocabulary: int, recipe: NetworkRecipe) -> int:
    """Return about how many bytes a training takes.

    For each parameter its value, gradient, two moments and the best value; for each token of a step
    its logits with their softmax and gradient, and what the layers keep for the gradient.
    """
    tokens = recipe.batch_size * recipe.context
    attention = recipe.context * recipe.heads * 4 if isinstance(recipe, AttentionRecipe) else 0
    for_token = 3 * vocabulary + recipe.layers * (24 * recipe.width + attention)
    return 4 * (5 * parameters + tokens * for_token)
