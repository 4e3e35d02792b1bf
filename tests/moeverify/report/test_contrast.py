"""Colours of the report stand out from its ground, light and dark: WCAG 2.2, 4.5 to 1 for text, 3 to 1 for lines."""

import re
from pathlib import Path

import moeverify

CSS = (Path(moeverify.__file__).parent / "report" / "templates" / "report.css").read_text("utf-8")
# What holds for light, then what holds for dark: variables first, curves (after the light ones) second.
LIGHT, *DARK = CSS.split("@media (prefers-color-scheme: dark)")


def colours(css, pattern):
    return dict(re.findall(pattern + r":\s*(#[0-9a-fA-F]{3,6})\b", css))


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_follows_the_formula_of_wcag():
    assert contrast("#000", "#ffffff") == 21
    assert round(contrast("#777777", "#fff"), 2) == 4.48


def test_text_and_lines_stand_out_in_both_schemes():
    for css in (LIGHT, DARK[0]):
        names = colours(css, r"--(\w+)")
        for name in ("fg", "dim", "pass", "fail", "wait", "own", "link"):
            assert contrast(names[name], names["bg"]) >= 4.5, name
            assert contrast(names[name], names["soft"]) >= 4.5, name


def test_curves_stand_out_in_both_schemes():
    for css, ground in ((DARK[0], "#ffffff"), (DARK[1], "#0d1117")):
        series = colours(css, r"\.series\.(s\d) \{ color")
        assert len(series) == 8
        for name, colour in series.items():
            assert contrast(colour, ground) >= (3 if ground == "#ffffff" else 4.5), name
