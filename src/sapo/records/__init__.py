"""Finished runs of a sweep in one line each, from which its tables are made without the run directories."""

from __future__ import annotations

from sapo.records.files import RECORDS, append_record, read_records
from sapo.records.making import record_of
from sapo.records.values import Ability, Alarm, Crossed, Estimate, RunRecord, Used, Wordings

__all__ = [
    "RECORDS",
    "Ability",
    "Alarm",
    "Crossed",
    "Estimate",
    "RunRecord",
    "Used",
    "Wordings",
    "append_record",
    "read_records",
    "record_of",
]
