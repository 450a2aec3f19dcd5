"""`efface doctor SUITE` and `--download`: what is there, what is missing, and what to type. No network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness import doctor
from harness.doctor import Line
from tests.tasks.make_trees import cifar10_tree, cifar100_tree, imagenet_tree, pins_tree

TASK = """
[[task]]
dataset = "{0}"
scenario = "full_class"
targets = [{1}]
"""
HEAD = 'seeds = 1\nmodels = ["vgg_mini"]\nmethods = ["baseline", "jit"]\n'
NAMES = ("cifar10", "cifar100", "cifar20", "pins", "pins_nosplit", "imagenet")
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(efface: Typed, tmp_path: Path) -> Typed:
    """Type a command in a folder of suites, one for each data set: (exit code, stdout, stderr)."""
    for name in NAMES:
        (tmp_path / f"{name}.toml").write_text(HEAD + TASK.format(name, 1))
    (tmp_path / "all.toml").write_text(HEAD + "".join(TASK.format(name, 1) for name in NAMES))
    return efface


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The downloads that were asked for; each fails."""
    asked: list[str] = []

    def refuse(url: str, *_: object, **__: object) -> None:
        asked.append(url)
        raise OSError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", refuse)
    return asked


def lines_of(out: str) -> dict[str, str]:
    """Lines by what they are about, each with what stands indented below it."""
    found: dict[str, str] = {}
    for line in out.splitlines():
        name = line[8:24].strip() or list(found)[-1]
        found[name] = f"{found.get(name, '')}{line}"
    return found


def test_doctor_says_of_every_data_set_of_a_suite_where_it_lies_and_how_much_is_there(
    typed: Typed, tmp_path: Path
) -> None:
    cifar10_tree(tmp_path / "data")
    cifar100_tree(tmp_path / "data")
    pins_tree(tmp_path / "data", each=2, people=4)
    imagenet_tree(tmp_path / "data", classes=3)
    code, out, _ = typed("doctor", "all.toml", "--data-dir", "data")
    lines = lines_of(out)
    assert code == 0 and set(NAMES) <= set(lines)
    for name, folder in (("cifar20", "cifar-100-python"), ("pins", "105_classes_pins_dataset")):
        assert lines[name].startswith("ok") and "partial: " in lines[name]
        assert f"in {Path('data') / folder}" in lines[name]
    assert "50 + 20 images, 10 classes" in lines["cifar10"]
    assert "6 of 1,281,167 training and 3 of 50,000 validation images" in lines["imagenet"]


def test_doctor_calls_a_published_copy_verified(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins_tree(tmp_path, each=2)
    monkeypatch.setattr("tasks.datasets.pins.IMAGES", 210)
    code, out, _ = typed("doctor", "pins.toml", "--data-dir", ".")
    assert code == 0 and "verified, 105 + 105 images, 105 classes" in lines_of(out)["pins"]


def test_doctor_tells_missing_from_damaged_and_exits_with_1(typed: Typed, tmp_path: Path) -> None:
    (cifar10_tree(tmp_path) / "test_batch").write_bytes(b"half of it")
    code, out, _ = typed("doctor", "all.toml", "--data-dir", ".")
    lines = lines_of(out)
    assert code == 1
    assert "MISSING" in lines["cifar10"] and "unreadable: cifar10:" in lines["cifar10"]
    assert "missing: looked for" in lines["cifar100"]
    assert "efface doctor all.toml --data-dir FOLDER --download" in lines["cifar100"]
    assert "kaggle.com" in lines["pins"] and "--data-dir FOLDER --download" not in lines["pins"]


def test_what_to_type_stands_on_a_line_of_its_own_where_it_is_long(typed: Typed) -> None:
    lines = typed("doctor", "cifar10.toml", "--data-dir", ".")[1].splitlines()
    found, get, download = lines[lines.index(next(line for line in lines if "cifar10 " in line)) :][:3]
    assert found.startswith("MISSING cifar10 ") and "→" not in found
    assert get.strip().startswith("→ get cifar-10-python.tar.gz") and "or add --download" not in get
    assert download.strip() == "→ efface doctor cifar10.toml --data-dir FOLDER --download"
    assert Line(False, "store", "full", "make room").text() == "MISSING store           full  → make room"


def test_doctor_says_which_tables_of_a_paper_have_all_they_need(typed: Typed, tmp_path: Path) -> None:
    cifar10_tree(tmp_path)
    with_tables = (("cifar10", '"4a", "10"'), ("cifar100", '"9"'))
    text = "".join(TASK.format(name, 1) + f"table = [{tables}]\n" for name, tables in with_tables)
    (tmp_path / "t.toml").write_text(HEAD + text)
    out = typed("doctor", "t.toml", "--data-dir", ".")[1]
    assert "ready: 4a, 10; not yet: 9" in lines_of(out)["tables"]
    assert "tables" not in lines_of(typed("doctor", "cifar10.toml", "--data-dir", ".")[1])


def test_nothing_is_downloaded_unless_asked_for(typed: Typed, no_network: list[str]) -> None:
    assert typed("doctor", "all.toml", "--data-dir", ".")[0] == 1
    assert typed("sweep", "cifar10.toml", "--on", "inline", "--data-dir", ".")[0] == 2
    assert not no_network


def test_download_fetches_what_is_missing_and_leaves_alone_what_is_there(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cifar10_tree(tmp_path / "data") / "test_batch"
    written = before.stat().st_mtime_ns
    asked: list[str] = []

    def fetch(url: str, folder: str, **_: object) -> None:
        asked.append(url.rpartition("/")[2])
        cifar100_tree(Path(folder))

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    code, out, err = typed("doctor", "all.toml", "--data-dir", "data", "--download")
    assert asked == ["cifar-100-python.tar.gz"]  # once, for cifar100 and cifar20
    assert before.stat().st_mtime_ns == written and "downloading cifar100 into data" in err
    lines = lines_of(out)
    assert code == 1 and lines["cifar100"].startswith("ok") and lines["cifar20"].startswith("ok")
    assert "--download cannot get pins. pins: looked for" in lines["pins"]


def test_a_sweep_with_download_fetches_its_data_first(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(url: str, folder: str, **_: object) -> None:
        cifar10_tree(Path(folder))

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    code, out, err = typed(
        "sweep", "cifar10.toml", "--on", "inline", "--data-dir", "new", "--download", "--methods", "baseline"
    )
    assert code == 0, out + err
    assert "downloading cifar10 into new" in err and (tmp_path / "new" / "cifar-10-batches-py").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "cifar10.toml", "--download"], "--download: cifar10 needs a folder to be put in"),
        (
            ["sweep", "cifar10.toml", "--download", "--data-dir", "d"],
            "no network in tests; get cifar-10",
        ),
        (
            ["sweep", "pins.toml", "--download", "--data-dir", "d"],
            "--download cannot get pins. pins: looked for",
        ),
        (["sweep", "imagenet.toml", "--download", "--data-dir", "d"], "--download cannot get imagenet."),
        (["doctor", "--download"], "--download: name the suite"),
    ],
)
def test_a_download_that_cannot_be_is_one_message(
    typed: Typed, no_network: list[str], words: list[str], message: str
) -> None:
    code, _, err = typed(*words)
    assert code == 2 and message in err


def test_download_needs_no_folder_where_no_data_set_does(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(HEAD + TASK.format("digits", 1))
    code, out, _ = typed("doctor", "d.toml", "--download")
    assert code == 0 and "verified, 1,000 + 797 images" in out


def weights_line(out: str) -> str:
    return lines_of(out)["vit_b16 weights"]


def test_doctor_names_missing_weights_and_checks_those_it_is_given(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pretrained.downloaded", lambda _: None)
    (tmp_path / "v.toml").write_text(HEAD.replace("vgg_mini", "vit_b16") + TASK.format("cifar10", 1))
    cifar10_tree(tmp_path)
    code, out, _ = typed("doctor", "v.toml", "--data-dir", ".")
    assert code == 1 and "missing: timm/vit_base" in weights_line(out) and "--weights" in weights_line(out)
    save_file({"head.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    code, out, _ = typed("doctor", "v.toml", "--data-dir", ".", "--weights", "w.safetensors")
    assert code == 0 and "present, timm/vit_base" in weights_line(out)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    code, out, _ = typed("doctor", "v.toml", "--data-dir", ".", "--weights", "w.safetensors")
    assert code == 1 and "unreadable: weights" in weights_line(out)


def test_without_a_suite_no_data_are_looked_for(tmp_path: Path) -> None:
    lines = list(doctor.examine(None, str(tmp_path / "s"), None, ()))
    assert all(isinstance(line, Line) for line in lines)
    assert {"python", "torch", "cpu", "store"} <= {line.what for line in lines}
