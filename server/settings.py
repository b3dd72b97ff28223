"""What an operator can set for `everlook serve`: by flag (`--max-batch 8`) or environment (`EVERLOOK_MAX_BATCH=8`)."""

from __future__ import annotations

import importlib.util
import os
import shlex
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from indexer.gates import RecallLimits
from indexer.probe_recall import MOST_PROBES
from server.watching.limits import WatchLimits

_RECALL = RecallLimits()
_WATCH = WatchLimits()


class Settings(BaseSettings):
    """The Everlook server. Flags win over the environment (EVERLOOK_PORT=...), the environment over the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="EVERLOOK_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_prog_name="everlook serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
    )

    data: Path = Path("everlook-data")
    """Data directory: catalogue, models, generations."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(50051, ge=0, le=65535)
    """gRPC port; 0 takes a free one."""
    metrics_host: str | None = None
    """Address of the Prometheus page, which anyone who reaches it may read; unset is that of --host."""
    metrics_port: int = Field(9464, ge=0, le=65535)
    """Port of the Prometheus page; 0 takes a free one."""
    tls_cert: Path | None = None
    """The server's certificate chain (PEM), which turns TLS on; together with --tls-key."""
    tls_key: Path | None = None
    """The private key of that certificate (PEM)."""
    tls_client_ca: Path | None = None
    """Certificate authorities (PEM) of which a client must show a certificate: mutual TLS."""
    database_url: str | None = None
    """SQLAlchemy URL of the catalogue; unset is SQLite in the data directory."""

    threads: int = Field(os.cpu_count() or 1, ge=1)
    """Worker threads, each decoding, encoding and searching a batch by itself."""
    max_batch: int = Field(8, ge=1, le=256)
    """Queries encoded together: more is better throughput on a GPU, and slower to answer."""
    max_ingest_batch: int = Field(8, ge=1, le=256)
    """Ingested photos encoded together."""
    query_queue: int = Field(128, ge=1)
    """Queries that may wait; one more is refused."""
    query_queue_bytes: int = Field(256 << 20, ge=1 << 20)
    """Photo bytes of the queries that may wait."""
    ingest_queue: int = Field(256, ge=1)
    """Writes under way over all callers: beyond it streams wait and single calls are refused."""
    ingest_queue_bytes: int = Field(256 << 20, ge=1 << 20)
    """Photo bytes of the writes under way over all callers."""
    ingest_window: int = Field(64, ge=1)
    """Unacknowledged items of one ingest stream before the server stops reading it."""
    ingest_patience_s: float = Field(0.1, gt=0)
    """Seconds without a turn after which waiting writes get one before waiting queries."""

    max_image_bytes: int = Field(20 << 20, ge=1024)
    """Largest photo file, in bytes."""
    max_image_pixels: int = Field(64_000_000, ge=1)
    """Largest photo, width times height."""
    max_message_bytes: int = Field(32 << 20, ge=1 << 20)
    """Largest gRPC message, in bytes."""
    max_concurrent_calls: int = Field(1024, ge=1)
    """Calls open at once, streams too; gRPC itself refuses one more, without a reason, a hint or a count: keep it well
    above what may wait in the queues and --threads times --max-batch."""

    merge_min_entries: int = Field(1024, ge=1)
    """Entries in the delta, or tombstones, below which the index is not merged."""
    merge_ratio: float = Field(0.1, gt=0, le=10)
    """Delta or tombstones, as a share of the main segment, that start a merge."""
    keep_generations: int = Field(2, ge=1)
    """Generations kept to go back to, the live one included: the newest of each model that was live."""

    hold: bool = False
    """Let a candidate that has passed its gates wait for a person's Promote, instead of making it live."""
    most_drop: float = Field(_RECALL.most_drop, ge=0, le=1)
    """Share of probes by which an old cohort's Recall@1 may fall below the live model's when a candidate goes live."""
    floor: float = Field(_RECALL.floor, ge=0, le=1)
    """Recall@1 below which no cohort of a candidate may be."""
    supervise: bool = True
    """Run the trainer, where torch is installed, and the indexer, and start them again when they die."""
    trainer_args: str = ""
    """Further arguments of the trainer that is run, in one text: --trainer-args='--min-categories 5'."""
    indexer_args: str = ""
    """Further arguments of the indexer that is run, in one text."""

    recall_every_s: float = Field(300.0, ge=0)
    """Seconds between two measurements of probe recall; 0 measures after the start and after swaps only."""
    recall_probes: int = Field(MOST_PROBES, ge=1, le=10_000)
    """Probes of each cohort that are searched; where there are more, always the same ones."""
    watch_share: float = Field(_WATCH.share, ge=0, le=1)
    """Share of the live searches that are repeated exactly and compared with earlier ones; 0 watches none."""
    drift_reference: int = Field(_WATCH.reference, ge=16, le=2048)
    """Watched queries, of the first after a model went live, that later ones are compared with."""
    drift_reference_s: float = Field(_WATCH.reference_s, ge=0)
    """Seconds over which they are drawn, at the least; they are as many as they are to be however long that takes."""
    drift_window: int = Field(_WATCH.window, ge=16, le=1024)
    """Watched queries that are compared with them together."""
    drift_alpha: float = Field(_WATCH.alpha, gt=0.001, lt=1)
    """p-value below which a window counts as drifted: about the share of windows that are false alarms."""

    drain_s: float = Field(10.0, ge=0)
    """Seconds that calls under way get to finish when the server stops."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged: at info every call that failed, at debug every call."""
    log_format: Literal["pretty", "json"] = "pretty"
    """Lines for people, or a JSON object for each entry."""
    otlp_endpoint: str | None = Field(None, pattern="^https?://.+")
    """URL of an OpenTelemetry collector (gRPC) that takes traces, such as http://127.0.0.1:4317; unset makes none."""

    @property
    def metrics_address(self) -> str:
        """Where the Prometheus page listens."""
        return self.metrics_host or self.host

    @field_validator("trainer_args", "indexer_args")
    @classmethod
    def _are_words(cls, text: str) -> str:
        shlex.split(text)  # ValueError for a quote that nothing closes
        return text

    @field_validator("otlp_endpoint")
    @classmethod
    def _can_be_reached(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not _installed("opentelemetry.exporter.otlp.proto.grpc"):
            raise ValueError("traces need the extra: pip install 'everlook[otel]'")
        return endpoint

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False
