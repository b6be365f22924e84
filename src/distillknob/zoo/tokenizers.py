"""The two tokenizers of the embedded pair, trained on what the tasks write.

`main` writes every digit as a token of its own, as Qwen's does; `other` groups digits, as Llama 3's does (by two, with
the space before them), has its own special tokens, its own chat template and its own merges. Both hold at least 2,000
tokens, most of them rare, since a vocabulary has to have a tail before tail noise can exist.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from transformers import PreTrainedTokenizerFast

from distillknob.tasks import get_task
from distillknob.tasks.generated import words as lexicon

VOCAB_SIZE = 2048
CORPUS_SEED = 11
TASKS = ("math", "qa", "instruct")

# One line each: whitespace in a chat template is text.
MAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}{% generation %}"
    "{{ message['content'] + '<|end|>' }}{% endgeneration %}{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
OTHER_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '[reply]' }}{% generation %}"
    "{{ message['content'] + '</s>' }}{% endgeneration %}{% else %}"
    "{{ '[' + message['role'] + ']' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[reply]' }}{% endif %}"
)
SPECIAL = {
    "main": {"pad": "<|pad|>", "eos": "<|end|>", "more": ["<|user|>", "<|assistant|>", "<|system|>"]},
    "other": {"pad": "<pad>", "eos": "</s>", "more": ["[user]", "[reply]", "[system]"]},
}


def corpus(examples_per_task: int) -> Iterator[str]:
    """Pretraining text of every task and the lexicon in its running and its sentence-initial form."""
    for name in TASKS:
        stream = get_task(name).stream("pretrain", seed=CORPUS_SEED)  # type: ignore[attr-defined]
        for _, example in zip(range(examples_per_task), stream, strict=False):
            yield example.prompt
            yield from example.solutions.values()
    rng = random.Random(CORPUS_SEED)
    words = [word for group in lexicon.CATEGORIES.values() for word in group]
    words += [*lexicon.THINGS, *lexicon.ADJECTIVES, *lexicon.PEOPLE, *lexicon.COUNTRY_OF, *lexicon.COUNTRY_OF.values()]
    words += [*lexicon.WORKPLACE_OF, *lexicon.WORKPLACE_OF.values()]
    for _ in range(40):
        rng.shuffle(words)
        yield " ".join(words)
        yield " ".join(word.capitalize() for word in words)
        yield "\n".join(words)


def build_tokenizer(kind: str, examples_per_task: int = 20_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer `kind` ("main" or "other"). Deterministic."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = SPECIAL[kind]
    tokenizer = Tokenizer(models.BPE())
    digits: pre_tokenizers.PreTokenizer
    if kind == "main":
        digits = pre_tokenizers.Digits(individual_digits=True)
    else:
        digits = pre_tokenizers.Split(Regex(r" ?\d{1,2}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[special["pad"], special["eos"], *special["more"]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(examples_per_task), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special["pad"], eos_token=special["eos"], padding_side="left"
    )
    fast.chat_template = MAIN_TEMPLATE if kind == "main" else OTHER_TEMPLATE
    fast.add_special_tokens({"additional_special_tokens": special["more"]})
    return fast
