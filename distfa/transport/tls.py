"""Certificates for one run: a key is made where it is used, and never travels.

    worker w                                   the run's authority, with the coordinator
    KeyPair()             --- request(w) --->  sign(request, w)
    credentials(signed)   <----- Signed -----

A worker talks only to workers with a certificate of the same run, and knows by its name which worker the other one is.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from distfa.errors import TransportError
from distfa.transport.grpc_transport import Credentials, peer_name

_LIFETIME = datetime.timedelta(days=30)
_CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """The authority's answer, as PEM texts; none of it is secret.

    Attributes:
        certificate: The certificate for the worker that asked.
        authority: The certificate of the run's authority, with which a worker checks the others.
    """

    certificate: bytes
    authority: bytes


class KeyPair:
    """A worker's own key, which stays in the process that made it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def request(self, worker: int) -> bytes:
        """A certificate signing request, as PEM text."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(_name(peer_name(worker)))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def credentials(self, signed: Signed) -> Credentials:
        """The credentials that this worker's transport presents, and those it trusts."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Credentials(key=key, certificate=signed.certificate, authority=signed.authority)


class Authority:
    """Signs the certificates of one run.

    Args:
        run_id: Named in every certificate.
    """

    def __init__(self, run_id: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"distfa run {run_id}")
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def sign(self, request: bytes, worker: int) -> Signed:
        """A certificate for both ends of a stream, under the name of ``worker``, whatever the request says.

        Args:
            request: PEM text of a certificate signing request.
            worker: The worker that asked; the caller knows which.

        Raises:
            TransportError: It is not a request, or its sender does not have the key that it names.
        """
        key = _requested_key(request, worker)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(_name(peer_name(worker)), self._name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(peer_name(worker))]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Signed(
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            authority=self._certificate.public_bytes(serialization.Encoding.PEM),
        )


def _requested_key(request: bytes, worker: int) -> ec.EllipticCurvePublicKey:
    """The key that a request asks a certificate for, after its sender has shown that it has the private half."""
    try:
        parsed = x509.load_pem_x509_csr(request)
        held, key = parsed.is_signature_valid, parsed.public_key()
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as exc:
        raise TransportError(
            f"worker {worker} sent no certificate signing request ({exc}); start the run again"
        ) from exc
    if not held or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TransportError(
            f"worker {worker} asks for a certificate for a key that is not its own, or not of P-256; it was altered "
            "in transit: check that node"
        )
    return key


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )
