"""From an instruction to valid, diverse candidates; every text that is rejected is recorded with its reason.

Comes in: a task and where to ask. Goes out: candidates, the original first, and rejections.
Must not know: losses. Which candidate is good is decided in `sapo.selection`.
"""
