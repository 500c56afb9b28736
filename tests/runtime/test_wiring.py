"""Where layers listen, what is told to the others, and when TLS is on."""

import pytest

from distfa.errors import ClusterError
from distfa.runtime.wiring import wire_up

ONE = [("a", "10.0.0.1"), ("a", "10.0.0.1")]
TWO = [("a", "10.0.0.1"), ("b", "10.0.0.2")]
V6 = [("a", "fd00::1"), ("b", "fd00::2")]


@pytest.mark.parametrize(
    ("host", "places", "security", "hosts", "advertised"),
    [
        ("", ONE, "insecure", ("127.0.0.1",) * 2, ("127.0.0.1",) * 2),
        ("localhost", ONE, "insecure", ("localhost",) * 2, ("localhost",) * 2),
        ("", TWO, "tls", ("10.0.0.1", "10.0.0.2"), ("10.0.0.1", "10.0.0.2")),
        ("", V6, "tls", ("fd00::1", "fd00::2"), ("fd00::1", "fd00::2")),
        ("10.0.0.1", ONE, "tls", ("10.0.0.1",) * 2, ("10.0.0.1",) * 2),
        ("0.0.0.0", ONE, "tls", ("0.0.0.0",) * 2, ("10.0.0.1",) * 2),
        ("0.0.0.0", TWO, "tls", ("0.0.0.0",) * 2, ("10.0.0.1", "10.0.0.2")),
        ("::", V6, "tls", ("::",) * 2, ("fd00::1", "fd00::2")),
    ],
)
def test_whatever_others_can_reach_is_under_tls_and_has_an_address(host, places, security, hosts, advertised):
    wiring = wire_up(host, "auto", places)
    assert (wiring.security, wiring.hosts, wiring.advertised) == (security, hosts, advertised)
    assert wire_up(host, "tls", places).security == "tls"
    assert wire_up(host, "insecure", places).security == "insecure"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "localhost"])
def test_one_address_for_several_nodes_is_refused(host):
    with pytest.raises(
        ClusterError, match=rf"wire.host is '{host}', but the layers are on 2 nodes \(10.0.0.1, 10.0.0.2\)"
    ):
        wire_up(host, "auto", TWO)
