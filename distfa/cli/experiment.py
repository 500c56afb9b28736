"""``distfa experiment``: questions about feedback alignment, answered by training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distfa.cli import options
from distfa.cli.bench import say
from distfa.text import lines


def experiment(
    name: Annotated[str, typer.Argument(help="The question: conservation, classes, dominance, label-noise or depth.")],
    rules: Annotated[
        str, typer.Option(metavar="RULE,RULE,...", help="Rules to compare; dkp@50 is dkp renewed every 50 steps.")
    ] = "bp,fa,dfa,dkp",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds for every configuration.")] = 3,
    data: Annotated[str, typer.Option(help="As for 'distfa train'; default: the experiment's own data set.")] = "",
    data_dir: options.DataDir = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use the smallest size that still gives an answer; needs no data file.")
    ] = False,
    out: Annotated[
        Path, options.outcome_folder(help="Directory for the figures (JSON, SVG) and pages (HTML, Markdown).")
    ] = Path("experiments"),
) -> None:
    """Answer a question about feedback alignment by training: data, figure, page, and whether the runs agree with the
    claim.

    conservation: both sides of the law during training.

    classes: accuracy against alignment, by the number of classes.

    dominance: the dominance constant against the decay of the loss.

    label-noise: training with a fifth of the labels wrong.

    depth: does a rule train deep layers at all?

    The runs use the serial engine, one after another. Figures need matplotlib: pip install 'distfa[lab]'.
    """
    from distfa.lab.questions.asking import ask, save
    from distfa.lab.questions.base import Asked

    asked = Asked(rules=options.words(rules), seeds=seeds, quick=quick, data=data, data_dir=data_dir)
    question, answer = ask(name, asked, say=say(f"{name}: "))
    flags = {"--data": data, "--data-dir": "DIR" if data_dir else "", "--rules": rules, "--seeds": str(seeds)}
    command = " ".join([f"distfa experiment {name}", *(f"{flag} {value}" for flag, value in flags.items() if value)])
    lines.say(question.title, style="bold")
    lines.say(question.claim, mark="the abstract: ")
    lines.say(answer.verdict, mark="this run: ")
    lines.say(answer.budget, mark="budget: ")
    page = save(question, answer, command + (" --quick" if quick else ""), out)
    lines.say(f"{page}, and {page.with_suffix('.md').name} next to it", mark="pages: ")
