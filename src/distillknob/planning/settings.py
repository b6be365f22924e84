"""The settings of a dry run in words: what decides on top, then whatever else isn't at its default.

Left out on purpose: settings at their defaults, of which a training has over a hundred. `--help-all` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distillknob.config.experiment import PlannedConfig
from distillknob.config.fields import default_of, fields_of, plain_value
from distillknob.config.rates import USUAL, usual_rate
from distillknob.models.architecture import Architecture
from distillknob.models.dtypes import own_dtype
from distillknob.planning.counting import OF_TASKS, longest_answer
from distillknob.planning.estimate import Estimate, count
from distillknob.stages import STAGES
from distillknob.training.config import gains_by_bfloat16

MODELS = ("model", "models", "cache", "teacher", "teachers", "student", "target", "more_targets", "proxy", "baseline")
BY_NAME = (*MODELS, "method", "methods", "suite", "defended", "seeds")  # what decides and needs no words
ETAS = ("etas", "eta_distillable", "eta_undistillable", "seed")  # which the names of an experiment's cells say
LABEL = 14  # characters
DISTINCT = 3  # trainings of an experiment that have a line of their own


@dataclass(frozen=True)
class Decisive:
    """A line about what decides: a label, the rest in words, and the settings that need no further line."""

    label: str
    text: str
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"  {self.label:{LABEL}} {self.text}"


def settings_lines(
    stage: str, config: Any, values: Mapping[str, Any], named: Sequence[tuple[str, Estimate]]
) -> list[str]:
    """What decides, and the other settings of `values` (the resolved ones) that aren't at their defaults. `named` are
    the estimates of the stages, by name."""
    own = _of_experiment(config, named) if isinstance(config, PlannedConfig) else _of_stage(named[0][1], values)
    decisive = list(own)
    others = _others(type(config), values, {name for line in decisive for name in line.fields})
    lines = [stage, *map(str, decisive)]
    if others:
        lines += ["other settings that aren't at their defaults:"]
        lines += [f"  {line}" for line in yaml.safe_dump(others, sort_keys=False, allow_unicode=True).splitlines()]
    flag = "--help-all" if STAGES[stage].trains else "--help"
    return [*lines, f"every setting with its default: distillknob {stage} {flag}"]


def _others(cls: type, values: Mapping[str, Any], shown: set[str]) -> dict[str, Any]:
    fields = fields_of(cls)
    return {
        name: value
        for name, value in values.items()
        if name not in shown and value is not None and value != plain_value(default_of(fields[name][0]))
    }


def _of_stage(one: Estimate, values: Mapping[str, Any]) -> Iterator[Decisive]:
    yield from _by_name(one.config)
    yield from _work(one.config)
    if one.work.trained is not None:
        yield from _training(one, values)
    yield _precision(one, values)
    seed = getattr(one.config, "seed", None)
    if seed is not None:
        yield Decisive("seed", str(seed), ("seed",))


def _of_experiment(config: PlannedConfig, named: Sequence[tuple[str, Estimate]]) -> Iterator[Decisive]:
    """An experiment has the settings of its stages in a recipe: a line for each stage, and for each that differs."""
    own = list(_by_name(config))
    pair = next((one.config for _, one in named if hasattr(one.config, "student")), None)
    labels = {line.label for line in own}
    yield from (line for line in _by_name(pair) if line.label in {"teacher", "student"} - labels)
    yield from own
    names = config.cell_names
    yield Decisive("cells", f"{len(names)}: {', '.join(names)}", ETAS)
    of_stage: dict[str, list[str]] = {}
    for _, one in named:
        of_stage.setdefault(one.work.stage, []).append(_in_short(one))
    for stage, texts in of_stage.items():
        distinct = list(dict.fromkeys(texts))
        yield from (Decisive(stage, text) for text in distinct[:DISTINCT])
        if len(distinct) > DISTINCT:
            yield Decisive(stage, f"and {len(distinct) - DISTINCT} others")


def _in_short(one: Estimate) -> str:
    """What decides about one stage of an experiment, beside its models."""
    config: Any = one.config
    if one.work.trained is None:
        return next(line.text for line in _work(config) if line.label == "tasks")
    lines = {line.label: line.text for line in _training(one, {"learning_rate": config.learning_rate})}
    return f"{lines['steps']} steps, {lines['batch']}, learning rate {lines['learning rate']}, {lines['trains']}"


def _by_name(config: Any) -> Iterator[Decisive]:
    """The models, the method, and what else its name alone tells."""
    for name in BY_NAME:
        value = getattr(config, name, None)
        if not value or (name == "target" and not getattr(config, "needs_target", True)):
            continue
        if name == "teacher" and getattr(config, "cache", None) is not None:
            continue  # the cache stands for it
        shown = getattr(config, "taught_by", value) if name == "teacher" else value
        text = ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown)
        yield Decisive(name.replace("_", " "), text, (name,))
    if hasattr(config, "eta"):
        yield Decisive("eta", f"{config.eta:+g}, reward {config.reward}", ("eta", "reward"))


def _work(config: Any) -> Iterator[Decisive]:
    """Problems, and how long answers may be."""
    yield Decisive("tasks", _problems(config), ("tasks", "problems", "samples"))
    if config.answer_field in OF_TASKS:
        length = longest_answer(config)
        yield Decisive("answers", f"of at most {length} tokens" if length else "as the cache has them", OF_TASKS)


def _problems(config: Any) -> str:
    if getattr(config, "cache", None) is not None:
        return "those of the cache"
    tasks, file = ", ".join(config.tasks), getattr(config, "traces_file", None) or getattr(config, "texts_file", None)
    if file is not None:
        return f"{tasks}: the texts of {file}"
    samples = getattr(config, "samples", None)
    each = "" if samples is None else f", {samples} answer{'s' if samples > 1 else ''} to each"
    return f"{tasks}: {config.problems} problems{' of each task' if len(config.tasks) > 1 else ''}{each}"


def _training(one: Estimate, values: Mapping[str, Any]) -> Iterator[Decisive]:
    """Steps, batch, tokens, learning rate, and what is trained."""
    config: Any = one.config
    assert one.work.trained is not None
    steps = round(one.work.trained.steps)
    passes = "" if config.max_steps > 0 else f" ({config.num_train_epochs:g} × through the problems)"
    yield Decisive("steps", f"{steps}{passes}", ("max_steps", "num_train_epochs"))
    yield _batch(config, one.devices)
    counted = getattr(config, "tokens_per_step", None)
    if counted is not None:
        yield Decisive("tokens", f"{counted} of them count in a step's loss", ("tokens_per_step",))
    yield _rate(one, steps, values)
    yield _trained(one)


def _batch(config: Any, devices: int) -> Decisive:
    micro, passes = config.per_device_train_batch_size, config.gradient_accumulation_steps
    rows = micro * passes * devices
    group = config.objective.num_generations if hasattr(config, "objective") else config.num_generations
    text = f"{rows} answers a step"
    if group > 1:
        text += f", {group} to each of {rows // group} problems"
    if passes * devices > 1:
        text += f" ({micro} at a time{f' on each of {devices} devices' if devices > 1 else ''})"
    return Decisive("batch", text, ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"))


def _rate(one: Estimate, steps: int, values: Mapping[str, Any]) -> Decisive:
    """The learning rate and its schedule. Where nobody named a rate also the usual one, as TRL's default moves no small
    model."""
    config: Any = one.config
    warm_up = config.get_warmup_steps(steps)
    schedule = f"{plain_value(config.lr_scheduler_type)}, {f'{warm_up} steps of' if warm_up else 'no'} warm-up"
    text = f"{config.learning_rate:g} ({schedule})"
    trained, stage = one.work.trained, next((name for name in USUAL if name == one.work.stage), None)
    if stage is not None and trained is not None and "learning_rate" not in values:
        usual = usual_rate(stage, trained.model.parameters, lora=config.use_peft)
        text += f": TRL's default. Usual for a model of this size: --learning-rate {usual:g}"
    return Decisive("learning rate", text, ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio"))


def _trained(one: Estimate) -> Decisive:
    config: Any = one.config
    trained = one.work.trained
    assert trained is not None
    text = f"all weights ({count(trained.model.parameters)})"
    if trained.adapter:
        text = f"a LoRA adapter of rank {config.lora_r} ({count(trained.adapter)} weights)"
    elif getattr(config, "moved", "all") == "head":  # of `defend`
        text = "the head alone"
    return Decisive("trains", text, ("use_peft", "lora_r"))


def _precision(one: Estimate, values: Mapping[str, Any]) -> Decisive:
    """The types of weights and products: those that are set, or what loading and TRL take on such a device."""
    trained, on_gpu = one.work.trained, one.engine.device.utilised
    if trained is None:
        loaded = dict.fromkeys(_loaded_type(model, on_gpu=on_gpu) for _, model in one.work.resident)
        return Decisive("precision", " and ".join(loaded) or "nothing is loaded")
    # What is trained in full is float32; under LoRA the model stays as it is (`training.config.trained_options`).
    weights = _loaded_type(trained.model, on_gpu=on_gpu) if trained.adapter else "float32"
    weights = (values.get("model_init_kwargs") or {}).get("dtype", weights)
    half = next((long for name, long in (("bf16", "bfloat16"), ("fp16", "float16")) if values.get(name)), None)
    if half is None and values.get("bf16") is None and (on_gpu or gains_by_bfloat16(trained.model.parameters)):
        half = "bfloat16"
    return Decisive("precision", weights if half is None else f"{weights}, products in {half}", ("bf16", "fp16"))


def _loaded_type(model: Architecture, *, on_gpu: bool) -> str:
    """The type in which `load_model` loads a model there where nobody says."""
    if not on_gpu:
        return model.dtype_on_cpu
    own = own_dtype(model.config)
    return "float32" if own is None else str(own).removeprefix("torch.")
