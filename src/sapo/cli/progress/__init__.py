"""What the command shows while it works: the bar, notes, the live table of a race."""
