"""A server with a made-up, realistic past: five cohorts, four swaps, one of them gone back from, and confusions.

`python -m tests.clients.made_up_history FOLDER` writes its report, to look at.
"""

from __future__ import annotations

import datetime
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clients import Client
from clients.report import Written, gather, write_report
from everlook.v1 import everlook_pb2 as pb
from tests.clients.fake_server import FakeServer, fake_generation

BEGIN = datetime.datetime(2026, 11, 18, 6, 0, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
PROBES = (500, 320, 180, 96, 41)  # of each cohort
REFERENCES = (0.868, 0.844, 0.822, 0.792, 0.756)  # Recall@1 when its stage went live
SWAPS = ((8, 0, False), (20, 1, False), (34, 2, False), (45, 3, False), (49, 2, True), (53, 3, True), (57, 4, False))
FORGOTTEN_A_SWAP = 0.012
SCRIPT = "<script>alert('mugs & bowls')</script>"
_COLOURS = ("#b5482f", "#2f6fb5", "#3f8f4f", "#c9a227", "#7a4fb5", "#2f9a9a")


def model(stages: int) -> str:
    return fake_generation(1, pb.GENERATION_STATE_LIVE, stages=stages).model.id


def history() -> pb.GetRecallHistoryResponse:
    """Sixty measurements, an hour apart, and the swaps between them; drawn with one seed."""
    draw = np.random.default_rng(5)
    told = pb.GetRecallHistoryResponse()
    newest: int | None = None  # the live model's newest cohort
    number = 1
    for hour in range(60):
        cause = pb.MEASUREMENT_CAUSE_TIMER if hour else pb.MEASUREMENT_CAUSE_START
        for at, cohort, again in SWAPS:
            if at == hour:
                number, newest, cause = 2 + cohort, cohort, pb.MEASUREMENT_CAUSE_SWAP
                swap = told.swaps.add(generation=_generation(number, cohort), cohort=cohort, again=again)
                swap.at.FromDatetime(BEGIN + hour * HOUR - datetime.timedelta(minutes=2))
        measured = told.measurements.add(generation=_generation(number, newest), cause=cause)
        measured.at.FromDatetime(BEGIN + hour * HOUR)
        _measure(measured, newest, hour, draw)
    return told


def _generation(number: int, cohort: int | None) -> pb.GenerationRef:
    return pb.GenerationRef(number=number, model=model(0 if cohort is None else cohort + 1))


def _measure(measured: pb.RecallMeasurement, newest: int | None, hour: int, draw: np.random.Generator) -> None:
    """The cohorts that the model has learned, and those whose photos have come and that wait."""
    learned = -1 if newest is None else newest
    for cohort in range(learned + 1):
        fallen = FORGOTTEN_A_SWAP * (learned - cohort)
        added = measured.cohorts.add(cohort=cohort, reference_at_1=REFERENCES[cohort], reference_probes=PROBES[cohort])
        _count(added, PROBES[cohort], REFERENCES[cohort] - fallen, draw)
    arrived = sum(1 for at, cohort, again in SWAPS if not again and hour >= at - 6)
    waiting = sum(PROBES[learned + 1 : arrived])
    if waiting:
        _count(measured.cohorts.add(), waiting, 0.57, draw)


def _count(cohort: pb.CohortMeasurement, probes: int, recall: float, draw: np.random.Generator) -> None:
    cohort.probes = probes
    cohort.found_at_1 = round(probes * min(1.0, max(0.0, recall + 0.3 * draw.normal(0, 0.5 / probes**0.5))))
    cohort.found_at_5 = round(cohort.found_at_1 + 0.6 * (probes - cohort.found_at_1))
    cohort.found_at_10 = round(cohort.found_at_1 + 0.8 * (probes - cohort.found_at_1))


def generations() -> list[pb.Generation]:
    """Newest first; one was refused."""
    made = [fake_generation(1, pb.GENERATION_STATE_PREVIOUS)]
    for cohort in range(5):
        state = pb.GENERATION_STATE_LIVE if cohort == 4 else pb.GENERATION_STATE_PREVIOUS
        gates = [
            pb.Gate(
                name="export parity", passed=True, measured=0.99997, required=0.999, reason="least cosine of 64 photos"
            ),
            *(
                _gate(f"old cohort {old}", True, -0.012, -0.02, f"fell by 1.2 points, {PROBES[old]} probes")
                for old in range(cohort)
            ),
            _gate(f"new cohort {cohort}", True, 0.19, 0.0, f"rose by 19 points, {PROBES[cohort]} probes"),
            pb.Gate(name="index recall", passed=True, measured=1.0, required=0.95, reason="exact"),
        ]
        made.insert(0, fake_generation(2 + cohort, state, stages=cohort + 1, gates=gates))
    refused = fake_generation(0, pb.GENERATION_STATE_REJECTED, stages=4)
    refused.gates.append(_gate("old cohort 1", False, -0.094, -0.02, f"fell by 9.4 points, 320 probes; {SCRIPT}"))
    refused.gates.append(_gate("new cohort 3", True, 0.21, 0.0, "rose by 21 points, 96 probes"))
    made.insert(1, refused)
    return made


def _gate(name: str, passed: bool, measured: float, required: float, reason: str) -> pb.Gate:
    return pb.Gate(name=name, passed=passed, measured=measured, required=required, reason=reason)


def photo(number: int, *, turned: bool = False) -> bytes:
    """A drawn product, 400 x 300. turned: stored on its side, and its EXIF says so."""
    image = Image.new("RGB", (400, 300), "#ece7dd")
    draw = ImageDraw.Draw(image)
    colour, left = _COLOURS[number % len(_COLOURS)], 90 + 11 * (number % 7)
    draw.rounded_rectangle((left, 90, left + 150, 250), 18, colour, "#333333", 4)
    draw.ellipse((left + 10, 70, left + 140, 112), "#fafafa", "#333333", 4)
    draw.arc((left + 120, 120, left + 200, 210), -90, 90, "#333333", 14)
    exif = Image.Exif()
    if turned:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, exif=exif)
    return buffer.getvalue()


def confusions(server: FakeServer) -> pb.ListConfusionsResponse:
    """Six categories, whose photos are on the server; one name is hostile, one photo gone, one stored on its side."""
    names = (
        "coffee mugs",
        SCRIPT,
        "soup bowls, wide",
        "teapots",
        "كؤوس",
        "sauce-boats-with-a-very-long-name-and-no-spaces",
    )
    told = pb.ListConfusionsResponse(generation=pb.GenerationRef(number=6, model=model(5)))
    told.at.FromDatetime(BEGIN + 59 * HOUR)
    for at, name in enumerate(names):
        cohort = at if at < 5 else None
        category = told.categories.add(category=name, cohort=cohort, probes=16 + at, found_at_1=4 + 2 * at)
        for example in range(3):
            probe, found = f"{name[:12]}/{at}{example}", f"item-{at}{example}"
            category.examples.add(
                probe_id=probe, found_id=found, found_category=names[(at + 1) % 6], score=0.912 - 0.03 * example
            )
            server._put(pb.Item(id=probe, category=name), photo(2 * at + example, turned=example == 1))
            if (at, example) != (2, 0):
                server._put(pb.Item(id=found, category=names[(at + 1) % 6]), photo(3 * at + example + 1))
    return told


def fill(server: FakeServer) -> None:
    """Gives the server this past."""
    server.history, server.generations, server.confusions = history(), generations(), confusions(server)
    server.training = pb.TrainingStatus(
        stage=5, categories=12, phase="backfill", done=3200, total=12345, remaining_s=340
    )


def write(folder: Path) -> Written:
    """Writes the report of such a server."""
    with FakeServer() as server, Client(server.target) as client:
        fill(server)
        return write_report(gather(client, server.target), folder)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
