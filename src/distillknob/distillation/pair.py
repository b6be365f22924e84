"""The models of a distillation, loaded and made to read and end texts alike."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from distillknob.distillation.cache.files import TeacherCache
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.base import START
from distillknob.distillation.oracle import Distances
from distillknob.distillation.queries.base import refuse_unscored
from distillknob.distillation.selection import refuse_without_scores
from distillknob.models.base import LanguageModel
from distillknob.models.chat import set_in_templates
from distillknob.models.engines.opened import Engines
from distillknob.models.load import load_model
from distillknob.models.names import check_meant
from distillknob.models.same_text import know_ends, one_vocabulary
from distillknob.models.sampling import Sampler
from distillknob.models.scoring import Scorer
from distillknob.models.served.model import load_or_connect
from distillknob.runtime.processes import process_index
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.training.checkpoints import load_trained
from distillknob.training.config import as_dict, trained_options


@dataclass(frozen=True)
class Pair:
    """A student and its teacher.

    `teacher` draws samples; it is None where it isn't asked for anything, and its tokenizer is None where only a server
    knows it. `teacher_model` is the same with its weights, where a loss reads them; it is the student itself where that
    teaches as it is, and None where its moving average does, which the trainer makes. `further_models` are what the
    loss reads beside (`Loss.models`), and all but the first of several teachers; `oracle` is what the student is
    measured by on its way.
    """

    config: DistillConfig
    student: LanguageModel
    teacher: Sampler | None
    teacher_model: Any
    further_models: Mapping[str, Any] = field(default_factory=dict)
    oracle: LanguageModel | None = None

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase | None:
        return None if self.teacher is None else self.teacher.tokenizer

    @property
    def tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        """The tokenizers by their models' names."""
        of_teacher = self.teacher_tokenizer
        sides = [(self.config.student, self.student.tokenizer)]
        if of_teacher is not None:
            sides.append((self.config.teacher, of_teacher))
        if self.oracle is not None and self.config.oracle is not None:
            sides.append((self.config.oracle, self.oracle.tokenizer))
        return by_name(*sides)

    @property
    def distances(self) -> Distances | None:
        """What measures the student between its teacher and an oracle; None without one."""
        if self.oracle is None or not isinstance(self.teacher, LanguageModel):
            return None
        return Distances(self.teacher, self.oracle)

    def load_target(self, template_date: str) -> Scorer | None:
        """The model whose likelihood chooses traces, with the pair's template values and date; None where the method
        has none."""
        if not self.config.needs_target:
            return None
        name = self.config.target
        values = as_dict(self.config.chat_template_kwargs)
        target = load_or_connect(name)
        set_in_templates(by_name(*self.tokenizers.items(), (name, target.tokenizer)), values)
        fix_dates({name: target.tokenizer}, template_date)
        return target


def _loaded_student(config: DistillConfig) -> LanguageModel:
    """The student's checkpoint once more, to be read as it is at the start."""
    return load_model(config.student, options=trained_options(config))


def load_pair(config: DistillConfig, cache: TeacherCache | None, engines: Engines) -> Pair:
    """Load what a distillation trains and learns from; a teacher that only writes is in an engine. The student
    learns the teacher's ends of a turn, or the cache's.

    Raises BadInputError for a model that can't be loaded, or whose template can't take the config's values.
    """
    student = load_trained(config.student, config)
    if config.needs_teacher_weights:
        kind = config.objective.teacher
        moves = kind in ("average", "itself")
        loaded = student if moves else load_model(config.teacher, options=config.teacher_options)
        further = {}
        if START in config.loss.models:
            further[START] = (loaded if kind == "start" else _loaded_student(config)).model
        for name in config.several_teachers[1:]:
            further[name] = load_model(name, options=config.teacher_options).model
        oracle = None if config.oracle is None else load_model(config.oracle)
        pair = Pair(config, student, loaded, None if kind == "average" else loaded.model, further, oracle)
    else:
        scores: Literal[False] | None = None if config.needs_teacher_scores else False
        teacher = engines.open(config.teacher, scores=scores) if config.needs_teacher else None
        if teacher is not None and config.needs_teacher_scores and teacher.scorer is None:
            if config.weighs_by_scores:
                refuse_unscored(config.teacher, config.objective.queries)
            refuse_without_scores(config.teacher, config.objective.selection)
        pair = Pair(config, student, teacher, None)
    tokenizer = pair.teacher_tokenizer
    if pair.teacher is not None and tokenizer is None and config.chat_template_kwargs and process_index() == 0:
        print(f"chat_template_kwargs don't reach {config.teacher}: its template is the server's", file=sys.stderr)
    set_in_templates(pair.tokenizers, as_dict(config.chat_template_kwargs))
    if tokenizer is not None:  # a server's turns out when it is asked
        check_meant("student", config.student, student.tokenizer, config.teacher, tokenizer)
    if cache is not None:
        know_ends(student, cache.ends)
    elif pair.teacher is not None and tokenizer is not None and one_vocabulary(tokenizer, student.tokenizer):
        know_ends(student, pair.teacher.ends)
    return pair
