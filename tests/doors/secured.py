"""A broker as a careful operator runs it: TLS, SCRAM passwords, and nothing that is not granted.

The real Apache Kafka with its own `StandardAuthorizer`. Certificates and passwords are made for the
run and are gone with it.
"""

import datetime as dt
import ipaddress
import secrets
import socket
from dataclasses import replace
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.settings import Settings
from streams.local.kafka import EmbeddedKafka

ADMIN = "admin"


class Passwords(dict[str, str]):
    """User names and their passwords, made when first asked for."""

    def __missing__(self, user: str) -> str:
        return self.setdefault(user, secrets.token_urlsafe(18))


class SecuredKafka(EmbeddedKafka):
    """Clients: SASL_SSL with SCRAM-SHA-512. The controller: mutual TLS, so no client gets there.

    Args of the constructor:
        users: Who gets a password before the first start; `ADMIN` always does, and may do anything.
    """

    def __init__(self, folder: Path, *, users: tuple[str, ...] = (), port: int = 0) -> None:
        super().__init__(folder, port=port)
        self.passwords = Passwords()
        for user in (ADMIN, *users):
            self.passwords[user]
        self.ca, self._node = make_certificates(folder)

    def settings(self, settings: Settings, user: str) -> Settings:
        """``settings`` with what ``user`` needs to get in."""
        return replace(
            settings,
            kafka=self.address,
            kafka_security="SASL_SSL",
            kafka_username=user,
            kafka_password=self.passwords[user],
            kafka_ca=str(self.ca),
        )

    def client(self, user: str, **more: object) -> dict[str, object]:
        """Options of a confluent client."""
        return {
            "bootstrap.servers": self.address,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": self.passwords[user],
            "ssl.ca.location": str(self.ca),
            **more,
        }

    def security(self) -> dict[str, object]:
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        return {
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,CONTROLLER:SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.clients.scram-sha-512.sasl.jaas.config": (
                f'{login} username="{ADMIN}" password="{self.passwords[ADMIN]}";'
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._node,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca,
            "listener.name.controller.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:CN=node",
            "allow.everyone.if.no.acl.found": "false",
        }

    def first_users(self) -> list[str]:
        return [
            word
            for user, password in self.passwords.items()
            for word in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
        ]

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return (
                len(AdminClient(self.client(ADMIN, log_level=0)).list_topics(timeout=2).brokers) > 0
            )
        except (KafkaException, OSError):
            return False


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """A certificate authority whose key is thrown away, and the node's key with its certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, authority_key = _certificate("test authority")
    node, node_key = _certificate("node", issuer=authority, issuer_key=authority_key)
    ca, pem = folder.parent / f"{folder.name}-ca.pem", folder.parent / f"{folder.name}-node.pem"
    ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        node_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + node.public_bytes(serialization.Encoding.PEM)
    )
    return ca, pem


def _certificate(
    name: str,
    *,
    issuer: x509.Certificate | None = None,
    issuer_key: ec.EllipticCurvePrivateKey | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return built.sign(issuer_key or key, hashes.SHA256()), key
