"""The report of a run: one HTML page that needs no network.

records.py   what the run directory holds, checked line by line
plots.py     the parts of figures: colours, panels, thinning
training.py  figures of the training itself: curves, alignment, bytes, time, what each layer did when
law.py       figures of the conservation law
findings.py  a sentence per question: how good, how long, how many bytes, how to go on, how aligned and lawful
facts.py     outcome, settings, layers and machine as names and values
resuming.py  where a run went back to, and where one that ended early can go on, and how
prometheus.py  a run's figures in Prometheus' text format
waiting.py   which layers wait for whom
latest.py    the last records of a run that is watched
groups.py    several runs in groups of seeds
compare.py   several runs on one page
page.py      the page of a run
"""

from distfa.report.compare import write_comparison
from distfa.report.page import write_report

__all__ = ["write_comparison", "write_report"]
