"""How long work tells what it is doing, without the rooms knowing about terminals.

reporter    what rooms talk to
terminal    the bar, notes, and stops by Ctrl-C
tables      tables of plain texts
racing      a race as its standings tell it
intervals   intervals drawn on one scale
board       the live table of a race
"""

from sapo.progress.reporter import Reporter, Silent
from sapo.progress.terminal import Stopped, Terminal

__all__ = ["Reporter", "Silent", "Stopped", "Terminal"]
