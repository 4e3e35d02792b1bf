"""Deliberately broken pruners, one a file, in families: what the checks must catch.

A fault is a subject like any other (``moeverify verify SOURCE --subject fault:FAMILY/NAME``). Each says on which
source it shows, and which check names its cause in which words. A new one is a new file in a family's folder.
"""

from moeverify.subjects.faults.registry import FAULTS, Fault, all_faults, fault, find_fault

__all__ = ["FAULTS", "Fault", "all_faults", "fault", "find_fault"]
