"""A module that takes all memory when it is imported."""

import time

held = []
while True:
    held.append(bytearray(b"x") * (1 << 26))
    time.sleep(0.02)
