"""How a client reaches its server: address, encryption, token, and the channel's options. Shared by both clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import grpc

from clients.errors import InvalidRequest

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 32 << 20  # the server's own default: the largest photo, and room for the rest of its message

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A call is tried again within seconds. The channel's own pause between attempts to connect has to keep up with
    # that, or a server that came back would look dead for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Repeating calls is the client's own work. A channel that repeats one by itself (a stream that reached a server as
    # it stopped, and was not seen by it) loses that call's reads when it then cannot connect: they never end, whatever
    # the deadline (grpcio 1.85).
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class Tls:
    """Encryption: PEM bytes of the authorities to trust (None: the system's), and for mutual TLS the client's own."""

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


@dataclass(frozen=True)
class Connection:
    """Where the server is, and what is shown to it.

    Errors: InvalidRequest for a token that would cross a network unencrypted.
    """

    target: str = DEFAULT_TARGET
    tls: Tls | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token and self.tls is None and not _stays_on_this_machine(self.target):
            raise InvalidRequest(
                "a token is not sent over an unencrypted connection",
                field="token",
                got=f"no tls, target {self.target}",
                expected="tls, or a target on this machine",
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def _stays_on_this_machine(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
