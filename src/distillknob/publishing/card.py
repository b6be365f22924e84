"""The model card of what a stage made: metadata that a hub reads, and the sections that every card has.

A stage says what is its own (what was done, what was measured, what wasn't). The rest is the same for all: attacks,
limits, use, loading, the command.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distillknob.publishing.base_model import base_model
from distillknob.publishing.marks import not_attacked
from distillknob.runs.files import read_json
from distillknob.runs.run import ENVIRONMENT

PLACE = "FOLDER-OR-HUB-ID"
PAPER = "https://arxiv.org/abs/2604.18963"
PROGRAMS = ("distillknob", "__main__.py")  # the command, and `python -m distillknob`
TOLD = ("distillknob", "torch", "transformers", "trl")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card holds. `base` is the model that this one was made from, `kind` a tag such as `pruned-model`, and
    `teacher` says that students may be trained on it, so that attacks matter. `place` is its id on the hub, where it
    has one. Texts are Markdown."""

    title: str
    base: str
    kind: str | None
    made: str
    evidence: str
    limits: Sequence[str]
    use: str
    misuse: str
    run: Path
    seed: int
    adapter: bool = False
    teacher: bool = False
    place: str | None = None
    scores: Sequence[EvalResult] = field(default_factory=tuple)

    def text(self) -> str:
        """Write the card."""
        sections = [
            f"# {self.title}\n\n{self.made}",
            f"## Evidence\n\n{self.evidence}",
            *([not_attacked()] if self.teacher else []),
            "## Limits\n\n" + "\n".join(f"- {limit}" for limit in self.limits),
            f"## Intended use and misuse\n\n{self.use}\n\n{self.misuse}",
            f"## How to load it\n\n{self._loading}",
            f"## How it was made\n\n{self._command}",
        ]
        return f"---\n{self._metadata.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in sections) + "\n"

    @property
    def _metadata(self) -> ModelCardData:
        base = base_model(self.base)
        scored = {"eval_results": list(self.scores), "model_name": self.run.absolute().name} if self.scores else {}
        related = {"base_model_relation": "adapter"} if self.adapter and base.ids else {}
        values: dict[str, Any] = {**base.licence, **scored, **related}
        return ModelCardData(
            base_model=base.ids[0] if len(base.ids) == 1 else list(base.ids) or None,
            library_name="peft" if self.adapter else "transformers",
            pipeline_tag="text-generation",
            tags=["distillknob", *([self.kind] if self.kind else [])],
            **values,
        )

    @property
    def _loading(self) -> str:
        name = self.place or PLACE
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
        cls = "AutoModelForCausalLM"
        if self.adapter:
            cls = "AutoPeftModelForCausalLM"
            imports = f"from peft import {cls}\nfrom transformers import AutoTokenizer"
        lines = [
            imports,
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'model = {cls}.from_pretrained("{name}")',
        ]
        return "\n".join(["```python", *lines, "```"])

    @property
    def _command(self) -> str:
        made = read_json(self.run / ENVIRONMENT)
        known = {name: version for name, version in made["versions"].items() if name in TOLD and version}
        versions = ", ".join(f"{name} {version}" for name, version in known.items())
        program, *words = made["argv"]
        command = f"By a Python program, `{program}`."
        if program in PROGRAMS:
            command = f"```bash\n{shlex.join(['distillknob', *words])}\n```"
        return (
            f"{command}\n\nSeed {self.seed}; {versions}. distillknob reconstructs "
            f"[Distillation Traps and Guards]({PAPER}). The run's `config.yaml` holds every setting and repeats it."
        )
