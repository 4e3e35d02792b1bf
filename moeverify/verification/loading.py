"""The model of a case, loaded alike in the subject's process and the judge's."""

from __future__ import annotations

from moeverify.errors import SourceError, UsageError
from moeverify.models.device import require_weights
from moeverify.models.left_alone import named_parts
from moeverify.models.sources import LoadedModel, load_source, parse_dtype
from moeverify.verification.case import Case


def load_model(case: Case, loaded: LoadedModel | None = None) -> LoadedModel:
    """The model that a case names, or ``loaded`` in its place, under the case's settings.

    Raises ``SourceError`` if it cannot be loaded, has no weights, or has not what ``ignore`` names.
    """
    loaded = loaded or load_source(
        case.source,
        seed=case.seed,
        dtype=parse_dtype(case.dtype),
        trust_remote_code=case.trust_remote_code,
        device=case.device,
        engine_ready=case.engine_ready,
    )
    require_weights(loaded.model)
    try:
        named_parts(loaded.model, case.ignore)
    except UsageError as error:
        raise SourceError(f"{case.source}: {error}") from None
    return loaded
