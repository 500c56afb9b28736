"""``distfa experiment``: questions about feedback alignment, answered by training."""

from __future__ import annotations

from inspect import Parameter
from pathlib import Path
from typing import Any

import typer

from distfa.cli.flags import parameter, parameters, read_options, with_parameters
from distfa.cli.options import outcome_file
from distfa.lab.questions.base import QuestionOptions
from distfa.text import lines


def _experiment(name: str, out: Path, **typed: Any) -> None:
    """Answer a question about feedback alignment by training: data, figure, page, and whether the runs agree with the
    claim.

    conservation: both sides of the law during training.

    classes: accuracy against alignment, by the number of classes.

    dominance: the dominance constant against the decay of the loss.

    label-noise: training with a fifth of the labels wrong.

    depth: does a rule train deep layers at all?

    The runs use the serial engine, one after another. Figures need matplotlib: pip install 'distfa\\[lab]'.
    """
    from distfa.lab.questions.asking import answer_question, save

    asked = read_options(QuestionOptions, typed)
    question, answer = answer_question(name, asked, say=lambda line: typer.echo(f"{name}: {line}", err=True))
    flags = {"--data": asked.data, "--data-dir": "DIR" if asked.data_dir else ""}
    flags |= {"--rules": typed["rules"], "--seeds": str(asked.seeds)}
    command = " ".join([f"distfa experiment {name}", *(f"{flag} {value}" for flag, value in flags.items() if value)])
    lines.say(question.title, style="bold")
    lines.say(question.claim, mark="the abstract: ")
    lines.say(answer.verdict, mark="this run: ")
    lines.say(answer.budget, mark="budget: ")
    page = save(question, answer, command + (" --quick" if asked.quick else ""), out)
    lines.say(f"{page}, and {page.with_suffix('.md').name} next to it", mark="pages: ")


_NAME = typer.Argument(help="The question: conservation, classes, dominance, label-noise or depth.")
_OUT = outcome_file(folder=True, help="Directory for the figures (JSON, SVG) and pages (HTML, Markdown).")
experiment = with_parameters(
    _experiment,
    [
        parameter("name", str, Parameter.empty, _NAME),
        *parameters(QuestionOptions),
        parameter("out", Path, Path("experiments"), _OUT),
    ],
)
