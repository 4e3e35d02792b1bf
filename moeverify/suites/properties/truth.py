"""``truth``"""

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, require, units_of


@prop("truth", groups=True)
def truth(trial: Trial) -> None:
    """The classes found are exactly the spec's own: every unit, every parameter, every position, and no more.

    Where several answers are right (heads or their single channels) one of them must be given whole. What no answer
    removes is frozen, so a class that was missed shows as well as one that is wrong.
    """
    classes = trial.classes()
    if not classes:
        raise NotApplicable("the subject shows no groups")
    lines = trial.truth.differences(units_of(classes))
    require(not lines, f"{len(lines)} differences from the truth: {lines[0] if lines else ''}")
