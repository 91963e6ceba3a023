"""Candidates + losses -> the choice.

Comes in: a model, a task, candidates. Goes out: a `Selection`, every candidate with its pre-update loss, and the
chosen one. Must not know: training, run directories.
"""
