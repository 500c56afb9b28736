"""Under TLS a layer answers holders of a certificate of its own run, and no one else."""

import contextlib
import time

import grpc
import pytest
import wires
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from wires import RUN, UP

from distfa.errors import DeadlineExceeded, MessageRefused, TransportError
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import SERVICE, GrpcTransport, peer_name
from distfa.transport.tls import Authority, KeyPair

OURS = Authority(RUN)


@pytest.fixture
def transport():
    """Makes transports and closes them."""
    with contextlib.ExitStack() as stack:

        def make(layer, credentials):
            made = GrpcTransport(WireConfig(), run_id=RUN, worker=layer, credentials=credentials)
            stack.callback(made.close)
            return made

        yield make


def ask(address, channel_credentials, server_name):
    """What the health service answers."""
    options = [("grpc.ssl_target_name_override", server_name)]
    with grpc.secure_channel(address, channel_credentials, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=2).status


def test_a_layer_answers_its_run_and_no_client_without_a_certificate_or_with_a_foreign_one(transport):
    mine, foreign = wires.issue(OURS, 2), wires.issue(Authority(RUN), 2)  # same name, other key
    address = transport(3, wires.issue(OURS, 3)).listen([])
    with_certificate = grpc.ssl_channel_credentials(mine.authority, mine.key, mine.certificate)
    assert ask(address, with_certificate, peer_name(3)) == health_pb2.HealthCheckResponse.SERVING
    for stranger in (
        grpc.ssl_channel_credentials(mine.authority),
        grpc.ssl_channel_credentials(mine.authority, foreign.key, foreign.certificate),
    ):
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
            ask(address, stranger, peer_name(3))


def signed_by(layer):
    """(key, chain) of a certificate that a layer's own key has signed, as only an authority may."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(layer.certificate)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "layer 9")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(serialization.load_pem_private_key(layer.key, None), hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(pem) + layer.certificate,
    )


def test_a_layers_key_signs_no_certificates(transport):
    layer = wires.issue(OURS, 2)
    address = transport(3, wires.issue(OURS, 3)).listen([])
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
        ask(address, grpc.ssl_channel_credentials(layer.authority, *signed_by(layer)), peer_name(3))


@pytest.mark.parametrize(
    ("client", "server"),
    [(Authority(RUN), OURS), (None, OURS), (OURS, None)],
    ids=["another authority of the same name", "plain text to TLS", "TLS to plain text"],
)
def test_layers_that_do_not_share_an_authority_never_connect(transport, client, server):
    box = wires.inbox()
    address = transport(3, server and wires.issue(server, 3)).listen([box])
    with pytest.raises(DeadlineExceeded, match=f"layer 2 could not reach layer 3 at {address}"):
        transport(2, client and wires.issue(client, 2)).connect(UP, address, 0.7)
    # The same server takes its own: what failed was the certificate, not the address.
    sender = transport(2, server and wires.issue(server, 2)).connect(UP, address, 10.0)
    sender.send(serde.message_to_bytes(wires.message(step=1)), 10.0)
    assert box.take(10.0, "signal").identity.step == 1


def test_every_layer_has_a_key_of_its_own_and_one_authority():
    one, two = wires.issue(OURS, 1), wires.issue(OURS, 2)
    assert one.authority == two.authority != wires.issue(Authority(RUN), 1).authority
    assert one.key != two.key
    assert one.certificate != two.certificate


def test_a_long_run_id_still_makes_certificates():
    """A common name ends at 64 characters (RFC 5280, ub-common-name)."""
    assert wires.issue(Authority("r" * 200), 9).certificate.startswith(b"-----BEGIN CERTIFICATE-----")


def test_nothing_that_travels_holds_a_private_key():
    keys = KeyPair()
    request = keys.request(2)
    signed = OURS.sign(request, 2)
    secret = keys.credentials(signed).key
    assert b"PRIVATE" in secret
    for text in (request, signed.certificate, signed.authority):
        assert b"PRIVATE" not in text
        assert secret not in text
    assert "PRIVATE" not in repr(keys.credentials(signed))


def test_the_authority_names_the_layer_whatever_the_request_says():
    signed = OURS.sign(KeyPair().request(1), 2)
    certificate = x509.load_pem_x509_certificate(signed.certificate)
    assert certificate.subject.rfc4514_string() == "CN=worker-2.distfa"


def altered(request):
    """A request in which one byte of the key is another."""
    parsed = x509.load_pem_x509_csr(request).public_bytes(serialization.Encoding.DER)
    point = x509.load_pem_x509_csr(KeyPair().request(1)).public_key().public_numbers()
    mine = x509.load_pem_x509_csr(request).public_key().public_numbers()
    other = parsed.replace(
        mine.x.to_bytes(32, "big") + mine.y.to_bytes(32, "big"),
        point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big"),
    )
    return x509.load_der_x509_csr(other).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (altered, "worker 1 asks for a certificate for a key that is not its own"),
        (lambda request: b"no request", "worker 1 sent no certificate signing request"),
        (lambda request: request[:-100], "worker 1 sent no certificate signing request"),
    ],
    ids=["another's key", "no request", "torn"],
)
def test_a_request_that_does_not_hold_together_is_refused(spoil, message):
    with pytest.raises(TransportError, match=message):
        OURS.sign(spoil(KeyPair().request(1)), 1)


def test_a_layer_cannot_pass_for_another_layer_of_its_run(transport):
    """Its certificate is the run's, but not the sender's of that stream."""
    box = wires.inbox()
    address = transport(3, wires.issue(OURS, 3)).listen([box])
    stream = transport(4, wires.issue(OURS, 4)).connect(UP, address, 10.0)
    with pytest.raises(MessageRefused, match="layer 3 accepts stream up-2 only from layer 2"):
        for _ in range(100):
            stream.send(serde.message_to_bytes(wires.message(step=1)), 10.0)
            time.sleep(0.05)
    with pytest.raises(DeadlineExceeded, match="layer 2 could not reach layer 3"):
        transport(2, wires.issue(OURS, 2)).connect(UP, transport(4, wires.issue(OURS, 4)).listen([]), 0.7)
