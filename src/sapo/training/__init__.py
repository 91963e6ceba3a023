"""What one training is: with which instruction each row is worded, how parameters are updated, what is guarded.

Comes in: a model in a stage, rows, instructions, settings. Goes out: the model in the next stage.
The front door of the method, `select`, is here too: one of its rules trains.
Must not know: run directories, configurations, other trainings of a sequence but what a method remembers.
"""
