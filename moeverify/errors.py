"""Errors of moeverify: each states in one line what is wrong and what to do next."""

from collections.abc import Sequence

from moeverify.base.text import printable


class MoEVerifyError(Exception):
    """Base of every error that moeverify raises on purpose.

    A message is one line of text, whatever names of a model or a folder stand in it.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(printable(given) if isinstance(given, str) else given for given in arguments))


class UsageError(MoEVerifyError):
    """An argument that cannot be meant: a ratio outside (0, 1), an unknown check or parameter name."""


class FileError(UsageError):
    """A file or folder that the system does not read or write: no space, no permission, name too long, not a file."""


class DependencyError(MoEVerifyError):
    """A package that moeverify is built on cannot be imported."""


class SourceError(MoEVerifyError):
    """A model that cannot be loaded: unknown source, broken checkpoint, a factory that raises."""


class SubjectError(MoEVerifyError):
    """A pruner under test that cannot be imported."""


class HandoverError(MoEVerifyError):
    """Data of a subject from which the judge cannot build its model."""


class ProtocolError(MoEVerifyError):
    """A message of a worker process that does not follow the protocol."""


class TraceError(MoEVerifyError):
    """The model's forward failed while it was traced."""


class PruningRefused(MoEVerifyError):
    """A pruning request that cannot be honoured; nothing was changed."""


class BoundaryRefused(PruningRefused):
    """A group that would take channels of two routed experts: the expert boundary keeps them apart."""


class PlanError(MoEVerifyError):
    """A plan document that cannot be read, or was made for another model."""


class ReportError(MoEVerifyError):
    """A report document that does not follow its schema, or cannot be written."""


class ExpansionsExceeded(MoEVerifyError):
    """A group of the subject grew past the limit of expansions; ``frames``: the call stack, innermost first."""

    def __init__(self, message: str, frames: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.frames = tuple(frames)


class EvaluationError(MoEVerifyError):
    """An evaluation that cannot be made, or two that cannot be compared."""


class ExtensionError(MoEVerifyError):
    """A module that adds checks, rules or faults cannot be loaded."""


class EngineError(MoEVerifyError):
    """An engine that cannot be installed or run."""
