"""The Python that the README shows runs as it stands there, and prints what stands behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_snippet_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((snippet, output),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    shown, printed = (
        {name: float(value) for name, value in re.findall(r"^(\w+): (\S+)$", text, re.MULTILINE)}
        for text in (output, capsys.readouterr().out)
    )
    # Another processor rounds otherwise, and so draws other samples.
    assert shown and printed == pytest.approx(shown, abs=0.1)
    assert (tmp_path / "runs" / "python" / "manifest.json").exists()
