"""Questions about feedback alignment that a command answers: data, figure, page and a verdict each.

``distfa.questions.asking`` has the table; a question is one file and one row there.
"""
