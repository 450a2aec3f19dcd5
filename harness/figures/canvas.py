"""How all figures look and are saved: styles that survive a greyscale printer, footers, captions, files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from harness import __version__
from harness.errors import Misuse
from harness.plan import Plan

FORMATS = ("png", "svg", "pdf")
DPI = 200
PARAMETERS: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "efface",  # the same figure gives the same file
}


@dataclass(frozen=True)
class Style:
    """How one series looks: any one of colour, line and hatch tells it from the others."""

    colour: str
    line: Any
    hatch: str
    marker: str


# lightness rises by at least ten steps (of L*, 0 to 100) from each to the next
STYLES = (
    Style("#141414", "-", "", "o"),
    Style("#00508a", (0, (5, 2)), "////", "s"),
    Style("#cf5200", (0, (1, 1)), "....", "^"),
    Style("#4fb0e6", (0, (6, 1.5, 1, 1.5)), "xxxx", "D"),
    Style("#f2cf2e", (0, (3, 1, 1, 1, 1, 1)), "oo", "v"),
)
NAMES = {
    "baseline": "original",
    "retrain": "retrained",
    "jit": "JiT",
    "random_labels_zs": "naive mislabelling",
    "random_labels": "random labels",
    "neggrad": "negative gradient",
}
# both ends of a scale of probabilities; lightness falls all the way
TWO_CLASSES = LinearSegmentedColormap.from_list("two_classes", ["#fff3dc", "#f2c288", "#9dabc4", "#3f6a96"])
HEAT = mpl.colormaps["cividis"]


def lightness(colour: Any) -> float:
    """CIE L* of a colour, 0 (black) to 100 (white): what is left of it in greyscale."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return float(116 * y ** (1 / 3) - 16 if y > 216 / 24389 else y * 24389 / 27)


def ink_on(colour: Any) -> str:
    """Black or white: what can be read on a colour."""
    return "black" if lightness(colour) > 55 else "white"


def name_of(method: str) -> str:
    """What a figure calls a method."""
    return NAMES.get(method, method)


@dataclass(frozen=True)
class Drawn:
    """A finished figure with its caption, and the numbers in it."""

    stem: str  # of its files
    figure: Figure
    caption: str
    table: pd.DataFrame


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that belongs to no global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_footer(figure: Figure, text: str) -> None:
    """Small print below everything else."""
    per_line = int(figure.get_figwidth() * 25)
    figure.supxlabel(
        "\n".join(textwrap.wrap(text, per_line)), x=0.01, ha="left", fontsize=5.5, color="#444444"
    )


def footer(plan: Plan, rows: pd.DataFrame, more: str = "") -> str:
    """Suite, n, hardware and data of what was drawn."""
    suite = plan.suite
    parts = [f"suite {suite.name}, profile {suite.profile}", f"n = {len(rows)} runs"]
    if more:
        parts.append(more)
    known = rows.dropna(subset=["device", "threads"])
    machines = dict.fromkeys(
        f"{device}, {int(threads)} thread{'s' if threads > 1 else ''}, {precision}"
        for device, threads, precision in zip(
            known["device"], known["threads"], known["precision"], strict=True
        )
    )
    parts += list(machines)
    notes = list(dict.fromkeys(rows["data_note"].dropna()))
    if not rows["data_official"].fillna(True).astype(bool).all():
        parts.append(f"not the official data: {', '.join(notes) or 'files differ'}")
    versions = "/".join(sorted(set(rows["efface_version"].dropna()))) or __version__
    return " · ".join([*parts, f"efface {versions}"])


def stem_of(*parts: Any) -> str:
    """A file name out of names."""
    words = [re.sub(r"[^A-Za-z0-9.+-]+", "_", str(part)) for part in parts if part is not None]
    return "-".join(words)


def formats_of(text: str) -> tuple[str, ...]:
    """`png,svg` as a tuple. Misuse where one is unknown."""
    found = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    strange = [part for part in found if part not in FORMATS]
    if strange or not found:
        raise Misuse(
            f"--format {text}: found {', '.join(strange) or 'nothing'}, expected some of {','.join(FORMATS)}"
        )
    return found


def save(drawn: Drawn, folder: Path, formats: Sequence[str]) -> list[Path]:
    """The figure in each format, its numbers as CSV, its caption as text; the same input, the same bytes."""
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"--to {folder} is a file, expected a folder; give another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{drawn.stem}.{form}" for form in formats]
        for path, form in zip(paths, formats, strict=True):
            dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            drawn.figure.savefig(path, format=form, dpi=DPI, metadata=dated.get(form))
        table, caption = folder / f"{drawn.stem}.csv", folder / f"{drawn.stem}.txt"
        drawn.table.to_csv(table, index=False)
        caption.write_text(drawn.caption + "\n", encoding="utf-8")
    except OSError as error:
        raise Misuse(f"--to {folder}: cannot write ({error.strerror}); give a writable folder") from None
    return [*paths, table, caption]
