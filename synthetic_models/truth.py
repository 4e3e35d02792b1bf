"""What a spec's model couples, known from the description alone: no model is built, nothing is traced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from synthetic_models.axes import Axis, Ledger, Place, Unit
from synthetic_models.cycles import cat_slice_parts
from synthetic_models.names import FAMILIES
from synthetic_models.spec import Spec
from synthetic_models.truth_attention import write_attention

Answer = frozenset[Unit]


@dataclass(frozen=True)
class Truth:
    """Ground truth of a spec. Parameters go by their first name; later names of tied ones do not occur.

    ``classes`` are the units of each coupling class by a readable name, ``choices`` those of attention where several
    answers are right: whole heads or single channels of every head, but never both. ``frozen`` tells for every
    position that no answer removes why. ``experts``, ``routers`` and ``shared_experts`` are module paths
    (``container[n]`` for fused experts), ``cross_expert`` the pairs of experts that are truly coupled.
    """

    classes: Mapping[str, tuple[Unit, ...]]
    choices: Mapping[str, tuple[Answer, ...]]
    frozen: Mapping[Place, str]
    experts: tuple[str, ...]
    routers: tuple[str, ...]
    shared_experts: tuple[str, ...]
    cross_expert: frozenset[tuple[str, str]]

    def boundary(self, path: str) -> str | None:
        """The routed expert that a module or parameter lies in: ``None`` outside, the container if fused."""
        for expert in self.experts:
            expert = expert.partition("[")[0]
            if path == expert or path.startswith(expert + "."):
                return expert
        return None

    def differences(self, found: Iterable[Unit]) -> list[str]:
        """How a set of units differs from the truth, one line each; empty if it is one of the right answers."""
        rest = set(found)
        lines = []
        for name, units in self.classes.items():
            missing = [unit for unit in units if unit not in rest]
            lines += [f"{name}: no unit {_show(unit)}" for unit in missing]
            rest.difference_update(units)
        for name, answers in self.choices.items():
            right = next((answer for answer in answers if answer <= rest), None)
            if right is None:
                lines.append(
                    f"{name}: none of the {len(answers)} right answers, such as {_show(min(answers[0], key=sorted))}"
                )
            else:
                rest -= right
        lines += [f"a unit that is none: {_show(unit)}" for unit in sorted(rest, key=sorted)]
        return lines


def _show(unit: Unit) -> str:
    parts = [f"{parameter}[{':,' * dim}{position}]" for parameter, dim, position in sorted(unit)]
    return " + ".join(parts[:8]) + (f" + {len(parts) - 8} more" if len(parts) > 8 else "")


class _Writer:
    """Writes a spec down part by part, in the order of the model's modules."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.names = spec, FAMILIES[spec.names]
        self.common = Ledger()
        self.attention: dict[str, list[Ledger]] = {}
        self.experts: list[str] = []
        self.routers: list[str] = []
        self.shared: list[str] = []
        self.cross: set[tuple[str, str]] = set()
        self.hidden = _hidden(spec)

    def write(self) -> None:
        spec, put = self.spec, self.common.put
        vocabulary = Axis.fixed(spec.vocab, "rows of the vocabulary")
        put("model.embed_tokens.weight", vocabulary, self.hidden)
        if not spec.tied_embeddings:
            put("lm_head.weight", vocabulary, self.hidden)
        if spec.features:
            features = Axis.fixed(spec.features, "dimension of an input")
            self.common.linear("model.feature_proj", self.hidden, features, bias=True)
        if spec.strength("twice"):
            self.common.linear("model.stem.echo", self.hidden, self.hidden, spec.bias)
        self.common.norm("model.norm", self.hidden, spec.norm)
        for number, kind in enumerate(spec.layers):
            self._layer(f"model.layers.{number}", number, kind)

    def _layer(self, path: str, number: int, kind: str) -> None:
        spec = self.spec
        if spec.attention != "none":
            attention = f"{path}.self_attn"
            self.attention[attention] = write_attention(spec, attention, self.hidden, self.common)
            if spec.residual != "parallel":
                self.common.norm(f"{path}.attention_norm", self.hidden, spec.norm)
        self.common.norm(f"{path}.mlp_norm", self.hidden, spec.norm)
        if kind == "dense":
            self._mlp(f"{path}.mlp", Axis.free(f"dense {path}.mlp", spec.dense_width))
            return
        path = f"{path}.{self.names.moe}"
        if spec.router != "hash" or spec.top_k > 1:
            self._router(f"{path}.{self.names.router}")
        self.routers.append(f"{path}.{self.names.router}")
        earlier = spec.moe_layers.index(number)
        if not 0 < earlier <= spec.strength("shared_experts_between_layers"):
            container = f"{path}.{self.names.experts}"
            (self._listed if spec.storage == "listed" else self._stacked)(container)
        self._shared(path)

    def _mlp(self, path: str, width: Axis, tied_up: bool = False) -> None:
        names, bias = self.names, self.spec.bias
        if self.spec.gated:
            self.common.linear(f"{path}.{names.gate}", width, self.hidden, bias)
        if not tied_up:
            self.common.linear(f"{path}.{names.up}", width, self.hidden, bias)
        elif bias:
            self.common.put(f"{path}.{names.up}.bias", width)
        self.common.linear(f"{path}.{names.down}", self.hidden, width, bias)

    def _listed(self, container: str) -> None:
        tied = self.spec.strength("tied_experts")
        paths = [f"{container}.{number}" for number in range(self.spec.experts)]
        for number, (path, width) in enumerate(zip(paths, self.spec.widths, strict=True)):
            key = f"expert {paths[0] if number <= tied else path}"
            self._mlp(path, Axis.free(key, width), tied_up=0 < number <= tied)
        self.experts += paths
        together = paths[: tied + 1]
        self.cross |= {(a, b) for a in together for b in together if a != b}

    def _stacked(self, container: str) -> None:
        spec, count = self.spec, self.spec.experts
        self.experts += [f"{container}[{number}]" for number in range(count)]
        experts = Axis.fixed(count, "experts are chosen by the router")
        width = Axis.free(f"experts {container}", spec.widths[0])
        transposed = spec.storage in ("fused_transposed", "fused_interleaved")
        if not spec.gated:
            first = {"up_proj": width}
        elif spec.storage == "per_projection":
            first = {"gate_proj": width, "up_proj": width}
        else:
            both = width.blocks(2) if spec.storage == "fused_interleaved" else width.tiled(2)
            first = {"gate_up_proj": both}
        for name, axis in first.items():
            self._stack(f"{container}.{name}", experts, axis, self.hidden, transposed)
        self._stack(f"{container}.down_proj", experts, self.hidden, width, transposed)

    def _stack(self, name: str, experts: Axis, out: Axis, into: Axis, transposed: bool) -> None:
        self.common.put(name, experts, *((into, out) if transposed else (out, into)))
        if self.spec.bias:
            self.common.put(f"{name}_bias", experts, out)

    def _router(self, path: str) -> None:
        spec = self.spec
        experts = Axis.fixed(spec.experts + spec.zero_experts, "experts are chosen by the router")
        block = path.rpartition(".")[0]
        seen = self.hidden
        if spec.router_hidden:
            seen = Axis.free(f"router {path}", spec.router_hidden)
            self.common.linear(f"{path}.hidden_layer", seen, self.hidden, bias=True)
        self.common.put(f"{path}.weight", experts, seen)
        if spec.router == "noisy":
            self.common.put(f"{path}.noise_weight", experts, seen)
        if spec.router in ("sigmoid", "group_limited") and spec.correction != "buffer":
            self.common.put(f"{block if spec.correction == 'block' else path}.e_score_correction_bias", experts)
        if spec.expert_scale:
            self.common.put(f"{path}.per_expert_scale", Axis.fixed(spec.experts, "experts are chosen by the router"))

    def _shared(self, path: str) -> None:
        spec, base = self.spec, f"{path}.{self.names.shared}"
        if spec.shared == "none":
            return
        parts = [f"{base}s.0", f"{base}s.1"] if spec.shared == "several" else [base]
        for part in parts:
            self._mlp(part, Axis.free(f"shared {part}", spec.shared_width))
        self.shared.append(f"{base}s" if spec.shared == "several" else base)
        if spec.shared == "gated":
            self.common.linear(f"{base}_gate", Axis.fixed(1, "a single gate"), self.hidden, bias=False)
            self.routers.append(f"{base}_gate")


def _hidden(spec: Spec) -> Axis:
    """The residual stream, folded by the cycles that shift its channels against one another."""
    if spec.strength("roll"):
        return Axis.fixed(spec.hidden, "channels are rolled by a number written into the program")
    folded = spec.hidden
    if spec.strength("rotate_half"):
        folded = spec.hidden // 2
    if spec.strength("cat_slice"):
        folded = spec.hidden // cat_slice_parts(spec.strength("cat_slice"))
        if spec.strength("rotate_half"):
            folded = min(folded, spec.hidden // 2)
    if folded == 1:
        return Axis.fixed(spec.hidden, "all channels would have to go together")
    return Axis("hidden", tuple(channel % folded for channel in range(spec.hidden)))


def truth(spec: Spec) -> Truth:
    """The ground truth of ``spec``."""
    writer = _Writer(spec)
    writer.write()
    frozen = dict(writer.common.frozen())
    choices = {}
    for path, answers in writer.attention.items():
        choices[path] = tuple(frozenset(u for units in a.units().values() for u in units) for a in answers)
        removable = {place for answer in choices[path] for unit in answer for place in unit}
        for answer in answers:
            frozen.update({place: why for place, why in answer.frozen().items() if place not in removable})
    return Truth(
        classes={key: tuple(units) for key, units in writer.common.units().items()},
        choices=choices,
        frozen=frozen,
        experts=tuple(writer.experts),
        routers=tuple(writer.routers),
        shared_experts=tuple(writer.shared),
        cross_expert=frozenset(writer.cross),
    )
