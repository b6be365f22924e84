"""The pages of docs/ that are written from the program itself: commands, configs, methods, and the list of pages for
language models.

`make reference` writes them; `tests/docs/test_reference.py` holds them to what it would write. Left out on purpose: a
page of Python signatures. The docstrings hold those, and an editor shows them where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def written_pages(docs: Path) -> Iterator[tuple[Path, str]]:
    """Yield every generated page of `docs` with its text. It loads all stages, which takes seconds.

    The list for language models comes last: it quotes the other pages as they stand in the folder by then.
    """
    from distillknob.cli.methods_page import methods_page
    from distillknob.cli.reference.commands import commands_page
    from distillknob.cli.reference.configs import configs_page
    from distillknob.cli.reference.pages import list_for_models

    yield docs / "reference" / "cli.md", commands_page()
    yield docs / "reference" / "configs.md", configs_page()
    yield docs / "reference" / "methods.md", methods_page()
    yield docs / "llms.txt", list_for_models(docs)
