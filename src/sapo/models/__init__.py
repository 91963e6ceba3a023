"""One causal LM: text -> tokens -> losses and answers.

Comes in: a model, a tokenizer, an instruction, examples. Goes out: exact losses per example, generated answers and
their scores, the fingerprint of a state. Must not know: where tasks and candidates come from, or what is done with
the losses.
"""
