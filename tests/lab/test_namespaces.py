"""Nodes in network namespaces: shaped, counted, and gone afterwards whatever happens."""

import signal
import subprocess
import sys
import time

import pytest

from distfa.errors import BenchError
from distfa.lab.links.namespaces import Nodes, obstacle

MBIT, PAYLOAD = 50.0, 4_000_000
WHY_NOT = obstacle()
needs_rights = pytest.mark.skipif(WHY_NOT is not None, reason=f"no network namespaces here: {WHY_NOT}")
RECEIVE = """
import socket, sys, time
with socket.create_server((sys.argv[1], 5000)) as server:
    print("listening", flush=True)
    peer, _ = server.accept()
    first, count = peer.recv(1), 1
    began = time.monotonic()
    while data := peer.recv(65536):
        count += len(data)
    print(count, time.monotonic() - began)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000)) as out:
    out.sendall(bytes(int(sys.argv[2])))
"""


def leftovers(name):
    """Namespaces and links whose names begin so."""
    listed = [["ip", "netns"], ["ip", "-br", "link"]]
    return [
        line
        for command in listed
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        if line.startswith(name)
    ]


@needs_rights
def test_a_link_is_no_faster_than_its_rate_and_every_byte_is_counted():
    with Nodes(2, megabits_per_second=MBIT) as nodes:
        receive = [*nodes.command(1), sys.executable, "-c", RECEIVE, nodes.address(1)]
        receiver = subprocess.Popen(receive, stdout=subprocess.PIPE, text=True)
        assert receiver.stdout.readline() == "listening\n"
        before = nodes.sent_bytes()
        send = [*nodes.command(2), sys.executable, "-c", SEND, nodes.address(1), str(PAYLOAD)]
        subprocess.run(send, check=True, timeout=60)
        count, seconds = receiver.communicate(timeout=60)[0].split()
        sent = {node: total - before[node] for node, total in nodes.sent_bytes().items()}
    assert int(count) == PAYLOAD
    assert PAYLOAD * 8e-6 / float(seconds) <= 1.3 * MBIT
    headers = PAYLOAD / 1448 * 66  # Ethernet 14, IP 20, TCP 32 to every full segment
    assert PAYLOAD + 0.9 * headers < sent[2] < 1.1 * PAYLOAD
    assert sent[1] < 0.1 * PAYLOAD
    assert leftovers(nodes.name) == []


@needs_rights
def test_what_runs_on_a_node_ends_with_it_on_errors_too():
    with pytest.raises(RuntimeError, match="oops"), Nodes(1) as nodes:
        sleeper = subprocess.Popen([*nodes.command(1), "sleep", "600"])
        while not subprocess.run(["ip", "netns", "pids", nodes.command(1)[-1]], capture_output=True).stdout:
            time.sleep(0.01)
        raise RuntimeError("oops")
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
    assert leftovers(nodes.name) == []


@needs_rights
def test_ctrl_c_leaves_nothing():
    code = (
        "import time; from distfa.lab.links.namespaces import Nodes\n"
        "with Nodes(3, megabits_per_second=10.0) as nodes:\n    print(nodes.name, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    assert len(leftovers(name)) == 7  # three namespaces, three links, the bridge
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert leftovers(name) == []


def test_a_machine_without_the_tools_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "cannot run 'ip'" in obstacle()
    assert "need Linux with iproute2" in obstacle()


def test_numbers_out_of_range_are_refused():
    with pytest.raises(BenchError, match="251 nodes are requested; 1 to 250"):
        Nodes(251)
    with pytest.raises(BenchError, match=r"rate is 0\.0 Mbit/s; it must be above 0"):
        Nodes(2, megabits_per_second=0.0)
