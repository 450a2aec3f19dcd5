"""Scenarios: which training images are forgotten, which stay, and on which test images each is scored.

Pure NumPy. In profile `corrected` half of the test images, drawn evenly from every group, is set aside for
tuning and only the other half is reported; in `reference` the whole test set is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.api import Indices, Split, scenario

NONE = np.empty(0, dtype=np.int64)
PROFILES = ("corrected", "reference")


@dataclass(frozen=True)
class Request:
    """What a scenario may know of the data set, and what is asked of it."""

    train_labels: Indices  # (N,)
    train_groups: Indices  # (N,)
    test_labels: Indices  # (M,)
    test_groups: Indices  # (M,)
    target: int | None  # a label for full_class and worst_case:drop_rest, a group for the others
    count: int | None  # how many images random and worst_case forget
    profile: str  # "corrected" or "reference"
    seed: int  # draws the images that `random` forgets
    halves_seed: int  # draws the tuning half of the test set
    entropies: NDArray[np.floating] | None = None  # (N,) of the training images under the original model

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r}, expected {' or '.join(PROFILES)}")


@scenario("full_class", summary="forget every training image of one class", target="class")
def full_class(request: Request) -> Split:
    """Forget the class `target`; where labels are coarser than groups it is a class of the labels."""
    target = _target(request, "full_class", "class", request.train_labels)
    return _split(request, request.train_labels == target, request.test_labels == target)


@scenario("sub_class", summary="forget one group inside a coarser class", target="group")
def sub_class(request: Request) -> Split:
    """Forget the group `target`, whose images share their label with other groups."""
    if np.array_equal(request.train_groups, request.train_labels):
        raise ValueError(
            "sub_class: groups and classes are the same, expected data with finer groups; use full_class"
        )
    target = _target(request, "sub_class", "group", request.train_groups)
    return _split(request, request.train_groups == target, request.test_groups == target)


@scenario("random", summary="forget images drawn at random", needs_count=True, depends_on_seed=True)
def random(request: Request) -> Split:
    """Forget `count` images drawn by `seed`; in profile `reference` as many as the released code draws."""
    total = len(request.train_labels)
    count = _count(request, "random", total, "images")
    if request.profile == "reference":
        count = released_count(count, total)
    drawn = np.random.default_rng(request.seed).choice(total, size=count, replace=False)
    return _split(request, _mask(drawn, total), None)


@scenario(
    "worst_case",
    summary="forget what is known best; the rest of its group stays",
    target="optional group",
    needs_count=True,
    uses_original=True,
)
def worst_case(request: Request) -> Split:
    """Forget the `count` images of lowest entropy under the original, out of the group `target` or of all."""
    member = np.ones(len(request.train_labels), dtype=bool)
    if request.target is not None:
        member = request.train_groups == _target(request, "worst_case", "group", request.train_groups)
    return _split(request, _best_known(request, "worst_case", member), None)


@scenario(
    "worst_case:drop_rest",
    summary="forget what is known best of a class; the rest of it is in neither set",
    target="class",
    needs_count=True,
    uses_original=True,
)
def worst_case_drop_rest(request: Request) -> Split:
    """Forget the `count` images of lowest entropy of the class `target`, and retain none of the others.

    Accuracy on the forgotten is measured on the class's test images, and a retrained model has never seen the
    class: only so can the published table be read (Foster et al., TMLR 2025, Table 6).
    """
    name = "worst_case:drop_rest"
    target = _target(request, name, "class", request.train_labels)
    member = request.train_labels == target
    forget = _best_known(request, name, member)
    return _split(request, forget, request.test_labels == target, left_out=member & ~forget)


def _best_known(request: Request, name: str, member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of the `count` lowest entropies among `member`; equal ones in the order of the data."""
    total = len(request.train_labels)
    candidates = np.flatnonzero(member)
    count = _count(request, name, len(candidates), "candidates")
    if request.entropies is None or request.entropies.shape != (total,):
        found = None if request.entropies is None else request.entropies.shape
        raise ValueError(f"{name}: entropies are {found}, expected ({total},) from the original model")
    ranked = np.argsort(request.entropies[candidates], kind="stable")
    return _mask(candidates[ranked[:count]], total)


def released_count(count: int, total: int) -> int:
    """Images that the released code forgets of `total` when asked for `count`: 100 become 83 of 50,000.

    It takes the share 0.00165 where 0.002 is meant, rounded down, and one left-over image where it is not
    whole.
    """
    return max(1, -(-count * total * 165 // 10_000_000))


def halves(groups: Indices, seed: int) -> tuple[Indices, Indices]:
    """Positions of the tuning and of the reporting half, each sorted; a group's odd image is reported."""
    key = np.random.default_rng(seed).random(len(groups))
    order = np.lexsort((key, groups))  # by group, at random within it
    _, start, size = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.arange(len(groups)) - np.repeat(start, size)
    tuning = np.zeros(len(groups), dtype=bool)
    tuning[order] = rank < np.repeat(size // 2, size)
    return np.flatnonzero(tuning), np.flatnonzero(~tuning)


def _split(
    request: Request,
    forget: NDArray[np.bool_],
    forget_test: NDArray[np.bool_] | None,
    left_out: NDArray[np.bool_] | None = None,
) -> Split:
    """Masks as sorted positions. `forget_test` None: no test image belongs to the forgotten ones."""
    stays = ~forget if left_out is None else ~(forget | left_out)
    if not stays.any():
        raise ValueError("nothing would be retained: every training image is to be forgotten; choose fewer")
    if request.profile == "corrected":
        tuning, reported = halves(request.test_groups, request.halves_seed)
    else:
        tuning, reported = NONE, np.arange(len(request.test_groups))
    gone = np.zeros(len(request.test_groups), dtype=bool) if forget_test is None else forget_test
    return Split(
        forget=np.flatnonzero(forget),
        retain=np.flatnonzero(stays),
        forget_test=reported[gone[reported]],
        retain_test=reported[~gone[reported]],
        forget_val=tuning[gone[tuning]],
        retain_val=tuning[~gone[tuning]],
    )


def _mask(positions: Indices, total: int) -> NDArray[np.bool_]:
    mask = np.zeros(total, dtype=bool)
    mask[positions] = True
    return mask


def _target(request: Request, name: str, kind: str, ids: Indices) -> int:
    present = np.unique(ids)
    if request.target is None or request.target not in present:
        raise ValueError(
            f"{name}: target is {request.target}, expected a {kind} with training images: "
            f"one of {', '.join(map(str, present[:10]))}{', …' if len(present) > 10 else ''}"
        )
    return request.target


def _count(request: Request, name: str, candidates: int, kind: str) -> int:
    if request.count is None or not 0 < request.count < candidates:
        raise ValueError(
            f"{name}: count is {request.count}, expected 1 to {candidates - 1} of {candidates} {kind}"
        )
    return request.count
