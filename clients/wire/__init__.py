"""Between the client's values and the protocol's messages: pure functions, shared by the sync and the asyncio client.

The only package of the client that touches the stubs, one module for each service. Each function that makes a `Call`
checks what only the client can know (a lone surrogate, an integer that a double cannot hold); all other rules are the
server's.
"""

from clients.wire.call import Call
from clients.wire.catalogue import (
    INGEST_PATH,
    acknowledgement,
    categories_page,
    delete,
    get,
    get_image,
    get_many,
    ingest_request,
    put,
)
from clients.wire.operation import (
    WATCH_PATH,
    WATCH_REQUEST,
    cancel_training,
    confusions,
    event,
    generations,
    promote,
    recall_history,
    rollback,
    start_training,
    status,
)
from clients.wire.search import embed, search, search_batch

__all__ = [
    "INGEST_PATH",
    "WATCH_PATH",
    "WATCH_REQUEST",
    "Call",
    "acknowledgement",
    "cancel_training",
    "categories_page",
    "confusions",
    "delete",
    "embed",
    "event",
    "generations",
    "get",
    "get_image",
    "get_many",
    "ingest_request",
    "promote",
    "put",
    "recall_history",
    "rollback",
    "search",
    "search_batch",
    "start_training",
    "status",
]
