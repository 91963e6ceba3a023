"""The nouns of the method, and what every room stands on: errors, storage, processes, how progress is reported.

Comes in: nothing of the other rooms. Goes out: frozen values that they hand to each other.
Must not know: models, data, configurations, terminals.
"""
