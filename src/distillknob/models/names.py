"""How models are named: a folder, a GGUF file, a hub id, `zoo:NAME` for an embedded checkpoint or a fetched one, or
`URL#NAME` behind a server."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from distillknob.errors import BadInputError, nearest
from distillknob.models.checkpoint_files import ADAPTER, check_no_file, check_whole, read_whole_json
from distillknob.models.gguf.cached import converted, gguf_file, origin_of
from distillknob.models.gguf.header import ENDING
from distillknob.runtime.cache import cache_folder
from distillknob.runtime.hub import offline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SERVED = ("http://", "https://")  # how the name of a model behind a server begins
CHAT = "/chat/completions"  # how the URL of a server's chat interface ends
DEFAULT_STUDENT = "zoo:student"
ZOO = ("teacher", "student", "proxy", "student-other")
FETCHED = ("smollm2", "smollm2-teacher", "smollm2-student")  # published models that `distillknob fetch` makes


def zoo_path(name: str) -> Path:
    """The folder of an embedded checkpoint, or the one that `distillknob fetch` makes. Raises BadInputError with the
    nearest known name."""
    if name in FETCHED:
        return cache_folder() / "zoo" / name
    if name not in ZOO:
        known = (*ZOO, *FETCHED)
        guess = nearest(name, known, otherwise=".")
        raise BadInputError(f"no embedded checkpoint named {name!r}{guess} Known: {', '.join(known)}")
    return Path(str(resources.files("distillknob") / "zoo" / "checkpoints" / name))


def name_own_base(adapter: Path) -> None:
    """Write into the adapter's config what its base model is called, where it holds a folder of this library's: that of
    an embedded checkpoint is another on every machine, and that of a GGUF file lies in a cache."""
    file = adapter / ADAPTER
    config = read_whole_json(file)
    base = Path(config.get("base_model_name_or_path") or "")
    if base.name in (*ZOO, *FETCHED) and base == zoo_path(base.name):
        own = f"zoo:{base.name}"
    elif (origin := origin_of(base)) is not None:
        own = str(origin)
    else:
        return
    file.write_text(json.dumps({**config, "base_model_name_or_path": own}, indent=2) + "\n")


def is_chat(name: str) -> bool:
    """Does this name, URL#NAME, lead to a server's chat interface? It has the tokenizer there, and none is looked for
    here."""
    return name.startswith(SERVED) and name.partition("#")[0].rstrip("/").endswith(CHAT)


def spelt_by(name: str) -> tuple[str, bool]:
    """The tokenizer of a served model, URL#NAME or URL#NAME#TOKENIZER, and whether it is one of this machine. Else it
    is looked for on the hub."""
    served, _, tokenizer = name.partition("#")[2].partition("#")
    spelt = tokenizer or served
    return spelt, spelt.startswith(("zoo:", ".", "/", "~")) or Path(spelt).expanduser().exists()


def gguf_of(name: str) -> Path | None:
    """The GGUF file that a model's name leads to; None where it leads elsewhere. Raises BadInputError for a folder with
    several."""
    return None if name.startswith((*SERVED, "zoo:")) else gguf_file(Path(name).expanduser())


def resolve(name: str, *, weights: bool = False) -> str:
    """`name` as transformers loads it: `zoo:NAME` becomes its folder, a GGUF file the folder that was made of it,
    folders are checked, hub ids and URLs pass. With `weights` the folder of a GGUF file has them too, which takes
    minutes for a large one.

    Raises BadInputError for a folder or file that isn't there, holds no checkpoint, or one with a missing or damaged
    file, and for a server's URL without a model.
    """
    if name.startswith(SERVED):
        url, _, rest = name.partition("#")
        if not rest.partition("#")[0]:
            raise BadInputError(f"{name!r} names a server and no model: give URL#NAME, e.g. {url}#Qwen/Qwen3-8B")
        return name
    if name.startswith("zoo:"):
        path = zoo_path(name.removeprefix("zoo:"))
        if not (path / "config.json").exists():
            if path.name in FETCHED:
                raise BadInputError(f"{name!r} isn't in {path} yet: run `distillknob fetch {path.name}`")
            raise BadInputError(f"the embedded checkpoint {name!r} is not in {path}: run `distillknob zoo build`")
        return str(path)
    if (file := gguf_of(name)) is not None:
        return str(converted(file, weights=weights))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            contents = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
            hint = f", did you mean {path / 'model'}?" if (path / "model" / "config.json").exists() else ""
            raise BadInputError(f"{path} holds no checkpoint (no config.json; it holds {contents}){hint}")
        check_whole(path, name)
        return str(path.absolute())  # it is kept in what is made of it, and read from other places
    check_no_file(path)
    if name.rstrip("/").lower().endswith(ENDING):
        raise BadInputError(f"there is no file {name!r}: give the path of one, fetched from the hub with `hf download`")
    # "org/name" and "name" may be hub ids; anything else can only have been meant as a path.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise BadInputError(f"there is no checkpoint folder {name!r}: give an existing folder, a hub id or zoo:NAME")
    if name in FETCHED:
        raise BadInputError(f"{name!r} is neither a folder nor a hub id: `distillknob fetch {name}` makes zoo:{name}")
    offline()  # asked once, so that no library goes on trying where there is no network
    return name


def check_meant(
    setting: str, name: str, tokenizer: PreTrainedTokenizerBase, of: str, their_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise BadInputError where `setting` is the embedded student, as by default, and the model `of` has another
    tokenizer: the setting was forgotten, and hours of work would go into a pair that nobody meant."""
    if name == DEFAULT_STUDENT and tokenizer.get_vocab() != their_tokenizer.get_vocab():
        raise BadInputError(
            f"{setting} is {name!r}, the embedded model of the default, but {of!r} has another tokenizer: set "
            f"{setting} to a model of your own (or to the folder of the embedded one, if you mean it)"
        )
