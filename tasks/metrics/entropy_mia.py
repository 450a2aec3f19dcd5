"""Membership inference from the entropy of a prediction, after the released code, and how far to trust it.

A logistic regression on one feature, the entropy, separates retained training images (members) from test
images. The score is the share of forgotten images it calls members: near 1 they still look trained on. The
target is the retrained model's value, not 0. The released code fits the multinomial form with C = 1, which is
the binary form with C = 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.api import Scored, metric
from tasks.metrics.entropy import entropy

Array = NDArray[np.float64]
CONSTANT = 1e-6  # nats: below this spread no threshold can be meant
COLUMNS = ("mia", "mia_attack_acc", "mia_auc", "mia_degenerate")


@metric(
    "mia",
    columns=COLUMNS,
    summary="share of forgotten images that an entropy attack takes for members",
)
def mia(scored: Scored) -> Mapping[str, float]:
    """Non-members are the test images; in profile `corrected` without those of the forgotten class."""
    outside = scored.test if scored.profile == "reference" else scored.retain_test
    members, non_members = entropy(scored.retain.logits), entropy(outside.logits)
    forget = entropy(scored.forget.logits)
    forget_test = entropy(scored.forget_test.logits) if len(scored.forget_test) else np.empty(0)
    degenerate = np.ptp(np.concatenate([members, non_members])) < CONSTANT
    return {
        "mia": member_share(members, non_members, forget),
        "mia_attack_acc": attack_accuracy(members, non_members),
        "mia_auc": entropy_auc(forget, forget_test),
        "mia_degenerate": float(degenerate),
    }


def fit_attack(members: Array, non_members: Array) -> Any:
    """The attack, fitted on entropies (n,) and (m,): class 1 is "member"."""
    from sklearn.linear_model import LogisticRegression

    if not len(members) or not len(non_members):
        sizes = f"{len(members)} members and {len(non_members)} non-members"
        raise ValueError(f"mia: {sizes}, expected at least one of each")
    features = np.concatenate([members, non_members])[:, None]  # (n + m, 1)
    is_member = np.repeat([1, 0], [len(members), len(non_members)])
    attack = LogisticRegression(C=2, class_weight="balanced", solver="lbfgs")
    return attack.fit(features, is_member)


def member_share(members: Array, non_members: Array, judged: Array) -> float:
    """Share of `judged` entropies that the attack calls members, by its hard prediction."""
    return float(fit_attack(members, non_members).predict(judged[:, None]).mean())


def attack_accuracy(members: Array, non_members: Array) -> float:
    """Balanced accuracy of an attack fitted on every second entropy, on the others; 0.5 is chance."""
    if min(len(members), len(non_members)) < 2:
        return float("nan")
    attack = fit_attack(members[::2], non_members[::2])
    hit = attack.predict(members[1::2, None]).mean()
    false_alarm = attack.predict(non_members[1::2, None]).mean()
    return float((hit + 1 - false_alarm) / 2)


def entropy_auc(trained_on: Array, unseen: Array) -> float:
    """Chance that a forgotten image has lower entropy than a test image of its class; 0.5 is no signal."""
    from scipy.stats import rankdata

    count, others = len(trained_on), len(unseen)
    if not count or not others:
        return float("nan")
    ranks = rankdata(-np.concatenate([trained_on, unseen]))  # ties share their mean rank: half a win each
    return float((ranks[:count].sum() / count - (count + 1) / 2) / others)
