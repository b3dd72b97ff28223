"""The page: one HTML file that asks nothing of the network, runs no script, and can be printed."""

from __future__ import annotations

import base64
import hashlib

from clients.report.change_section import change_section
from clients.report.confusion_section import confusion_section
from clients.report.figures import series_of, together
from clients.report.gather import Facts
from clients.report.generation_section import generation_section
from clients.report.markup import moment, name, section
from clients.report.recall_section import recall_section
from clients.report.style import STYLE
from clients.report.tiles import tiles

# Nothing may be loaded, run or sent; the one style and pictures in the page itself are all there is.
_POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"

_WORDS = """<dl class="words">
<dt>Probe</dt><dd>An item that is never trained on, one in five by a hash of its id, and searched as a query.</dd>
<dt>Recall@K</dt><dd>Of the probes whose category has another item, the share that find one of their own category among
the first K items, themselves left out.</dd>
<dt>Cohort</dt><dd>The categories of one stage, learned together. Waiting: those that no stage of the live model has
taught yet.</dd>
<dt>Reference, drift</dt><dd>A cohort's Recall@1 when its stage went live; Recall@1 now less that, in percentage
points. Of all together: the mean over the cohorts that have a reference, weighed by their probes.</dd>
<dt>95 % bounds</dt><dd>Wilson's interval: what the share may be, as far as so few probes can tell. A change within it
may be chance.</dd>
</dl>"""


def page(facts: Facts) -> str:
    """The whole page, from what a server said and nothing else."""
    series, everything = series_of(facts.history.measurements), together(facts.history.measurements)
    parts = (
        _header(facts),
        tiles(facts, everything, series),
        recall_section(facts, everything, series),
        change_section(facts),
        generation_section(facts),
        confusion_section(facts),
        section("words", "The words", _WORDS),
    )
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(hash=digest)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>Everlook: how recall goes</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _header(facts: Facts) -> str:
    since = "" if facts.since is None else f", since {moment(facts.since)}"
    made = f"{name(facts.server)}, version {name(facts.status.version)}; written {moment(facts.made_at)} UTC{since}"
    return f"<header>\n<h1>How recall goes</h1>\n<p>{made}</p>\n</header>"
