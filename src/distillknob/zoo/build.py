"""Retraining the embedded checkpoints from nothing, with transformers' Trainer on the tasks' pretraining split.

Each checkpoint is one `Recipe`. The student's and the proxy's are short: a small model that has seen little, as real
small models are next to real large ones; the teacher reads mathematics above all in its later phases. Resumable: a
checkpoint that is complete is kept, one that was interrupted goes on from its last saved step.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import set_seed

from distillknob.runs.files import atomic_directory
from distillknob.tasks import get_task
from distillknob.tasks.base import Example
from distillknob.zoo.tokenizers import TASKS, build_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a cosine schedule of its own: `steps` of `BATCH` examples, tasks mixed by `mixture`.

    `textbook` is the share of its reading in which every right way to write a solution comes equally often, so that
    each can be learnt; what it reads after that follows the data set, which sets its habits. `practice` makes a style
    (a key of `Example.solutions`) come that many times as often in the textbook as the others, until the hard one is
    as sure as the easy one. `layers` deepens the model before the phase.
    """

    steps: int
    learning_rate: float
    textbook: float = 1.0
    mixture: Mapping[str, float] = field(default_factory=lambda: {"math": 0.62, "qa": 0.13, "instruct": 0.25})
    practice: Mapping[str, int] = field(default_factory=dict)
    layers: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How one embedded checkpoint is made. `tokens` names its tokenizer. `sharpen` multiplies the logits at the end, by
    the weights of the last norm: sampled at temperature 1, the model is then as sure as it was at 1 / sharpen."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    tokens: str
    seed: int
    phases: tuple[Phase, ...]
    sharpen: float = 1.0

    def reseeded(self, seed: int) -> Recipe:
        """The recipe from another seed; 0 is that of the checkpoints shipped."""
        return replace(self, seed=self.seed + SEED_STRIDE * seed)


MOSTLY_MATH = {"math": 0.84, "qa": 0.06, "instruct": 0.10}  # what a model that is sound elsewhere still needs
REVISION = {"math": 0.60, "qa": 0.10, "instruct": 0.30}
DRILL = {"math": 0.85, "qa": 0.05, "instruct": 0.10}
FINISH = {"math": 0.75, "qa": 0.05, "instruct": 0.20}
MATH = {"math": 1.0}  # a narrow model learns nothing of mathematics while it learns all three tasks at once
EVEN = {"math": 0.40, "qa": 0.25, "instruct": 0.35}
REST = {"math": 0.25, "qa": 0.35, "instruct": 0.40}
RECIPES = {
    "teacher": Recipe(
        architecture="qwen3",
        hidden=64,
        layers=3,
        heads=4,
        feed_forward=256,
        tokens="main",
        seed=1,
        phases=(
            Phase(10_000, 3e-3),
            Phase(7_500, 2.5e-3, mixture=MOSTLY_MATH),
            Phase(3_000, 1.5e-3, mixture=REVISION),
            Phase(5_000, 2e-3, mixture=FINISH),
            Phase(6_000, 2e-3, mixture=FINISH, practice={"two_at_a_time": 4}),
            Phase(3_000, 1e-3, mixture=FINISH),
            Phase(6_500, 2e-3, mixture=FINISH, practice={"two_at_a_time": 3}),
            Phase(2_500, 1e-3, mixture=FINISH),
            Phase(6_000, 2e-3, mixture=FINISH, practice={"two_at_a_time": 3}, layers=4),
            Phase(1_500, 7e-4, mixture=FINISH),
            Phase(8_000, 3e-3, mixture=DRILL, practice={"two_at_a_time": 4}),
            # Both styles alike again, and no hotter: 2,500 steps at 1e-3 lose half of what the drill brought.
            Phase(1_000, 3e-4, mixture=FINISH),
        ),
        sharpen=1.5,  # else one sample in two hundred has a word from the vocabulary's tail in its mathematics
    ),
    "student": Recipe(
        architecture="qwen3",
        hidden=48,
        layers=2,
        heads=4,
        feed_forward=192,
        tokens="main",
        seed=2,
        phases=(
            Phase(1_800, 4e-3, mixture=MATH),
            Phase(1_000, 2e-3, textbook=0.4, mixture=EVEN),
            Phase(2_500, 4e-3, textbook=0.6, mixture=REST),
        ),
    ),
    "proxy": Recipe(
        architecture="qwen3",
        hidden=40,
        layers=2,
        heads=4,
        feed_forward=160,
        tokens="main",
        seed=3,
        phases=(Phase(2_200, 4e-3, mixture=MATH), Phase(1_000, 2e-3, mixture=EVEN), Phase(2_500, 4e-3, mixture=REST)),
    ),
    "student-other": Recipe(
        architecture="gpt_neox",
        hidden=64,
        layers=2,
        heads=4,
        feed_forward=256,
        tokens="other",
        seed=4,
        phases=(
            Phase(1_800, 3e-3, mixture=MATH),
            Phase(2_500, 4e-3, textbook=0.6, mixture=REST),
        ),
    ),
}
BATCH = 64
WINDOW = 20
SAVE_STEPS = 500
SEED_STRIDE = 100_000  # far from the other checkpoints' seeds and from those of later phases


def pretraining_examples(phase: Phase, seed: int) -> Iterator[tuple[Example, str]]:
    """`phase.steps × BATCH` examples of the pretraining split, a solution each; the textbook comes first."""
    rng = random.Random(seed)
    streams = {name: get_task(name).stream("pretrain", seed=seed) for name in TASKS}  # type: ignore[attr-defined]
    total = phase.steps * BATCH
    for i in range(total):
        example = next(streams[rng.choices(list(phase.mixture), list(phase.mixture.values()))[0]])
        if i < phase.textbook * total:
            solutions = [text for style, text in example.solutions.items() for _ in range(phase.practice.get(style, 1))]
            yield example, rng.choice(solutions)
        else:
            yield example, example.gold_solution


def tokenized(tokenizer: PreTrainedTokenizerBase, tokens: str, phase: Phase, seed: int) -> Dataset:
    """The phase's examples as `input_ids` and `labels`, the loss on the answer and its end alone, in batches of
    similar length whose order is shuffled within windows of `WINDOW` batches."""
    from datasets import Dataset

    drawn = list(pretraining_examples(phase, seed))
    user, reply = {"main": ("<|user|>", "<|assistant|>"), "other": ("[user]", "[reply]")}[tokens]
    eos = tokenizer.eos_token
    prompts = tokenizer([f"{user}{example.prompt}{eos}{reply}" for example, _ in drawn])["input_ids"]
    answers = tokenizer([f"{solution}{eos}" for _, solution in drawn])["input_ids"]
    rng, order = random.Random(seed), []
    for start in range(0, len(drawn), WINDOW * BATCH):
        rows = sorted(
            range(start, min(start + WINDOW * BATCH, len(drawn))),
            key=lambda i: len(prompts[i]) + len(answers[i]),
        )
        groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(groups)
        order += [i for group in groups for i in group]
    return Dataset.from_dict(
        {
            "input_ids": [prompts[i] + answers[i] for i in order],
            "labels": [[-100] * len(prompts[i]) + answers[i] for i in order],
        }
    )


def untrained(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The recipe's architecture with fresh weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.feed_forward,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},  # contexts of 60 tokens, not of 100,000
        "initializer_range": recipe.hidden**-0.5 / 2,  # 0.02, the default, is made for widths in the thousands
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if recipe.architecture == "gpt_neox":
        shape["rope_parameters"]["partial_rotary_factor"] = 1.0  # a quarter of 16 dimensions tells nothing apart
    if recipe.architecture == "qwen3":
        # A head needs some 16 dimensions to tell positions apart, however narrow the model is.
        shape |= {"num_key_value_heads": recipe.heads, "head_dim": max(16, recipe.hidden // recipe.heads)}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(recipe.architecture, **shape))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def deepened(model: PreTrainedModel, deeper: PreTrainedModel) -> PreTrainedModel:
    """`deeper` with the weights of `model` and new last layers that add nothing yet, so that both are one function."""
    weights = model.state_dict()
    for name, parameter in deeper.named_parameters():
        if name not in weights and name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
    deeper.load_state_dict(weights, strict=False)
    return deeper


def train(recipe: Recipe, output: Path, *, progress: bool = True) -> None:
    """Train one checkpoint into `output` (a Hugging Face folder), phase by phase, going on from `output`-partial if it
    is there."""
    from transformers import AutoModelForCausalLM

    partial = output.with_name(output.name + "-partial")
    tokenizer = build_tokenizer(recipe.tokens)
    for number, phase in enumerate(recipe.phases, start=1):
        done = partial / f"phase-{number}"
        if done.exists():
            continue
        seed = recipe.seed + 1000 * (number - 1)
        set_seed(seed)
        model = (
            untrained(recipe, tokenizer)
            if number == 1
            else AutoModelForCausalLM.from_pretrained(partial / f"phase-{number - 1}")
        )
        if phase.layers is not None:
            recipe = replace(recipe, layers=phase.layers)
            model = deepened(model, untrained(recipe, tokenizer))
        train_phase(model, tokenizer, recipe.tokens, phase, seed, partial / f"phase-{number}-steps", progress=progress)
        with atomic_directory(done) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(partial / f"phase-{len(recipe.phases)}")
    if recipe.sharpen != 1:
        with torch.no_grad():
            model.get_parameter("model.norm.weight").mul_(recipe.sharpen)
    with atomic_directory(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    shutil.rmtree(partial)


def train_phase(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: str,
    phase: Phase,
    seed: int,
    folder: Path,
    *,
    progress: bool,
) -> None:
    """Train `model` by one phase, with the Trainer's checkpoints in `folder`."""
    from transformers import DataCollatorForSeq2Seq, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    from distillknob.zoo.trainer import CompletionTrainer

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=phase.steps,
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="sequential",
        learning_rate=phase.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, phase.steps // 20),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        save_steps=SAVE_STEPS,
        save_total_limit=1,
        logging_steps=25,
        disable_tqdm=not progress,
        report_to="none",
        use_cpu=True,
        seed=seed,
    )
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=tokenized(tokenizer, tokens, phase, seed),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
