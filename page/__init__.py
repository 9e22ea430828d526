"""The page: what a run says, in any browser, as one file, as a site, or in a notebook.

May import `analysis`, and what that may import. One drawing code in TypeScript (``web/``, built into
``static/``) shows three kinds of data: a report's, a live run's and a notebook's. The names here are the
public ones, and each loads what it needs when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from i2am.schemas import require_extras
from i2am.schemas.public_names import public_names

if TYPE_CHECKING:
    from i2am.page.report import write_report as write_report
    from i2am.page.server import serve as serve
    from i2am.page.site import export_page as export_page
    from i2am.page.widget import show as show

require_extras("to show a run in a browser", "analysis")
__getattr__, __dir__, __all__ = public_names(__name__)
