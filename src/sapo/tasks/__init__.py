"""Where tasks come from, built in, from a benchmark directory or the user's own data, and what their rows hold.

Comes in: names, paths, columns. Goes out: frozen tasks, and a count of what was found in them.
Must not know: candidates, losses, training.
"""
