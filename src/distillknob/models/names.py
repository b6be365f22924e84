"""How models are named: a folder, a hub id, `zoo:NAME` for an embedded checkpoint, or `URL#NAME` behind a server."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from distillknob.errors import BadInputError, nearest
from distillknob.models.checkpoint_files import ADAPTER, check_readable, check_whole, read_whole_json
from distillknob.runtime.hub import offline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SERVED = ("http://", "https://")  # how the name of a model behind a server begins
DEFAULT_STUDENT = "zoo:student"
ZOO = ("teacher", "student", "proxy", "student-other")


def zoo_path(name: str) -> Path:
    """The folder of an embedded checkpoint. Raises BadInputError with the nearest known name."""
    if name not in ZOO:
        guess = nearest(name, ZOO, otherwise=".")
        raise BadInputError(f"no embedded checkpoint named {name!r}{guess} Known: {', '.join(ZOO)}")
    return Path(str(resources.files("distillknob") / "zoo" / "checkpoints" / name))


def name_zoo_base(adapter: Path) -> None:
    """Write `zoo:NAME` into the adapter's config where it holds the folder of an embedded checkpoint, which is another
    on every machine."""
    file = adapter / ADAPTER
    config = read_whole_json(file)
    base = Path(config.get("base_model_name_or_path") or "")
    if base.name in ZOO and base == zoo_path(base.name):
        file.write_text(json.dumps({**config, "base_model_name_or_path": f"zoo:{base.name}"}, indent=2) + "\n")


def resolve(name: str) -> str:
    """`name` as transformers loads it: `zoo:NAME` becomes its folder, folders are checked, hub ids and URLs pass.

    Raises BadInputError for a folder that isn't there, holds no checkpoint, or one with a missing or damaged file, and
    for a server's URL without a model.
    """
    if name.startswith(SERVED):
        url, _, rest = name.partition("#")
        if not rest.partition("#")[0]:
            raise BadInputError(f"{name!r} names a server and no model: give URL#NAME, e.g. {url}#Qwen/Qwen3-8B")
        return name
    if name.startswith("zoo:"):
        path = zoo_path(name.removeprefix("zoo:"))
        if not (path / "config.json").exists():
            raise BadInputError(f"the embedded checkpoint {name!r} is not in {path}: run `distillknob zoo build`")
        return str(path)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            contents = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
            hint = f", did you mean {path / 'model'}?" if (path / "model" / "config.json").exists() else ""
            raise BadInputError(f"{path} holds no checkpoint (no config.json; it holds {contents}){hint}")
        check_whole(path, name)
        return str(path.absolute())  # it is kept in what is made of it, and read from other places
    if path.is_file():
        check_readable(path)
    # "org/name" and "name" may be hub ids; anything else can only have been meant as a path.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise BadInputError(f"there is no checkpoint folder {name!r}: give an existing folder, a hub id or zoo:NAME")
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
