"""What a task's rows hold, counted before anything is trained on them.

Repeated and contradicting training rows, test inputs that are also trained on, the labels of the selection rows
against those of all training rows, lengths in tokens, and the rows that cannot be used.
"""

from sapo.inspection.rows import (
    Inspection,
    LabelCount,
    Lengths,
    Reason,
    drop_overlap,
    inspect_rows,
    inspect_task,
)
from sapo.inspection.words import data_table, warnings_of

__all__ = [
    "Inspection",
    "LabelCount",
    "Lengths",
    "Reason",
    "data_table",
    "drop_overlap",
    "inspect_rows",
    "inspect_task",
    "warnings_of",
]
