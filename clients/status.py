"""What `status()` returns: the protocol's StatusResponse field by field, under the same names."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum


class GenerationState(StrEnum):
    """Where a generation stands."""

    CANDIDATE = "candidate"
    READY = "ready"
    LIVE = "live"
    PREVIOUS = "previous"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Model:
    """An embedding network at one version. `id` is the hash of its content, `image_size` the side in pixels."""

    id: str
    backbone: str
    dimension: int
    image_size: int
    precision: str
    stages: int


@dataclass(frozen=True)
class CohortRecall:
    """Recall of one cohort's probes now, and when its stage went live (`reference`)."""

    cohort: int
    recall_at_1: float
    probes: int
    reference: float


@dataclass(frozen=True)
class Gate:
    """A measured condition that a candidate must meet before it is served."""

    name: str
    passed: bool
    measured: float
    required: float
    reason: str


@dataclass(frozen=True)
class Generation:
    """A model and an index of the whole gallery. `index_recall` is None when the index is exact; `number` is 0 for a
    model that was rejected before it had a generation."""

    number: int
    model: Model
    state: GenerationState
    created_at: datetime.datetime
    main_entries: int
    delta_entries: int
    tombstones: int
    index: str
    index_recall: float | None
    seq: int
    recall: tuple[CohortRecall, ...]
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class CatalogueStatus:
    """What the catalogue holds; `seq` is the last change."""

    items: int
    categories: int
    images: int
    image_bytes: int
    seq: int


@dataclass(frozen=True)
class Device:
    """What one kind of work runs on; `note` says why a faster one is not used."""

    role: str
    provider: str
    threads: int
    note: str


@dataclass(frozen=True)
class Queue:
    """Jobs waiting, and how many may."""

    name: str
    depth: int
    capacity: int


@dataclass(frozen=True)
class Limits:
    """What a client must keep to; sizes in bytes and pixels."""

    dimension: int
    max_k: int
    max_batch: int
    max_batch_get: int
    max_image_bytes: int
    max_image_pixels: int
    max_message_bytes: int
    max_id_bytes: int
    max_category_bytes: int
    max_metadata_keys: int
    max_metadata_key_bytes: int
    max_metadata_value_bytes: int
    ingest_window: int


@dataclass(frozen=True)
class Program:
    """One program of the three; `pid` is 0 when it does not run."""

    name: str
    pid: int
    activity: str
    restarts: int


@dataclass(frozen=True)
class TrainingStatus:
    """What is being learned. `remaining_s` is 0 when there is no telling; `loss` is that of the last training step."""

    stage: int
    categories: int
    phase: str
    done: int
    total: int
    remaining_s: float
    loss: float | None


@dataclass(frozen=True)
class Status:
    """What the server is doing now. `generation` is None before the first; `training` when nothing is learned."""

    version: str
    started_at: datetime.datetime
    serving: bool
    generation: Generation | None
    catalogue: CatalogueStatus
    devices: tuple[Device, ...]
    queues: tuple[Queue, ...]
    limits: Limits
    programs: tuple[Program, ...]
    training: TrainingStatus | None


@dataclass(frozen=True)
class Event:
    """What happened, in words, and the status after it; "" for the first status, and where a phase has gone on."""

    status: Status
    event: str
