"""A server over real gRPC that keeps its items in a dict, and fails as it is told."""

# ruff: noqa: N802 - the protocol names the methods

from __future__ import annotations

import hashlib
import io
import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from types import TracebackType
from typing import Any, Never, Self, TypeVar

import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from PIL import Image, UnidentifiedImageError

from everlook.v1 import everlook_pb2 as pb
from everlook.v1 import everlook_pb2_grpc as pb_grpc

T = TypeVar("T")
MODEL = "fa4e" * 16
MAX_BATCH_GET = 100

_REASONS = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_FIELD",
    grpc.StatusCode.NOT_FOUND: "ITEM_NOT_FOUND",
    grpc.StatusCode.FAILED_PRECONDITION: "MODEL_MISMATCH",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "QUEUE_FULL",
    grpc.StatusCode.UNAVAILABLE: "NOT_SERVING",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.DATA_LOSS: "DATA_DAMAGED",
    grpc.StatusCode.UNIMPLEMENTED: "UNIMPLEMENTED",
    grpc.StatusCode.INTERNAL: "INTERNAL",
}


class Failure(Exception):
    """An error of the protocol, with the details that the real server sends."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str = "told to fail",
        *,
        reason: str = "",
        field: str = "",
        got: str = "",
        expected: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason or _REASONS.get(code, "")
        self.field, self.got, self.expected, self.retry_after_s = field, got, expected, retry_after_s

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        facts = {"got": self.got, "expected": self.expected}
        details: list[Any] = [error_details_pb2.ErrorInfo(reason=self.reason, domain="everlook", metadata=facts)]
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.code is grpc.StatusCode.NOT_FOUND:
            details.append(error_details_pb2.ResourceInfo(resource_type="everlook.v1.Item", resource_name=self.got))
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_after_s * 1000))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)

    def in_band(self) -> pb.Error:
        return pb.Error(
            code=self.code.value[0],
            message=self.message,
            reason=pb.ErrorReason.Value(f"ERROR_REASON_{self.reason}"),
            field=self.field,
            got=self.got,
            expected=self.expected,
            retry_after_s=self.retry_after_s,
        )


class FakeServer(pb_grpc.SearchServicer, pb_grpc.CatalogServicer, pb_grpc.AdminServicer):
    """`with FakeServer() as server: Client(server.target)`.

    fail(method, ...): the next calls of that method fail, in that order, and change nothing.
    fail_after(method, ...): the same, after the work was done.
    refuse(id, ...): the next writes of that id in an ingest stream are answered with that error.
    cut_after: breaks the ingest stream once it has acknowledged so many items; one number for each stream.
    gate: while it is cleared, nothing of an ingest stream is acknowledged.
    generations: newest first; Promote and Rollback move which is live. training: the stage that is being learned.
    history: what was measured. confusions: what is found worst; None: nothing has been measured.
    tell(event, ...): the next message of every watch that is open. hang_up(): ends every watch, as a stop does.
    """

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.items: dict[str, pb.StoredItem] = {}
        self.images: dict[str, bytes] = {}
        self.vectors: dict[str, np.ndarray[Any, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.metadata: dict[str, str] = {}
        self.received: list[str] = []
        self.cut_after: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.serving = True
        self.generations = [fake_generation(1, pb.GENERATION_STATE_LIVE)]
        self.training: pb.TrainingStatus | None = None
        self.history = pb.GetRecallHistoryResponse()
        self.confusions: pb.ListConfusionsResponse | None = None
        self.asked_for: list[list[str]] = []
        self._watches: list[queue.SimpleQueue[str | None]] = []
        self._failures: dict[str, list[Failure]] = defaultdict(list)
        self._late: dict[str, list[Failure]] = defaultdict(list)
        self._refusals: dict[str, list[Failure]] = defaultdict(list)
        self._seq = 0
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_SearchServicer_to_server(self, self._server)
        pb_grpc.add_CatalogServicer_to_server(self, self._server)
        pb_grpc.add_AdminServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials is not None
            else self._server.add_insecure_port(address)
        )
        self.target = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self.hang_up()
        self._server.stop(0).wait()

    def fail(self, method: str, *failures: Failure) -> None:
        self._failures[method] += failures

    def fail_after(self, method: str, *failures: Failure) -> None:
        self._late[method] += failures

    def tell(self, event: str) -> None:
        for watch in self._watches:
            watch.put(event)

    def hang_up(self) -> None:
        for watch in self._watches:
            watch.put(None)

    @property
    def watched(self) -> int:
        """Watches that have been opened."""
        return len(self._watches)

    def refuse(self, item_id: str, *failures: Failure) -> None:
        self._refusals[item_id] += failures

    # ---- Search

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        return self._answer("Search", context, lambda: self._search(request))

    def BatchSearch(self, request: pb.BatchSearchRequest, context: grpc.ServicerContext) -> pb.BatchSearchResponse:
        def work() -> pb.BatchSearchResponse:
            response = pb.BatchSearchResponse()
            for one in request.requests:
                try:
                    response.results.add(response=self._search(one))
                except Failure as failure:
                    response.results.add(error=failure.in_band())
            return response

        return self._answer("BatchSearch", context, work)

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        def work() -> pb.EmbedResponse:
            values = embed(request.image)[0].tolist()
            return pb.EmbedResponse(vector=pb.Vector(values=values, model=MODEL), generation=self._generation())

        return self._answer("Embed", context, work)

    # ---- Catalog

    def Ingest(
        self, request_iterator: Iterator[pb.IngestRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.IngestResponse]:
        self._check("Ingest", context)
        cut = self.cut_after.pop(0) if self.cut_after else None
        for done, request in enumerate(request_iterator):
            self.received.append(request.item.id)
            self.gate.wait(30)
            if done == cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            try:
                if self._refusals[request.item.id]:
                    raise self._refusals[request.item.id].pop(0)
                yield pb.IngestResponse(id=request.item.id, acknowledged=self._put(request.item, request.image))
            except Failure as failure:
                yield pb.IngestResponse(id=request.item.id, error=failure.in_band())

    def Put(self, request: pb.PutRequest, context: grpc.ServicerContext) -> pb.PutResponse:
        return self._answer("Put", context, lambda: self._put(request.item, request.image))

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.DeleteResponse:
        def work() -> pb.DeleteResponse:
            self._known(request.id)
            del self.items[request.id], self.images[request.id], self.vectors[request.id]
            return pb.DeleteResponse(seq=self._next_seq())

        return self._answer("Delete", context, work)

    def Get(self, request: pb.GetRequest, context: grpc.ServicerContext) -> pb.GetResponse:
        return self._answer("Get", context, lambda: pb.GetResponse(item=self._known(request.id)))

    def BatchGet(self, request: pb.BatchGetRequest, context: grpc.ServicerContext) -> pb.BatchGetResponse:
        def work() -> pb.BatchGetResponse:
            if len(request.ids) > MAX_BATCH_GET:
                raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "too many ids", field="ids")
            return pb.BatchGetResponse(items=[self.items[i] for i in request.ids if i in self.items])

        return self._answer("BatchGet", context, work)

    def GetImage(self, request: pb.GetImageRequest, context: grpc.ServicerContext) -> pb.GetImageResponse:
        def work() -> pb.GetImageResponse:
            item = self._known(request.id)
            media_type = f"image/{item.format.lower()}"
            return pb.GetImageResponse(image=self.images[item.item.id], media_type=media_type, sha256=item.image_sha256)

        return self._answer("GetImage", context, work)

    def ListCategories(
        self, request: pb.ListCategoriesRequest, context: grpc.ServicerContext
    ) -> pb.ListCategoriesResponse:
        def work() -> pb.ListCategoriesResponse:
            counts = sorted(Counter(item.item.category for item in self.items.values()).items())
            start, size = int(request.page_token or 0), request.page_size or 2
            page = [
                pb.Category(name=name, items=count, state=pb.CATEGORY_STATE_NEW)
                for name, count in counts[start : start + size]
            ]
            token = str(start + size) if start + size < len(counts) else ""
            return pb.ListCategoriesResponse(categories=page, next_page_token=token, total=len(counts))

        return self._answer("ListCategories", context, work)

    # ---- Admin

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        return self._answer("Status", context, self._status)

    def WatchStatus(
        self, request: pb.WatchStatusRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchStatusResponse]:
        self._check("WatchStatus", context)
        events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        context.add_callback(lambda: events.put(None))
        yield pb.WatchStatusResponse(status=self._status())
        self._watches.append(events)
        while (event := events.get()) is not None:
            yield pb.WatchStatusResponse(status=self._status(), event=event)
        self._abort(context, Failure(grpc.StatusCode.UNAVAILABLE, "the server is stopping"))

    def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: grpc.ServicerContext
    ) -> pb.ListGenerationsResponse:
        return self._answer(
            "ListGenerations", context, lambda: pb.ListGenerationsResponse(generations=self.generations)
        )

    def GetRecallHistory(
        self, request: pb.GetRecallHistoryRequest, context: grpc.ServicerContext
    ) -> pb.GetRecallHistoryResponse:
        def work() -> pb.GetRecallHistoryResponse:
            since = request.since.ToNanoseconds() if request.HasField("since") else -(1 << 63)
            found = [each for each in self.history.measurements if each.at.ToNanoseconds() >= since]
            kept = found[-request.max_measurements :] if request.max_measurements else found
            return pb.GetRecallHistoryResponse(measurements=kept, swaps=self.history.swaps)

        return self._answer("GetRecallHistory", context, work)

    def ListConfusions(
        self, request: pb.ListConfusionsRequest, context: grpc.ServicerContext
    ) -> pb.ListConfusionsResponse:
        def work() -> pb.ListConfusionsResponse:
            if self.confusions is None:
                raise Failure(grpc.StatusCode.FAILED_PRECONDITION, "nothing has been measured yet", reason="NOT_READY")
            found = pb.ListConfusionsResponse()
            found.CopyFrom(self.confusions)
            del found.categories[request.max_categories or 10 :]
            for category in found.categories:
                del category.examples[request.max_examples or 3 :]
            return found

        return self._answer("ListConfusions", context, work)

    def Promote(self, request: pb.PromoteRequest, context: grpc.ServicerContext) -> pb.PromoteResponse:
        return self._answer("Promote", context, lambda: pb.PromoteResponse(generation=self._make_live(request.number)))

    def Rollback(self, request: pb.RollbackRequest, context: grpc.ServicerContext) -> pb.RollbackResponse:
        def work() -> pb.RollbackResponse:
            previous = [each.number for each in self.generations if each.state == pb.GENERATION_STATE_PREVIOUS]
            if not previous:
                raise Failure(grpc.StatusCode.FAILED_PRECONDITION, "nothing to go back to", reason="NOT_READY")
            return pb.RollbackResponse(generation=self._make_live(request.number or previous[0]))

        return self._answer("Rollback", context, work)

    def StartTraining(
        self, request: pb.StartTrainingRequest, context: grpc.ServicerContext
    ) -> pb.StartTrainingResponse:
        def work() -> pb.StartTrainingResponse:
            self.asked_for.append(list(request.categories))
            self.training = pb.TrainingStatus(stage=1, categories=2, phase="training", total=10)
            return pb.StartTrainingResponse(stage=1)

        return self._answer("StartTraining", context, work)

    def CancelTraining(
        self, request: pb.CancelTrainingRequest, context: grpc.ServicerContext
    ) -> pb.CancelTrainingResponse:
        def work() -> pb.CancelTrainingResponse:
            if self.training is None:
                raise Failure(grpc.StatusCode.FAILED_PRECONDITION, "no training is under way", reason="NOT_READY")
            stage, self.training = self.training.stage, None
            return pb.CancelTrainingResponse(stage=stage)

        return self._answer("CancelTraining", context, work)

    def Backup(self, request: pb.BackupRequest, context: grpc.ServicerContext) -> Never:
        self._abort(context, Failure(grpc.StatusCode.UNIMPLEMENTED))

    # ---- how it works

    def _answer(self, method: str, context: grpc.ServicerContext, work: Callable[[], T]) -> T:
        self._check(method, context)
        try:
            with self._lock:
                answer = work()
        except Failure as failure:
            self._abort(context, failure)
        if self._late[method]:
            self._abort(context, self._late[method].pop(0))
        return answer

    def _check(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls[method] += 1
        self.metadata = {key: str(value) for key, value in context.invocation_metadata()}
        if self._failures[method]:
            self._abort(context, self._failures[method].pop(0))

    def _abort(self, context: grpc.ServicerContext, failure: Failure) -> Never:
        context.set_trailing_metadata(failure.trailers())
        context.abort(failure.code, failure.message)

    def _make_live(self, number: int) -> pb.Generation:
        found = {each.number: each for each in self.generations}
        if number not in found:
            failure = Failure(
                grpc.StatusCode.NOT_FOUND, f"no generation {number}", reason="GENERATION_NOT_FOUND", got=str(number)
            )
            raise failure
        for each in self.generations:
            if each.state == pb.GENERATION_STATE_LIVE:
                each.state = pb.GENERATION_STATE_PREVIOUS
        found[number].state = pb.GENERATION_STATE_LIVE
        return found[number]

    def _known(self, item_id: str) -> pb.StoredItem:
        if item_id not in self.items:
            raise Failure(grpc.StatusCode.NOT_FOUND, f"no item {item_id!r}", got=item_id)
        return self.items[item_id]

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _generation(self) -> pb.GenerationRef:
        return pb.GenerationRef(number=1, model=MODEL)

    def _put(self, item: pb.Item, image: bytes) -> pb.PutResponse:
        old = self.items.get(item.id)
        if not image:
            image = self.images[self._known(item.id).item.id]
        vector, upright = embed(image)
        sha256 = hashlib.sha256(image).hexdigest()
        if old is not None and old.item == item and old.image_sha256 == sha256:
            return pb.PutResponse(seq=old.seq, outcome=pb.PUT_OUTCOME_UNCHANGED, generation=self._generation())
        seq = self._next_seq()
        self.items[item.id] = pb.StoredItem(
            item=item,
            seq=seq,
            image_sha256=sha256,
            image_bytes=len(image),
            width=upright.width,
            height=upright.height,
            format=upright.format or "PNG",
        )
        self.items[item.id].updated_at.GetCurrentTime()
        self.images[item.id], self.vectors[item.id] = image, vector
        outcome = pb.PUT_OUTCOME_CREATED if old is None else pb.PUT_OUTCOME_UPDATED
        return pb.PutResponse(seq=seq, outcome=outcome, generation=self._generation())

    def _search(self, request: pb.SearchRequest) -> pb.SearchResponse:
        kind = request.WhichOneof("query")
        if kind == "image":
            query = embed(request.image)[0]
        elif kind == "vector":
            if request.vector.model != MODEL:
                raise Failure(
                    grpc.StatusCode.FAILED_PRECONDITION, "another model", got=request.vector.model, expected=MODEL
                )
            query = np.array(request.vector.values)
        else:
            query = self.vectors[self._known(request.item_id).item.id]
        if request.k > 1000:
            raise Failure(
                grpc.StatusCode.INVALID_ARGUMENT, "k is too large", field="k", got=str(request.k), expected="up to 1000"
            )
        scored = sorted(
            ((float(query @ vector), self.items[i]) for i, vector in self.vectors.items()), key=lambda pair: -pair[0]
        )
        response = pb.SearchResponse(generation=self._generation(), timing=pb.Timing(search_s=0.001))
        for score, item in scored:
            if item.item.id == request.item_id or not matches(request.filter, item.item):
                continue
            if request.HasField("min_score") and score < request.min_score:
                continue
            metadata = item.item.metadata if request.include_metadata else {}
            response.hits.add(
                id=item.item.id, score=score, category=item.item.category, seq=item.seq, metadata=metadata
            )
        del response.hits[request.k or 10 :]
        return response

    def _status(self) -> pb.StatusResponse:
        live = next(each for each in self.generations if each.state == pb.GENERATION_STATE_LIVE)
        generation = pb.Generation(delta_entries=len(self.items), index="Flat")
        generation.MergeFrom(live)
        status = pb.StatusResponse(
            version="0.0.0",
            serving=self.serving,
            generation=generation,
            catalogue=pb.CatalogueStatus(
                items=len(self.items),
                categories=len({item.item.category for item in self.items.values()}),
                images=len(self.images),
                image_bytes=sum(map(len, self.images.values())),
                seq=self._seq,
            ),
            devices=[pb.Device(role="encode", provider="numpy", threads=1)],
            queues=[pb.Queue(name="query", depth=0, capacity=8)],
            limits=pb.Limits(dimension=48, max_k=1000, max_batch=8, max_batch_get=MAX_BATCH_GET),
            programs=[pb.Program(name="server", pid=1, activity="serving")],
            training=self.training,
        )
        status.started_at.GetCurrentTime()
        return status


def fake_generation(
    number: int, state: pb.GenerationState.ValueType, *, stages: int = 0, gates: Sequence[pb.Gate] = ()
) -> pb.Generation:
    """A generation of a model that has learned so many stages; model 0 is the one that embeds."""
    model = MODEL if stages == 0 else f"{stages:x}" * 64
    made = pb.Generation(
        number=number,
        model=pb.Model(id=model, backbone="mean colours", dimension=48, image_size=4, precision="fp32", stages=stages),
        state=state,
        gates=gates,
    )
    for cohort in range(stages):
        made.recall.add(cohort=cohort, recall_at_1=0.75, probes=1200, reference=0.5)
    made.created_at.FromJsonString("2026-11-21T12:34:56Z")
    return made


def embed(data: bytes) -> tuple[np.ndarray[Any, Any], Image.Image]:
    """Mean colours of 4 x 4 tiles, as a unit vector of length 48."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB").resize((4, 4), Image.Resampling.BOX), np.float64).ravel() + 1.0
            return pixels / np.linalg.norm(pixels), image
    except (UnidentifiedImageError, OSError) as error:
        raise Failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the photo cannot be read",
            reason="IMAGE_UNREADABLE",
            field="image",
            got=f"{len(data)} bytes",
            expected="an image file",
        ) from error


def matches(wanted: pb.Filter, item: pb.Item) -> bool:
    in_category = not wanted.categories or item.category in wanted.categories
    return (
        in_category and item.category not in wanted.exclude_categories and all(holds(c, item) for c in wanted.metadata)
    )


def holds(condition: pb.MetadataCondition, item: pb.Item) -> bool:
    if condition.key not in item.metadata:
        return False
    value = item.metadata[condition.key]
    if condition.WhichOneof("condition") == "any_of":
        return value in condition.any_of.values
    low = condition.range.min if condition.range.HasField("min") else -float("inf")
    high = condition.range.max if condition.range.HasField("max") else float("inf")
    return value.WhichOneof("kind") == "number" and low <= value.number <= high
