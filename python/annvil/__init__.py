"""Certified vector indexes in object storage.

>>> import annvil
>>> index = annvil.open("s3://bucket/news")                                     # doctest: +SKIP
>>> found = index.search(queries, k=10, filter="lang = 'en'", attributes=True)  # doctest: +SKIP
>>> found.ids, found.similarities                                               # doctest: +SKIP
"""

from ._annvil import Answers, Index, Shards, Watched, __version__, open, watch
from ._errors import (
    AnnvilError,
    BadArtifact,
    BelowGate,
    Cancelled,
    DeviceError,
    InvalidInput,
    SearchTimeout,
    StoreError,
)

__all__ = [
    "AnnvilError",
    "Answers",
    "BadArtifact",
    "BelowGate",
    "Cancelled",
    "DeviceError",
    "Index",
    "InvalidInput",
    "SearchTimeout",
    "Shards",
    "StoreError",
    "Watched",
    "__version__",
    "open",
    "watch",
]

try:
    from ._annvil import build, check
except ImportError:  # Compiled to open and search only.
    pass
else:
    __all__ += ["build", "check"]
