"""A run on disk: from a configuration to steps that are computed once, and to results.

Comes in: a configuration. Goes out: a run directory and its results.
Must not know: the order of the steps, which is `sapo.sequence`; other runs; how results look.
"""
