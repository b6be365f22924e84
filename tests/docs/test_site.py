"""The site builds, without a dead link, and asks no other server for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from documents import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a folder of its own, as `make docs` builds it in the checkout."""
    pytest.importorskip("zensical", reason="the extra `docs` isn't installed")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(DOCS, folder / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_site_has_every_page_in_its_navigation(site: Path) -> None:
    pages = [page.relative_to(DOCS).with_suffix(".html").as_posix() for page in sorted(DOCS.rglob("*.md"))]
    home = (site / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r"href=\"?(?:\./)?([\w/-]+\.html)", home[home.index("md-nav--primary") :]))
    for page in pages:
        assert (site / page).is_file() and (page in linked or page == "index.html"), page


@pytest.mark.slow
def test_a_page_of_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//", text), page
        links = re.findall(r"<link\b[^>]*>", text)
        assert not [link for link in links if re.search(r"href=[\"']?(?:https?:)?//", link)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_release_that_builds_the_site_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(row.startswith("zensical") for row in project["optional-dependencies"]["docs"])
    assert re.search(r"^zensical==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
