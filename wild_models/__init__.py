"""MoE models that people would bring: hand-written after public layouts, and from packages of others.

``tests/wild`` loads each, ``python -m benchmarks.wild`` verifies them all and writes ``reports/baselines/wild.md``.
None of them was made to suit the pruner: where one shows a fault, the fault is mended and the model stays.
"""

from wild_models.catalogue import WildModel as WildModel
from wild_models.catalogue import wild_models as wild_models
