"""A recipe for a pair of real size on a named device: usual settings, and where they take too much, the mildest changes
with which every stage fits by the dry run's own account.

The settings are those of the shipped recipes for the paper's pairs and of TRL's documentation; each stands in the file
with its reason, and what was seen of the pair is told beside, a line a choice. Left out on purpose: choosing η or the
number of steps by the pair, which no account foretells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distillknob.calibration.decision import RESOLVED_AT, expected_error, resolved_tolerance
from distillknob.calibration.problems import dealt_out
from distillknob.config.rates import Trained, usual_rate, why_rate
from distillknob.config.recipe import stage_config
from distillknob.config.shared import StageConfig
from distillknob.diagnosis.gather import PREFIXES
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import LARGE, Preflight, Side
from distillknob.models.architecture import Architecture, architecture
from distillknob.models.chat import values_read
from distillknob.planning.counting import PROMPT_TOKENS
from distillknob.planning.fitting import SHORTEST, fitting, memory, roomier
from distillknob.planning.hardware import GIB, Engine
from distillknob.stages import CHAINED

PROBLEMS, GUARD_PROBLEMS, GUARD_PROBLEMS_MAX, TEST_PROBLEMS = 2000, 100, 800, 200
GUARD_SAMPLES, TOLERANCE = 4, 0.02
SCATTER = 0.75 * 0.25 / 2  # of a teacher that is right 3 times in 4, half of whose variance lies between problems
GROUP = 8  # samples a prompt in calibrate
CUT = "what the shortest context has room for"
THINKING_OFF = {"enable_thinking": False}


@dataclass
class Draft:
    """A recipe in the making: `shared` keys and `sections` by stage, why a value is what it is, by stage and key
    (shared ones under the empty stage), and the `choices` that are told, a line each."""

    shared: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    why: dict[tuple[str, str], str] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> dict[str, Any]:
        return {**self.shared, **self.sections}

    def config(self, stage: str) -> Any:
        return stage_config(stage, self.recipe)

    def text(self, head: Sequence[str]) -> str:
        """The recipe as YAML with its reasons."""
        lines = [f"# {line}" for line in head]
        lines += [self._line("", name, value) for name, value in self.shared.items()]
        for stage, section in self.sections.items():
            lines += ["", f"{stage}:"]
            lines += [f"  {self._line(stage, name, value)}" for name, value in section.items()]
        return "\n".join(lines) + "\n"

    def _line(self, stage: str, name: str, value: Any) -> str:
        dumped = yaml.safe_dump({name: value}, default_flow_style=True, width=10_000, allow_unicode=True).strip()[1:-1]
        reason = self.why.get((stage, name), "")
        return f"{dumped}  # {reason}" if reason else dumped


@dataclass(frozen=True)
class NewRecipe:
    """A recipe's text, and the choices that were made by what was seen of models, data and machine, a line each."""

    text: str
    choices: Sequence[str]


def new_recipe(
    *,
    teacher: str,
    student: str,
    target: str | None,
    tasks: Sequence[str],
    engine: Engine,
    lora: bool | None = None,
    longest: int | None = None,
    why_longest: str = "",
    preflight: Preflight | None = None,
) -> NewRecipe:
    """The text of a recipe for this pair on `engine`, every stage of which fits there. `lora`: train adapters (None: of
    models that aren't small), `longest`: tokens of an answer (None: the tasks' own) and `why_longest` that is so,
    `preflight`: one that has looked at the pair already.

    Raises BadInputError for models and tasks that a run couldn't use, and where nothing makes a stage fit.
    """
    preflight = preflight or Preflight(engine.devices, fetch=False)
    target = target or student
    sides = preflight.sides([teacher, student, target], weights=[teacher, student])
    models = [architecture(name) for name in (teacher, student)]
    parameters = [model.parameters for model in models]
    small = max(parameters) < LARGE
    lora = not small if lora is None else lora
    draft = _usual(preflight, sides, tasks, lora, parameters, longest)
    draft.choices += [_trained(lora, small, parameters), _rates(draft)]
    if why_longest and draft.why["", "max_completion_length"] != CUT:
        draft.why["", "max_completion_length"] = why_longest
    sizes, changed = [], []
    for stage in CHAINED:
        config = draft.config(stage)
        fit = fitting(stage, config, engine)
        if fit is None or ("use_peft" in fit.settings and not lora):
            raise BadInputError(_too_large(stage, config, engine, lora))
        draft.sections[stage] |= fit.settings
        draft.why |= {(stage, name): "so that it fits" for name in fit.settings}
        changed += [f"{stage} {name}: {value}" for name, value in fit.settings.items()]
        sizes.append(f"{stage} {memory(stage, draft.config(stage), engine) / GIB:.1f}")
    head = [
        f"{teacher} → {student}, π_C {target}: written by `distillknob init` for {engine}.",
        f"By the dry run's account, in GiB of {engine.device.memory / GIB:.1f}: {', '.join(sizes)}.",
        "A start and no finding: look at the guard's events and the log-ratio before long runs. Diagnose first.",
        "`distillknob demo THIS --dry-run` checks it, without --dry-run it runs every stage.",
    ]
    length = draft.shared["max_completion_length"]
    draft.choices += [
        f"max_completion_length: {length} tokens, {draft.why['', 'max_completion_length']}",
        _steps(draft),
        f"gradient checkpointing: on, which takes less memory and a third more time; {_precision(engine, models)}",
        f"memory in GiB of {engine.device.memory / GIB:.1f} ({engine}): {', '.join(sizes)}"
        + (f"; changed so that it fits: {', '.join(changed)}" if changed else ""),
    ]
    return NewRecipe(draft.text(head), draft.choices)


def _trained(lora: bool, small: bool, parameters: Sequence[int]) -> str:
    teacher, student = (f"{count / 1e9:.2f} B" if count >= LARGE else f"{count / 1e6:.2f} M" for count in parameters)
    what = "LoRA adapters, which take a fraction of the memory (--full: all weights)" if lora else "all weights"
    why = ", as an adapter saves little in models this small" if small and not lora else ""
    return f"trained: {what}{why}; the teacher has {teacher} parameters, the student {student}"


def _rates(draft: Draft) -> str:
    rates = ", ".join(f"{stage} {draft.sections[stage]['learning_rate']:g}" for stage in ("calibrate", "distill"))
    return f"learning rates: {rates}, by the size of what is trained; three times as much where nothing moves"


def _steps(draft: Draft) -> str:
    """The rows of a step of both trainings, on each device."""
    rows = []
    for stage in ("calibrate", "distill"):
        section = draft.sections[stage]
        at_once, times = section["per_device_train_batch_size"], section["gradient_accumulation_steps"]
        rows.append(f"{stage} {at_once} rows at a time, {at_once * times} to a step")
    return f"batch: {'; '.join(rows)}"


def _precision(engine: Engine, models: Sequence[Architecture]) -> str:
    """The types in which teacher and student are read, as `load_model` chooses them."""
    if engine.device.itemsize == 2:
        return "dtype: the checkpoints' own, as on every GPU"
    teacher, student = (model.dtype_on_cpu for model in models)
    if "bfloat16" not in (teacher, student):
        return "dtype: float32, as this CPU takes these models"
    return f"dtype on this CPU: teacher {teacher}, student {student}; what is trained in full is float32"


def new_file(name: str) -> Path:
    """The path of a recipe that can be written there. Raises BadInputError where there is a file already, or no folder
    for it."""
    path = Path(name)
    if path.exists():
        raise BadInputError(f"{path} is there already: give another name, or remove it")
    if not path.parent.is_dir():
        raise BadInputError(f"can't write {path}: there is no folder {path.parent}")
    return path


@dataclass(frozen=True)
class _Sizes:
    """What a pair's tasks and contexts have room for: `problems` a task to train on, `guard` problems beside them for
    the guard's first look and `guard_most` for all, `rows` of all tasks, the tokens of an answer, in `length`, of
    the `longest` that the tasks have, of the longest prompt and of the shortest context (None: nobody knows)."""

    problems: int
    guard: int
    guard_most: int
    rows: int
    length: int
    longest: int
    prompt: int
    context: int | None


def _sizes(preflight: Preflight, sides: Sequence[Side], tasks: Sequence[str], longest: int | None) -> _Sizes:
    """Raises BadInputError where a context has no room for answers."""
    problems, guard, guard_most, prompts = PROBLEMS, GUARD_PROBLEMS, GUARD_PROBLEMS_MAX, [0]
    rows = 0
    seen = [preflight.task(name) for name in tasks]
    for task in seen:
        if task is not None:
            dealt = dealt_out(task, PROBLEMS, GUARD_PROBLEMS, GUARD_PROBLEMS_MAX, 0)
            problems, rows = min(problems, len(dealt.trained)), rows + len(dealt.trained)
            guard, guard_most = min(guard, dealt.looks[0]), min(guard_most, len(dealt.decided))
            texts = [*dealt.trained, *dealt.decided, *dealt.fresh]
            readings = [preflight.reading(side, task, texts) for side in sides]
            prompts += [PROMPT_TOKENS if reading is None else max(reading.prompts) for reading in readings]
    if None in seen:
        problems, guard, guard_most, rows = PROBLEMS, GUARD_PROBLEMS, GUARD_PROBLEMS_MAX, PROBLEMS
        prompts.append(PROMPT_TOKENS)
    contexts = [side.context for side in sides if side.context is not None]
    answer = preflight.longest_answer(tasks, longest)
    fits_in = int((min(contexts) - max(prompts)) / (1 + max(PREFIXES))) if contexts else answer
    if fits_in < SHORTEST:
        raise BadInputError(
            f"the shortest context of these models has {min(contexts)} tokens, and prompts up to {max(prompts)}: there "
            "is no room for answers: take shorter prompts, or models with longer contexts"
        )
    context = min(contexts, default=None)
    return _Sizes(problems, guard, guard_most, rows, min(answer, fits_in), answer, max(prompts), context)


def _usual(
    preflight: Preflight,
    sides: Sequence[Side],
    tasks: Sequence[str],
    lora: bool,
    parameters: Sequence[int],
    longest: int | None,
) -> Draft:
    """The usual settings for a pair of so many `parameters`, teacher's and student's, cut to what the tasks and
    contexts have room for, with their reasons."""
    teacher, student, target = sides
    sizes = _sizes(preflight, sides, tasks, longest)
    method = "spans" if teacher.same_tokens(student) is False else "gkd"
    trained: dict[Trained, int] = dict(zip(("calibrate", "distill"), parameters, strict=True))
    rates = {stage: usual_rate(stage, count, lora=lora) for stage, count in trained.items()}
    sections = _sections(sizes, preflight.processes, method, lora, rates)
    draft = Draft(
        {"teacher": teacher.name, "student": student.name, "target": target.name, "tasks": list(tasks)}, sections
    )
    draft.shared["max_completion_length"] = sizes.length
    if any(_thinks(side) for side in (teacher, student)):
        draft.shared["chat_template_kwargs"] = dict(THINKING_OFF)
        draft.why["", "chat_template_kwargs"] = "thoughts would need far longer answers"
    draft.choices = [_tokenizers(teacher, student, method), _templates(sides[:2]), _context(sizes), _held_back(sizes)]
    cut = CUT if sizes.length < sizes.longest else "the tasks' own longest"
    samples = GROUP * sections["calibrate"]["gradient_accumulation_steps"]
    draft.why |= {
        ("", "target"): "π_C: what η < 0 pulls the teacher towards, and η > 0 pushes it away from",
        ("", "max_completion_length"): cut,
        ("calibrate", "num_generations"): "samples of a prompt, which are compared with each other",
        ("calibrate", "gradient_accumulation_steps"): f"{samples} samples a step on each device",
        ("calibrate", "beta"): "the anchor to the original, which the guard adapts",
        ("calibrate", "utility_tolerance"): "what the guard's problems can tell from noise",
        ("calibrate", "guard_problems_max"): "more of them tell smaller drops; only as many are drawn as it takes",
        ("distill", "method"): "between two tokenizers" if method == "spans" else "needs one tokenizer (spans doesn't)",
        ("evaluate", "samples"): "pass@16 needs as many",
    }
    draft.why |= {(stage, "learning_rate"): why_rate(stage, count, lora=lora) for stage, count in trained.items()}
    return draft


def _tolerance(sizes: _Sizes) -> float:
    """The usual tolerance, or where a task is small the least that its problems can resolve."""
    noise = RESOLVED_AT * expected_error(SCATTER, GUARD_SAMPLES, sizes.guard_most)
    least = max(noise, resolved_tolerance(sizes.guard, sizes.guard_most))
    return max(TOLERANCE, min(0.99, math.ceil(100 * least) / 100))


def _sections(
    sizes: _Sizes, processes: int, method: str, lora: bool, rates: Mapping[Trained, float]
) -> dict[str, dict[str, Any]]:
    """The recipe's section for each stage."""
    adapter: dict[str, Any] = {"use_peft": True, "lora_r": 32, "lora_alpha": 64} if lora else {"use_peft": False}
    return {
        "diagnose": {
            "problems": min(100, sizes.problems),
            "samples": 2,
            "candidates": 8,
            "max_new_tokens": sizes.length,
        },
        "calibrate": {
            **adapter,
            "max_steps": 60,
            "per_device_train_batch_size": GROUP,
            "gradient_accumulation_steps": max(1, min(16, sizes.rows // processes)),
            "num_generations": GROUP,
            "learning_rate": rates["calibrate"],
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 5,
            "gradient_checkpointing": True,
            "beta": 0.1,
            "utility_tolerance": _tolerance(sizes),
            "problems": sizes.problems,
            "guard_problems": sizes.guard,
            "guard_problems_max": sizes.guard_most,
            "guard_samples": GUARD_SAMPLES,
        },
        "distill": {
            **adapter,
            "method": method,
            "max_steps": 200,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": max(1, min(8, sizes.rows // (4 * processes))),
            "learning_rate": rates["distill"],
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
            "gradient_checkpointing": True,
            "problems": sizes.problems,
        },
        "evaluate": {"problems": TEST_PROBLEMS, "samples": 16, "max_new_tokens": sizes.length},
        "demo": {"eta_distillable": -0.5, "eta_undistillable": 0.5, "methods": ["sft", method]},
    }


def _tokenizers(teacher: Side, student: Side, method: str) -> str:
    same = teacher.same_tokens(student)
    if same is None:
        absent = [side.name for side in (teacher, student) if side.tokenizer is None]
        seen = f"not looked at, as {' and '.join(absent)} would have to be fetched (`hf download`); taken as one"
    else:
        sizes = [len(side.tokenizer) for side in (teacher, student) if side.tokenizer is not None]
        seen = f"the same, {sizes[0]:,} tokens" if same else f"two, {sizes[0]:,} and {sizes[1]:,} tokens"
    able = "compares spans of text, and sft learns from texts" if method == "spans" else "compares them token by token"
    return f"tokenizers: {seen}: method {method} {able}"


def _templates(sides: Sequence[Side]) -> str:
    if any(side.tokenizer is None for side in sides):
        return "chat templates: not looked at"
    off = " Thoughts are switched off (chat_template_kwargs)." if any(map(_thinks, sides)) else ""
    same = len({str(side.tokenizer.chat_template) for side in sides if side.tokenizer is not None}) == 1
    how = "the same in both models" if same else "two, and each model reads a prompt by its own"
    return f"chat templates: {how}.{off}"


def _context(sizes: _Sizes) -> str:
    if sizes.context is None:
        return "context: the models name no limit"
    return f"context: the shorter has {sizes.context:,} tokens, and the longest prompt {sizes.prompt:,}"


def _held_back(sizes: _Sizes) -> str:
    guard = f"{sizes.guard} to {sizes.guard_most}" if sizes.guard < sizes.guard_most else str(sizes.guard)
    return (
        f"training problems: {sizes.problems:,} a task, and {guard} held back for the guard, which can tell a drop of "
        f"{_tolerance(sizes):.0%} (utility_tolerance) from noise"
    )


def _thinks(side: Side) -> bool:
    """Does the chat template read the switch of Qwen3's thoughts? By the name where the tokenizer isn't here."""
    if side.tokenizer is None:
        return "qwen3-" in side.name.lower()
    return values_read(side.tokenizer, THINKING_OFF) is not None


def _too_large(stage: str, config: StageConfig, engine: Engine, lora: bool) -> str:
    elsewhere = [
        f"{name} with {', '.join(f'{key}: {value}' for key, value in settings.items())}" if settings else name
        for name, settings in roomier(stage, config, engine)
    ]
    remedy = f"--gpu {' or '.join(elsewhere)}" if elsewhere else "several GPUs (--accelerate fsdp2-8gpu)"
    less = "LoRA (leave out --full), " if not lora else ""
    models = ", ".join(f"{name} {architecture(name).parameters / 1e9:.2f} B" for name in config.models_read)
    return (
        f"{stage} takes {memory(stage, config, engine) / GIB:.0f} GiB and nothing makes it fit on {engine} ({models}): "
        f"take {less}smaller models, or {remedy}"
    )
