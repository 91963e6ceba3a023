"""Where tasks come from, built in, from a benchmark directory or the user's own data, and what their rows hold.

Comes in: names, paths, columns. Goes out: frozen tasks, and a count of what was found in them. Data that
cannot be used are a `DataError` that names the file or setting, what is wrong in it, and what is allowed.
Must not know: candidates, losses, training.
"""
