"""Three rules on one network, and a page that compares them.

python examples/compare_rules.py [serial]
"""

import sys
from pathlib import Path

from torch import manual_seed, nn

import distfa
from distfa.report import write_comparison


def main(engine="ray"):
    """Train with each rule; returns the page."""
    runs = []
    for rule in ("bp", "fa", "dfa"):
        manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        result = distfa.Trainer(model, rule=rule, epochs=4, engine=engine).fit("digits")
        print(f"{rule}: test accuracy {result.test_accuracy:.2%}")
        runs.append(Path(result.run_dir))
    page = write_comparison(runs)
    print(f"open {page}")
    return page


if __name__ == "__main__":
    main(*sys.argv[1:])
