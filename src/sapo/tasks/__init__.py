"""Where tasks come from, built in, from a benchmark directory or the user's own data, and what their rows hold.

Comes in: names, paths, columns. Goes out: frozen tasks, and a count of what was found in them. For data that cannot be
used every function raises a `DataError` that names the file, what is wrong in it, and what is allowed.
Must not know: candidates, losses, training.
"""
