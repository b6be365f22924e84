"""This module says what a stage would do, from its config alone: which models stay in memory, what each writes, scores
and trains on.

Phases are counted at their longest: every answer runs to its limit, every set has as many problems as are asked for.
So memory is what must fit, and time an upper figure. Beside that stands how long texts are in the mean (`usual`), where
the tasks have worked solutions. Left out on purpose: compiling, saving, and what the tasks' graders take.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distillknob.config.shared import StageConfig
from distillknob.evaluation.memorization.texts import read_texts
from distillknob.models.architecture import Architecture, architecture
from distillknob.models.names import SERVED
from distillknob.planning.counting import (
    OF_TASKS,
    PAIRED_AT_ONCE,
    SAMPLED_AT_ONCE,
    adapter_of,
    dtype_of,
    longest_answer,
    longest_prompt,
    reward_models,
    sampled_rows,
    scored_rows,
    steps_of,
    task_of,
    usual_lengths,
    vllm_of,
)
from distillknob.planning.distillation import distill_work
from distillknob.planning.hardware import Engine
from distillknob.planning.phases import Phase, Trained, Workload
from distillknob.pruning.choice import passes_over
from distillknob.training.config import takes_bfloat16
from distillknob.training.passes import order_is_free

if TYPE_CHECKING:
    from distillknob.calibration.config import CalibrationConfig
    from distillknob.defences.config import DefendConfig
    from distillknob.diagnosis.config import DiagnoseConfig
    from distillknob.distillation.cache.config import CacheConfig
    from distillknob.evaluation.config import EvaluateConfig
    from distillknob.evaluation.memorization.config import MemorizationConfig
    from distillknob.fingerprints.config import FingerprintConfig
    from distillknob.pruning.config import PruneConfig


def workload(stage: str, config: StageConfig, engine: Engine) -> Workload:
    """Return what one stage would do on `engine`. Raises BadInputError for a model whose config can't be had."""
    work = WORKLOADS[stage](config, engine)
    phases = [replace(phase, itemsize=_itemsize(phase, work, config, engine)) for phase in work.phases]
    usual = usual_lengths(config) if config.answer_field in OF_TASKS else None
    return replace(work, phases=phases, usual=usual)


def _itemsize(phase: Phase, work: Workload, config: StageConfig, engine: Engine) -> int:
    """Bytes of a number that the phase's model works with: on a GPU in half precision, on a CPU by what `models.dtypes`
    and `training.config` take there."""
    if engine.device.utilised:
        return engine.device.itemsize
    model = phase.model
    if work.trained is not None and model is work.trained.model:
        options: Any = config  # of a training stage, which has those of transformers
        return 2 if options.bf16 or takes_bfloat16(options, model.parameters) else 4
    return 2 if model.dtype_on_cpu == "bfloat16" else 4


def _calibrate(config: CalibrationConfig, engine: Engine) -> Workload:
    teacher = architecture(config.teacher)
    prompt, answer = longest_prompt(config.teacher, config.tasks), longest_answer(config)
    micro = config.per_device_train_batch_size
    here = micro * int(config.steps_per_generation or config.gradient_accumulation_steps)
    batch = micro * config.gradient_accumulation_steps * engine.devices
    problems = config.problems * len(config.tasks)
    rows = steps_of(config, problems * int(config.num_generations or 1), batch) * batch
    guard = config.guard_problems * len(config.tasks) * config.guard_samples
    # At most, and where a teacher has hardly changed about as many: of the original and the kept one each, and fresh.
    answers = guard if not config.guard else config.guard_budget * len(config.tasks) * config.guard_samples
    of_group, of_guard = {"each": int(config.num_generations or 1)}, {"each": config.guard_samples}
    scored = scored_rows(prompt + answer)

    def phase(what: str, kind: Any, model: Architecture, count: float, at_once: int, **options: Any) -> Phase:
        return Phase(what, kind, model, count, prompt, answer, at_once, **options)

    def guarded(count: int) -> Phase:
        # More problems are asked until the guard can tell, which the first are mostly enough for.
        usual = guard * count / answers if answers else None
        rows = sampled_rows(count, config.tasks)
        return phase("guard", "decode", teacher, count, rows, **of_guard, usual_rows=usual)

    phases = [
        guarded(answers),  # of the original
        guarded(answers),  # of what is kept
        phase("verdict, teacher", "score", teacher, 2 * guard, scored, **of_guard),
        phase("samples", "decode", teacher, rows, here, **of_group, own=False),
        phase("log-ratio, policy", "score", teacher, rows, micro, **of_group, own=False),
        phase("training", "train", teacher, rows, micro, each=_of_a_prompt(config, here), own=False),
    ]
    if config.guard:
        phases.append(guarded(2 * answers))  # fresh
    if config.beta:
        phases.append(phase("anchor", "score", teacher, rows, micro, **of_group, own=False))
    if config.reward.startswith("sure_tokens"):
        phases.append(phase("verdict, original", "score", teacher, guard, scored, **of_guard))
    resident = []
    for name in config.targets:
        if config.target_url is not None or name.startswith(SERVED) or config.target_device is not None:
            continue
        target = architecture(name)
        copies, passes = COPIES_OF_TARGET.get(config.reward, (0, 1))
        resident += [("target", target)] * (1 + copies)
        phases.append(phase("log-ratio, target", "score", target, passes * rows, min(here, scored), **of_group))
        judged = passes * 2 * guard  # at most: if all are right
        phases.append(phase("verdict, target", "score", target, judged, scored, **of_guard))
        if config.reward == "co_distilled":
            learnt = rows / batch / config.co_distilled_every * config.co_distilled_steps
            size = config.co_distilled_batch_size
            phases.append(phase("target learns", "train", target, learnt * size, size))
        if config.reward == "influence":
            own = config.influence_problems * len(config.tasks) * config.influence_samples
            each = {"each": config.influence_samples}
            phases.append(phase("target's own answers", "decode", target, own, sampled_rows(own, config.tasks), **each))
            phases.append(phase("their gradient", "train", target, own, scored))
    adapter = adapter_of(config, config.teacher)
    trained = Trained(
        teacher,
        adapter,
        config.gradient_checkpointing,
        "tiles",
        reference=bool(config.beta) and not adapter,
        steps=rows / batch,
        accumulation=config.gradient_accumulation_steps,
        dtype=dtype_of(config),
    )
    resident += reward_models(config.tasks)
    # What was trained is let go, and what holds of it is loaded to be measured.
    again = (teacher,)
    return Workload("calibrate", phases, resident, trained, single=False, loaded_again=again, **vllm_of(config))


def _of_a_prompt(config: CalibrationConfig, generated: int) -> float:
    """How many rows of a training pass have one prompt in the mean, of those that were `generated` in groups: TRL
    shuffles them before it parts them, but for what `training.passes` puts together again."""
    rows, group = config.per_device_train_batch_size, int(config.num_generations or 1)
    if order_is_free(config):
        starts = range(0, generated, rows)
        return generated / sum(math.ceil((start + rows) / group) - start // group for start in starts)
    others = math.comb(generated - group, rows) / math.comb(generated, rows) if generated - group >= rows else 0.0
    return rows / (generated / group * (1.0 - others))


# By reward: how many more models of the target's size it holds (weights in float32, a start to go back to, a gradient,
# Adam's moments), and how often the target reads an answer.
COPIES_OF_TARGET = {"co_distilled": (5, 1), "influence": (2, 2)}


def _defend(config: DefendConfig, engine: Engine) -> Workload:
    teacher, reference = architecture(config.teacher), architecture(config.reference)
    prompt, answer = longest_prompt(config.teacher, config.tasks), longest_answer(config)
    micro = config.per_device_train_batch_size
    batch = micro * config.gradient_accumulation_steps * engine.devices
    problems = config.problems * len(config.tasks)
    rows = steps_of(config, problems, batch) * batch
    # A head that is trained alone is counted as all weights are: an upper figure of memory and time.
    phases = [
        Phase(
            "traces",
            "decode",
            teacher,
            problems * config.candidates,
            prompt,
            answer,
            SAMPLED_AT_ONCE,
            each=config.candidates,
        ),
        Phase("reference", "score", reference, rows, prompt, answer, micro),
        Phase("training", "train", teacher, rows, prompt, answer, micro),
    ]
    trained = Trained(
        teacher,
        adapter_of(config, config.teacher),
        config.gradient_checkpointing,
        "blocks",
        reference=False,
        steps=rows / batch,
        accumulation=config.gradient_accumulation_steps,
        dtype=dtype_of(config),
    )
    resident = [("reference", reference), *reward_models(config.tasks)]
    return Workload("defend", phases, resident, trained, single=False)


def _cache(config: CacheConfig, engine: Engine) -> Workload:
    teacher = architecture(config.teacher)
    prompt, answer = longest_prompt(config.teacher, config.tasks), longest_answer(config)
    problems = config.problems * len(config.tasks)
    each = {"teacher": 1, "teacher_verified": config.candidates, "gold": 0}[config.traces]
    phases = [
        Phase("traces", "decode", teacher, problems * each, prompt, answer, SAMPLED_AT_ONCE, each=max(1, each)),
        Phase("scores", "score", teacher, problems, prompt, answer, scored_rows(prompt + answer)),
    ]
    judges = reward_models(config.tasks) if config.traces == "teacher_verified" else []
    return Workload("cache", phases, [("teacher", teacher), *judges])


def _evaluate(config: EvaluateConfig, engine: Engine) -> Workload:
    rows = config.problems * len(config.tasks) * config.samples
    here = [name for name in config.models if not name.startswith(SERVED)]  # what a server holds is its own
    models, phases = [architecture(name) for name in here], []
    for name, model in zip(here, models, strict=True):
        prompt, answer = longest_prompt(name, config.tasks), longest_answer(config)
        sampled, scored, each = sampled_rows(rows, config.tasks), scored_rows(prompt + answer), config.samples
        phases += [
            Phase("answers", "decode", model, rows, prompt, answer, sampled, each=each),
            Phase("failure modes", "score", model, rows, prompt, answer, scored, each=each),
        ]
    # One model after the other.
    by_size = sorted(models, key=lambda model: -model.parameters)
    resident = [*(("model", model) for model in by_size[:1]), *reward_models(config.tasks)]
    return Workload("evaluate", phases, resident, loaded_again=tuple(by_size[1:]))


def _diagnose(config: DiagnoseConfig, engine: Engine) -> Workload:
    teacher, student = architecture(config.teacher), architecture(config.student)
    prompt, answer = longest_prompt(config.teacher, config.tasks), longest_answer(config)
    problems = config.problems * len(config.tasks)
    candidates, sampled = problems * max(config.candidates, config.samples), problems * config.samples
    several = problems * config.knob_samples
    paired = scored_rows(prompt + answer, PAIRED_AT_ONCE)

    def phase(what: str, kind: Any, model: Architecture, rows: int, each: int = 1) -> Phase:
        at_once = sampled_rows(rows, config.tasks) if kind == "decode" else paired
        return Phase(what, kind, model, rows, prompt, answer, at_once, each=each)

    offered, drawn = max(config.candidates, config.samples), max(config.samples, config.knob_samples)
    phases = [
        phase("student's answers", "decode", student, candidates, offered),
        phase("teacher's answers", "decode", teacher, max(sampled, several), drawn),
        # From the beginnings of the student's answers, three lengths each.
        phase("teacher goes on", "decode", teacher, 3 * sampled),
        phase("both policies", "score", teacher, 2 * sampled),
        phase("both policies", "score", student, 2 * sampled),
        phase("candidates", "score", teacher, candidates, offered),
        phase("candidates", "score", student, candidates, offered),
    ]
    if config.knob_samples > 1:
        phases += [phase("knob", "score", model, several, config.knob_samples) for model in (teacher, student)]
    compared = min(config.gradient_problems, config.problems) * len(config.tasks) * config.samples
    if compared:
        at_once = min(config.samples, paired)
        phases.append(phase("gradients", "score", teacher, compared))
        phases.append(Phase("gradients", "gradient", student, compared, prompt, answer, at_once))
    return Workload("diagnose", phases, [("teacher", teacher), ("student", student), *reward_models(config.tasks)])


def _fingerprint(config: FingerprintConfig, engine: Engine) -> Workload:
    rows = config.problems * len(config.tasks) * config.samples
    here = [name for name in config.models_sampled if not name.startswith(SERVED)]
    models, phases = [architecture(name) for name in here], []
    for name, model in zip(here, models, strict=True):
        prompt, answer = longest_prompt(name, config.tasks), longest_answer(config)
        sampled = sampled_rows(rows, config.tasks)
        phases.append(Phase("answers", "decode", model, rows, prompt, answer, sampled, each=config.samples))
        if config.access == "weights":  # at most: of answers with nothing new in them nothing is read
            phases.append(Phase("distributions", "score", model, rows, prompt, answer, scored_rows(prompt + answer)))
    by_size = sorted(models, key=lambda model: -model.parameters)  # one model after the other
    resident = [("model", model) for model in by_size[:1]]
    return Workload("fingerprint", phases, resident, loaded_again=tuple(by_size[1:]))


def _memorization(config: MemorizationConfig, engine: Engine) -> Workload:
    rows = config.problems * len(config.tasks) if config.texts_file is None else len(read_texts(config))
    models = [architecture(name) for name in config.models_read]
    prompt, answer = config.prefix_tokens, config.suffix
    phases = [Phase("continuations", "decode", model, rows, prompt, answer, config.batch_size) for model in models]
    by_size = sorted(models, key=lambda model: -model.parameters)  # one model after the other
    return Workload("memorization", phases, [("model", by_size[0])], loaded_again=tuple(by_size[1:]))


def _prune(config: PruneConfig, engine: Engine) -> Workload:
    model = architecture(config.model)
    limit = config.text_limit(model.context)
    before = 1 if config.texts_file is not None else min(longest_prompt(config.model, config.tasks), limit - 1)
    longest = limit if config.texts_file is not None else before + max(task_of(n).max_new_tokens for n in config.tasks)
    scored = min(limit, longest) - before
    count = config.problems if config.texts_file is not None else config.problems * len(config.tasks)
    held_back = round(config.held_back * count)
    at_once = scored_rows(before + scored)

    def phase(what: str, rows: int) -> Phase:
        return Phase(what, "score", model, rows, before, scored, at_once)

    passes = passes_over(config, model.layers) + (config.mlp_width is not None)
    phases = [
        phase("before and after", 2 * held_back),  # the second by a smaller model
        phase("each layer", passes * (count - held_back)),
    ]
    # The model is loaded again to be cut, and what is left of it twice: to be proved, and to be compared.
    return Workload("prune", phases, [("model", model)], loaded_again=(model, model, model))


# What each stage would do; an experiment is the sum of the stages that it plans.
WORKLOADS: dict[str, Callable[[Any, Engine], Workload]] = {
    "diagnose": _diagnose,
    "calibrate": _calibrate,
    "cache": _cache,
    "distill": distill_work,
    "defend": _defend,
    "evaluate": _evaluate,
    "fingerprint": _fingerprint,
    "memorization": _memorization,
    "prune": _prune,
}
