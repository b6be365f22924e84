"""The recipes and Accelerate configurations that come with distillknob, wherever it is installed.

They lie inside the package, in a checkout and in a wheel; a checkout's `recipes/` is a link to them.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from distillknob.errors import BadInputError, nearest


def _folder() -> Path:
    return Path(str(resources.files("distillknob") / "recipes"))


def _named(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe. Raises BadInputError with the nearest known name."""
    return _shipped(name, _named(_folder()), "recipe")


def _shipped(name: str, files: dict[str, Path], what: str) -> Path:
    stem = name.removesuffix(".yaml")
    if stem not in files:
        raise BadInputError(
            f"there is no {what} {name}: no file of that name is here, and none such comes with distillknob"
            f"{nearest(stem, files, otherwise='.')} Known: {', '.join(files)}"
        )
    return files[stem]


def find_recipe(name: str) -> Path:
    """The file `name`, or the shipped recipe of that name. A file goes first. Raises BadInputError for neither."""
    path = Path(name)
    # Anything with a folder in it can only have been meant as a path: the reader says what is wrong with that.
    return path if path.exists() or path.name != name else recipe_path(name)


def find_accelerate(name: str) -> Path:
    """The same for a configuration of `accelerate launch`."""
    path = Path(name)
    return path if path.exists() else _shipped(name, _named(_folder() / "accelerate"), "Accelerate configuration")


def find_policy(name: str) -> Path:
    """The same for the policy of a gate."""
    path = Path(name)
    return path if path.exists() or path.name != name else _shipped(name, _named(_folder() / "policies"), "policy")


def recipe_table() -> str:
    """One line a recipe: its name and what the first line of its comment says."""
    rows = {name: first_comment(path) for name, path in _named(_folder()).items()}
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows.items())


def first_comment(path: Path) -> str:
    """The first line of a recipe's comment, without the sign."""
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy a shipped recipe into a folder or to a file, and return the file. Raises BadInputError where there is one
    already, or the folder isn't there."""
    source = recipe_path(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise BadInputError(f"{target} is there already: give another name, or remove it")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BadInputError(f"can't write {target}: {error.strerror}") from error
    return target
