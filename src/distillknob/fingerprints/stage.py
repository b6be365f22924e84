"""The stage `fingerprint`: was a student distilled from a teacher whose answers carry a green list's mark?

The suspect answers problems at temperature 1, and what it wrote is tested for the key. The level is declared before,
and so is what decides, text or weights. A reference that never learnt from the teacher, and keys that nobody used, say
how often the same test finds what isn't there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError
from distillknob.fingerprints.config import FingerprintConfig
from distillknob.fingerprints.distributions import observed_at
from distillknob.fingerprints.finding import finding
from distillknob.fingerprints.green import GreenRule, Key
from distillknob.fingerprints.radioactivity import (
    Observed,
    Places,
    examined,
    pairs_observed,
    places,
)
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, set_in_templates
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.same_text import one_vocabulary, spelled
from distillknob.models.sampling import Sample, Sampler, Sampling, generate
from distillknob.models.scoring import Prompt, encoded_texts
from distillknob.results.fingerprint import FingerprintResult, FingerprintTest, SuspectRow
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.runtime.template_date import fix_dates
from distillknob.tasks import Task, get_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check(config: FingerprintConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `fingerprint` couldn't use, before any weight is loaded."""
    preflight.engine(config)
    _rule(config)
    at_hand = [config.teacher, *(config.suspects.values() if config.access == "weights" else ())]
    *suspects, teacher = preflight.sides(config.models_read, config.chat_template_kwargs, weights=at_hand)
    for part, side in zip(config.suspects, suspects, strict=True):
        if config.access == "weights" and side.same_tokens(teacher) is False:
            raise BadInputError(
                f"access=weights compares next tokens, but the {part} {side.name!r} has another tokenizer than the "
                f"teacher {config.teacher!r}: test its text (access: text), which is read by the teacher's tokenizer"
            )
    for task in (preflight.task(name, graded=False) for name in config.tasks):
        if task is None:
            continue
        examples = task.examples(config.split, config.problems, seed=config.seed)
        for side in suspects:
            preflight.check_fit(side, task, examples, config.max_new_tokens or task.max_new_tokens, "max_new_tokens")


def fingerprint(config: FingerprintConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Test a student for the mark of a key and return the run: figures and a verdict in `result.json`, what was
    written in `samples.jsonl`. Raises BadInputError before any work for input that can't be used."""
    rule = _rule(config)
    tasks = get_tasks(config.tasks)
    opening = Opening("fingerprint", config, output, asdict(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    run = opening.run()
    if run.complete:
        return run
    reader = load_tokenizer(config.teacher)
    _prepare(run, config, config.teacher, reader)
    rows, samples = [], []
    with opening.engines() as engines:
        for part, name in config.suspects.items():
            weights = load_model(name) if config.access == "weights" else None
            sampler: Sampler = engines.open(name) if weights is None else engines.of(name, weights)
            _prepare(run, config, name, sampler.tokenizer)
            journal = Journal(run.unfinished).part(part)
            text = _written(config, tasks, sampler, reader, journal, part)
            tests = [_of_text(config, rule, text)]
            if weights is not None:
                tests.append(_of_weights(config, rule, text, weights, journal.part("distributions"), part))
            own = sampler.tokenizer is not None and one_vocabulary(sampler.tokenizer, reader)
            rows.append(_suspect_row(part, name, text, own, tests))
            samples += [{"part": part, "model": name, **row} for row in text.rows]
            del sampler, weights  # before the next is loaded
    word, sentence = finding(rows, config, rule.key.id)
    run.write_samples(samples)
    result: FingerprintResult = {
        "stage": "fingerprint",
        "notes": changed_meanwhile(run, config),
        "teacher": config.teacher,
        "student": config.student,
        "key": rule.key.id,
        "share": config.share,
        "window": config.window,
        "access": "text" if config.access == "text" else "weights",
        "alpha": config.alpha,
        "keys": config.keys,
        "tasks": config.tasks,
        "finding": word,
        "text": sentence,
        "suspects": rows,
    }
    run.finish(result)
    return run


def _rule(config: FingerprintConfig) -> GreenRule:
    """The green list of the config's key. Raises BadInputError where it has none."""
    if config.key_file is None:
        raise BadInputError("key_file is not set: name the file with the key of the teacher's green list")
    return GreenRule(Key.of_file(config.key_file), config.share, config.window)


def _prepare(run: Run, config: FingerprintConfig, name: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Let a tokenizer render prompts as the run does."""
    if tokenizer is not None:
        set_in_templates({name: tokenizer}, config.chat_template_kwargs, needed=False)
        fix_dates({name: tokenizer}, run.template_date)


@dataclass(frozen=True)
class Text:
    """What a model wrote, without the ends of its answers: its prompts, their tokens and the answers' as the teacher's
    tokenizer has them, and the rows of `samples.jsonl`."""

    prompts: list[Prompt]
    prompts_ids: list[list[int]]
    answers_ids: list[list[int]]
    rows: list[dict[str, Any]]


def _written(
    config: FingerprintConfig,
    tasks: Sequence[Task],
    sampler: Sampler,
    reader: PreTrainedTokenizerBase,
    journal: Journal,
    part: str,
) -> Text:
    prompts: list[Prompt] = []
    samples: list[Sample] = []
    rows: list[dict[str, Any]] = []
    for place, task in enumerate(tasks):
        asked = [task.messages(e) for e in task.examples(config.split, config.problems, seed=config.seed)]
        drawn = generate(
            sampler,
            asked,
            config.samples,
            Sampling(max_new_tokens=config.max_new_tokens or task.max_new_tokens, seed=config.seed),
            journal=journal.part(f"task-{place}"),
            shared=True,
            description=f"{part}: {task.name}",
        )
        own_prompts, own_samples, _ = drawn.flat()
        prompts += own_prompts
        samples += own_samples
        rows += [
            {"task": task.name, "prompt": prompt, "completion": sample.text, "finished": sample.finished}
            for prompt, sample in zip(own_prompts, own_samples, strict=True)
        ]
    answers_ids = _read_by(reader, sampler.tokenizer, samples)
    return Text(prompts, prompt_ids(reader, prompts), answers_ids, rows)


def _read_by(
    reader: PreTrainedTokenizerBase, author: PreTrainedTokenizerBase | None, samples: Sequence[Sample]
) -> list[list[int]]:
    """Answers without their ends as token ids of the reader: the very tokens with one vocabulary, the text's with two,
    or where the author's tokens aren't known."""
    if author is None:
        texts = [sample.text for sample in samples]
    elif one_vocabulary(author, reader):
        return [s.token_ids[:-1] if s.finished else s.token_ids for s in samples]
    else:
        texts = spelled(author, [s.token_ids for s in samples], [s.finished for s in samples])
    ids: list[list[int]] = encoded_texts(reader, texts)["input_ids"]
    return ids


def _of_text(config: FingerprintConfig, rule: GreenRule, text: Text) -> FingerprintTest:
    read = places(text.prompts_ids, text.answers_ids, rule.window, by_window=False)
    return _test_row(config, rule, "text", read, pairs_observed(read))


def _of_weights(
    config: FingerprintConfig, rule: GreenRule, text: Text, weights: LanguageModel, journal: Journal, part: str
) -> FingerprintTest:
    read = places(text.prompts_ids, text.answers_ids, rule.window, by_window=True)
    tokens = 1 + max(weights.tokenizer.get_vocab().values())
    observed = observed_at(
        weights,
        text.prompts,
        text.answers_ids,
        read.counted,
        tokens,
        journal=journal,
        shared=True,
        description=f"{part}: distributions",
    )
    return _test_row(config, rule, "weights", read, observed)


def _test_row(
    config: FingerprintConfig, rule: GreenRule, test: Any, read: Places, observed: Observed
) -> FingerprintTest:
    says = examined(observed, rule, config.keys, config.seed)
    return {
        "test": test,
        "n": says.n,
        "copied": read.copied,
        "repeated": read.repeated,
        "green": says.green,
        "z": says.z,
        "p": says.permutation,
        "binomial": says.binomial,
        "hoeffding": says.hoeffding,
        "false_alarms": says.false_alarms(config.alpha),
    }


def _suspect_row(part: Any, name: str, text: Text, own_tokens: bool, tests: list[FingerprintTest]) -> SuspectRow:
    return {"part": part, "model": name, "samples": len(text.rows), "own_tokens": own_tokens, "tests": tests}
