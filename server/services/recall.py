"""What Admin answers about recall: how it has gone, and which categories are found worst. Blocks on the catalogue."""

from __future__ import annotations

from collections.abc import Mapping

from indexer.catalogue import Cause, CohortCounts, History, Measurement, SwapRecord
from indexer.engine import Engine
from indexer.errors import InvalidField, NotReady
from server import wire
from server.watching.confusions import Confused, worst
from server.watching.probes import ProbeWatch
from server.wire import pb

MOST_MEASUREMENTS = 10_000
MOST_CATEGORIES = 1_000
MOST_EXAMPLES = 100
_MEASUREMENTS, _CATEGORIES, _EXAMPLES = 1_000, 10, 3  # where 0 is asked for

_CAUSES = {
    Cause.START: pb.MEASUREMENT_CAUSE_START,
    Cause.SWAP: pb.MEASUREMENT_CAUSE_SWAP,
    Cause.TIMER: pb.MEASUREMENT_CAUSE_TIMER,
}


def recall_history(history: History, request: pb.GetRecallHistoryRequest) -> pb.GetRecallHistoryResponse:
    """The measurements and the swaps. Errors: InvalidField."""
    since = wire.seconds_of(request.since, "since") if request.HasField("since") else 0.0
    most = _at_most(request.max_measurements or _MEASUREMENTS, MOST_MEASUREMENTS, "max_measurements")
    measurements = history.measurements(since, most)
    references = {model: history.references(model) for model in {each.model for each in measurements}}
    return pb.GetRecallHistoryResponse(
        measurements=[_measurement(each, references[each.model]) for each in measurements],
        swaps=[_swap(each) for each in history.swaps()],
    )


def confusions(engine: Engine, watch: ProbeWatch, request: pb.ListConfusionsRequest) -> pb.ListConfusionsResponse:
    """The categories that are found worst. Errors: InvalidField; NotReady while the live model is not measured."""
    categories = _at_most(request.max_categories or _CATEGORIES, MOST_CATEGORIES, "max_categories")
    examples = _at_most(request.max_examples or _EXAMPLES, MOST_EXAMPLES, "max_examples")
    measured = watch.last()
    if measured is None:
        raise NotReady("the probes have not been measured with the live model yet; try again in a minute")
    view = engine.live.current.view
    found = worst(measured, categories, examples, lambda id: view.row_of(id) is not None)
    return pb.ListConfusionsResponse(
        at=wire.timestamp(measured.measurement.at),
        generation=pb.GenerationRef(number=measured.measurement.generation, model=measured.model),
        categories=[_confusion(each) for each in found],
    )


def _at_most(asked: int, most: int, field: str) -> int:
    if asked > most:
        raise InvalidField("more is asked for than one answer holds", field=field, got=asked, expected=f"0 to {most}")
    return asked


def _measurement(measured: Measurement, references: Mapping[int, CohortCounts]) -> pb.RecallMeasurement:
    return pb.RecallMeasurement(
        at=wire.timestamp(measured.at),
        generation=pb.GenerationRef(number=measured.generation, model=measured.model),
        cause=_CAUSES[measured.cause],
        cohorts=[_cohort(each, references) for each in measured.cohorts],
    )


def _cohort(counts: CohortCounts, references: Mapping[int, CohortCounts]) -> pb.CohortMeasurement:
    reference = None if counts.cohort is None else references.get(counts.cohort)
    return pb.CohortMeasurement(
        cohort=counts.cohort,
        probes=counts.probes,
        found_at_1=counts.found_1,
        found_at_5=counts.found_5,
        found_at_10=counts.found_10,
        reference_at_1=None if reference is None else reference.recall_1,
        reference_probes=None if reference is None else reference.probes,
    )


def _swap(swap: SwapRecord) -> pb.SwapRecord:
    return pb.SwapRecord(
        at=wire.timestamp(swap.at),
        generation=pb.GenerationRef(number=swap.generation, model=swap.model),
        cohort=swap.cohort,
        again=swap.again,
    )


def _confusion(found: Confused) -> pb.CategoryConfusion:
    return pb.CategoryConfusion(
        category=found.category,
        cohort=found.cohort,
        probes=found.probes,
        found_at_1=found.found,
        examples=[
            pb.Confusion(
                probe_id=miss.id, found_id=miss.nearest, found_category=miss.nearest_category, score=miss.score
            )
            for miss in found.misses
        ],
    )
