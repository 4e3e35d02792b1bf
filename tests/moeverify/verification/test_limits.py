"""Seconds of a case, and of checks that have time of their own."""

from moeverify.verification.limits import Clock, Limits, limits_of
from moeverify.verification.settings import Settings


def test_a_check_with_time_of_its_own_costs_the_others_nothing():
    clock = Clock(Limits(10.0, stages={"quality": 100.0}), now=0.0)
    clock.enter("prune", 1.0)
    assert (clock.deadline, clock.allowed) == (10.0, 10.0)
    clock.enter("quality", 4.0)
    assert (clock.deadline, clock.allowed) == (104.0, 100.0)
    clock.enter("reload", 54.0)  # six of the case's ten seconds were left
    assert (clock.deadline, clock.allowed) == (60.0, 10.0)


def test_two_checks_with_time_of_their_own_in_a_row():
    clock = Clock(Limits(10.0, stages={"quality": 100.0, "served": 50.0}), now=0.0)
    clock.enter("quality", 2.0)
    clock.enter("served", 90.0)
    assert clock.deadline == 140.0
    clock.enter("reload", 100.0)
    assert clock.deadline == 108.0


def test_settings_give_quality_and_engines_time_of_their_own():
    limits = limits_of(Settings(timeout=30.0, quality_timeout=600.0, engine_timeout=50.0, engines=("a", "b", "c")))
    assert limits.seconds == 30.0
    assert limits.stages["quality"] == 600.0
    assert limits.stages["served"] >= 3 * 2 * 50.0
