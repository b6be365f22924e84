"""`python -m distillknob.cli.reference DOCS`, which `make reference` runs: write the generated pages of a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from distillknob.cli.reference import written_pages
from distillknob.runtime.machine import quiet_libraries

if __name__ == "__main__":
    quiet_libraries()
    for page, text in written_pages(Path(sys.argv[1])):
        page.write_text(text, encoding="utf-8")
        print(page)
