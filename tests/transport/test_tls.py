"""Under TLS a layer answers holders of a certificate of its own run, and no one else."""

import contextlib

import grpc
import pytest
import wires
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from wires import RUN, UP

from distfa.errors import DeadlineExceeded
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import SERVICE, GrpcTransport
from distfa.transport.tls import Authority

OURS = Authority(RUN)


@pytest.fixture
def transport():
    """Makes transports and closes them."""
    with contextlib.ExitStack() as stack:

        def make(layer, credentials):
            made = GrpcTransport(WireConfig(), run_id=RUN, layer=layer, credentials=credentials)
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
    mine, foreign = OURS.issue("layer 2"), Authority(RUN).issue("layer 2")  # same name, other key
    address = transport(3, OURS.issue("layer 3")).listen([])
    with_certificate = grpc.ssl_channel_credentials(mine.authority, mine.key, mine.certificate)
    assert ask(address, with_certificate, mine.server_name) == health_pb2.HealthCheckResponse.SERVING
    for stranger in (
        grpc.ssl_channel_credentials(mine.authority),
        grpc.ssl_channel_credentials(mine.authority, foreign.key, foreign.certificate),
    ):
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
            ask(address, stranger, mine.server_name)


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
    layer = OURS.issue("layer 2")
    address = transport(3, OURS.issue("layer 3")).listen([])
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
        ask(address, grpc.ssl_channel_credentials(layer.authority, *signed_by(layer)), layer.server_name)


@pytest.mark.parametrize(
    ("client", "server"),
    [(Authority(RUN), OURS), (None, OURS), (OURS, None)],
    ids=["another authority of the same name", "plain text to TLS", "TLS to plain text"],
)
def test_layers_that_do_not_share_an_authority_never_connect(transport, client, server):
    box = wires.inbox()
    address = transport(3, server and server.issue("layer 3")).listen([box])
    with pytest.raises(DeadlineExceeded, match=f"layer 2 could not reach layer 3 at {address}"):
        transport(2, client and client.issue("layer 2")).connect(UP, address, 0.7)
    # The same server takes its own: what failed was the certificate, not the address.
    sender = transport(2, server and server.issue("layer 2")).connect(UP, address, 10.0)
    sender.send(serde.dump(wires.message(step=1)), 10.0)
    assert box.take(10.0, "signal").identity.step == 1


def test_every_layer_has_a_key_of_its_own_and_one_authority():
    one, two = OURS.issue("layer 1"), OURS.issue("layer 2")
    assert one.authority == two.authority != Authority(RUN).issue("layer 1").authority
    assert one.key != two.key
    assert one.certificate != two.certificate


def test_a_long_run_id_still_makes_certificates():
    """A common name ends at 64 characters (RFC 5280, ub-common-name)."""
    assert Authority("r" * 200).issue("layer " + "9" * 200).certificate.startswith(b"-----BEGIN CERTIFICATE-----")
