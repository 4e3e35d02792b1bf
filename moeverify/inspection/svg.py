"""A few shapes, enough for our pictures; text is escaped by the XML writer."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from moeverify.base.text import printable

_SANS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def readable_on(colour: str) -> str:
    """Black or white, whichever stands out on ``#rrggbb`` (relative luminance of WCAG 2)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#FFFFFF"


class Drawing:
    """An SVG of a given width that grows downwards with what is drawn."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.height = 0.0
        self.root = xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": _SANS})
        self._background = xml.SubElement(self.root, "rect", {"fill": "#F6F7F9"})

    def title(self, title: str, description: str) -> None:
        """Text that a screen reader reads first."""
        for tag, text in (("desc", description), ("title", title)):
            element = xml.Element(tag)
            element.text = printable(text)
            self.root.insert(0, element)

    def group(self) -> xml.Element:
        """A layer at this depth, to be drawn into later."""
        return xml.SubElement(self.root, "g")

    def grow(self, bottom: float) -> None:
        """Make room down to ``bottom``."""
        self.height = max(self.height, bottom)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int,
        bold: bool = False,
        mono: bool = False,
        grey: bool = False,
        fill: str = "#1B1F24",
        anchor: str = "start",
    ) -> None:
        """One line of text with its baseline at ``y``."""
        look = {"x": _n(x), "y": _n(y), "font-size": str(size), "fill": "#57606A" if grey else fill}
        if anchor != "start":
            look["text-anchor"] = anchor
        if bold:
            look["font-weight"] = "600"
        if mono:
            look["font-family"] = _MONO
        xml.SubElement(self.root, "text", look).text = printable(text)
        self.grow(y + 8)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        stroke: str = "",
        radius: float = 3,
        tip: str = "",
    ) -> None:
        """A rectangle, with words that show when pointed at."""
        look = {"x": _n(x), "y": _n(y), "width": _n(width), "height": _n(height), "rx": _n(radius), "fill": fill}
        if stroke:
            look["stroke"] = stroke
        element = xml.SubElement(self.root, "rect", look)
        if tip:
            xml.SubElement(element, "title").text = printable(tip)
        self.grow(y + height + 8)

    def circle(self, x: float, y: float, radius: float, fill: str) -> None:
        """A dot."""
        xml.SubElement(self.root, "circle", {"cx": _n(x), "cy": _n(y), "r": _n(radius), "fill": fill})

    def curve(self, start: tuple[float, float], end: tuple[float, float], colour: str, parent: xml.Element) -> None:
        """A line that leaves and arrives level."""
        (a, b), (c, d) = start, end
        middle = (a + c) / 2
        path = f"M{_n(a)} {_n(b)}C{_n(middle)} {_n(b)} {_n(middle)} {_n(d)} {_n(c)} {_n(d)}"
        look = {"d": path, "stroke": colour, "stroke-width": "1.5", "fill": "none", "stroke-opacity": "0.65"}
        xml.SubElement(parent, "path", look)

    def to_string(self) -> str:
        """The whole picture."""
        width, height = str(self.width), _n(self.height + 8)
        self.root.attrib.update({"width": width, "height": height, "viewBox": f"0 0 {width} {height}"})
        self._background.attrib.update({"width": width, "height": height})
        return xml.tostring(self.root, encoding="unicode") + "\n"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
