"""The table of questions, and how one is asked: figures as JSON, a page as HTML and as Markdown with a drawing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from distfa.bench.pace import Say
from distfa.errors import BenchError, SpecError
from distfa.files import save_whole
from distfa.lab.questions import classes, conservation, depth, dominance, label_noise
from distfa.lab.questions.base import Answer, Question, QuestionOptions
from distfa.lab.questions.drawing import require_matplotlib, svg
from distfa.measuring.machine import describe_machine
from distfa.pages.page import Box, Facts, Page, Table
from distfa.text import strict_json
from distfa.text.words import cell, not_among

_ALL = (conservation, classes, dominance, label_noise, depth)
QUESTIONS: dict[str, Question] = {module.QUESTION.name: module.QUESTION for module in _ALL}


def answer_question(name: str, asked: QuestionOptions, *, say: Say = lambda line: None) -> tuple[Question, Answer]:
    """Train, measure and judge.

    Args:
        name: Name of the question.
        asked: How to ask it.
        say: Called with lines of progress.

    Raises:
        SpecError: There is no such question, or no such rule.
        UsageError: What draws the figures is not installed.
        DistfaError: The data cannot be read, or a run failed.
    """
    if name not in QUESTIONS:
        raise SpecError(f"experiment {name!r} {not_among(name, QUESTIONS)}")
    require_matplotlib()
    question = QUESTIONS[name]
    return question, question.answer(asked, say)


def save(question: Question, answer: Answer, command: str, directory: Path) -> Path:
    """Write NAME.json, NAME.html, NAME.md and a drawing per figure; returns the page for a browser.

    Args:
        question: The question.
        answer: Its answer.
        command: The command that asked it, for the pages.
        directory: The folder to write to; it is made if it does not exist.

    Raises:
        BenchError: A file cannot be written.
    """
    stem = directory / question.name

    def keep(name: str, text: str) -> None:
        save_whole(directory / name, text, BenchError, "choose another location with --out")

    content: dict[str, Any] = {"question": question.name, "command": command, "machine": describe_machine()}
    content |= {key: value for key, value in asdict(answer).items() if key != "figures"}
    keep(f"{question.name}.json", strict_json.dumps(content, indent=1) + "\n")  # before a drawing could fail
    drawings = {f"{question.name}-{figure.name}.svg": svg(figure) for figure in answer.figures}
    for name, text in {f"{question.name}.md": _markdown(question, answer, command, list(drawings)), **drawings}.items():
        keep(name, text)
    _page(question, answer, command).write(stem.with_suffix(".html"))
    return stem.with_suffix(".html")


def _page(question: Question, answer: Answer, command: str) -> Page:
    return Page(
        title=question.title,
        subtitle=f"distfa experiment {question.name}",
        parts=[
            Box("What the abstract says", question.claim),
            Box("What this run says", answer.verdict),
            *answer.figures,
            Table(columns=answer.columns, rows=answer.rows),
            Facts([{"budget": answer.budget, "command": command}]),
        ],
    )


def _markdown(question: Question, answer: Answer, command: str, drawings: list[str]) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    table = [line(list(answer.columns.values())), line(["---"] * len(answer.columns))]
    table += [line([cell(row.get(key)) for key in answer.columns]) for row in answer.rows]
    parts = [
        f"# {question.title}",
        f"    {command}",
        f"**What the abstract says.** {question.claim}",
        f"**What this run says.** {answer.verdict}",
        f"Budget: {answer.budget}.",
        *(f"![{figure.title}]({name})\n\n{figure.see}" for figure, name in zip(answer.figures, drawings, strict=True)),
        "\n".join(table),
        "The abstract is that of Robertson & Koyejo, ICML 2024, in our words; we did not have access to the full "
        "paper.",
    ]
    return "\n\n".join(parts) + "\n"
