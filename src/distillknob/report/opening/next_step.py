"""This answer is the command that a reader types next, given what the run has shown."""

from __future__ import annotations

from typing import Any

from distillknob.report.drawing.markup import Row, mapping, number, rows, text
from distillknob.report.names import method_name, sentence
from distillknob.report.opening.answer import Line
from distillknob.report.opening.evaluated import after_evaluation
from distillknob.report.opening.pair import about, beside, onward, pair_of
from distillknob.report.opening.rates import usual_of
from distillknob.report.opening.trust import hardest, verdicts
from distillknob.report.read import Source
from distillknob.report.remedies import remedy_commands
from distillknob.runs.commands import StartedWith, command, recipe_of
from distillknob.verdicts.extractors import gravest
from distillknob.verdicts.findings import ADVISED, group_of, ranked
from distillknob.verdicts.movement import hardly_moved, next_rate
from distillknob.verdicts.teachers import is_original
from distillknob.verdicts.turning import TURNED


def next_step(source: Source) -> list[Line]:
    """Give the command to type next."""
    if not source.main.finished:
        return [Line("Go on", "take the run up where it stopped.", command=source.resume_command())]
    if source.main.stage == "evaluate":
        return after_evaluation(source)
    step = _STEPS.get(source.main.stage)
    return [step(source) if step is not None else Line("Nothing follows from this run alone")]


def _after_diagnosis(source: Source) -> Line:
    """What the remedy of the finding that is told first names, if it is a command's flags."""
    result = source.main.result
    knob = rows(result.get("knob"))
    for row in ranked(rows(result.get("findings")), knob):
        group = group_of(row, knob)
        if group not in ADVISED:
            break
        commands = remedy_commands(source, text(row.get("remedy")))
        on = f" on {row.get('task')}" if row.get("task") else ""
        if commands:
            return Line("Try the remedy", f"of {sentence(row.get('name')).lower()}{on}.", command=commands[0])
        if group == "premise":  # no command makes a better teacher
            return Line(
                "First the teacher", f"see {sentence(row.get('name')).lower()}{on}.", tone="bad", section="traps"
            )
    return Line("Distil", "no trap asks for more.", command=about(source, "distill"))


def _after_calibration(source: Source) -> Line:
    if (faster := _faster(source)) is not None:
        return faster
    main, result = source.main, source.main.result
    eta, turned = number(result.get("eta")), mapping(result.get("turned")).get("verdict")
    if is_original(result) or (turned is not None and turned != TURNED):
        steps = number(result.get("steps"))
        more = None if steps is None else int(2 * steps)
        again = command("calibrate", config=main.path / "config.yaml", max_steps=more, output=beside(source, "longer"))
        return Line("Turn it further", "with twice the steps.", command=again)
    model = str(main.path / "model")
    if eta is not None and eta > 0:
        return Line("Attack it", "see what an extractor gets.", command=about(source, "attack", defended=[model]))
    return Line("Distil from it", "and score the student after.", command=about(source, "distill", teacher=model))


def _faster(source: Source) -> Line | None:
    """The same training at a higher rate, where it hardly moved its model."""
    main, moved = source.main, hardly_moved(source.main.result)
    if moved is None:
        return None
    recipe = StartedWith(str(main.path / "config.yaml"))
    rate = next_rate(main.result, usual_of(main))
    again = command(main.stage, recipe=recipe, learning_rate=rate, output=beside(source, "faster"))
    return Line("Raise the learning rate", f"the first suspect, as {moved}.", command=again)


def _after_distillation(source: Source) -> Line:
    if (faster := _faster(source)) is not None:
        return faster
    pair = pair_of(source)
    models = [model for model in (pair.student, str(source.main.path / "model")) if model]
    scores = onward(source, "evaluate", models=models, tasks=pair.tasks)
    return Line("Score the student", "against what it was before.", command=scores)


def _after_experiment(source: Source) -> Line:
    """After a demo or a sweep: attack the teacher that was made harder; without one, repeat with another seed."""
    model = hardest(source)
    if model is not None:
        how = about(source, "attack", defended=[str(model.path / "model")])
        return Line("Attack it", "the teacher that was made harder to learn from.", command=how)
    config = source.main.run.config
    seeds = config.get("seeds") if source.main.stage == "sweep" else [config.get("seed")]
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        return Line("Nothing follows from this run alone")
    further = max(seeds) + 1
    one = {"seeds": [further]} if source.main.stage == "sweep" else {"seed": further}
    flags = {"config": source.main.path / "config.yaml", **one}
    again = command(source.main.stage, output=beside(source, f"seed{further}"), **flags)
    return Line("Repeat it", "with another seed.", command=again)


def _after_pruning(source: Source) -> Line:
    """The command that the run itself wrote: it knows how much is left of the model."""
    heal = text(source.main.result.get("next"))
    named = " Write your task for TASK." if " TASK " in heal else ""
    return Line("Heal it", f"let the whole model teach what is left of it.{named}", command=heal or None)


def _after_caching(source: Source) -> Line:
    """Only a recipe says which student the cache is for."""
    cache, recipe = str(source.main.path), recipe_of(source.main.environment)
    if recipe is None:
        return Line("Distil from it", f"by `distillknob distill --cache {cache}` and your student.")
    return Line("Distil from it", "without the teacher.", command=onward(source, "distill", cache=cache))


def _after_defence(source: Source) -> Line:
    how = about(source, "attack", defended=[str(source.main.path / "model")])
    return Line("Attack it", "see what an extractor gets.", command=how)


def _after_comparison(source: Source) -> Line:
    done = [row for row in rows(source.main.result.get("rows")) if number(row.get("rank")) is not None]
    best: Row = min(done, key=lambda row: number(row.get("rank")) or 0, default={})
    teachers = [row for row in rows(source.main.result.get("teachers")) if row.get("teacher") == best.get("teacher")]
    model = text(teachers[0].get("spec")) if teachers else pair_of(source).teacher
    flags: dict[str, Any] = {
        "teacher": model,
        "method": best.get("method"),
        "learning_rate": number(best.get("learning_rate")),
    }
    return Line(
        "Distil", f"by {method_name(best.get('method'))}, the first here.", command=about(source, "distill", **flags)
    )


def _after_attack(source: Source) -> Line:
    own = verdicts(source.main.result)
    worst = gravest(list(own.values())) or {}
    target = text(worst.get("target")) if len(own) > 1 else None
    judged = command("gate", str(source.main.path), policy="first-look", target=target)
    return Line("Judge it by a policy", "may this teacher be released?", command=judged)


_STEPS = {
    "diagnose": _after_diagnosis,
    "calibrate": _after_calibration,
    "cache": _after_caching,
    "distill": _after_distillation,
    "defend": _after_defence,
    "prune": _after_pruning,
    "demo": _after_experiment,
    "sweep": _after_experiment,
    "compare": _after_comparison,
    "attack": _after_attack,
}
