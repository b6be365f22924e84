"""A recipe for a pair of real size on a named device: usual settings, and where they take too much, the mildest changes
with which every stage fits by the dry run's own account.

The settings are those of the shipped recipes for the paper's pairs and of TRL's documentation; each stands in the file
with its reason. Left out on purpose: choosing η or the number of steps by the pair, which no account foretells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distillknob.calibration.decision import RESOLVED_AT, expected_error, resolved_tolerance
from distillknob.calibration.problems import dealt_out
from distillknob.config.recipe import stage_config
from distillknob.config.shared import StageConfig
from distillknob.diagnosis.gather import PREFIXES
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight, Side
from distillknob.models.architecture import architecture
from distillknob.models.chat import values_read
from distillknob.planning.counting import PROMPT_TOKENS
from distillknob.planning.fitting import SHORTEST, fitting, memory, roomier
from distillknob.planning.hardware import GIB, Engine
from distillknob.stages import CHAINED

PROBLEMS, GUARD_PROBLEMS, GUARD_PROBLEMS_MAX, TEST_PROBLEMS = 2000, 100, 800, 200
GUARD_SAMPLES, TOLERANCE = 4, 0.02
SCATTER = 0.75 * 0.25 / 2  # of a teacher that is right 3 times in 4, half of whose variance lies between problems
GROUP = 8  # samples a prompt in calibrate
LORA_RATE = "usual for LoRA: ten times that of full fine-tuning, or more"
THINKING_OFF = {"enable_thinking": False}


@dataclass
class Draft:
    """A recipe in the making: `shared` keys and `sections` by stage, and why a value is what it is, by stage and key
    (shared ones under the empty stage)."""

    shared: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    why: dict[tuple[str, str], str] = field(default_factory=dict)

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


def new_recipe(
    *,
    teacher: str,
    student: str,
    target: str | None,
    tasks: Sequence[str],
    engine: Engine,
    lora: bool = True,
    longest: int | None = None,
) -> str:
    """The text of a recipe for this pair on `engine`, every stage of which fits there. `lora`: train adapters,
    `longest`: tokens of an answer (None: the tasks' own).

    Raises BadInputError for models and tasks that a run couldn't use, and where nothing makes a stage fit.
    """
    preflight = Preflight(engine.devices, fetch=False)
    target = target or student
    sides = preflight.sides([teacher, student, target], weights=[teacher, student])
    draft = _usual(preflight, sides, tasks, lora, longest)
    sizes = []
    for stage in CHAINED:
        config = draft.config(stage)
        fit = fitting(stage, config, engine)
        if fit is None or ("use_peft" in fit.settings and not lora):
            raise BadInputError(_too_large(stage, config, engine, lora))
        draft.sections[stage] |= fit.settings
        draft.why |= {(stage, name): "so that it fits" for name in fit.settings}
        sizes.append(f"{stage} {memory(stage, draft.config(stage), engine) / GIB:.1f}")
    head = [
        f"{teacher} → {student}, π_C {target}: written by `distillknob recipe new` for {engine}.",
        f"By the dry run's account, in GiB of {engine.device.memory / GIB:.1f}: {', '.join(sizes)}.",
        "A start and no finding: look at the guard's events and the log-ratio before long runs. Diagnose first.",
        "`distillknob demo --config THIS --dry-run` checks it, without --dry-run it runs every stage.",
    ]
    return draft.text(head)


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
    the guard's first look and `guard_most` for all, `rows` of all tasks, and the tokens of an answer, in `length`, of
    the `longest` that the tasks have."""

    problems: int
    guard: int
    guard_most: int
    rows: int
    length: int
    longest: int


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
    return _Sizes(problems, guard, guard_most, rows, length=min(answer, fits_in), longest=answer)


def _usual(preflight: Preflight, sides: Sequence[Side], tasks: Sequence[str], lora: bool, longest: int | None) -> Draft:
    """The usual settings for a pair, cut to what the tasks and contexts have room for, with their reasons."""
    teacher, student, target = sides
    sizes = _sizes(preflight, sides, tasks, longest)
    method = "spans" if teacher.same_tokens(student) is False else "gkd"
    sections = _sections(sizes, preflight.processes, method, lora)
    draft = Draft(
        {"teacher": teacher.name, "student": student.name, "target": target.name, "tasks": list(tasks)}, sections
    )
    draft.shared["max_completion_length"] = sizes.length
    if any(_thinks(side) for side in (teacher, student)):
        draft.shared["chat_template_kwargs"] = dict(THINKING_OFF)
        draft.why["", "chat_template_kwargs"] = "thoughts would need far longer answers"
    cut = "what the shortest context has room for" if sizes.length < sizes.longest else "an answer's longest"
    samples = GROUP * sections["calibrate"]["gradient_accumulation_steps"]
    draft.why |= {
        ("", "target"): "π_C: what η < 0 pulls the teacher towards, and η > 0 pushes it away from",
        ("", "max_completion_length"): cut,
        ("calibrate", "num_generations"): "samples of a prompt, which are compared with each other",
        ("calibrate", "gradient_accumulation_steps"): f"{samples} samples a step on each device",
        ("calibrate", "learning_rate"): LORA_RATE if lora else "TRL's own for GRPO",
        ("calibrate", "beta"): "the anchor to the original, which the guard adapts",
        ("calibrate", "utility_tolerance"): "what the guard's problems can tell from noise",
        ("calibrate", "guard_problems_max"): "more of them tell smaller drops; only as many are drawn as it takes",
        ("distill", "learning_rate"): LORA_RATE if lora else "usual for full fine-tuning of such models",
        ("distill", "method"): "between two tokenizers" if method == "spans" else "needs one tokenizer (spans doesn't)",
        ("evaluate", "samples"): "pass@16 needs as many",
    }
    return draft


def _tolerance(sizes: _Sizes) -> float:
    """The usual tolerance, or where a task is small the least that its problems can resolve."""
    noise = RESOLVED_AT * expected_error(SCATTER, GUARD_SAMPLES, sizes.guard_most)
    least = max(noise, resolved_tolerance(sizes.guard, sizes.guard_most))
    return max(TOLERANCE, min(0.99, math.ceil(100 * least) / 100))


def _sections(sizes: _Sizes, processes: int, method: str, lora: bool) -> dict[str, dict[str, Any]]:
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
            "learning_rate": 2e-5 if lora else 1e-6,
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
            "learning_rate": 1e-4 if lora else 1e-5,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
            "gradient_checkpointing": True,
            "problems": sizes.problems,
        },
        "evaluate": {"problems": TEST_PROBLEMS, "samples": 16, "max_new_tokens": sizes.length},
        "demo": {"eta_distillable": -0.5, "eta_undistillable": 0.5, "methods": ["sft", method]},
    }


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
