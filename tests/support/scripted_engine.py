"""A worker of the engines' protocol that answers each folder as the file ``script.json`` in it says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

request = json.loads(Path(sys.argv[1]).read_text("utf-8"))
with open(sys.argv[2], "a", encoding="utf-8") as answers:
    for folder in request["folders"]:
        script = json.loads(Path(folder, "script.json").read_text("utf-8"))
        if "die" in script:
            sys.stderr.write(script.get("say", ""))
            sys.stderr.flush()
            os.kill(os.getpid(), getattr(signal, script["die"]))
        time.sleep(script.get("sleep", 0))
        answers.write(script["line"] + "\n" if "line" in script else json.dumps({"folder": folder, **script}) + "\n")
        answers.flush()
