"""One run: cases, each in a process of its own with limits, their events, journal and facts."""
