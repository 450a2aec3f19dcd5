"""Search spaces: every method has one that it can work with, and a bad one is refused with one message."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import Misuse
from harness.registry import Catalogue, load
from harness.search.spaces import Choice, Range, find_space
from harness.spec import Task
from methods.api import method

SETTINGS = [("digits", "vgg_mini"), ("digits", "vit_mini"), ("cifar100", "vgg11"), ("cifar100", "vit_b16")]


def task(dataset: str = "digits", model: str = "vgg_mini", profile: str = "corrected") -> Task:
    return Task(dataset, model, "full_class", "0", None, profile)


@pytest.mark.parametrize(("dataset", "model"), SETTINGS)
@pytest.mark.parametrize("name", sorted(load().methods))
def test_every_shipped_method_has_a_space_that_it_accepts_the_ends_of(
    catalogue: Catalogue, name: str, dataset: str, model: str
) -> None:
    space = find_space(catalogue, name, task(dataset, model))
    assert space.dims
    for field, dim in space.dims:
        assert isinstance(dim, Choice) or dim.low < dim.high, field


def test_the_more_specific_row_is_laid_over_the_others(catalogue: Catalogue) -> None:
    cnn, vit = (dict(find_space(catalogue, "jit", task("cifar100", m)).dims) for m in ("vgg11", "vit_b16"))
    assert cnn["lr"] == Range(1e-6, 1e-2, log=True)
    assert vit["lr"] == Range(1e-3, 5.0, log=True)
    assert cnn["sigma"] == vit["sigma"]


def test_only_drops_what_other_rows_say(catalogue: Catalogue) -> None:
    space = find_space(catalogue, "gkt", task())
    assert "pseudo_batches" not in dict(space.dims) and dict(space.fixed)["pseudo_batches"] == 100


def test_a_whole_number_field_is_searched_in_whole_numbers(catalogue: Catalogue) -> None:
    assert dict(find_space(catalogue, "bdsh", task()).dims)["epochs"] == Range(1, 10, whole=True)


def test_a_plugin_may_carry_its_own_space(catalogue: Catalogue) -> None:
    @method("own", needs={"forget"}, scenarios={"full_class"}, search={"lr": {"low": 0.1, "high": 1.0}})
    @dataclass(frozen=True)
    class Own:
        lr: float = 0.5

    assert dict(find_space(catalogue, "own", task()).dims) == {"lr": Range(0.1, 1.0)}


def test_a_declared_space_must_name_fields() -> None:
    with pytest.raises(ValueError, match=r"search sets \['rate'\]"):

        @method("other", needs={"forget"}, scenarios={"full_class"}, search={"rate": [1, 2]})
        @dataclass(frozen=True)
        class Other:
            lr: float = 0.5


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("lr = { low = 1.0, high = 0.1 }", "from 1 to 0.1 is no range, expected low < high"),
        ("lr = { low = 1.0, high = 1.0 }", "from 1 to 1 is no range"),
        ("lr = { low = 0.0, high = 1.0, log = true }", "log = true needs low > 0, found 0"),
        ("lr = []", "no choices"),
        ("lr = 0.1", "expected { low = 1e-5"),
        ("lr = { low = 'a', high = 1.0 }", "expected two numbers"),
        ("lr = { low = 0.1, hihg = 1.0 }", "unknown key 'hihg'; did you mean 'high'"),
        ("lr = { low = 0.1, high = 1.0, log = true, step = 0.1 }", "step is 0.1"),
        ("rate = { low = 0.1, high = 1.0 }", "unknown hyper-parameter 'rate'"),
        ("sigma = { low = -1.0, high = 1.0 }", "method jit: jit.sigma is -1.0, expected > 0"),
        ("lr = { low = 0.1, high = inf }", "expected two numbers"),
        ("lr = { low = 0.1, high = 1.0, step = 'a' }", "step is 'a'"),
        ("lr = { low = 0.1, high = 1.0, log = 'no' }", "log is 'no', expected true or false"),
        ("samples = { low = 2.5, high = 8 }", "expected whole numbers"),
        ("samples = { low = 2, high = 8, step = 0.5 }", "expected whole numbers"),
        ("mode = ['eval', 'sleep']", "method jit: jit.mode is 'sleep', expected"),
    ],
)
def test_a_bad_space_is_one_clear_message(
    catalogue: Catalogue, tmp_path: Path, search: str, message: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"[[space]]\nmethod = 'jit'\nsource = 'me'\n[space.search]\n{search}\n")
    with pytest.raises(Misuse) as refused:
        find_space(catalogue, "jit", task(), file)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[space]]\nmethod = 'jit'\n", "['source'] missing"),
        ("[[space]]\nmethod = 'jit'\nsource = 'me'\nrange = 1\n", "unknown key 'range'"),
        ("[[space]", "not valid TOML"),
        ("[[spaces]]\nmethod = 'jit'\nsource = 'me'\n", "holds spaces; expected [[space]] rows alone"),
        ("", "holds nothing"),
        ("[[space]]\nmethod = 'jti'\nsource = 'me'\n", "unknown method 'jti'; did you mean 'jit'"),
        ("[[space]]\nmethod = 'jit'\nmodel = 'mlpp'\nsource = 'me'\n", "unknown model 'mlpp'"),
        ("[[space]]\nmethod = 'jit'\ndataset = 'digit'\nsource = 'me'\n", "unknown data set 'digit'"),
        ("[[space]]\nmethod = 'jit'\nmodel = 'vit_b16'\nsource = 'me'\n", "no row of jit is for"),
        ("[[space]]\nmethod = 'jit'\nsource = 'me'\nsearch = 5\n", "search is 5, expected a table"),
    ],
)
def test_a_bad_file_of_spaces_is_one_clear_message(
    catalogue: Catalogue, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(Misuse) as refused:
        find_space(catalogue, "jit", task(), tmp_path / "mine.toml")
    assert message in str(refused.value)


def test_what_a_file_fixes_is_not_searched_and_what_it_searches_not_fixed(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[space]]\nmethod = 'jit'\nsource = 'me'\n[space.fixed]\nsigma = 1\n")
    space = find_space(catalogue, "jit", task(), file)
    assert dict(space.fixed) == {"sigma": 1.0} and [name for name, _ in space.dims] == ["lr"]
    file.write_text("[[space]]\nmethod = 'gkt'\nsource = 'me'\n[space.search]\npseudo_batches = [10, 20]\n")
    space = find_space(catalogue, "gkt", task(), file)
    assert "pseudo_batches" in dict(space.dims) and "pseudo_batches" not in dict(space.fixed)


def test_a_missing_file_and_a_method_without_space_say_what_to_type(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    with pytest.raises(Misuse, match="no such file"):
        find_space(catalogue, "jit", task(), tmp_path / "none.toml")

    @method("bare", needs={"forget"}, scenarios={"full_class"})
    @dataclass(frozen=True)
    class Bare:
        lr: float = 0.5

    with pytest.raises(Misuse, match=r"no search space for bare.*--space FILE.*search=\{\"lr\""):
        find_space(catalogue, "bare", task())


def test_a_run_gets_values_of_four_digits_and_what_is_fixed(catalogue: Catalogue) -> None:
    space = find_space(catalogue, "bad_teacher", task())
    base = tuple(sorted(catalogue.defaults("bad_teacher").items()))
    drawn = {"lr": 0.00123456789, "epochs": 3, "retain_share": 0.3}
    params = dict(space.params(base, drawn))
    assert params["lr"] == 0.001235 and params["epochs"] == 3 and params["batch_size"] == 64
    assert params["temperature"] == catalogue.defaults("bad_teacher")["temperature"]
