"""What a report is made of, asked of one server."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from clients.client import Client
from clients.errors import DataDamaged, NotFound, NotReady
from clients.recall import Confusions, RecallHistory
from clients.report.thumbnails import small_jpeg
from clients.status import Generation, Status

MOST_MEASUREMENTS = 400  # more than a chart has pixels for

Progress = Callable[[str, int, int], None]  # what is asked for, how much of it there is, and how much there will be


@dataclass(frozen=True)
class Facts:
    """What a server said, at one time.

    since: the report begins there; None is the beginning. confusions: None while the live model has not been measured.
    thumbnails: small JPEGs by item id, of the items in `confusions` whose photos can be shown.
    """

    server: str
    made_at: datetime.datetime
    status: Status
    history: RecallHistory
    generations: tuple[Generation, ...] = ()
    confusions: Confusions | None = None
    since: datetime.datetime | None = None
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)


def gather(
    client: Client,
    server: str,
    *,
    since: datetime.datetime | None = None,
    categories: int = 10,
    examples: int = 3,
    progress: Progress = lambda what, done, total: None,
) -> Facts:
    """Asks for everything that the report shows.

    server: its name for the page. categories, examples: how many confusions at most, and how many pairs of photos of
    each. Errors: EverlookClientError.
    """
    progress("measurements", 0, 0)
    history = client.recall_history(since=since, max_measurements=MOST_MEASUREMENTS)
    confusions = _confusions(client, categories, examples)
    status, generations = client.status(), tuple(client.generations())
    thumbnails = _thumbnails(client, confusions, progress) if confusions is not None else {}
    now = datetime.datetime.now(datetime.UTC)
    return Facts(server, now, status, history, generations, confusions, since, thumbnails)


def _confusions(client: Client, categories: int, examples: int) -> Confusions | None:
    try:
        return client.confusions(max_categories=categories, max_examples=examples)
    except NotReady:
        return None


def _thumbnails(client: Client, confusions: Confusions, progress: Progress) -> dict[str, bytes]:
    pairs = [each for category in confusions.categories for each in category.examples]
    ids = list(dict.fromkeys(id for pair in pairs for id in (pair.probe_id, pair.found_id)))
    thumbnails = {}
    for done, id in enumerate(ids):
        progress("photos", done, len(ids))
        try:
            small = small_jpeg(client.get_image(id).data)
        except (NotFound, DataDamaged):  # deleted since it was measured, or lost: the page says that it has no photo
            continue
        if small is not None:
            thumbnails[id] = small
    return thumbnails
