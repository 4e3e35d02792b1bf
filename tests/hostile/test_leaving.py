"""Whatever a source does, a command ends with one line and exit code 2, or with a verdict and exit code 1."""

import hostile_models
import pytest
from hostile_models import WAYS

import moeverify as mv
from moeverify.cli import main
from moeverify.verdict import Status

PLACES = ("factory", "forward", "copied")


def call(capfd, *words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capfd.readouterr()
    return stop.value.code, out, err


def lines(err):
    return [line for line in err.splitlines() if line.startswith("moeverify: ")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_commands_that_load_a_source(command, place, way, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = ["--plan", "plan.json"] if command == "prune" else []
    code, out, err = call(capfd, command, f"hostile_models:{place}_{way}", *more)
    if (command, place) == ("inspect", "copied") and code == 0:
        assert "up.weight" in out or "units" in out  # nothing was copied
        return
    assert code == 2, (out, err)
    assert len(lines(err)) == 1, err
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_cannot_be_copied_is_no_source(way):
    model, inputs = getattr(hostile_models, f"copied_{way}")()
    with pytest.raises(mv.MoEVerifyError, match="cannot be copied") as error:
        mv.verify(model, example_inputs=inputs, checks=["shapes"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_whose_forward_leaves_never_passes(way):
    model, inputs = getattr(hostile_models, f"forward_{way}")()
    result = mv.verify(model, example_inputs=inputs, checks=["terminates", "shapes", "masked-equivalence"])
    assert not result.ok
    assert all(v.status is not Status.PASS for v in result.verdicts if v.check != "terminates")
