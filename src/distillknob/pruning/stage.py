"""The stage `prune`: a smaller model out of a large one, by leaving out layers, neurons of the MLPs, or both.

Nothing is trained. What the model is missing shows on texts that nothing was chosen by, and a distillation from the
original heals it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Preflight
from distillknob.models.architecture import context_of, model_config
from distillknob.models.base import LanguageModel
from distillknob.models.chat import set_in_templates
from distillknob.models.depth import check_can_be_cut
from distillknob.models.layers import decoder_layers
from distillknob.models.load import load_model
from distillknob.models.width import gated_mlps
from distillknob.pruning.card import next_command, pruned_card
from distillknob.pruning.choice import Choice, by_place, choose, evenly
from distillknob.pruning.config import PruneConfig
from distillknob.pruning.folder import write_pruned
from distillknob.pruning.measures import neuron_sums, token_losses
from distillknob.pruning.texts import Split, texts_of_file, texts_of_tasks
from distillknob.publishing.upload import check_upload, uploads
from distillknob.results.prune import LossRow, PruneResult
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.runtime.processes import process_index, wait
from distillknob.runtime.template_date import fix_dates
from distillknob.stats import interval, paired_difference
from distillknob.tasks import get_tasks
from distillknob.verdicts.pruned import NEARLY_ANEW, times_the_perplexity

Losses = Sequence[Sequence[float]]  # of the tokens of each text


def check(config: PruneConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `prune` couldn't use, before any weight is loaded."""
    check_upload(config, preflight)
    preflight.engine(config)
    (side,) = preflight.sides(config.models_read, config.chat_template_kwargs, weights=config.models_read)
    of_model, _ = model_config(config.model)
    count = of_model.get_text_config(decoder=True).num_hidden_layers
    stay = config.count_of(count)
    if stay < count:
        # Which layers a measurement chooses isn't known yet: those of one choice stand for them.
        kept = evenly(count, stay) if config.measures else by_place(config, count)
        check_can_be_cut(of_model, kept, config.model)
    if config.mlp_width is not None:
        _check_width(config, of_model)
    limit = config.text_limit(side.context)
    if side.tokenizer is None:
        return
    if config.texts_file is not None:
        texts_of_file(config.texts_file, config, side.tokenizer, limit)
        return
    tasks = [task for name in config.tasks if (task := preflight.task(name, graded=False)) is not None]
    if len(tasks) == len(config.tasks):
        texts_of_tasks(tasks, config, side.tokenizer, limit)


def _check_width(config: PruneConfig, of_model: Any) -> None:
    """Raise BadInputError where the MLPs can't be made as narrow as the config has it."""
    with torch.device("meta"):
        width = gated_mlps(AutoModelForCausalLM.from_config(of_model))[0].down_proj.in_features
    if config.mlp_width is not None and config.mlp_width >= width:
        raise BadInputError(
            f"mlp_width={config.mlp_width}, and the MLPs of {config.model!r} have {width} neurons: name fewer, or "
            "leave it out"
        )


@uploads
def prune(
    config: PruneConfig, output: str | Path, *, resume: bool = False, write: Callable[..., None] = write_pruned
) -> Run:
    """Write a model with fewer layers, or narrower MLPs, and return the run: the folder `model/`, which loads like any,
    and in `result.json` what stays, what was measured of each layer, and the loss on held-back texts before and after.

    A run that stopped goes on at the batch where it did. `write` is called as `write_pruned`, which makes the folder.
    Raises BadInputError before any work for input that can't be used, and for a model whose layers turn out to depend
    on their places.
    """
    opening = Opening("prune", config, output, config.recorded, resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    run = opening.run()
    if run.complete:
        return run
    journal = Journal(run.unfinished)
    original = load_model(config.model, whole=True)  # an adapter is merged, as it will be written
    count = len(decoder_layers(original.model).modules)
    texts = _texts(config, run, original)
    losses = [token_losses(original, texts.held_back, journal.part("before"), "loss before")]
    choice = choose(config, original, count, texts.calibration, journal.part("layers"))
    if len(choice.stay) < count:
        check_can_be_cut(original.model.config, choice.stay, config.model)
    neurons = None if config.mlp_width is None else _neurons(config, original, choice, texts, journal.part("neurons"))
    parameters = [original.model.num_parameters()]
    widths = None if neurons is None else [gated_mlps(original.model)[0].down_proj.in_features, len(neurons[0])]
    dtype = str(original.model.dtype).removeprefix("torch.")
    del original  # before the next is loaded
    folder = run.path / "model"
    if process_index() == 0 and not folder.exists():
        write(config.model, choice.stay, neurons, folder)
    wait()
    pruned = load_model(str(folder), dtype=dtype)  # a small one would be loaded in float32 on a CPU
    losses.append(token_losses(pruned, texts.held_back, journal.part("after"), "loss after"))
    parameters.append(pruned.model.num_parameters())
    result = _result(config, run, choice, texts, losses, parameters, widths, count)
    run.write_text("model/README.md", pruned_card(config, run.path, result))
    run.finish(result)
    return run


def _texts(config: PruneConfig, run: Run, language_model: LanguageModel) -> Split:
    """The texts as the run renders their prompts."""
    tokenizer, limit = language_model.tokenizer, config.text_limit(context_of(language_model.model.config))
    set_in_templates({config.model: tokenizer}, config.chat_template_kwargs)
    fix_dates({config.model: tokenizer}, run.template_date)
    if config.texts_file is not None:
        return texts_of_file(config.texts_file, config, tokenizer, limit)
    return texts_of_tasks(get_tasks(config.tasks), config, tokenizer, limit)


def _neurons(
    config: PruneConfig, original: LanguageModel, choice: Choice, texts: Split, journal: Journal
) -> list[torch.Tensor]:
    """The numbers of the neurons that stay, ascending, a tensor for each layer that does: those with the largest sums
    of activations, of equal ones the first."""
    out = set(range(len(decoder_layers(original.model).modules))) - set(choice.stay)
    sums_LF = neuron_sums(original, texts.calibration, out, journal, "activations of each neuron")
    order_LF = sums_LF.argsort(dim=-1, descending=True, stable=True)
    return [order_LF[layer, : config.mlp_width].sort().values for layer in choice.stay]


def _result(
    config: PruneConfig,
    run: Run,
    choice: Choice,
    texts: Split,
    losses: Sequence[Losses],
    parameters: list[int],
    widths: list[int] | None,
    count: int,
) -> PruneResult:
    text_N = [number for number, row in enumerate(losses[0]) for _ in row]
    before, after = ([loss for row in rows for loss in row] for rows in losses)
    difference = paired_difference(before, after, text_N, proportion=False)
    times = times_the_perplexity(sum(before) / len(before), sum(after) / len(after))
    by: Any = config.by if config.keep_layers is None else "keep_layers"
    measure: Any = choice.measure
    return {
        "stage": "prune",
        "notes": changed_meanwhile(run, config),
        "model": config.model,
        "by": by,
        "iterative": config.iterative,
        "measure": measure,
        "layers": [count, len(choice.stay)],
        "stays": choice.stay,
        "importance": [
            {
                "layer": layer,
                "stays": layer in choice.stay,
                "importance": choice.importance.get(layer),
                "round": choice.rounds.get(layer),
            }
            for layer in range(count)
        ],
        "mlp_width": widths,
        "parameters": parameters,
        "texts": len(texts.calibration),
        "tokens": texts.calibration.tokens,
        "held_back": len(texts.held_back),
        "held_back_tokens": len(text_N),
        "cut": texts.cut,
        "before": _loss_row(before, text_N),
        "after": _loss_row(after, text_N),
        "difference": difference.mean,
        "difference_interval": difference.as_list(),
        "next": next_command(config, run.path, parameters[1], anew=times >= NEARLY_ANEW),
    }


def _loss_row(losses: Sequence[float], text_N: Sequence[int]) -> LossRow:
    mean = interval(losses, text_N, proportion=False)
    return {
        "loss": mean.mean,
        "interval": mean.as_list(),
        "perplexity": _exp(mean.mean),
        "perplexity_interval": [_exp(bound) for bound in mean.as_list()],
    }


def _exp(value: float) -> float:
    """e to a power, infinite where a float doesn't hold it."""
    return math.exp(value) if value < 700 else math.inf
