"""Finished runs of a sweep in one line each, from which its tables are made without the run directories."""
