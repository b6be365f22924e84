"""These answers tell what an extractor would get, and how far the page's figures can be trusted."""

from __future__ import annotations

from collections import Counter

from distillknob.report.drawing.markup import Row, listed, number, percent, percent_range, plural, rows, text
from distillknob.report.opening.answer import Line, Tone
from distillknob.report.opening.pair import about
from distillknob.report.read import RunData, Source
from distillknob.report.rows import distinct, sample_size
from distillknob.report.sections.attacks import by_target
from distillknob.verdicts.extractors import WORDS, gravest
from distillknob.verdicts.teachers import is_original
from distillknob.verdicts.utility import CHOSEN, scores_to_tell

_TONES: dict[str, Tone] = {"broken": "bad", "partly": "warn", "protects": "good"}
_ENOUGH = 0.9  # share of the answers that should end by themselves


def attacker(source: Source) -> list[Line]:
    """Say what an attacker would get."""
    result = source.main.result
    if source.main.stage != "attack":
        model = hardest(source)
        how = about(source, "attack", defended=[str(model.path / "model")] if model is not None else None)
        return [Line("Not measured here", "nobody attacked this teacher.", command=how)]
    if isinstance(result.get("refused"), str) and result["refused"]:
        return [Line("Nothing is shown", f"{result['refused']}.", tone="warn", section="result")]
    own = verdicts(result)
    if not own:
        return [Line("Not known yet", "there is no verdict.", section="result")]
    worst = gravest(list(own.values())) or {}
    word = text(worst.get("verdict"))
    lines = [_worst(worst, word)]
    if len(own) > 1:
        counts = Counter(text(row.get("verdict")) for row in own.values())
        told = listed([f"{counts[name]} {name}" for name in dict.fromkeys([*WORDS, *counts]) if counts[name]])
        lines.append(Line(plural(len(own), "teacher"), f"at their weakest tier, {told}.", section="result"))
    return lines


def verdicts(result: Row) -> dict[str, Row]:
    """Return the gravest verdict on each defended teacher; on the original alone where there is no other."""
    return {name: row for name, own in by_target(result) if (row := gravest(own)) is not None}


def _worst(row: Row, word: str) -> Line:
    target, tier = text(row.get("target")), text(row.get("tier"))
    if number(row.get("recovered")) is None or word in ("can't tell", "irrelevant"):
        return Line(f"{target} {WORDS.get(word, 'has no verdict')}", f"{text(row.get('why'))}.", section="result")
    return Line(
        f"{target} {WORDS.get(word, 'has no verdict')}",
        f"at the tier {tier}, {text(row.get('attack'))} recovers, of what the original teaches,",
        percent(row.get("recovered")),
        percent_range(row.get("interval")),
        _TONES.get(word, "none"),
        "result",
    )


def hardest(source: Source) -> RunData | None:
    """Return the calibration with the highest η above 0 that changed its teacher."""
    made = [
        (eta, run)
        for run in source.calibrate.values()
        if run.result and not is_original(run.result) and (eta := number(run.result.get("eta"))) and eta > 0
    ]
    return max(made, key=lambda one: one[0])[1] if made else None


def trust(source: Source) -> list[Line]:
    """Say how far the figures can be trusted."""
    main = source.main
    lines = []
    if not main.finished:
        lines.append(Line("Not yet", "the run hasn't finished; what is there is shown.", tone="warn"))
    if source.problems():
        lines.append(Line("Parts are missing", f"{plural(len(source.problems()), 'part')} can't be read.", tone="warn"))
    if main.result:
        lines += [line for make in (_planted, _asked, _fresh, _ended, _seeds) for line in make(source)]
    return [*lines, Line("How it was made", "by which command, seeds and versions.", section="provenance")]


def _planted(source: Source) -> list[Line]:
    """Whether an attack finds what was planted."""
    if source.main.stage != "attack":
        return []
    planted, flags = (rows(source.main.result.get(name)) for name in ("planted", "flags"))
    passed = sum(row.get("passed") is True for row in planted)
    if not planted:
        return [Line("Unproven", "no planted defence was attacked.", tone="warn", section="doubts")]
    good = passed == len(planted)
    word = "The suite finds what was planted" if good else "The suite missed what was planted"
    what = f"{passed} of {len(planted)}; {plural(len(flags), 'flag')} to read."
    return [Line(word, what, tone="good" if good else "bad", section="doubts")]


def _asked(source: Source) -> list[Line]:
    """How many problems stand behind a diagnosis."""
    if source.main.stage != "diagnose":
        return []
    problems = [amount for row in rows(source.main.result.get("findings")) if (amount := number(row.get("n")))]
    size = f"up to {plural(int(max(problems)), 'problem')} a check" if problems else "no problem counted"
    return [Line("Intervals", f"they say what other problems would give; {size}.")]


def _fresh(source: Source) -> list[Line]:
    """On which problems a calibration's scores were taken."""
    if source.main.stage != "calibrate" or not rows(source.main.result.get("guard")):
        return []
    told = {name: rows(source.main.result.get(name)) for name in ("guard", "fresh")}
    source_of_scores, _ = scores_to_tell(told)
    if source_of_scores == CHOSEN:
        return [Line("With care", "the scores are on the problems that chose the step.", tone="warn")]
    return [Line("Scores on held-out problems", f"{source_of_scores}.", tone="good", section="calibration")]


def _ended(source: Source) -> list[Line]:
    """Whether answers ended: one that didn't scores 0, which says nothing of what its model can do."""
    result = source.main.result
    tasks = [task for model in rows(result.get("models")) for task in rows(model.get("tasks"))]
    scored = [*tasks, *rows(result.get("students")), *rows(result.get("teachers"))]
    rates = [rate for row in scored if (rate := number(row.get("finished_rate"))) is not None]
    if not rates or min(rates) >= _ENOUGH:
        return []
    what = "an answer without an end scores 0, and of one model's so few ended,"
    return [Line("Answers were cut off", what, percent(min(rates)), tone="warn", section="result")]


def _seeds(source: Source) -> list[Line]:
    """How many trainings and problems stand behind the figures."""
    result = source.main.result
    scored = [
        *rows(result.get("students")),
        *rows(result.get("rows")),
        *(task for model in rows(result.get("models")) for task in rows(model.get("tasks"))),
    ]
    if not scored:
        return []
    size = sample_size(scored)
    if source.main.stage == "evaluate":
        return [Line("Intervals", f"they say what other problems would give; {size}.", tone="none")]
    of_rows = [len(seeds) for row in scored if isinstance(seeds := row.get("seeds"), list)]
    seeds = max([len(distinct(scored, "seed")), *of_rows])
    if seeds > 1:
        return [Line(f"{seeds} trainings each", f"{size}.", tone="good")]
    return [Line("One training each", f"another seed may differ by more than the intervals say; {size}.", tone="warn")]
