"""What a rule costs at the two ends of a boundary, beside the message itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The work and the memory of one boundary. All values are counts of numbers; 0 where there are none.

    Attributes:
        origin_multiplies: Whether the origin multiplies delta, (N, d_origin), by a matrix (d_origin, width).
        learner_multiplies: Whether the learner multiplies what it reads by the matrix that it keeps.
        formed: Numbers gone through in each micro-batch to form the matrix that the origin multiplies by.
        drawn: Random numbers newly drawn in each step, at the origin.
        learned: Feedback the learner updates in each step.
        origin_keeps: Feedback kept at the origin.
        learner_keeps: Feedback kept at the learner.
        books_keep: The fixed matrix that the ledger keeps where it has to compute the potential by itself.
    """

    origin_multiplies: bool = False
    learner_multiplies: bool = False
    formed: int = 0
    drawn: int = 0
    learned: int = 0
    origin_keeps: int = 0
    learner_keeps: int = 0
    books_keep: int = 0
