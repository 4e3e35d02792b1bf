"""Settings of a run: every option that ``verify`` and the pytest plugin have, declared once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeverify.base import forms
from moeverify.base.options import Option, given, option, options_of, read_fields, written_words
from moeverify.base.words import words
from moeverify.errors import UsageError
from moeverify.evaluation.settings import QualitySettings
from moeverify.serving.settings import SECONDS

if TYPE_CHECKING:
    from moeverify.models.roles import Roles

ROLE_KINDS = ("experts", "routers", "shared_experts")


def _read_words(name: str) -> Any:
    return lambda values: tuple(words(values[name] or ""))


def _write_words(flag: str) -> Any:
    return lambda names: [flag, ",".join(names)] if names else []


def _read_repeated(name: str) -> Any:
    return lambda values: tuple(values[name] or ())


def _write_repeated(flag: str) -> Any:
    return lambda texts: [word for text in texts for word in given(flag, text)]


def _write_checks(names: tuple[str, ...]) -> list[str]:
    from moeverify.checks import default_names

    return [] if not names or names == default_names() else ["--checks", ",".join(names)]


def _read_ratios(values: Mapping[str, Any]) -> dict[str, float]:
    return parse_role_ratios(values["ratio"] or (), shared_experts=not values["no_shared_experts"])


def _read_ratio(values: Mapping[str, Any]) -> float:
    """Pruning ratio of channels: as given, else 0.5, or 0 if only whole experts were asked for."""
    if values["pruning_ratio"] is not None:
        given: float = values["pruning_ratio"]
        return given
    return 0.0 if _read_ratios(values).get("experts") else 0.5


def _write_ratios(ratios: Mapping[str, float]) -> list[str]:
    return [word for role, ratio in ratios.items() for word in ("--ratio", f"{role}={ratio!r}")]


def _read_roles(values: Mapping[str, Any]) -> dict[str, str]:
    given = {kind: values[f"{kind}_pattern"] for kind in ROLE_KINDS}
    if values["roles"] is None and not any(given.values()):
        return {}
    from moeverify.models.roles_file import roles_from

    rules = roles_from(values["roles"], **given)
    return {} if rules is None else rules.patterns()


def _write_roles(patterns: Mapping[str, str]) -> list[str]:
    return [
        word for kind, pattern in patterns.items() for word in given(f"--{kind.replace('_', '-')}-pattern", pattern)
    ]


def _read_quality(values: Mapping[str, Any]) -> QualitySettings:
    return QualitySettings(**read_fields(QualitySettings, {o.name: values[o.name] for o in _QUALITY}))


_QUALITY = options_of(QualitySettings)
_QUALITY_DEFAULT = QualitySettings()
_RATIOS = (
    Option("ratio", str, None, f"ROLE=RATIO, 0 leaves the role alone; again for more. Roles: {', '.join(forms.ROLES)}.",
           repeated=True, metavar="ROLE=RATIO"),
    Option("no_shared_experts", bool, False, "Leave shared experts' channels alone: --ratio shared_experts=0."),
)  # fmt: skip
_ROLES = (
    Option("roles", str, None, "Who is an expert, router, shared expert: a [roles] table.", metavar="FILE.toml"),
    Option("experts_pattern", str, None, "Container of the routed experts: last part of its path.", metavar="REGEX"),
    Option("routers_pattern", str, None, "Routers: last part of their path.", metavar="REGEX"),
    Option("shared_experts_pattern", str, None, "Shared experts: last part of their path.", metavar="REGEX"),
)


@dataclass(frozen=True)
class Settings:
    """Settings of a run: how models are pruned and checked.

    ``ratios`` holds pruning ratios by role, where they differ from ``pruning_ratio``. ``roles`` holds naming patterns
    of experts, routers and shared experts. ``checks`` is empty for the checks that run by default. ``round_to`` and
    ``importance`` are ``None`` for the subject's own. ``calibration`` and ``statistics`` are files, of which one may be
    given, for criteria and importances that rank by data. ``ignore`` holds paths of layers and parameters that stay.
    """

    subject: str = option("moe", f"The pruner: {forms.SUBJECTS}.")
    pruning_ratio: float = option(
        0.5, "", Option("pruning_ratio", float, None,
                        "Share of the channels to remove, between 0 and 1; 0.5, or 0 beside --ratio experts=RATIO."),
        read=_read_ratio, write=lambda ratio: ["--pruning-ratio", str(ratio)])  # fmt: skip
    seed: int = option(
        0, "Seed of random weights, inputs and pruning.", kind=int, low=0, high=2**32 - 1, always=True)  # fmt: skip
    dtype: str = option("float32", f"Precision that models are stored in: {', '.join(forms.DTYPES)}.")
    checks: tuple[str, ...] = option((), "", Option("checks", str, "", "Only these checks, separated by commas."),
                                     read=_read_words("checks"), write=_write_checks)  # fmt: skip
    trust_remote_code: bool = option(False, "Let a checkpoint run Python code of its own.", kind=bool)
    device: str = option("cpu", "Where models lie: cpu, cuda, cuda:N, or auto for several devices.")
    quality: QualitySettings = option(  # noqa: RUF009  a frozen default
        _QUALITY_DEFAULT, "", *_QUALITY, read=_read_quality, write=written_words)  # fmt: skip
    ratios: Mapping[str, float] = option({}, "", *_RATIOS, read=_read_ratios, write=_write_ratios)
    round_to: int | None = option(None, "Keep multiples of this many channels; the subject's own.", kind=int, low=1)
    ignore: tuple[str, ...] = option(
        (), "", Option("ignore", str, None, "A layer whose outputs stay, or a parameter, by path; again for more.",
                       repeated=True, metavar="PATH"),
        read=_read_repeated("ignore"), write=_write_repeated("--ignore"))  # fmt: skip
    importance: str | None = option(
        None, f"What is worth keeping: {forms.IMPORTANCES}; the subject's own.")  # fmt: skip
    expert_criterion: str | None = option(
        None, f"What ranks whole experts: {forms.EXPERT_CRITERIA}; reap with data, else magnitude.")  # fmt: skip
    calibration: str | None = option(
        None, "Text, .jsonl or a saved data set that experts or channels are ranked by.", metavar="FILE")  # fmt: skip
    calibration_samples: int = option(128, "Samples drawn from --calibration.", kind=int, low=1)
    calibration_length: int = option(512, "Tokens of a sample.", kind=int, low=1)
    statistics: str | None = option(
        None, "What prune --save-statistics wrote, instead of --calibration.", metavar="FILE")  # fmt: skip
    roles: Mapping[str, str] = option({}, "", *_ROLES, read=_read_roles, write=_write_roles)
    skip_checks: tuple[str, ...] = option(
        (), "", Option("skip_checks", str, "", "All but these checks, separated by commas."),
        read=_read_words("skip_checks"), write=_write_words("--skip-checks"))  # fmt: skip
    timeout: float = option(120.0, "Seconds that one model may take.", kind=float, low=0.1, limit=True)
    memory: float = option(12.0, "GiB of memory that one model may take.", kind=float, low=0.1, limit=True)
    quality_timeout: float = option(
        1800.0, "Seconds that the check quality may take, apart from --timeout.", kind=float, low=0.1,
        limit=True)  # fmt: skip
    engines: tuple[str, ...] = option(
        (), "", Option("engines", str, "", "Engines of the check served: `moeverify engines list` names them."),
        read=_read_words("engines"), write=_write_words("--engines"))  # fmt: skip
    engine_timeout: float = option(
        SECONDS, "Seconds that one engine may take, apart from --timeout.", kind=float, low=0.1,
        limit=True)  # fmt: skip
    engine_ready: bool = option(
        False, "Build synthetic and zoo models in sizes that engines take, with heads of 64.", kind=bool)  # fmt: skip
    strict: bool = option(False, "Exit code 1 if a verdict is inconclusive, too.", kind=bool)
    load: tuple[str, ...] = option(
        (), "", Option("load", str, None, "Python module that adds checks, rules or faults; again for more.",
                       repeated=True, metavar="MODULE"),
        read=_read_repeated("load"), write=_write_repeated("--load"))  # fmt: skip
    expect_fail: tuple[str, ...] = option(
        (), "", Option("expect_fail", str, "", "Checks that must fail, separated by commas."),
        read=_read_words("expect_fail"), write=_write_words("--expect-fail"))  # fmt: skip

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from the values of ``OPTIONS`` by name. Raises ``UsageError`` for values that cannot be meant."""
        return cls(**read_fields(Settings, values))

    def rules(self) -> Roles | None:
        """The naming rules of ``roles``; ``None`` for the usual ones."""
        from moeverify.models.roles import Roles

        return Roles(**self.roles) if self.roles else None

    def words(self) -> list[str]:
        """Words of a command line that give these settings again."""
        return written_words(self)

    def arguments(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(Settings)}

    def describe(self, *, limits: bool = True) -> dict[str, Any]:
        """The settings as plain data for a report: the main ones, and others that are not the default.

        Without ``limits`` those are left out that change nothing of what is found.
        """
        main = ("subject", "pruning_ratio", "seed", "dtype", "checks", "expect_fail")
        data = {}
        for field in fields(Settings):
            value = getattr(self, field.name)
            default = getattr(_DEFAULT, field.name)
            if field.name in main or (value != default and (limits or not field.metadata["limit"])):
                data[field.name] = asdict(value) if isinstance(value, QualitySettings) else value
        return data

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> Settings:
        """Settings that ``describe`` wrote, also after JSON; other keys are skipped.

        Raises ``UsageError`` for a value of another type.
        """
        result = {}
        for field in fields(Settings):
            if field.name in data:
                result[field.name] = _from_json(field.name, data[field.name])
        return cls(**result)

    def validated(self) -> Settings:
        """These settings with roles under their usual names and the checks that run.

        Raises ``UsageError`` for a ratio, dtype, device, role or check that cannot be meant.
        """
        from moeverify.base.extensions import load_modules
        from moeverify.checks.selection import select_checks
        from moeverify.models.device import check_device
        from moeverify.models.sources import parse_dtype
        from moeverify.pruning.choice.request import check_ratio
        from moeverify.serving.engines import engines_named

        load_modules(self.load)
        ratios = check_role_ratios(self.ratios)
        check_ratio(self.pruning_ratio, zero=any(ratios.values()))
        if self.round_to is not None and (not isinstance(self.round_to, int) or self.round_to < 1):
            raise UsageError(f"round_to must be a whole number of at least 1, not {self.round_to!r}")
        check_evidence(self)
        parse_dtype(self.dtype)
        check_device(self.device)
        expected = select_checks(self.expect_fail) if self.expect_fail else ()
        checks = select_checks(self.checks or None, self.skip_checks, also=("served",) if self.engines else ())
        engines_named(self.engines)
        return replace(
            self,
            ratios=ratios,
            checks=checks,
            skip_checks=(),
            expect_fail=expected,
            pruning_ratio=float(self.pruning_ratio),
            timeout=_positive("timeout", self.timeout),
            memory=_positive("memory", self.memory),
            quality_timeout=_positive("quality_timeout", self.quality_timeout),
            engine_timeout=_positive("engine_timeout", self.engine_timeout),
        )


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not value > 0:
        raise UsageError(f"{name} must be a positive number, not {value!r}")
    return float(value)


def _from_json(name: str, value: Any) -> Any:
    """A field's value from JSON. Raises ``UsageError`` for one of another type."""
    default = getattr(_DEFAULT, name)
    kind = int if name == "round_to" else str if default is None else type(default)
    try:
        if name == "quality":
            return QualitySettings.from_dict(value)
        if kind is tuple and isinstance(value, list):
            return tuple(value)
    except (TypeError, ValueError, KeyError, AttributeError):
        value = None
    if isinstance(value, bool) is (kind is bool) and isinstance(value, (int, float) if kind is float else kind):
        return value
    raise UsageError(f"settings that cannot be read: {name} is {str(value)[:60]!r}")


OPTIONS = options_of(Settings)
# Options that say what is removed, which `prune` has as well.
SELECTION = (
    "pruning_ratio", *(o.name for o in _RATIOS), "round_to", "ignore", "importance", "expert_criterion", "calibration",
    "calibration_samples", "calibration_length", "statistics", *(o.name for o in _ROLES), "load",
)  # fmt: skip
_DEFAULT = Settings()


def selected(names: Iterable[str]) -> tuple[Option, ...]:
    """The options of these names."""
    by_name = {o.name: o for o in OPTIONS}
    return tuple(by_name[name] for name in names)


def check_evidence(settings: Settings) -> None:
    """Raises ``UsageError`` for a criterion or data that cannot be meant; nothing is read."""
    from moeverify.pruning.choice.criteria import criterion_named
    from moeverify.pruning.choice.importances import WITH_DATA

    if settings.calibration is not None and settings.statistics is not None:
        raise UsageError("--statistics replaces --calibration; give one of them")
    for flag, name in (("--calibration", settings.calibration), ("--statistics", settings.statistics)):
        if name is not None and not Path(name).expanduser().exists():
            raise UsageError(f"{flag} {name}: there is no such file or folder")
    for field in ("calibration_samples", "calibration_length"):
        value = getattr(settings, field)
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{field} must be a positive whole number, not {value!r}")
    if settings.importance in WITH_DATA and settings.calibration is None:
        raise UsageError(f"--importance {settings.importance} ranks channels by data; give it with --calibration FILE")
    if (criterion := settings.expert_criterion) is None:
        return
    if not settings.ratios.get("experts"):
        raise UsageError(f"--expert-criterion {criterion} ranks whole experts; say how many go: --ratio experts=0.5")
    data = settings.calibration or settings.statistics
    if ":" not in criterion and criterion_named(criterion).needs_data and data is None:
        raise UsageError(f"--expert-criterion {criterion} ranks by data; give it with --calibration or --statistics")


def check_role_ratios(ratios: Mapping[str, float]) -> dict[str, float]:
    """Ratios by the roles' usual names. Raises ``UsageError`` for an unknown role or a ratio outside [0, 1)."""
    from moeverify.pruning.choice.request import check_ratio, role_named

    return {role_named(role): check_ratio(ratio, f"the ratio of {role}", zero=True) for role, ratio in ratios.items()}


def parse_role_ratios(given: Iterable[str], *, shared_experts: bool = True) -> dict[str, float]:
    """Ratios by role from words such as ``routed_experts=0.25``.

    ``shared_experts=False`` gives shared experts the ratio 0. Raises ``UsageError`` with one line for other words, and
    for a role that is named twice.
    """
    ratios: dict[str, float] = {}
    for word in given:
        role, equals, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals or not role.strip():
            raise UsageError(f"--ratio {word}: write ROLE=RATIO, such as routed_experts=0.25")
        ((name, ratio),) = check_role_ratios({role: number}).items()
        if name in ratios:
            raise UsageError(f"--ratio {word}: {name} has a ratio already; give each role once")
        ratios[name] = ratio
    if not shared_experts:
        if ratios.get("shared_experts"):
            raise UsageError("--no-shared-experts, but --ratio asks for shared experts; drop one of them")
        ratios["shared_experts"] = 0.0
    return ratios
