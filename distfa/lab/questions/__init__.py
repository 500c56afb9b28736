"""Questions about feedback alignment that a command answers, each with data, figure, page and a verdict.

``distfa.lab.questions.asking`` has the table; a question is one file and one row there.
"""
