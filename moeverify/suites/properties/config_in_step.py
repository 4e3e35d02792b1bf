"""``config-in-step``"""

import synthetic_models
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import Trial, require, twin


@prop("config-in-step")
def config_in_step(trial: Trial) -> None:
    """A model with a configuration is pruned as the same model without one. Its configuration builds the pruned shapes,
    by the check of the same name.
    """
    original = synthetic_models.build(trial.spec)
    pruned = twin(original)
    trial.prune(pruned)
    finding = trial.finding("config-in-step", original, pruned.eval())
    require(finding.status.value == "pass", finding.message)
    finding = trial.finding("shapes", original, pruned)
    require(finding.status.value == "pass", finding.message)
