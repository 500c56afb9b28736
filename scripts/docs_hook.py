"""What the documentation takes from the code as it is built: the run spec, with every key explained."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the spec in its place."""
    if "{{spec}}" not in markdown:
        return markdown
    from distfa.experiment.spec import RunSpec, dump

    return markdown.replace("{{spec}}", f"```yaml\n{dump(RunSpec(), explain=True)}```")
