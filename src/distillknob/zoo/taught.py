"""A published model that was taught something here: the fetched one, some of its layers left out perhaps, with a LoRA
adapter that this library carries.

An adapter takes 5 MB where the model takes 270, so it can lie in the package. It is merged into the model, so that a
further adapter can be trained on the whole: a calibration anchors itself to the model without its own.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.models.names import zoo_path
from distillknob.runs.files import digest
from distillknob.runtime.processes import notice

ADAPTERS = Path(str(resources.files("distillknob") / "zoo" / "adapters"))
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Taught:
    """What was taught to the fetched model `base`: the folder of the adapter, with its card (`README.md`). Of the base
    the layers `stay` alone are kept, counted from 0; None keeps all."""

    base: str
    adapter: Path
    title: str
    stay: tuple[int, ...] | None = None

    @property
    def sha256(self) -> str:
        """One digest of all that it is made of: the base model's files, which layers stay, and the adapter's files.
        Raises BadInputError where this installation lacks the adapter."""
        if not (self.adapter / WEIGHTS).is_file():
            raise BadInputError(f"this installation of distillknob lacks {self.adapter / WEIGHTS}: install it anew")
        files = [*_of_base(zoo_path(self.base)), *sorted(self.adapter.iterdir())]
        return hashlib.sha256("".join([*map(digest, files), str(self.stay)]).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the base model with the adapter merged into it into a folder that is there, in the base's own type."""
        import torch

        from distillknob.models.depth import cut
        from distillknob.models.load import load_model
        from distillknob.models.whole_weights import with_adapter

        notice(f"making {self.title}: an adapter is merged into zoo:{self.base}")
        base = zoo_path(self.base)
        loaded: Any = load_model(str(base), dtype="float32", device="cpu").model
        if self.stay is not None:
            cut(loaded, self.stay)
        merged: Any = with_adapter(loaded, str(self.adapter), str(base)).merge_and_unload()
        merged.to(torch.bfloat16).save_pretrained(folder)
        for file in _of_base(base):
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
        shutil.copyfile(self.adapter / "README.md", folder / "README.md")


def _of_base(folder: Path) -> list[Path]:
    """The files of the fetched base model, but for its card and the record of its fetching."""
    return [file for file in sorted(folder.iterdir()) if file.name not in ("README.md", "fetched.json")]
