"""A module whose import does not come to an end."""

import time

while True:
    time.sleep(0.1)
