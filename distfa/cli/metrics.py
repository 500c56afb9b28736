"""``distfa metrics``: the figures of runs for Prometheus."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distfa.errors import DistfaError, UsageError
from distfa.text.lines import say

if TYPE_CHECKING:
    from distfa.report.latest import Latest


def metrics(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR|FOLDER ...", help="Run directories, or folders of some.")
    ],
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve them over HTTP at this port; if not given, print them once."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve them at.")] = "127.0.0.1",
) -> None:
    """Give the figures of runs in Prometheus' text format: loss, accuracy, alignment, law, recoveries, last checkpoint,
    samples per second, bytes of each boundary.

    It only reads run directories, so it works for every engine and from any machine that can see them. With --port it
    serves them until Ctrl-C, and finds runs that begin in the meantime.
    """
    exporter = _Exporter(paths)
    if port is None:
        typer.echo(exporter.read(), nl=False)
        return
    try:
        server = HTTPServer((host, port), exporter.handler())
    except OSError as exc:
        raise UsageError(f"cannot listen at {host}:{port}: {exc.strerror or exc}; choose another --port") from exc
    say(f"serving http://{host}:{server.server_port}/metrics")
    server.serve_forever()


class _Exporter:
    """Reads runs, each time only what is new."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths, self._runs = paths, dict[Path, "Latest"]()

    def read(self) -> str:
        from distfa.report.latest import Latest
        from distfa.report.prometheus import exposition, find_runs

        before, self._runs = self._runs, {}
        for path in find_runs(self._paths):
            if path in before:
                before[path].look()
            self._runs[path] = before.get(path) or Latest(path)
        return exposition(self._runs.values())

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Answers every request with what the runs say now."""
        read = self.read

        class Handler(BaseHTTPRequestHandler):
            """Answers with the metrics, or with why there are none."""

            def do_GET(self) -> None:
                try:
                    code, text = 200, read()
                except DistfaError as exc:
                    code, text = 503, f"{exc}\n"
                body = text.encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: Prometheus asks several times a minute."""

        return Handler
