"""What the documentation takes from the code and from docs/bench as it is built.

A page with ``{{`` is a template. It may use ``spec()``, the run spec with every key explained, and ``docs_tables``.
"""

import docs_tables
from jinja2 import Environment, StrictUndefined


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the page."""
    if "{{" not in markdown:
        return markdown
    template = Environment(undefined=StrictUndefined).from_string(markdown)  # a misspelt name ends the build
    return template.render(spec=_spec, **{name: getattr(docs_tables, name) for name in docs_tables.__all__})


def _spec() -> str:
    from distfa.settings import RunSpec, dump_spec

    return f"```yaml\n{dump_spec(RunSpec(), explain=True)}```"
