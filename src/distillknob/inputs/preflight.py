"""What is looked at before any work: tokenizers, chat templates, checkpoints' files, problems, lengths.

Each stage has a function `check` that goes through a `Preflight`; the run calls it first, and the dry run calls the
same. Weights are never loaded. A dry run fetches nothing either, so what lies on the hub and not in the local cache is
told as not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distillknob.config.shared import StageConfig
from distillknob.errors import BadInputError
from distillknob.models.architecture import architecture, context_of, folder_of, model_config
from distillknob.models.chat import prompt_ids, set_in_templates
from distillknob.models.engines.choice import choose
from distillknob.models.families import check_config
from distillknob.models.load import TOKENIZER_FILES, check_tokenizer, load_tokenizer
from distillknob.models.names import SERVED, gguf_of, is_chat, resolve, spelt_by
from distillknob.models.scoring import Prompt
from distillknob.models.served.model import check_spelt
from distillknob.runtime.hub import may_be_cached
from distillknob.runtime.processes import process_index
from distillknob.tasks import Example, GeneratedTask, Task, get_task, get_tasks, graded_tasks, task_on_the_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Parameters from where a toy's settings ruin a model: the learning rate (by whether an adapter is trained), which for
# such models is 1e-6 to 1e-5, and ten times that under LoRA, and Adam's epsilon, which is 1e-8.
LARGE = 100e6
TOY_RATE = {False: 1e-3, True: 3e-3}
TOY_EPSILON = 1e-4
WEIGHTS = ("*.safetensors", "*.bin")
Context = Callable[[Prompt, Example], Prompt]  # a problem's prompt as it is read with something added


@dataclass(frozen=True)
class Side:
    """One model that reads texts. `tokenizer` is None where it would have to be fetched, `context` (tokens) and
    `vocabulary` (embeddings) where the model has no limit, or it isn't known, as behind a server."""

    name: str
    tokenizer: PreTrainedTokenizerBase | None
    context: int | None = None
    vocabulary: int | None = None

    def same_tokens(self, other: Side) -> bool | None:
        """Have both the same tokens under the same ids? None where one of them isn't here."""
        if self.tokenizer is None or other.tokenizer is None:
            return None
        return bool(self.tokenizer.get_vocab() == other.tokenizer.get_vocab())


@dataclass(frozen=True)
class Reading:
    """What a model reads of a task: the tokens of each problem's prompt under its own template, and how it is called
    when it is too long."""

    task: str
    prompts: list[int]
    shown: list[str]


class _Remembering:
    """A task whose problems are drawn once, whatever number of cells and stages ask for the same."""

    def __init__(self, task: Task):
        self._task = task
        self._drawn: dict[tuple[str, int | None, int], list[Example]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def examples(self, split: str, n: int | None = None, *, seed: int = 0) -> list[Example]:
        if (split, n, seed) not in self._drawn:
            self._drawn[split, n, seed] = self._begun(split, n, seed) or self._task.examples(split, n, seed=seed)
        return self._drawn[split, n, seed]

    def _begun(self, split: str, n: int | None, seed: int) -> list[Example] | None:
        """The first `n` of more that were drawn: a generated task's problems come in one order."""
        if n is None or not isinstance(self._task, GeneratedTask):
            return None
        more = (drawn for key, drawn in self._drawn.items() if key[::2] == (split, seed) and len(drawn) >= n)
        return next((drawn[:n] for drawn in more), None)


class Preflight:
    """One look before a run (`fetch`) or a dry run. `remarks` are things that may not be meant, `unseen` what a dry run
    couldn't look at. Models, prompts and lengths are looked at once, whatever number of stages ask. `chained` says that
    the stages are those of an experiment, whose check sets it."""

    def __init__(self, processes: int = 1, *, fetch: bool = True):
        self.processes, self.fetch = processes, fetch
        self.chained = False
        self.remarks: list[str] = []
        self.unseen: list[str] = []
        self._tasks: dict[str, Task] = {}
        self._sides: dict[tuple[Any, ...], Side] = {}
        self._readings: dict[tuple[Any, ...], Reading] = {}
        self._lengths: dict[tuple[str, ...], dict[str, int]] = {}  # by how prompts are read, and what is read
        self._reads: dict[int, tuple[str, ...]] = {}  # by side

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def _not_seen(self, what: str) -> None:
        if what not in self.unseen:
            self.unseen.append(what)

    def tell(self) -> None:
        """The remarks to stderr, by the first process."""
        if process_index() == 0:
            for text in self.remarks:
                print(f"note: {text}", file=sys.stderr)

    # Models

    def sides(
        self,
        names: Sequence[str],
        values: Mapping[str, Any] | None = None,
        *,
        needed: bool = True,
        weights: Sequence[str] = (),
        revisions: Mapping[str, str | None] | None = None,
    ) -> list[Side]:
        """The models of these names with `values` set in their chat templates. Raises BadInputError for one without
        tokenizer, chat template, end or padding token, with a file missing, for one of `weights` behind a server, and
        where values are `needed` and no template reads them."""
        revisions = revisions or {}
        for name in weights:
            check_at_hand(name)
        key = tuple(sorted((k, str(v)) for k, v in (values or {}).items()))
        sides = []
        for name in names:
            place = (name, revisions.get(name), key)
            if place not in self._sides:
                self._sides[place] = self._side(name, revisions.get(name))
            sides.append(self._sides[place])
        here = {side.name: side.tokenizer for side in sides if side.tokenizer is not None}
        if here and values:
            set_in_templates(here, values, needed=needed and len(here) == len(set(names)))
        return sides

    def _side(self, name: str, revision: str | None) -> Side:
        where = resolve(name)
        if where.startswith(SERVED):
            return Side(name, self._served_tokenizer(name))
        here = Path(where).is_dir() and gguf_of(name) is None  # whose weights are in the file
        if here and not any(next(Path(where).glob(kind), None) for kind in WEIGHTS):
            raise BadInputError(f"the folder {name!r} holds no weights (none of {', '.join(WEIGHTS)}): save them there")
        config, _ = model_config(name)
        check_config(config, name)
        tokenizer = self._tokenizer(name, revision)
        if tokenizer is not None:
            check_tokenizer(tokenizer, name, config.get_text_config().vocab_size)
        return Side(name, tokenizer, context_of(config), config.get_text_config().vocab_size)

    def _served_tokenizer(self, name: str) -> PreTrainedTokenizerBase | None:
        """The tokenizer by which a server's prompts are spelt; None where the server does it, or a dry run would have
        to fetch it. Raises BadInputError for a name that leads to none."""
        if not self.fetch:
            self._not_seen(f"whether {name.partition('#')[0]} answers")
        if is_chat(name):
            return None
        spelt, here = spelt_by(name)
        if not (self.fetch or here) and not may_be_cached(spelt, TOKENIZER_FILES):
            self._not_seen(f"whether the hub has a tokenizer {spelt!r} (a server's own name needs URL#NAME#TOKENIZER)")
            return None
        return check_spelt(name)

    def _tokenizer(self, name: str, revision: str | None) -> PreTrainedTokenizerBase | None:
        if self.fetch or Path(resolve(name)).is_dir():
            return load_tokenizer(name, revision=revision)
        folder = folder_of(name)
        if folder is None or not any((folder / file).exists() for file in TOKENIZER_FILES):
            self._not_seen(f"the tokenizer of {name}, which isn't in the local cache")
            return None
        return load_tokenizer(str(folder))

    def engine(self, config: StageConfig) -> None:
        """Raise BadInputError where the config names an engine that isn't here, or can't have the models. A dry run may
        be for another machine."""
        if config.engine == "vllm" and not self.fetch:
            self._not_seen("whether vLLM is installed where this will run, and takes the models")
        elif config.engine == "vllm":
            choose("vllm", config.models_sampled, trains_on_own_samples=config.trains_on_own_samples)

    # Problems

    def task(self, name: str, *, graded: bool = True) -> Task | None:
        """The task; None where a dry run would have to fetch its data. Raises BadInputError where it can't be had, or
        has nothing to grade answers by and must be `graded`."""
        if not self.fetch and task_on_the_hub(name) is not None:
            self._not_seen(f"the data of {name}, which are on the hub")
            return None
        (task,) = (graded_tasks if graded else get_tasks)([name])
        if name not in self._tasks:
            remembering: Any = _Remembering(task)
            self._tasks[name] = remembering
        return self._tasks[name]

    def longest_answer(self, tasks: Sequence[str], limit: int | None) -> int:
        """Tokens that an answer may have: `limit`, or the tasks' own longest."""
        classes = [None if self.fetch else task_on_the_hub(name) for name in tasks]
        own = [(cls or get_task(name)).max_new_tokens for cls, name in zip(classes, tasks, strict=True)]
        return limit or max(own, default=0)

    # Lengths

    def reading(
        self, side: Side, task: Task, examples: Sequence[Example], context: Context | None = None
    ) -> Reading | None:
        """The lengths of the prompts to these problems as `side` reads them, changed by a teacher's `context`."""
        if side.tokenizer is None or not examples:
            return None
        key = (id(side), task.name, len(examples), examples[0].prompt, examples[-1].prompt, context)
        if key not in self._readings:
            prompts = [task.messages(example) for example in examples]
            if context is not None:
                prompts = [context(messages, example) for messages, example in zip(prompts, examples, strict=True)]
            if id(side) not in self._reads:
                self._reads[id(side)] = _how_read(side.tokenizer)
            lengths = self._lengths.setdefault(self._reads[id(side)], {})
            texts = [repr(messages) for messages in prompts]
            new = {text: messages for text, messages in zip(texts, prompts, strict=True) if text not in lengths}
            ids = prompt_ids(side.tokenizer, list(new.values()))
            lengths.update({text: len(row) for text, row in zip(new, ids, strict=True)})
            self._readings[key] = Reading(task.name, [lengths[t] for t in texts], [e.prompt for e in examples])
        return self._readings[key]

    def check_fit(
        self,
        side: Side,
        task: Task,
        examples: Sequence[Example],
        answer: int,
        setting: str,
        context: Context | None = None,
        begun: float = 0.0,
    ) -> None:
        """Raise BadInputError where the prompt of a problem and an answer of `answer` tokens are more than the model's
        context has. `setting` is the field that bounds answers, `begun` the share of another answer that may stand
        before one."""
        reading = self.reading(side, task, examples, context)
        if reading is not None and side.context is not None:
            check_lengths(side, reading, [answer] * len(reading.prompts), setting, begun=begun)

    def check_gold(self, side: Side, task: Task, examples: Sequence[Example], context: Context | None = None) -> int:
        """The same of the data set's own solutions, of which it returns the longest's tokens (0: not here)."""
        reading = self.reading(side, task, examples, context)
        if reading is None:
            return 0
        assert side.tokenizer is not None
        texts = [example.gold_solution for example in examples]
        lengths = [len(ids) + 1 for ids in side.tokenizer(texts, add_special_tokens=False)["input_ids"]]  # and its end
        if side.context is not None:
            check_lengths(side, reading, lengths, "")
        return max(lengths)


def _how_read(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What a prompt's tokens follow from: the models of a family have it in common, and read each prompt once."""
    tokens = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else f"{tokenizer.name_or_path} {id(tokenizer)}"
    return tokens, repr(tokenizer.chat_template), repr(tokenizer.special_tokens_map)


def check_lengths(side: Side, reading: Reading, answers: Sequence[int], setting: str, *, begun: float = 0.0) -> None:
    """Raise BadInputError where a prompt with its answer, of so many tokens, is beyond the model's context: a model
    with absolute positions has none there, and one with rotary ones was never trained there. `setting` bounds the
    answers; none where they are stored."""
    assert side.context is not None
    behind = [answer + int(begun * answer) for answer in answers]
    beyond = [i for i, (p, a) in enumerate(zip(reading.prompts, behind, strict=True)) if p + a > side.context]
    if not beyond:
        return
    worst = max(beyond, key=lambda i: reading.prompts[i] + behind[i])
    prompt, answer, room = reading.prompts[worst], answers[worst], side.context - max(reading.prompts)
    room = int(room / (1 + begun))
    how = f"answers of up to {answer}" if setting else f"its stored answer of {answer}"
    how += f" behind {begun:.0%} of another" if begun else ""
    remedy = (
        f"set {setting} to at most {room}"
        if setting and room > 0
        else "leave such rows out of its data, or take a model with a longer context"
    )
    words = " ".join(reading.shown[worst].split())
    raise BadInputError(
        f"a prompt of {prompt} tokens and {how} don't fit the model's context of {side.context} ({side.name}): "
        f"{len(beyond)} of {len(answers)} problems of task {reading.task!r} don't, the longest is number {worst} "
        f"({words[:60]!r}{'…' if len(words) > 60 else ''}). {remedy[0].upper()}{remedy[1:]}"
    )


def check_traces(side: Side, rows: Sequence[Mapping[str, Any]], what: str) -> None:
    """The same of stored traces: rows with `prompt` (messages), `task` and `completion_ids` of `side`'s tokenizer."""
    if side.tokenizer is None or side.context is None or not rows:
        return
    prompts = [len(ids) for ids in prompt_ids(side.tokenizer, [row["prompt"] for row in rows])]
    shown = [str(row["prompt"][-1]["content"]) for row in rows]
    check_lengths(side, Reading(what, prompts, shown), [len(row["completion_ids"]) for row in rows], "")


def check_at_hand(name: str) -> None:
    """Raise BadInputError for a model behind a server where the weights themselves are needed."""
    if name.startswith(SERVED):
        raise BadInputError(
            f"{name!r} stands behind a server, but this needs the weights themselves: give a folder or id"
        )


def same_weights(a: str, b: str) -> bool:
    """Do both names lead to the same weights? By place, or by the sizes and the ends of the files. Those of a GGUF file
    aren't set beside a folder's."""
    folders = [folder_of(name) if not name.startswith(SERVED) else None for name in (a, b)]
    if a == b or folders[0] is None or folders[1] is None:
        return a == b
    if folders[0] == folders[1] or any(gguf_of(name) is not None for name in (a, b)):
        return folders[0] == folders[1]
    return _ends(folders[0]) == _ends(folders[1])


def _ends(folder: Path, size: int = 1 << 16) -> dict[str, tuple[int, bytes, bytes]]:
    ends = {}
    for file in (file for kind in WEIGHTS for file in folder.glob(kind)):
        with file.open("rb") as opened:
            start = opened.read(size)
            opened.seek(max(0, file.stat().st_size - size))
            ends[file.name] = (file.stat().st_size, start, opened.read())
    return ends


class OptimizerConfig(Protocol):
    """What `check_learning_rate` reads of a training's config."""

    learning_rate: float
    adam_epsilon: float
    use_peft: bool


def check_learning_rate(name: str, config: OptimizerConfig) -> None:
    """Raise BadInputError where a recipe for toys would train a model of real size."""
    rate, epsilon = config.learning_rate, config.adam_epsilon
    if rate < TOY_RATE[config.use_peft] and epsilon < TOY_EPSILON:
        return
    parameters = architecture(name).parameters
    if parameters > LARGE:
        what = f"learning_rate={rate:g}" if rate >= TOY_RATE[config.use_peft] else f"adam_epsilon={epsilon:g}"
        usual = "1e-5 to 1e-4 with a LoRA adapter" if config.use_peft else "1e-6 to 1e-5"
        raise BadInputError(
            f"{what} would ruin {name}, which has {parameters / 1e6:.0f} M parameters: it is meant for the embedded "
            f"models of less than one. Set learning_rate to {usual} and adam_epsilon to 1e-8, or let `distillknob "
            "init` write a recipe for this pair"
        )
