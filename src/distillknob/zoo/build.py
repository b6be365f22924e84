"""Retraining the embedded checkpoints from nothing, with transformers' Trainer on the tasks' pretraining split.

Each checkpoint is one `Recipe`. The student's and the proxy's are short: a small model that has seen little, as real
small models are next to real large ones. Resumable: a checkpoint that is complete is kept, one that was interrupted
goes on from its last saved step.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.tasks import get_task
from distillknob.tasks.base import Example
from distillknob.zoo.tokenizers import TASKS, build_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Recipe:
    """How one embedded checkpoint is made. `tokens` names its tokenizer; `steps` are of `batch` examples each.

    `textbook` is the share of its reading in which every right way to write a solution comes equally often, so that
    each can be learnt; what it reads after that follows the data set, which sets its habits.
    """

    architecture: str
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    tokens: str
    steps: int
    learning_rate: float
    seed: int
    textbook: float
    batch: int = 64


RECIPES = {
    "teacher": Recipe("qwen3", 128, 3, 4, 512, "main", 5_000, 2e-3, seed=1, textbook=1.0),
    "student": Recipe("qwen3", 48, 2, 4, 128, "main", 1_800, 4e-3, seed=2, textbook=0.7),
    "proxy": Recipe("qwen3", 40, 2, 4, 96, "main", 1_500, 4e-3, seed=3, textbook=1.0),
    "student-other": Recipe("gpt_neox", 48, 2, 4, 192, "other", 1_800, 4e-3, seed=4, textbook=0.7),
}
MIXTURE = {"math": 0.64, "qa": 0.18, "instruct": 0.18}
WINDOW = 20


def pretraining_examples(recipe: Recipe) -> Iterator[tuple[Example, str]]:
    """`recipe.steps × recipe.batch` examples, a solution each, tasks mixed by `MIXTURE`; the textbook comes first."""
    rng = random.Random(recipe.seed)
    streams = {name: get_task(name).stream("pretrain", seed=recipe.seed) for name in TASKS}  # type: ignore[attr-defined]
    total = recipe.steps * recipe.batch
    for i in range(total):
        example = next(streams[rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]])
        solution = (
            rng.choice(list(example.solutions.values())) if i < recipe.textbook * total else example.gold_solution
        )
        yield example, solution


def tokenized(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Dataset:
    """The pretraining examples as `input_ids` and `labels`, the loss on the answer and its end alone, in batches of
    similar length whose order is shuffled within windows of `WINDOW` batches."""
    from datasets import Dataset

    drawn = list(pretraining_examples(recipe))
    user, reply = {"main": ("<|user|>", "<|assistant|>"), "other": ("[user]", "[reply]")}[recipe.tokens]
    eos = tokenizer.eos_token
    prompts = tokenizer([f"{user}{example.prompt}{eos}{reply}" for example, _ in drawn])["input_ids"]
    answers = tokenizer([f"{solution}{eos}" for _, solution in drawn])["input_ids"]
    rng, order = random.Random(recipe.seed), []
    for start in range(0, len(drawn), WINDOW * recipe.batch):
        rows = sorted(
            range(start, min(start + WINDOW * recipe.batch, len(drawn))),
            key=lambda i: len(prompts[i]) + len(answers[i]),
        )
        groups = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
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
    if recipe.architecture == "qwen3":
        # A head needs some 16 dimensions to tell positions apart, however narrow the model is.
        shape |= {"num_key_value_heads": recipe.heads, "head_dim": max(16, recipe.hidden // recipe.heads)}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(recipe.architecture, **shape))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train(recipe: Recipe, output: Path, *, progress: bool = True) -> None:
    """Train one checkpoint into `output` (a Hugging Face folder), going on from `output`-partial if it is there."""
    from transformers import DataCollatorForSeq2Seq, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    from distillknob.zoo.trainer import CompletionTrainer

    tokenizer = build_tokenizer(recipe.tokens)
    set_seed(recipe.seed)
    model = untrained(recipe, tokenizer)
    partial = output.with_name(output.name + "-partial")
    arguments = TrainingArguments(
        output_dir=str(partial),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, recipe.steps // 20),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        save_steps=500,
        save_total_limit=1,
        logging_steps=25,
        disable_tqdm=not progress,
        report_to="none",
        use_cpu=True,
        seed=recipe.seed,
    )
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=tokenized(tokenizer, recipe),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(partial)) if partial.exists() else None)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    shutil.rmtree(partial)
