"""What can go wrong: one class for each thing that a caller can do about it."""


class AnnvilError(Exception):
    """The base of all errors of this package. Itself only for faults of annvil's own: report them."""


class InvalidInput(AnnvilError, ValueError):
    """Correct the arguments, the job or the data: the message names what, where, and what is allowed."""


class BelowGate(AnnvilError):
    """An index did not reach the recall that its job asks for. Nothing was published."""


class BadArtifact(AnnvilError):
    """Published files are damaged, or not annvil's. Publish again, roll back, or repair from a copy."""


class StoreError(AnnvilError, OSError):
    """The object store refused or failed: look at address, permission, network, space; then try again."""


class DeviceError(AnnvilError):
    """The GPU or its driver failed. ``backend="cpu"`` does without."""


class SearchTimeout(AnnvilError, TimeoutError):
    """A search took longer than its ``timeout``. Nothing was answered."""


class Cancelled(AnnvilError):
    """Someone asked for the build to end. Nothing was published."""
