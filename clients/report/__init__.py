"""`everlook report`: how recall goes, as one page that needs nothing else, and as pictures beside it.

`gather` asks a server, `write_report` writes; all between them are pure functions of what the server said:
`figures` (shares, bounds, what each swap changed), charts (as a `drawing`, which `svg` and `png` render), and the
page's sections.
"""

from clients.report.gather import Facts, gather
from clients.report.write import Written, write_report

__all__ = ["Facts", "Written", "gather", "write_report"]
