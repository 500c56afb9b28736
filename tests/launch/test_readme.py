"""The README's commands for two nodes, run as they are written, with the first node's address in place of FIRST."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from needs import needs

from distfa.lab.links.namespaces import Nodes, obstacle

ROOT = Path(__file__).parents[2]
pytestmark = [
    needs("network namespaces", obstacle(), else_untested="the README's two nodes"),
    pytest.mark.slow,
    pytest.mark.timeout(420),
]
APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]


class Shell:
    """A shell on a node with processes and a /tmp of its own; no token of Ray's, as on a clean machine."""

    def __init__(self, nodes, node, log):
        self.log = log
        own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*nodes.command(node), *APART, "mount -t tmpfs none /tmp && cd /tmp && exec sh"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={
                    **own,
                    "PATH": f"{Path(sys.executable).parent}:{own['PATH']}",
                    "PYTHONPATH": str(ROOT),
                    "HOME": "/tmp",
                },
                start_new_session=True,
                text=True,
            )

    def run(self, command, seconds=150):
        """Type a command; what it printed, and its exit code."""
        before = len(self.log.read_text())
        self.process.stdin.write(f"{command}\necho ENDED $?\n")
        self.process.stdin.flush()
        give_up = time.monotonic() + seconds
        while not (found := re.search(r"^ENDED (\d+)$", (said := self.log.read_text()[before:]), flags=re.M)):
            assert time.monotonic() < give_up, said
            assert self.process.poll() is None, said
            time.sleep(0.2)
        return said, int(found[1])


def test_the_three_commands_start_two_nodes_and_train_on_both(tmp_path):
    block = re.search(r"^Two nodes:\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text(), flags=re.M)[1]
    with Nodes(2) as nodes:
        commands = [line.strip().replace("FIRST", nodes.address(1)) for line in block.splitlines()]
        assert len(commands) == 3
        shells = [Shell(nodes, node, tmp_path / f"{node}.log") for node in (1, 2)]
        try:
            for shell, command in zip((*shells, shells[1]), commands, strict=True):
                said, code = shell.run(command)
                assert code == 0, said
            assert "2 nodes are up" in said
            assert "test accuracy" in said
            said, _ = shells[1].run("cat runs/*/run.json")
            assert nodes.address(1) in said
            assert nodes.address(2) in said
            assert '"security": "tls"' in said
        finally:
            for shell in shells:
                shell.process.kill()
                shell.process.wait()
