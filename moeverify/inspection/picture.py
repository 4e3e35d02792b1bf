"""A picture of one MoE layer: which parameters' channels go together, and what is frozen.

Coupling classes stand on the left, the parameters of the layer's block on the right, each dimension a chip in the
colour of its class. Experts are drawn once in full and then as a grid, so that 8 and 512 of them read alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as xml

from moeverify.coupling.classify import PruningClass
from moeverify.errors import UsageError
from moeverify.inspection.inspection import Inspection
from moeverify.inspection.layer_facts import Chip, LayerFacts, Row, layer_facts
from moeverify.inspection.svg import Drawing, readable_on

# Okabe and Ito's palette, told apart by colour-blind readers too.
_ROLE_COLOURS = {
    "hidden": "#0072B2",
    "routed_experts": "#D55E00",
    "shared_experts": "#009E73",
    "heads": "#CC79A7",
    "dense_mlp": "#E69F00",
}
_OTHERS = ("#56B4E9", "#6A51A3", "#A6761D", "#1B9E77", "#E7298A", "#666600")
_FROZEN, _CROSSING = "#C8CCD2", "#C1121F"
_WIDTH, _LEFT, _RIGHT, _ROW, _CHIP = 1180, 300, 400, 24, 92
_MOST_CLASSES = 40


def layer_picture(inspection: Inspection, layer: str | None = None) -> str:
    """An SVG of one MoE layer, the first one unless its path is given.

    Raises ``UsageError`` if the model has no such MoE layer.
    """
    layers = inspection.roles.layers
    if not layers:
        raise UsageError("no MoE layer to draw: no routed experts were found; name them with --experts-pattern")
    chosen = next((x for x in layers if layer in (None, x.name, x.container)), None)
    if chosen is None:
        names = ", ".join(x.name for x in layers[:3])
        raise UsageError(f"no MoE layer {layer!r} to draw; there are {names}{' ...' if len(layers) > 3 else ''}")
    return _Picture(inspection, layer_facts(inspection, chosen)).draw()


@dataclass
class _Picture:
    inspection: Inspection
    facts: LayerFacts

    def __post_init__(self) -> None:
        self.drawing = Drawing(_WIDTH)
        spare = iter(_OTHERS * _MOST_CLASSES)
        self.colours: dict[int, str] = {}
        taken: set[str] = set()
        for item in self.facts.classes:
            colour = _ROLE_COLOURS.get(item.role)
            self.colours[id(item)] = colour if colour and colour not in taken else next(spare)
            taken.add(self.colours[id(item)])
        self.ports: list[tuple[int, float, float]] = []  # class, x, y

    def draw(self) -> str:
        facts, drawing = self.facts, self.drawing
        drawing.title(
            f"Coupling classes of {facts.layer.name}",
            "Each coloured chip is a dimension of a parameter; channels of one colour are removed together.",
        )
        drawing.text(20, 30, f"{self.inspection.loaded.name} · {facts.layer.name}", size=18, bold=True)
        drawing.text(
            20, 50, f"one of {facts.like} MoE layers; what has one colour is removed together", size=12, grey=True
        )
        links = drawing.group()  # under everything else
        y = 74.0
        for title, rows in facts.modules:
            y = self._module(title, rows, y)
            if title == facts.experts_title:
                y = self._grid(y)
        bottom = max(y, self._classes(links, 74.0))
        self._reasons(bottom + 14)
        return drawing.to_string()

    def _module(self, title: str, rows: list[Row], y: float) -> float:
        """One module's frame with a row for each parameter; returns where the next one begins."""
        height = 24 + _ROW * len(rows)
        self.drawing.box(_RIGHT, y, _WIDTH - _RIGHT - 20, height, "#FFFFFF", stroke="#9AA3AE")
        self.drawing.text(_RIGHT + 10, y + 16, title, size=12, bold=True)
        for number, row in enumerate(rows):
            top = y + 24 + _ROW * number
            self.drawing.text(_RIGHT + 44, top + 14, row.name, size=12, mono=True)
            for place, chip in enumerate(row.chips):
                x = _WIDTH - 30 - _CHIP * (len(row.chips) - place)
                self._chip(chip, x, top + 2, f"{row.parameter} dimension {place}")
            owners = dict.fromkeys(id(item) for chip in row.chips for item, _ in chip.parts if item is not None)
            for port, owner in enumerate(owners):
                x = _RIGHT + 8 + 10 * port
                self.ports.append((owner, x, top + 10))
                self.drawing.circle(x, top + 10, 3.5, self.colours[owner])
        return y + height + 12

    def _chip(self, chip: Chip, x: float, y: float, what: str) -> None:
        width = _CHIP - 8
        done = 0
        for item, positions in chip.parts:
            share = width * positions / chip.size
            fill = _FROZEN if item is None else self.colours[id(item)]
            self.drawing.box(x + done, y, share, _ROW - 6, fill, tip=f"{what}: {self._tip(item, positions, chip)}")
            done += share
        first = chip.parts[0][0]
        whole = len(chip.parts) == 1
        colour = readable_on(_FROZEN if first is None else self.colours[id(first)]) if whole else "#000000"
        label = f"{chip.size}" + (f" ✕{chip.reason}" if chip.reason else "")
        self.drawing.text(x + width / 2, y + 13, label, size=11, fill=colour, anchor="middle")

    def _tip(self, item: PruningClass | None, positions: int, chip: Chip) -> str:
        if item is None:
            return f"{positions} frozen: {self.facts.reasons[chip.reason - 1]}" if chip.reason else f"{positions} alone"
        return f"{positions} positions of {item.name}"

    def _classes(self, links: xml.Element, top: float) -> float:
        """The classes on the left, each joined to its ports; returns where they end."""
        y = top
        for item in self.facts.classes[:_MOST_CLASSES]:
            colour = self.colours[id(item)]
            self.drawing.box(20, y, _LEFT - 20, 40, colour, radius=6)
            text = readable_on(colour)
            self.drawing.text(30, y + 17, self._names(item), size=13, bold=True, fill=text)
            self.drawing.text(30, y + 33, self._size(item), size=11, fill=text)
            for owner, x, port in self.ports:
                if owner == id(item):
                    self.drawing.curve((_LEFT, y + 20), (x - 4, port), colour, parent=links)
            y += 52
        more = len(self.facts.classes) - _MOST_CLASSES
        if more > 0:
            self.drawing.text(20, y + 12, f"and {more} more classes", size=12, grey=True)
            y += 24
        return y

    def _size(self, item: PruningClass) -> str:
        inside = sum(m.parameter in self.facts.parameters for m in item.coupling.members)
        units = f"{item.coupling.size} units"
        if item.role == "routed_experts":
            each = f" in each of {len(self.facts.layer.experts)} experts"
            return units + each
        beyond = len(item.coupling.members) - inside
        return f"{units}, {inside} dims here" + (f", {beyond} elsewhere" if beyond else "")

    def _names(self, item: PruningClass) -> str:
        """The role; a class that has none is known by the first module that it touches."""
        if item.role != "other":
            return item.role.replace("_", " ")
        owner = item.coupling.members[0].parameter.rpartition(".")[0]
        return f"other, from {owner.rpartition('.')[2]}"

    def _grid(self, y: float) -> float:
        """One cell for each routed expert, red if a class joins it with another one."""
        experts = self.facts.layer.experts
        columns = len(experts) if len(experts) <= 16 else 32
        size = min(44.0, (_WIDTH - _RIGHT - 40) / columns)
        rows = -(-len(experts) // columns)
        crossing = self.facts.crossing
        text = "no channel of one goes with a channel of another" if not crossing else "red: joined with another expert"
        self.drawing.text(_RIGHT + 10, y + 6, f"{len(experts)} routed experts: {text}", size=12)
        y += 14
        colour = next((c for i, c in self.colours.items() if i in self.facts.routed), _FROZEN)
        for number, name in enumerate(experts):
            x, top = _RIGHT + 10 + size * (number % columns), y + size * (number // columns)
            fill = _CROSSING if name in crossing else colour
            self.drawing.box(x, top, size - 2, size - 2, fill, radius=2, tip=name)
            self.drawing.text(
                x + size / 2 - 1, top + size / 2 + 2, str(number), size=13 if size > 30 else 9,
                fill=readable_on(fill), anchor="middle",
            )  # fmt: skip
        return y + size * rows + 14

    def _reasons(self, y: float) -> None:
        if not self.facts.reasons:
            return
        self.drawing.text(20, y + 12, "frozen (grey chips, ✕ and the number of the reason)", size=12, bold=True)
        for number, reason in enumerate(self.facts.reasons, 1):
            self.drawing.text(30, y + 12 + 17 * number, f"✕{number}  {reason}", size=12)
        self.drawing.grow(y + 24 + 17 * len(self.facts.reasons))
