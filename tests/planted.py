"""Small causal language models whose every next-token distribution is written down, and a task to ask them.

A model is a Llama without layers: its embeddings are one-hot and its head's rows are the wanted logits, so that the
next token depends on the last one alone. It goes through transformers' own classes, files and `generate`, and
everything about it can be computed from its table. A word may be several tokens: then the first stands for the word and
the others follow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillknob.tasks import Example, GeneratedTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Table = Mapping[str, Mapping[str, float]]  # word -> what follows it, with its probability

EOS = "<eos>"
NUMBERS = tuple(f"n{i}" for i in range(10))  # what tells problems apart
ASKED = "?"  # the last word of every prompt
NEVER = -25.0  # the logit of what a table doesn't list: a probability of some 1e-11
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def words_of(*tables: Table) -> list[str]:
    """The words of the tables and of the prompts; the special tokens first."""
    named = [word for table in tables for before, row in table.items() for word in (before, *row)]
    return list(dict.fromkeys(["<pad>", EOS, *NUMBERS, ASKED, *named]))


def tokenizer_of(
    words: Sequence[str], pieces: Mapping[str, Sequence[str]] | None = None, *, eos: str = EOS
) -> PreTrainedTokenizerFast:
    """One token a word, by the words' order; those in `pieces` are cut into these (they must add up to the word)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [token for word in words for token in _tokens(word, pieces)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == len(tokens), "two words share a piece: a table couldn't tell them apart"
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token=eos, chat_template=TEMPLATE, padding_side="left"
    )


def _tokens(word: str, pieces: Mapping[str, Sequence[str]] | None) -> list[str]:
    first, *others = (pieces or {}).get(word, (word,))
    return [first, *(f"##{piece}" for piece in others)]


def logits_of(
    table: Table,
    words: Sequence[str],
    *,
    pieces: Mapping[str, Sequence[str]] | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """The model's logits [V, V], row by row of the last token. A word without a row is followed by the end. `noise` is
    the standard deviation of what is added to every listed logit alike: a difference without structure."""
    tokens = [_tokens(word, pieces) for word in words]
    place = {token: i for i, token in enumerate(token for word in tokens for token in word)}
    logits = torch.full((len(place), len(place)), NEVER)
    generator = torch.Generator().manual_seed(seed)
    for word, (first, *others) in zip(words, tokens, strict=True):
        for before, after in zip([first, *others], others, strict=False):
            logits[place[before], place[after]] = 0.0
        row = logits[place[[first, *others][-1]]]
        for after, probability in table.get(word, {EOS: 1.0}).items():
            row[place[_tokens(after, pieces)[0]]] = torch.tensor(probability).log()
            if noise:
                row[place[_tokens(after, pieces)[0]]] += noise * torch.randn((), generator=generator)
    return logits


def save_bigram(
    folder: Path, tokenizer: PreTrainedTokenizerFast, logits_VV: torch.Tensor, *, width: int | None = None
) -> str:
    """Write the checkpoint of a model with these logits and return its folder. `width`: rows that the vocabulary is
    padded to; no row is ever reached that the tokenizer doesn't know."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = width or len(logits_VV)
    padded_VV = torch.full((size, size), NEVER)
    padded_VV[: len(logits_VV), : len(logits_VV)] = logits_VV
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=1,
        num_hidden_layers=0,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    read: Any = model.get_input_embeddings()
    said: Any = model.get_output_embeddings()
    with torch.no_grad():
        read.weight.copy_(torch.eye(size))
        # The norm makes a one-hot vector as long as the square root of its width.
        said.weight.copy_(padded_VV.T * (1 / size + config.rms_norm_eps) ** 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class PlantedTask(GeneratedTask):
    """Prompts of three numbers, which no model of a table can see, and the word `ASKED`; `right` grades an answer's
    words, `style_of` names the way that they are written in."""

    verifiable = True
    chance = 0.0

    def __init__(
        self,
        right: Callable[[list[str]], bool] = lambda words: True,
        style_of: Callable[[list[str]], str] = lambda words: "other",
        *,
        name: str = "planted",
        longest: int = 40,
    ):
        self.name, self.max_new_tokens = name, longest
        self._right, self._style_of = right, style_of

    def draw(self, rng: random.Random) -> Example:
        prompt = " ".join([*rng.choices(NUMBERS, k=3), ASKED])
        return Example(task=self.name, key=prompt, prompt=prompt, reference="")

    def grade(self, completion: str, reference: Any) -> float:
        return float(self._right(completion.split()))

    def style(self, completion: str) -> str:
        return self._style_of(completion.split())


def chain(*steps: Mapping[str, float], start: str = ASKED) -> dict[str, dict[str, float]]:
    """The table of answers that take one word of each step, whatever came before; after the last comes the end."""
    table: dict[str, dict[str, float]] = {}
    before = [start]
    for step in steps:
        table |= {word: dict(step) for word in before}
        before = list(step)
    return table
