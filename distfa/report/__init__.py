"""The report of a run: one HTML page that needs no network.

records.py   what the run directory holds, checked line by line
plots.py     the parts of figures: colours, panels, thinning
training.py  figures of the training itself: curves, alignment, bytes, time, what each layer did when
law.py       figures of the conservation law
findings.py  a sentence per question: how good, aligned, lawful, how many bytes, where the time went
compare.py   several runs on one page
page.py      the page around them, with its title, the result and the host in words
"""

from distfa.report.compare import write_comparison
from distfa.report.page import write_report

__all__ = ["write_comparison", "write_report"]
