"""The paper's figures from small sweeps: what they show, what they say where something is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from harness import artifacts
from harness.execute.inline import Inline
from harness.figures import canvas, chosen, make
from harness.figures.runtime import medians
from harness.figures.stored import Held
from harness.plan import Plan, make_plan
from harness.registry import Catalogue
from harness.selection import Selection
from harness.statistics import compare
from harness.store import Store
from harness.suite import expand
from harness.suite_file import load_suite, parse_suite
from harness.sweep import Listener, sweep
from harness.workspace import Settings, Workspace
from tasks.metrics.entropy import entropy

TASK = {"dataset": "digits", "scenario": "full_class", "targets": ["3"]}
RANDOM = {"dataset": "digits", "scenario": "random", "count": 50}
REFERENCES = ["baseline", "retrain"]
COMPARED = {"seeds": 2, "models": ["mlp"], "methods": [*REFERENCES, "jit"], "task": [TASK, RANDOM]}
GRID = {
    "seeds": 1,
    "models": ["mlp"],
    "methods": [*REFERENCES, "jit"],
    "task": [TASK],
    "grid": {"jit": {"lr": [0.01, 1e30], "sigma": [0.1, 0.5, 1.0], "samples": [5]}},
}


class Swept:
    """A suite, and a store that holds all of it."""

    def __init__(self, folder: Path, catalogue: Catalogue, suite: str | dict[str, Any]) -> None:
        self.catalogue, self.folder = catalogue, folder
        self.suite = (
            load_suite(suite, catalogue) if isinstance(suite, str) else parse_suite("own", suite, catalogue)
        )
        self.store = Store.create(str(folder / "store"))
        space = Workspace(Settings(self.store.url, device="cpu"), catalogue)
        self.outcome = sweep(self.plan(), self.store, catalogue, lambda: Inline(space), Listener())

    def plan(self, **only: Any) -> Plan:
        wanted = expand(self.suite, self.catalogue, Selection(**only))
        return make_plan(self.suite, wanted, Store(self.store.url), self.catalogue)

    def held(self, store: Store | None = None, **only: Any) -> Held:
        return Held(self.plan(**only), store or Store(self.store.url), self.catalogue, self.suite.name)

    def copy(self, to: Path) -> Store:
        shutil.copytree(self.folder / "store", to)
        return Store.open(str(to))


@pytest.fixture(scope="module")
def lowdim(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Swept:
    return Swept(tmp_path_factory.mktemp("lowdim"), catalogue, "lowdim")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Swept:
    return Swept(tmp_path_factory.mktemp("compared"), catalogue, COMPARED)


@pytest.fixture(scope="module")
def gridded(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Swept:
    return Swept(tmp_path_factory.mktemp("gridded"), catalogue, GRID)


@pytest.fixture
def typed(efface: Callable[..., Any]) -> Callable[..., Any]:
    return efface


# -------------------- Figures 2 and 3


def test_lowdim_draws_both_figures_in_every_format(
    lowdim: Swept, typed: Callable[..., Any], tmp_path: Path
) -> None:
    code, out, err = typed("figures", "lowdim", "--store", lowdim.store.url, "--to", str(tmp_path))
    assert (code, err) == (0, "")
    for stem in ("lowdim-boundaries", "lowdim-sigmoid"):
        starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
        for form, magic in starts.items():
            content = (tmp_path / f"{stem}.{form}").read_bytes()
            assert content.startswith(magic) and len(content) > 10_000
            assert str(tmp_path / f"{stem}.{form}") in out
        caption = (tmp_path / f"{stem}.txt").read_text()
        assert (
            "suite lowdim" in caption
            and "n = 4 runs" in caption
            and "cpu" in caption
            and "sigma=0.3" in caption
        )


def test_jit_moves_the_boundary_where_points_mattered_and_nowhere_else(lowdim: Swept, tmp_path: Path) -> None:
    make(["boundaries"], lowdim.held(), tmp_path, ["svg"])
    table = pd.read_csv(tmp_path / "lowdim-boundaries.csv").set_index(["forgotten", "model"])
    still = table["still_in_own_class"]
    for target in ("edge", "core"):
        assert still[target, "original"] == table.loc[(target, "original"), "points"] == 12
    assert still["edge", "retrained"] == still["edge", "JiT"] == 0
    assert still["core", "retrained"] == still["core", "JiT"] == 12
    assert still["core", "naive mislabelling"] == 0
    agreement = table["grid_agreement_with_retrained"]
    assert agreement["core", "JiT"] > 0.95 > 0.5 > agreement["core", "naive mislabelling"]
    assert agreement["core", "retrained"] == 1


def test_the_sigmoid_moves_towards_the_retrained_one_only_where_it_is_steep(
    lowdim: Swept, tmp_path: Path
) -> None:
    make(["sigmoid"], lowdim.held(), tmp_path, ["svg"])
    table = pd.read_csv(tmp_path / "lowdim-sigmoid.csv").set_index(["forgotten", "model"])
    own = table["mean_probability_of_own_class"]
    to_retrained = [abs(own["steep", name] - own["steep", "retrained"]) for name in ("original", "JiT")]
    assert to_retrained[1] < to_retrained[0] / 2
    assert abs(own["flat", "JiT"] - own["flat", "original"]) < 0.01
    assert own["flat", "naive mislabelling"] < own["flat", "retrained"] - 0.05


def test_figures_are_drawn_without_any_weights(lowdim: Swept, tmp_path: Path) -> None:
    store = lowdim.copy(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "models")
    assert len(make(["boundaries", "sigmoid"], lowdim.held(store), tmp_path / "to", ["png"]).paths) == 6


def test_drawing_again_gives_the_same_bytes(lowdim: Swept, tmp_path: Path) -> None:
    first, second = (
        make(["sigmoid"], lowdim.held(), tmp_path / name, canvas.FORMATS).paths for name in ("a", "b")
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


# -------------------- Figure 4


def test_entropy_numbers_are_those_of_the_stored_outputs(compared: Swept, tmp_path: Path) -> None:
    make(["entropy"], compared.held(), tmp_path, ["png"])
    table = pd.read_csv(tmp_path / "own-histograms-digits-mlp-random-50.csv")
    assert len(table) == 2 * 2 * 2  # seeds, sets, models other than retrain
    space = Workspace(Settings(compared.store.url, device="cpu"), compared.catalogue)
    for wanted in compared.plan(scenarios=("random",), methods=("jit",)).wanted:
        spec = wanted.spec
        split = space.split(spec.task, spec.original, spec.forget_seed)
        mine, other = (
            entropy(artifacts.load_outputs(compared.store, part.id)["train"].logits[split.forget])
            for part in (spec, wanted.retrain)
        )
        lines = table[
            (table["seed"] == spec.seed) & (table["images"] == "forget") & (table["model"] == "jit")
        ]
        expected = compare(mine, other)
        assert lines["n"].item() == expected.n == 50
        assert lines["p"].item() == pytest.approx(expected.p)
        assert lines["rank_biserial"].item() == pytest.approx(expected.rank_biserial)
        assert lines["wasserstein"].item() == pytest.approx(expected.wasserstein)
        assert lines["mean"].item() == pytest.approx(mine.mean())


def test_entropy_is_drawn_from_the_store_alone(
    compared: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise AssertionError("the images were read")

    monkeypatch.setattr("harness.workspace.read_data", gone)
    monkeypatch.setattr("harness.figures.stored.read_data", gone)
    made = make(["entropy"], compared.held(scenarios=("full_class",)), tmp_path, ["svg"])
    assert [path.suffix for path in made.paths] == [".svg", ".csv", ".txt"]


def test_a_split_that_is_not_the_rows_own_is_refused(
    compared: Swept, typed: Callable[..., Any], tmp_path: Path
) -> None:
    held = compared.held()
    held.rows = held.rows.assign(split_digest="0" * 16)
    with pytest.raises(ValueError, match=r"cannot be cut again \(digest [0-9a-f]{16}, its row has 0000"):
        make(["entropy"], held, tmp_path, ["png"])


# -------------------- Figure 5


def test_runtimes_are_medians_of_rows_that_had_their_device_alone(compared: Swept, tmp_path: Path) -> None:
    held = compared.held()
    shared = held.rows["run_id"].iloc[0]
    held.rows.loc[shared, "exclusive"] = False
    make(["runtime"], held, tmp_path, ["png"])
    table = pd.read_csv(tmp_path / "own-runtime-digits-mlp.csv").set_index(["scenario", "method"])
    rows = held.rows[(held.rows["method"] == "jit") & (held.rows["scenario"] == "random")]
    assert table.loc[("random", "jit"), "seconds"] == pytest.approx(rows["seconds"].median())
    both = (rows["seconds"] + rows["seconds_scoring"]).median()
    assert table.loc[("random", "jit"), "seconds_with_scoring"] == pytest.approx(both)
    assert table["n"].sum() == len(held.rows) - 1
    assert (
        "1 runs without a time of their own left out" in (tmp_path / "own-runtime-digits-mlp.txt").read_text()
    )


def test_quartiles_stand_beside_each_median() -> None:
    rows = pd.DataFrame({"scenario": "random", "method": "jit", "seconds": [1.0, 2.0, 6.0]})
    line = medians(rows.assign(seconds_with_scoring=rows["seconds"] + 1)).iloc[0]
    assert (line["seconds_q25"], line["seconds"], line["seconds_q75"]) == (1.5, 2.0, 4.0)
    assert (line["n"], line["seconds_with_scoring"]) == (3, 3.0)


def test_without_a_row_of_its_own_device_there_is_no_runtime(compared: Swept, tmp_path: Path) -> None:
    held = compared.held()
    held.rows["exclusive"] = False
    with pytest.raises(ValueError, match=r"none of the .* had its device to itself; type: efface sweep own"):
        make(["runtime"], held, tmp_path, ["png"])


# -------------------- Figures 7 and 8


def test_a_heat_map_hatches_what_diverged_and_averages_the_rest(gridded: Swept, tmp_path: Path) -> None:
    held = gridded.held()
    make(["sensitivity", "sensitivity_mia"], held, tmp_path, ["svg"])
    for column in ("retain_acc", "mia"):
        table = pd.read_csv(tmp_path / f"own-heat-{column}.csv").set_index(["lr", "sigma"])
        assert list(table["diverged"]) == [0, 0, 0, 1, 1, 1]
        assert table.loc[1e30, "mean_percent"].isna().all()
        rows = held.rows[(held.rows["param_lr"] == 0.01) & (held.rows["param_sigma"] == 0.5)]
        assert table.loc[(0.01, 0.5), "mean_percent"] == pytest.approx(100 * rows[column].item())
    with mpl.rc_context(canvas.PARAMETERS):
        from harness.figures.sensitivity import HATCHES, heat_maps

        drawn = next(heat_maps(held, "mia"))
    hatches = [patch.get_hatch() for patch in drawn.figure.axes[0].patches]
    assert sum(hatch == HATCHES["diverged"] for hatch in hatches) == 3 and len(hatches) == 6


def test_a_heat_map_needs_a_grid_or_a_search_over_two_numbers(compared: Swept, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no search over two numbers for it; type: efface"):
        make(["sensitivity"], compared.held(), tmp_path, ["png"])


# -------------------- choosing, missing, saving


def test_each_suite_has_the_figures_it_is_made_for(
    lowdim: Swept, compared: Swept, gridded: Swept, planned: Callable[..., Plan], catalogue: Catalogue
) -> None:
    assert chosen(None, lowdim.plan()) == ["boundaries", "sigmoid"]
    assert chosen(None, compared.plan()) == ["entropy"]
    assert chosen(None, gridded.plan()) == ["sensitivity", "sensitivity_mia"]
    assert chosen(None, planned()) == ["runtime"]
    for name, expected in (("entropy", "4"), ("entropy_digits", "4"), ("sensitivity", "7")):
        suite = load_suite(name, catalogue)
        plan = make_plan(suite, expand(suite, catalogue), None, catalogue)
        assert chosen(expected, plan)[0] in chosen(None, plan)


def test_missing_runs_are_one_message_with_the_sweep_to_type(
    lowdim: Swept, typed: Callable[..., Any], tmp_path: Path
) -> None:
    store = str(tmp_path / "part")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert typed("sweep", "lowdim", "--on", "inline", "--store", store, "--methods", "baseline")[0] == 0
    code, _, err = typed("figures", "lowdim", "3", "--store", store, "--to", str(tmp_path))
    assert code == 2 and "Traceback" not in err
    assert "figure sigmoid: 4 of 4 runs of suite lowdim are not in" in err
    assert f"type: efface sweep lowdim --store {store} --models logistic --datasets points1d" in err


def test_outputs_that_are_gone_are_named(lowdim: Swept, tmp_path: Path) -> None:
    wanted = next(w for w in lowdim.plan().wanted if w.spec.method == "jit")
    for gone, message in (
        (wanted.spec.id, r"were not kept .* type: efface sweep lowdim --store NEW --keep-outputs"),
        (wanted.retrain.id, r"retrain, seed 0 are not in .*; type: efface sweep lowdim --store"),
    ):
        store = lowdim.copy(tmp_path / gone)
        (tmp_path / gone / "outputs" / f"{gone}.parquet").unlink()
        with pytest.raises(ValueError, match=message):
            make(["boundaries"], lowdim.held(store), tmp_path / "to", ["png"])


def test_one_figure_that_cannot_be_drawn_does_not_stop_the_others(lowdim: Swept, tmp_path: Path) -> None:
    made = make(["sensitivity", "sigmoid"], lowdim.held(), tmp_path, ["svg"])
    assert [problem.split(":")[0] for problem in made.problems] == ["figure sensitivity"]
    assert tmp_path / "lowdim-sigmoid.svg" in made.paths


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sigmid"], "unknown figure 'sigmid'; did you mean 'sigmoid'"),
        (["6"], "unknown figure '6'"),
        (["--format", "png,gif"], "--format png,gif: found gif, expected some of png,svg,pdf"),
        (["--format", ","], "found nothing, expected some of"),
        (["entropy", "--targets", "none"], "has no target 'none'"),
    ],
)
def test_what_cannot_be_drawn_is_a_misuse(
    lowdim: Swept, typed: Callable[..., Any], words: list[str], message: str
) -> None:
    code, _, err = typed("figures", "lowdim", *words, "--store", lowdim.store.url)
    assert code == 2 and message in err


def test_a_file_is_no_folder_for_figures(lowdim: Swept, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        make(["sigmoid"], lowdim.held(), tmp_path / "file", ["png"])
    assert (tmp_path / "file").read_text() == "mine"


# -------------------- greyscale


def test_series_differ_in_lightness_line_hatch_and_marker() -> None:
    order = [canvas.lightness(style.colour) for style in canvas.STYLES]
    assert all(b - a >= 10 for a, b in pairwise(order)), order
    for part in ("line", "hatch", "marker"):
        assert len({getattr(style, part) for style in canvas.STYLES}) == len(canvas.STYLES)


@pytest.mark.parametrize("scale", [canvas.HEAT, canvas.TWO_CLASSES])
def test_a_colour_scale_is_a_grey_scale_too(scale: Any) -> None:
    steps = np.diff([canvas.lightness(scale(level)[:3]) for level in np.linspace(0, 1, 11)])
    assert (steps > 1).all() or (steps < -1).all()


def test_lightness_runs_from_black_to_white() -> None:
    assert canvas.lightness("black") == 0
    assert canvas.lightness("white") == pytest.approx(100)
    assert canvas.lightness("#777777") == pytest.approx(50, abs=1)
    assert canvas.ink_on("#202020") == "white" and canvas.ink_on("#f0f0f0") == "black"
