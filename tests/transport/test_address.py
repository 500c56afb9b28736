"""Hosts and ports: brackets, whose an address is, ranges, and who holds a port."""

import os
import socket

import pytest

from distfa.transport.address import holders, is_here, is_loopback, is_wildcard, join_address, port_range, split_address


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7"), ("[fe80::1]", "[fe80::1]:7"), ("node-a", "node-a:7")],
)
def test_host_and_port_are_joined_and_split_again(host, address):
    assert join_address(host, 7) == address
    assert split_address(address) == (host.strip("[]"), 7)


@pytest.mark.parametrize("address", ["", "node", "node:", ":7", "[]:7", "node:x", "node:70000"])
def test_what_is_no_host_and_port_is_refused(address):
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)


def test_a_bare_ipv6_address_is_told_from_host_and_port():
    with pytest.raises(ValueError, match=r"write it in brackets, like \[fe80::1\]:7"):
        split_address("fe80::1:7")


def test_hosts_are_told_apart():
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "[::]", "127.0.0.1", "node")] == [1, 1, 1, 0, 0]
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "node", "fe80::1")] == [False] * 5
    assert is_here("127.0.0.1")
    assert is_here("localhost")
    assert not is_here("192.0.2.77")
    assert not is_here("no-such-host.invalid")


def test_ranges_of_ports():
    assert port_range("") is None
    assert port_range("20000-20100") == range(20000, 20101)
    assert port_range("20000 - 20001") == range(20000, 20002)
    assert port_range("443") == range(443, 444)


@pytest.mark.parametrize("text", ["0", "5-4", "1-65536", "a-b", "1-2-3", "-5", "5-"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="is not a range of ports such as 20000-20100"):
        port_range(text)


def test_the_holder_of_a_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert holders(range(port, port + 1)).endswith(f"(pid {os.getpid()})")
    assert holders(range(port, port + 1)) == "the system does not say by which process"
