"""Which implementation the operations run on, chosen by `KEPT_OPS=auto|native|reference`."""

from __future__ import annotations

import os

from kept.errors import BackendError, OptionError

CHOICES = ("auto", "native", "reference")


def backend() -> str:
    """The backend in use: the torch reference, the only one these operations have.

    Raises OptionError for an unknown KEPT_OPS, BackendError where `native` is demanded.
    """
    choice = os.environ.get("KEPT_OPS", "auto")
    if choice not in CHOICES:
        raise OptionError(f"KEPT_OPS={choice!r} is not one of {', '.join(CHOICES)}")
    if choice == "native":
        raise BackendError(
            "KEPT_OPS=native asks for native kernels, and this build has none for the model "
            "operations; use KEPT_OPS=auto or KEPT_OPS=reference"
        )
    return "reference"
