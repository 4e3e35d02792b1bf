"""Settings are declared once: command line, plugin, reproduce line and report read the same declaration."""

import dataclasses
import inspect
import json
import shlex
import subprocess
import sys

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import moeverify as mv
from moeverify.base import forms
from moeverify.base.options import options_of, options_of_field
from moeverify.cli import main
from moeverify.cli.app import app
from moeverify.errors import UsageError
from moeverify.evaluation.settings import QualitySettings
from moeverify.models.sources import DTYPES
from moeverify.pruning.choice.importances import IMPORTANCES
from moeverify.pytest_plugin import options as plugin
from moeverify.subjects import BUILT_IN
from moeverify.verification import verify as door
from moeverify.verification.case import Case
from moeverify.verification.settings import OPTIONS, Settings, parse_role_ratios

RATIOS = st.floats(0, 0.99, allow_nan=False)
NAMES = st.text("abc $\"'`\\*~!#&;|<>(){}[]^%=:./-", min_size=1, max_size=12).filter(lambda s: s.strip() == s)
WORDS = st.lists(st.sampled_from(["shapes", "terminates", "reload"]), max_size=2, unique=True).map(tuple)
SETTINGS = st.builds(
    Settings,
    subject=st.sampled_from(["moe", "my.fork:prune", "./a folder/fork", "fault:ratio/nothing"]),
    pruning_ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(forms.DTYPES),
    checks=WORDS,
    trust_remote_code=st.booleans(),
    device=st.sampled_from(["cpu", "auto"]),
    quality=st.builds(
        QualitySettings,
        tasks=st.sampled_from([(), ("arc_easy", "hellaswag")]),
        num_fewshot=st.none() | st.integers(0, 9),
        limit=st.none() | st.floats(0.1, 100),
        batch_size=st.integers(1, 99),
        max_drop=st.none() | st.floats(0, 1),
        curve=st.sampled_from([None, (0.25,), (0.125, 0.5)]),
    ),
    ratios=st.dictionaries(st.sampled_from(forms.ROLES), RATIOS, max_size=3),
    round_to=st.none() | st.integers(1, 64),
    ignore=st.sampled_from([(), ("lm_head",), ("-odd.0", "a layer.weight")]),
    importance=st.none() | st.sampled_from(["lamp", "my.module:Importance"]),
    expert_criterion=st.none() | st.sampled_from(["reap", "my.module:criterion"]),
    calibration=st.none() | st.sampled_from(["c4.jsonl", "./a folder/text.txt"]),
    calibration_samples=st.integers(1, 999),
    calibration_length=st.integers(1, 999),
    statistics=st.none() | st.sampled_from(["reap.json", "-odd.json"]),
    roles=st.dictionaries(st.sampled_from(["experts", "routers", "shared_experts"]), st.sampled_from(["^a b$", "-'$"])),
    skip_checks=WORDS,
    timeout=st.floats(0.1, 1e4),
    memory=st.floats(0.1, 1e3),
    strict=st.booleans(),
    load=st.sampled_from([(), ("mine",), ("mine", "yours.too")]),
    expect_fail=WORDS,
)


def read_back(line, monkeypatch_context):
    """Sources and settings that the command line makes of a line, after a shell took it apart."""
    found = []

    def instead(sources, settings, **_):
        found.append((sources, settings))
        raise UsageError("far enough")

    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    shell = f'moeverify() {{ {shlex.quote(sys.executable)} -c {shlex.quote(program)} "$@"; }}; {line}'
    words = json.loads(subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout)
    monkeypatch_context.setattr(door, "run_settings", instead)
    with pytest.raises(SystemExit):
        main(words)
    return found[0]


@given(SETTINGS, NAMES.filter(lambda s: not s.startswith("-")))
def test_the_reproduce_line_gives_the_same_settings_after_a_shell(settings, source):
    with pytest.MonkeyPatch.context() as patch:
        sources, read = read_back(Case.of(source, settings).reproduce(), patch)
    assert sources == [source]
    assert read == settings


@given(SETTINGS)
def test_settings_come_back_from_a_report(settings):
    assert Settings.from_description(json.loads(json.dumps(settings.describe()))) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "0"),
        ("calibration", 1),
        ("ratios", [1]),
        ("checks", "shapes"),
        ("quality", 3),
        ("strict", 1),
        ("timeout", True),
    ],
)
def test_settings_of_another_type_are_refused(name, value):
    with pytest.raises(UsageError, match=f"cannot be read: {name}"):
        Settings.from_description({name: value})


def test_a_setting_without_a_value_is_the_default():
    assert Settings.read({}) == Settings()
    assert Settings.from_description({"unknown": 1}) == Settings()
    assert Settings().words() == ["--pruning-ratio", "0.5", "--seed", "0"]


def test_the_library_takes_every_setting_with_the_same_default():
    parameters = inspect.signature(mv.verify).parameters
    for field in dataclasses.fields(Settings):
        assert field.name in parameters
        default = parameters[field.name].default
        assert (default or None) == (getattr(Settings(), field.name) or None) or field.name == "quality"


def test_the_plugin_takes_every_option():
    assert {o.name for o in OPTIONS} <= {o.name for o in plugin.ALL}
    assert options_of(Settings) == OPTIONS
    assert len({o.flag for o in OPTIONS}) == len(OPTIONS)


# Another value than the default for each setting. A new setting belongs here, and so has all four places.
CHANGED = {
    "subject": "torch-pruning",
    "pruning_ratio": 0.25,
    "seed": 3,
    "dtype": "float64",
    "checks": ("shapes",),
    "trust_remote_code": True,
    "device": "auto",
    "quality": QualitySettings(tasks=("arc_easy",)),
    "ratios": {"hidden": 0.0},
    "round_to": 8,
    "ignore": ("lm_head",),
    "importance": "lamp",
    "expert_criterion": "reap",
    "calibration": "c4.jsonl",
    "calibration_samples": 7,
    "calibration_length": 7,
    "statistics": "reap.json",
    "roles": {"experts": "^blades$"},
    "skip_checks": ("reload",),
    "timeout": 7.0,
    "memory": 7.0,
    "quality_timeout": 7.0,
    "engines": ("vllm",),
    "engine_timeout": 7.0,
    "engine_ready": True,
    "strict": True,
    "load": ("mine",),
    "expect_fail": ("reload",),
}


def test_every_setting_has_another_value_here():
    assert {field.name for field in dataclasses.fields(Settings)} == set(CHANGED)


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_its_options_its_words_and_its_place_in_the_report(field):
    settings = Settings(**{field.name: CHANGED[field.name]})
    assert settings != Settings()
    flags = {o.flag for o in options_of_field(field)}
    assert flags
    assert flags <= {word for p in typer.main.get_command(app).commands["verify"].params for word in p.opts}
    assert flags <= {o.flag for o in plugin.ALL}
    added = [word for word in settings.words() if word not in Settings().words()]
    assert flags & set(settings.words())
    assert added, "the line says nothing of the value"
    assert field.name in json.loads(json.dumps(settings.describe()))


def test_the_plugin_reads_what_is_to_be_ignored():
    parser = pytest.Parser(_ispytest=True)
    plugin.pytest_addoption(parser)
    given = parser.parse(["--moeverify-ignore", "lm_head", "--moeverify-ignore=layers.0.mlp"])

    class Config:
        def getoption(self, flag):
            return getattr(given, flag.removeprefix("--").replace("-", "_"))

    settings = plugin.settings_of(Config())
    assert settings.ignore == ("lm_head", "layers.0.mlp")
    assert settings.words()[-4:] == ["--ignore", "lm_head", "--ignore", "layers.0.mlp"]


def test_words_in_help_are_those_that_the_modules_accept():
    assert ", ".join((*IMPORTANCES, "module:attribute")) == forms.IMPORTANCES
    assert set(forms.DTYPES) == set(DTYPES)
    assert all(name in forms.SUBJECTS for name in BUILT_IN)
    from moeverify.coupling.classify import ROLES

    assert ("experts", *ROLES) == forms.ROLES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hidden"], "write ROLE=RATIO"),
        (["=0.5"], "write ROLE=RATIO"),
        (["hidden=half"], "write ROLE=RATIO"),
        (["hidden=1"], r"must lie in \[0, 1\)"),
        (["hidden=-0.1"], r"must lie in \[0, 1\)"),
        (["hidden=nan"], r"must lie in \[0, 1\)"),
        (["nobody=0.5"], "unknown role 'nobody'"),
        (["hidden=0.5", "residual=0.25"], "hidden has a ratio already"),
    ],
)
def test_ratios_that_cannot_be_meant_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        parse_role_ratios(words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibration": "here", "statistics": "here"}, "give one of them"),
        ({"calibration": "nowhere"}, "--calibration nowhere: there is no such file"),
        ({"statistics": "nowhere"}, "--statistics nowhere: there is no such file"),
        ({"expert_criterion": "aimer"}, "ranks whole experts; say how many go"),
        ({"expert_criterion": "reap", "ratios": {"experts": 0.5}}, "reap ranks by data; give it with --calibration"),
        ({"expert_criterion": "rep", "ratios": {"experts": 0.5}}, "unknown expert criterion 'rep'"),
        ({"calibration_length": 0, "calibration": "here"}, "must be a positive whole number"),
    ],
)
def test_criteria_and_data_that_cannot_be_meant_are_refused(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("{}")
    with pytest.raises(UsageError, match=message):
        Settings(**settings).validated()


def test_ratios_by_role():
    assert parse_role_ratios(["routed-experts=0.25", "hidden=0"]) == {"routed_experts": 0.25, "hidden": 0.0}
    assert parse_role_ratios([], shared_experts=False) == {"shared_experts": 0.0}
    with pytest.raises(UsageError, match="drop one of them"):
        parse_role_ratios(["shared_experts=0.5"], shared_experts=False)


def test_nothing_to_prune_is_refused():
    assert Settings(pruning_ratio=0, ratios={"hidden": 0.5}).validated().pruning_ratio == 0.0
    with pytest.raises(UsageError, match="strictly between 0 and 1"):
        Settings(pruning_ratio=0, ratios={"hidden": 0}).validated()
