"""This module says what a stage would do, from its config alone: which models stay in memory, what each writes, scores
and trains on.

Everything is counted at its longest: every answer runs to its limit, every set has as many problems as are asked for.
So memory is what must fit, and time an upper figure. Left out on purpose: compiling, saving, and what the tasks'
graders take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillknob.config.shared import StageConfig
from distillknob.evaluation.memorization.texts import read_texts
from distillknob.models.architecture import Architecture, adapter_parameters, architecture
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_tokenizer
from distillknob.models.names import SERVED, resolve
from distillknob.models.sampling import Sampling
from distillknob.models.scoring import BATCH_TOKENS
from distillknob.planning.hardware import Engine
from distillknob.planning.phases import Phase, Trained, Workload
from distillknob.pruning.choice import passes_over
from distillknob.tasks import RowsTask, Task, get_task, task_on_the_hub
from distillknob.tasks.graders.reward_model import DEFAULT
from distillknob.tasks.reward_task import RewardTask

if TYPE_CHECKING:
    from distillknob.calibration.config import CalibrationConfig
    from distillknob.defences.config import DefendConfig
    from distillknob.diagnosis.config import DiagnoseConfig
    from distillknob.distillation.cache.config import CacheConfig
    from distillknob.distillation.config import DistillConfig
    from distillknob.evaluation.config import EvaluateConfig
    from distillknob.evaluation.memorization.config import MemorizationConfig
    from distillknob.fingerprints.config import FingerprintConfig
    from distillknob.pruning.config import PruneConfig

# A task whose data may still have to be fetched isn't opened for its prompts' length.
PROMPT_TOKENS = 256
MEASURED = 64  # problems
SAMPLED_AT_ONCE = Sampling().batch_size
SCORED_AT_ONCE, PAIRED_AT_ONCE = BATCH_TOKENS, 16_384  # the second is `batch_tokens` of score_pair


@cache
def _prompt_tokens(model: str, name: str) -> int | None:
    """Tokens of the longest prompt among the first `MEASURED` of a task under the model's chat template; None where the
    task's data or the tokenizer might have to be fetched."""
    task = _task(name)
    if isinstance(task, type) or not Path(resolve(model)).is_dir():
        return None
    split = "train" if "train" in task.splits else task.splits[0]
    prompts = [task.messages(example) for example in task.examples(split, MEASURED)]
    return max(map(len, prompt_ids(load_tokenizer(model), prompts)))


def _prompt(model: str, tasks: Sequence[str]) -> int:
    lengths = (_prompt_tokens(model, name) or PROMPT_TOKENS for name in tasks)
    return max(lengths, default=PROMPT_TOKENS)  # a distillation from a cache may name no task


def _task(name: str) -> Task | type[RowsTask]:
    """A task, or of one whose data are on the hub its class: a dry run fetches nothing."""
    return task_on_the_hub(name) or get_task(name)


def reward_models(tasks: Sequence[str]) -> list[tuple[str, Architecture]]:
    """Return the models that grade these tasks' answers in the same process, each once."""
    judges: dict[str, Architecture] = {}
    for name in tasks:
        task = _task(name)
        options = dict(part.partition("=")[::2] for part in name.partition("?")[2].split("&"))
        if issubclass(task if isinstance(task, type) else type(task), RewardTask) and "reward_url" not in options:
            checkpoint = options.get("reward", DEFAULT)
            judges[checkpoint] = architecture(checkpoint)
    return [("reward model", model) for model in judges.values()]


def longest_answer(config: StageConfig) -> int:
    """Return how many tokens an answer of the stage may have."""
    return config.answer_limit or max((_task(name).max_new_tokens for name in config.tasks), default=0)


def _adapter(config: CalibrationConfig | DistillConfig | DefendConfig, name: str) -> int:
    return _adapter_parameters(name, config.lora_r, tuple(config.lora_target_modules)) if config.use_peft else 0


_adapter_parameters = cache(adapter_parameters)  # a search for settings that fit asks many times


def workload(stage: str, config: StageConfig, engine: Engine) -> Workload:
    """Return what one stage would do on `engine`. Raises BadInputError for a model whose config can't be had."""
    return WORKLOADS[stage](config, engine)


def _steps(config: CalibrationConfig | DistillConfig | DefendConfig, rows: float, batch: int) -> float:
    return float(config.max_steps) if config.max_steps > 0 else rows * config.num_train_epochs / batch


def _calibrate(config: CalibrationConfig, engine: Engine) -> Workload:
    teacher = architecture(config.teacher)
    prompt, answer = _prompt(config.teacher, config.tasks), longest_answer(config)
    micro = config.per_device_train_batch_size
    here = micro * int(config.steps_per_generation or config.gradient_accumulation_steps)
    batch = micro * config.gradient_accumulation_steps * engine.devices
    problems = config.problems * len(config.tasks)
    rows = _steps(config, problems * int(config.num_generations or 1), batch) * batch
    guard = config.guard_problems * len(config.tasks) * config.guard_samples
    # At most, and where a teacher has hardly changed about as many: of the original and the kept one each, and fresh.
    answers = guard if not config.guard else config.guard_budget * len(config.tasks) * config.guard_samples

    def phase(what: str, kind: Any, model: Architecture, count: float, at_once: int, **options: Any) -> Phase:
        return Phase(what, kind, model, count, prompt, answer, at_once, **options)

    phases = [
        phase("guard", "decode", teacher, answers, _sampled_rows(answers, config.tasks)),  # of the original
        phase("guard", "decode", teacher, answers, _sampled_rows(answers, config.tasks)),  # of what is kept
        phase("verdict, teacher", "score", teacher, 2 * guard, max(1, SCORED_AT_ONCE // (prompt + answer))),
        phase("samples", "decode", teacher, rows, here, own=False),
        phase("log-ratio, policy", "score", teacher, rows, micro),
        phase("training", "train", teacher, rows, micro),
    ]
    if config.guard:
        phases.append(phase("guard", "decode", teacher, 2 * answers, _sampled_rows(answers, config.tasks)))  # fresh
    if config.beta:
        phases.append(phase("anchor", "score", teacher, rows, micro))
    if config.reward.startswith("sure_tokens"):
        phases.append(phase("verdict, original", "score", teacher, guard, max(1, SCORED_AT_ONCE // (prompt + answer))))
    resident = []
    for name in config.targets:
        if config.target_url is not None or name.startswith(SERVED) or config.target_device is not None:
            continue
        target = architecture(name)
        copies, passes = COPIES_OF_TARGET.get(config.reward, (0, 1))
        resident += [("target", target)] * (1 + copies)
        at_once = max(1, SCORED_AT_ONCE // (prompt + answer))
        phases.append(phase("log-ratio, target", "score", target, passes * rows, min(here, at_once)))
        phases.append(
            phase("verdict, target", "score", target, passes * 2 * guard, at_once)
        )  # at most: if all are right
        if config.reward == "co_distilled":
            learnt = rows / batch / config.co_distilled_every * config.co_distilled_steps
            size = config.co_distilled_batch_size
            phases.append(phase("target learns", "train", target, learnt * size, size))
        if config.reward == "influence":
            own = config.influence_problems * len(config.tasks) * config.influence_samples
            phases.append(phase("target's own answers", "decode", target, own, _sampled_rows(own, config.tasks)))
            phases.append(phase("their gradient", "train", target, own, at_once))
    adapter = _adapter(config, config.teacher)
    trained = Trained(
        teacher,
        adapter,
        config.gradient_checkpointing,
        "tiles",
        reference=bool(config.beta) and not adapter,
        steps=rows / batch,
        accumulation=config.gradient_accumulation_steps,
    )
    resident += reward_models(config.tasks)
    # What was trained is let go, and what holds of it is loaded to be measured.
    again = (teacher,)
    return Workload("calibrate", phases, resident, trained, single=False, loaded_again=again, **_vllm(config))


# By reward: how many more models of the target's size it holds (weights in float32, a start to go back to, a gradient,
# Adam's moments), and how often the target reads an answer.
COPIES_OF_TARGET = {"co_distilled": (5, 1), "influence": (2, 2)}


def _vllm(config: CalibrationConfig | DistillConfig) -> dict[str, Any]:
    beside = config.use_vllm and config.vllm_mode == "colocate"
    return {"vllm": config.use_vllm, "vllm_share": config.vllm_gpu_memory_utilization if beside else 0.0}


def _distill(config: DistillConfig, engine: Engine) -> Workload:
    """The phases one after the other; what stays in memory is of the one that holds most."""
    works = [_distill_phase(phase, engine) for phase in config.phases()]
    most = max(works, key=lambda work: sum(model.parameters for _, model in work.resident))
    trained = works[-1].trained
    if trained is not None:
        trained = replace(trained, steps=sum(work.trained.steps for work in works if work.trained is not None))
    return replace(most, phases=[phase for work in works for phase in work.phases], trained=trained)


def _distill_phase(config: DistillConfig, engine: Engine) -> Workload:
    from distillknob.distillation.learning_curve import CURVE_PROBLEMS
    from distillknob.distillation.trace_file import read_trace_file

    student, method = architecture(config.student), config.objective
    prompt, answer = _prompt(config.student, config.tasks), longest_answer(config)
    here = config.per_device_train_batch_size * config.gradient_accumulation_steps
    # Private steps read a problem at a time.
    batch, micro = here * engine.devices, 1 if config.private_steps else config.per_device_train_batch_size
    problems = config.problems * len(config.tasks)
    if config.traces_file is not None:
        problems = len(read_trace_file(config.traces_file))
    start, end = config.problems_part
    problems = round((end - start) * problems)
    held_back = config.held_back(problems)
    rows = _steps(config, problems - held_back, batch) * batch
    share = config.share_on_policy
    resident, phases = [], []
    if config.needs_teacher and not config.teacher.startswith(SERVED):
        teacher = architecture(config.teacher)
        if method.teacher != "itself":  # which is read where it is trained
            resident.append(("teacher", teacher))
        if config.writes_traces:
            each = 1 if method.traces == "teacher" else config.candidates
            phases.append(Phase("traces", "decode", teacher, problems * each, prompt, answer, SAMPLED_AT_ONCE))
            at_once = max(1, SCORED_AT_ONCE // (prompt + answer))
            if config.chooses_by_scores:
                phases.append(Phase("sure tokens", "score", teacher, problems * each, prompt, answer, at_once))
            if method.selects and not config.target.startswith(SERVED):
                target = architecture(config.target)
                resident.append(("target", target))
                phases.append(Phase("best of n", "score", target, problems * each, prompt, answer, at_once))
        teachers = config.several_teachers or [config.teacher]
        resident += [("teacher", architecture(name)) for name in teachers[1:]]
        for name in teachers if config.loss.asks_teacher else []:
            judged = rows / len(teachers) if method.teacher == "routed" else rows
            phases.append(Phase("teacher", "score", architecture(name), judged, prompt, answer, micro))
    if (weights := config.made_query_weights) is not None:
        at_once = max(1, SCORED_AT_ONCE // (prompt + answer))
        asked = [
            *([config.teacher] if weights.asks_teacher else []),
            *([config.target] if weights.asks_target else []),
        ]
        scored = {config.student: student, **{n: architecture(n) for n in asked if not n.startswith(SERVED)}}
        if weights.asks_target and config.target in scored and not method.selects:
            resident.append(("target", scored[config.target]))
        for name, model in scored.items():
            phases.append(Phase(f"query weights, {name}", "score", model, problems, prompt, answer, at_once))
    if share > 0:
        phases.append(Phase("samples", "decode", student, share * rows, prompt, answer, here, own=False))
    phases.append(Phase("training", "train", student, rows, prompt, answer, micro))
    if (mix := config.made_sources) is not None:
        validated = math.ceil(rows / batch / mix.validation_every) * held_back
        phases.append(Phase("validation loss", "score", student, validated, prompt, answer, micro, spread=False))
    if config.curve_steps:
        measured = (1 + rows / batch // config.curve_steps) * CURVE_PROBLEMS * len(config.tasks)
        phases.append(Phase("curve", "decode", student, measured, prompt, answer, SAMPLED_AT_ONCE, spread=False))
        if config.oracle is not None:
            oracle, at_once = architecture(config.oracle), max(1, PAIRED_AT_ONCE // (prompt + answer))
            resident.append(("oracle", oracle))
            read = (("proxy distance", architecture(config.teacher), measured), ("golden distance", oracle, measured))
            for what, model, texts in (*read, ("distances, student", student, 2 * measured)):
                phases.append(Phase(what, "score", model, texts, prompt, answer, at_once, spread=False))
    resident += reward_models(config.tasks)
    logits: Literal["blocks", "whole"] = "blocks" if config.loss.in_blocks else "whole"
    trained = Trained(
        student,
        _adapter(config, config.student),
        config.gradient_checkpointing,
        logits,
        reference=False,
        steps=rows / batch,
        accumulation=config.gradient_accumulation_steps,
    )
    return Workload("distill", phases, resident, trained, single=False, **_vllm(config))


def _defend(config: DefendConfig, engine: Engine) -> Workload:
    teacher, reference = architecture(config.teacher), architecture(config.reference)
    prompt, answer = _prompt(config.teacher, config.tasks), longest_answer(config)
    micro = config.per_device_train_batch_size
    batch = micro * config.gradient_accumulation_steps * engine.devices
    problems = config.problems * len(config.tasks)
    rows = _steps(config, problems, batch) * batch
    # A head that is trained alone is counted as all weights are: an upper figure of memory and time.
    phases = [
        Phase("traces", "decode", teacher, problems * config.candidates, prompt, answer, SAMPLED_AT_ONCE),
        Phase("reference", "score", reference, rows, prompt, answer, micro),
        Phase("training", "train", teacher, rows, prompt, answer, micro),
    ]
    trained = Trained(
        teacher,
        _adapter(config, config.teacher),
        config.gradient_checkpointing,
        "blocks",
        reference=False,
        steps=rows / batch,
        accumulation=config.gradient_accumulation_steps,
    )
    resident = [("reference", reference), *reward_models(config.tasks)]
    return Workload("defend", phases, resident, trained, single=False)


def _scored_rows(tokens: int, at_once: int = SCORED_AT_ONCE) -> int:
    return max(1, at_once // tokens)


def _sampled_rows(rows: int, tasks: Sequence[str]) -> int:
    """Of `rows` over all tasks, which are sampled one after the other."""
    return max(1, min(SAMPLED_AT_ONCE, rows // max(1, len(tasks))))


def _cache(config: CacheConfig, engine: Engine) -> Workload:
    teacher = architecture(config.teacher)
    prompt, answer = _prompt(config.teacher, config.tasks), longest_answer(config)
    problems = config.problems * len(config.tasks)
    each = {"teacher": 1, "teacher_verified": config.candidates, "gold": 0}[config.traces]
    phases = [
        Phase("traces", "decode", teacher, problems * each, prompt, answer, SAMPLED_AT_ONCE),
        Phase("scores", "score", teacher, problems, prompt, answer, _scored_rows(prompt + answer)),
    ]
    judges = reward_models(config.tasks) if config.traces == "teacher_verified" else []
    return Workload("cache", phases, [("teacher", teacher), *judges])


def _evaluate(config: EvaluateConfig, engine: Engine) -> Workload:
    rows = config.problems * len(config.tasks) * config.samples
    here = [name for name in config.models if not name.startswith(SERVED)]  # what a server holds is its own
    models, phases = [architecture(name) for name in here], []
    for name, model in zip(here, models, strict=True):
        prompt, answer = _prompt(name, config.tasks), longest_answer(config)
        phases += [
            Phase("answers", "decode", model, rows, prompt, answer, _sampled_rows(rows, config.tasks)),
            Phase("failure modes", "score", model, rows, prompt, answer, _scored_rows(prompt + answer)),
        ]
    # One model after the other.
    by_size = sorted(models, key=lambda model: -model.parameters)
    resident = [*(("model", model) for model in by_size[:1]), *reward_models(config.tasks)]
    return Workload("evaluate", phases, resident, loaded_again=tuple(by_size[1:]))


def _diagnose(config: DiagnoseConfig, engine: Engine) -> Workload:
    teacher, student = architecture(config.teacher), architecture(config.student)
    prompt, answer = _prompt(config.teacher, config.tasks), longest_answer(config)
    problems = config.problems * len(config.tasks)
    candidates, sampled = problems * max(config.candidates, config.samples), problems * config.samples
    several = problems * config.knob_samples
    paired = _scored_rows(prompt + answer, PAIRED_AT_ONCE)

    def phase(what: str, kind: Any, model: Architecture, rows: int) -> Phase:
        at_once = _sampled_rows(rows, config.tasks) if kind == "decode" else paired
        return Phase(what, kind, model, rows, prompt, answer, at_once)

    phases = [
        phase("student's answers", "decode", student, candidates),
        phase("teacher's answers", "decode", teacher, max(sampled, several)),
        # From the beginnings of the student's answers, three lengths each.
        phase("teacher goes on", "decode", teacher, 3 * sampled),
        phase("both policies", "score", teacher, 2 * sampled),
        phase("both policies", "score", student, 2 * sampled),
        phase("candidates", "score", teacher, candidates),
        phase("candidates", "score", student, candidates),
    ]
    if config.knob_samples > 1:
        phases += [phase("knob", "score", model, several) for model in (teacher, student)]
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
        prompt, answer = _prompt(name, config.tasks), longest_answer(config)
        phases.append(Phase("answers", "decode", model, rows, prompt, answer, _sampled_rows(rows, config.tasks)))
        if config.access == "weights":  # at most: of answers with nothing new in them nothing is read
            phases.append(Phase("distributions", "score", model, rows, prompt, answer, _scored_rows(prompt + answer)))
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
    before = 1 if config.texts_file is not None else min(_prompt(config.model, config.tasks), limit - 1)
    longest = limit if config.texts_file is not None else before + max(_task(n).max_new_tokens for n in config.tasks)
    scored = min(limit, longest) - before
    count = config.problems if config.texts_file is not None else config.problems * len(config.tasks)
    held_back = round(config.held_back * count)
    at_once = _scored_rows(before + scored)

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
    "distill": _distill,
    "defend": _defend,
    "evaluate": _evaluate,
    "fingerprint": _fingerprint,
    "memorization": _memorization,
    "prune": _prune,
}
