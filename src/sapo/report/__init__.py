"""What people read: terminal tables, Markdown, and one HTML file with figures.

Pages are built as frozen values (`tables`, `drawings`), which `terminal`, `markdown` and `html` show. Functions are
imported on first use, so that listing tasks does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapo.report.candidates import print_gathered as print_gathered
    from sapo.report.forecast import print_dry_run as print_dry_run
    from sapo.report.prompt import print_prompt as print_prompt
    from sapo.report.publish import print_report as print_report
    from sapo.report.publish import print_run as print_run
    from sapo.report.publish import print_study as print_study
    from sapo.report.publish import print_sweep as print_sweep
    from sapo.report.selections import print_selection as print_selection
    from sapo.report.tasks import print_task as print_task
    from sapo.report.tasks import print_tasks as print_tasks

_HOMES = {
    "print_dry_run": "forecast",
    "print_gathered": "candidates",
    "print_prompt": "prompt",
    "print_report": "publish",
    "print_run": "publish",
    "print_selection": "selections",
    "print_study": "publish",
    "print_sweep": "publish",
    "print_task": "tasks",
    "print_tasks": "tasks",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a function from its file (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sapo.report' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sapo.report.{_HOMES[name]}"), name)
