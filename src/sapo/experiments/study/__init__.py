"""Tests of the method's three claims on a user's own model and data.

A transition is a stage (after earlier tasks were trained with their original instructions) and the task that follows.
From that stage the task is trained with every candidate and several seeds, by one or two optimisers ("arms"). What the
candidates did is compared with what was known of them before.

Comes in: a `StudyConfig`. Goes out: one record for each training (plan, run, training, indicators, records), and from
records alone what they say (blocks, resampling, analysis) of claim 1 (components), claim 2 (correlation), claim 3
(prediction), the worth of a choice (decision) and the bounds that may explain it (bound).
Must not know: how a page looks. The analysis must not know models: records may come from another machine.
"""
