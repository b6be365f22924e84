"""Run directories to one self-contained HTML page."""

from __future__ import annotations

from distillknob.report.page import build_report

__all__ = ["build_report"]
