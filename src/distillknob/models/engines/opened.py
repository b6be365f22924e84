"""The models of a stage as its engine has them: themselves, or in a vLLM, of which one lives at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from distillknob.models.architecture import model_config
from distillknob.models.base import LanguageModel
from distillknob.models.chat import turn_end
from distillknob.models.dtypes import own_dtype
from distillknob.models.engines.vllm_engine import VllmEngine
from distillknob.models.engines.vllm_model import VllmModel
from distillknob.models.load import check_tokenizer, load_model, load_tokenizer
from distillknob.models.names import SERVED, resolve
from distillknob.models.served.model import load_or_connect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distillknob.models.sampling import Sampler


class Engines:
    """Gives a stage's models to sample from and to score with. `engine` is transformers or vllm, `options` what a vLLM
    is started with. To be closed, or used in a with-statement."""

    def __init__(self, engine: str, options: Mapping[str, Any] | None = None):
        self._vllm, self._options = engine == "vllm", options
        self._held: tuple[str, VllmEngine] | None = None

    def of(self, name: str, loaded: LanguageModel, *, revision: str | None = None) -> LanguageModel | VllmModel:
        """The model of that name, which is loaded too: its tokenizer and its ends are the loaded one's."""
        if not self._vllm:
            return loaded
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        return VllmModel(name, loaded.tokenizer, loaded.ends, self._engine(name, dtype, revision))

    def open(self, name: str, *, scores: Literal[False] | None = None) -> Sampler:
        """The model of that name, which isn't loaded, or behind its server, as `load_or_connect` gives it."""
        return load_or_connect(name, scores=scores) if name.startswith(SERVED) else self.start(name)

    def start(self, name: str, options: Mapping[str, Any] | None = None) -> LanguageModel | VllmModel:
        """The model of that name, which isn't loaded and not behind a server; `options` are those of `load_model`, of
        which a vLLM takes the type and the revision."""
        options = options or {}
        if not self._vllm:
            return load_model(name, options=options)
        config, _ = model_config(name)
        tokenizer = load_tokenizer(name)
        check_tokenizer(tokenizer, name, config.get_text_config().vocab_size)
        dtype = str(options.get("dtype") or own_dtype(config) or "auto").removeprefix("torch.")
        engine = self._engine(name, dtype, options.get("revision"))
        return VllmModel(name, tokenizer, _ends(resolve(name), config, tokenizer), engine)

    def close(self) -> None:
        """Free what the engine holds."""
        if self._held is not None:
            self._held[1].close()
        self._held = None

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _engine(self, name: str, dtype: str, revision: str | None) -> VllmEngine:
        if self._held is None or self._held[0] != name:
            self.close()
            where = resolve(name, weights=True)
            self._held = (name, VllmEngine(where, dtype, revision=revision, options=self._options))
        return self._held[1]


def _ends(where: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer, as the loaded model would have them: those of its generation config, the eos,
    and the end of a turn."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(where)
    except OSError:  # a checkpoint without one
        generation = GenerationConfig.from_model_config(config)
    ids = generation.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return sorted({int(tokenizer.eos_token_id), turn_end(tokenizer), *ids})
