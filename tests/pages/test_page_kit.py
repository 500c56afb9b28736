"""A page escapes all that it is given, and a table says what its cells hold."""

import json
import math
import re

import plotly.graph_objects as go

from distfa.pages.page import Box, Facts, Page, Table
from distfa.pages.plots import Figure

MARKUP = "</script><b>&'\""


def shown(page):
    """(what is on the page, the JSON of its figures)."""
    text = page.html("plotly.js")
    body = text.partition("<body>")[2].partition("</main>")[0]
    return body, json.loads(re.search(r"FIGURES = (.*);\n", text)[1])


def test_no_text_is_taken_as_markup_wherever_it_stands():
    figure = Figure("f", MARKUP)
    figure.panels([MARKUP], MARKUP)
    figure.line([(0, 1.0)], MARKUP, "red")
    table = Table(columns={"a": MARKUP}, rows=[{"a": MARKUP}])
    parts = [Box(MARKUP, MARKUP), Box(MARKUP, [MARKUP], "says"), Facts([{MARKUP: MARKUP}]), table, figure, MARKUP]
    page = Page(title=MARKUP, subtitle=MARKUP, parts=parts)
    body, figures = shown(page)
    assert "<b>" not in body
    assert body.count("&lt;/script&gt;&lt;b&gt;&amp;&#39;&#34;") == 13
    assert page.html("plotly.js").count("</script>") == 2  # plotly's and the page's own
    assert figures["f"]["traces"][0]["name"] == MARKUP


def test_what_is_not_finite_is_a_gap():
    figure = Figure("f", "")
    figure.panels([""], "")
    figure.line([(0, 1.0), (1, math.nan), (2, -math.inf)], "", "red")
    _, figures = shown(Page(title="", subtitle="", parts=[figure, Figure("g", "").without("missing")]))
    assert figures["f"]["traces"][0]["y"] == [1.0, None, None]
    assert list(figures) == ["f"]


def test_words_are_left_and_figures_right_in_the_format_of_their_column():
    rows = [{"name": "one", "share": 0.25, "count": 1234}, {"name": "two", "share": None}]
    columns = {"name": "NAME", "share": "SHARE", "count": "COUNT"}
    html = Table(columns=columns, rows=rows, formats={"share": "{:.0%}"}).html()
    heads = re.findall(r"<th( .*?)?>(.*?)</th>", html)
    assert heads == [(' class="text"', "NAME"), ("", "SHARE"), ("", "COUNT")]
    assert re.findall(r"<td.*?>(.*?)</td>", html) == ["one", "25%", "1,234", "two", "-", "-"]


def test_panels_fill_rows_from_the_top_and_plotly_takes_them():
    figure = Figure("f", "")
    figure.panels(["a", "b", "c"], "see", columns=2, x_title="x")
    for panel in range(3):
        figure.line([(0, panel)], "", "red", panel=panel)
    assert [trace["y"] for trace in figure.of_panel(1)] == [[1]]
    assert figure.x(0)["domain"] == figure.x(2)["domain"]
    assert figure.y(0)["domain"][0] > figure.y(2)["domain"][1]
    assert [panel for panel in range(3) if "title" in figure.x(panel)] == [1, 2]  # nothing is below these
    go.Figure({"data": figure.traces, "layout": figure.layout})
