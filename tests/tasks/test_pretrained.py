"""Published weights: which files are read, how they are named by content, and what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks import pretrained
from tasks.images import DataError
from tasks.pretrained import digest, load_into, mismatch, read_checkpoint


def net(classes: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, classes))


def tensors(classes: int = 4, seed: int = 0) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net(classes, seed).state_dict().items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(tensors(7), tmp_path / "seven.safetensors")
    return tmp_path / "seven.safetensors"


@pytest.mark.parametrize("wrap", [lambda found: found, lambda found: {"state_dict": found, "epoch": 3}])
def test_the_digest_is_that_of_the_tensors_whatever_file_they_lie_in(file: Path, wrap: object) -> None:
    other = file.with_name("seven.pth")
    torch.save(wrap(tensors(7)), other)  # type: ignore[operator]
    assert read_checkpoint(file).digest == read_checkpoint(other).digest == digest(tensors(7))
    changed = tensors(7)
    changed["0.bias"][0] += 1e-3
    assert digest(changed) != digest(tensors(7)) != digest(tensors(6))


def test_a_program_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / "trap.pth"
    torch.save({"weight": Trap()}, path)
    with pytest.raises(DataError, match="no state dict that can be read safely"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(DataError, match="no state dict that can be read safely"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", b"", "no readable safetensors"),
        ("w.safetensors", b"<html>not found</html>", "no readable safetensors"),
        ("w.pth", b"", "no state dict"),
        ("w.pth", b"<html>not found</html>", "no state dict"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_checkpoint(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_bytes_at_all_get_past_that_error(tmp_path: Path) -> None:
    random, path = np.random.default_rng(0), tmp_path / "w.pth"
    whole = pickle.dumps({"weight": [1, 2, 3], "bias": "x"}, protocol=2)
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), size=4):
            content[place] = random.integers(0, 256)
        path.write_bytes(bytes(random.bytes(40) if random.random() < 0.5 else content))
        with pytest.raises(DataError, match=f"weights {path}"):
            read_checkpoint(path)


def test_a_missing_file_and_a_whole_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_checkpoint(tmp_path / "none.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds list, expected names and tensors"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_new_head_is_drawn_from_the_seed_and_all_else_is_copied(file: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        model = net(4, seed=9)
        torch.manual_seed(seed)
        made.append(load_into(model, read_checkpoint(file), "new").state_dict())
    body = [name for name in made[0] if not name.startswith("3.")]
    assert all(torch.equal(made[0][name], tensors(7)[name]) for name in body)
    assert made[0]["3.weight"].shape == (4, 12)
    assert torch.equal(made[0]["3.weight"], made[1]["3.weight"])
    assert not torch.equal(made[0]["3.weight"], made[2]["3.weight"])


def test_training_does_not_write_into_the_checkpoint(file: Path) -> None:
    checkpoint = read_checkpoint(file)
    model = load_into(net(7), checkpoint, "checkpoint")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert digest(checkpoint.tensors) == checkpoint.digest


def test_the_files_own_head_needs_its_number_of_classes(file: Path) -> None:
    kept = load_into(net(7, seed=5), read_checkpoint(file), "checkpoint").state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors(7).items())
    with pytest.raises(DataError, match=r"3\.weight is \(7, 12\), expected \(4, 12\).*as many classes as"):
        load_into(net(4), read_checkpoint(file), "checkpoint")


def test_what_does_not_fit_is_named_with_found_and_expected() -> None:
    given = tensors()
    given["0.weight"] = torch.zeros(3, 3, 3, 3)
    given["pooler.weight"] = given.pop("1.bias")
    why = mismatch(net(), given, "new")
    assert why == (
        "0.weight is (3, 3, 3, 3), expected (3, 1, 3, 3); 1.bias is missing, expected (3,); "
        "pooler.weight is (3,), expected no such tensor"
    )
    assert mismatch(net(), tensors(9), "new") is None
    assert "and 6 more" in str(mismatch(net(), {}, "checkpoint"))


def test_a_checkpoint_without_a_head_serves_where_the_head_is_new(tmp_path: Path) -> None:
    body = {name: tensor for name, tensor in tensors().items() if not name.startswith("3.")}
    assert mismatch(net(), body, "new") is None
    assert "3.weight is missing" in str(mismatch(net(), body, "checkpoint"))


def test_looking_for_downloaded_weights_finds_the_hubs_folder_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert pretrained.downloaded("small.here") is None
    repo = tmp_path / "models--timm--small.here"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    save_file(tensors(), repo / "snapshots" / "abc" / "model.safetensors")
    found = pretrained.downloaded("small.here")
    assert found is not None and read_checkpoint(found).digest == digest(tensors())


def test_a_failed_download_says_what_to_fetch_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fails(repo: str, file: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(DataError, match=r"no route to host.*huggingface\.co/timm/small\.here.*--weights"):
        pretrained.download("small.here")
