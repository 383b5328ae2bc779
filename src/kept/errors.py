"""The exceptions kept raises.

Every one derives from `KeptError` and from the builtin a caller would expect, and its text says
what was found, what is allowed and what to do about it, as far as each applies. Ctrl-C is no error:
`kept.GenerationInterrupted` is a KeyboardInterrupt. It lives with `Completion`, which it carries,
and so does `kept.GenerationError`, the SamplingError of a call.

    KeptError
    ├── OptionError (ValueError)                an option or argument that cannot be honoured
    │   └── ContextLengthError                  a prompt longer than the model's context
    ├── CheckpointError (ValueError)            something is wrong with a model's files
    │   ├── CheckpointNotFoundError (FileNotFoundError)
    │   ├── UnsupportedModelError               an architecture or feature kept does not run
    │   ├── UnsupportedFormatError              weights in a format kept does not read
    │   ├── WeightsError                        missing, extra, misshapen or truncated tensors
    │   └── TokenizerError
    ├── TemplateError (ValueError)              a chat template that is missing or fails
    ├── CacheError (RuntimeError)               an operation a cache cannot carry out
    │   └── CacheFullError                      no room for the new keys and values
    ├── SamplingError (RuntimeError)            logits no token can be drawn from
    │   └── NoTokenError                        options that leave no token
    ├── BackendError (RuntimeError)             kernels that were demanded but cannot be had
    └── EngineError (RuntimeError)              an engine whose thread has ended by a failure
"""

from __future__ import annotations


class KeptError(Exception):
    """The root of everything kept raises on purpose."""


class OptionError(KeptError, ValueError):
    """An option or argument cannot be honoured."""


class ContextLengthError(OptionError):
    """A prompt does not fit the model's context."""


class CheckpointError(KeptError, ValueError):
    """A model's files cannot be used."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A model or one of its files is not there."""


class UnsupportedModelError(CheckpointError):
    """The architecture, or a feature its config asks for, is not one kept runs."""


class UnsupportedFormatError(CheckpointError):
    """The weights are in a format kept does not read."""


class WeightsError(CheckpointError):
    """Tensors are missing, unexpected, misshapen or cut short."""


class TokenizerError(CheckpointError):
    """The tokenizer's files are missing or broken."""


class TemplateError(KeptError, ValueError):
    """A chat template is missing, or failed on the messages it was given."""


class CacheError(KeptError, RuntimeError):
    """A cache cannot carry out the operation."""


class CacheFullError(CacheError):
    """A cache of fixed length has no room for the new keys and values."""


class SamplingError(KeptError, RuntimeError):
    """No token can be drawn from the logits (NaN, or every token ruled out)."""


class NoTokenError(SamplingError):
    """What was asked of a text, a grammar or other options, leaves no token to be drawn."""


class BackendError(KeptError, RuntimeError):
    """A backend that was asked for is not available on this machine."""


class EngineError(KeptError, RuntimeError):
    """An engine takes no more steps, and its requests did not end."""


class KeptWarning(UserWarning):
    """Something a caller should know about that is no error; the command line prints it."""
