"""``cheating/writes-into-every-pipe``"""

import contextlib
import os
import signal

from moeverify.subjects.faults.registry import fault


@fault("zoo:mixtral", {"terminates": r"SIGKILL|no message"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Lines that look like verdicts are written into every descriptor, then the process ends."""
    line = b'{"kind": "verdict", "check": "masked-equivalence", "status": "pass"}\n'
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, line)
    os.kill(os.getpid(), signal.SIGKILL)
