from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.finetune import Finetune
from methods.l1_sparse import L1Sparse, l1_norm


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_the_penalty_fades_as_worked_by_hand():
    hyper = L1Sparse(alpha=0.5, epochs=10)
    assert hyper.penalty(0) == 0.5
    assert hyper.penalty(9) == pytest.approx(0.05)
    late = L1Sparse(alpha=0.5, epochs=10, plain_epochs=5)
    assert [late.penalty(e) for e in (0, 4, 5, 9)] == pytest.approx([0.5, 0.1, 0.0, 0.0])
    assert L1Sparse(epochs=3, plain_epochs=7).penalty(0) == 0.0


def test_the_norm_is_of_every_parameter_and_its_gradient_is_the_sign(make_model):
    model = make_model("conv")
    with torch.no_grad():
        model[0].weight[0] = 0.0
    norm = l1_norm(model)
    assert norm.item() == pytest.approx(weights(model).abs().sum().item(), rel=1e-5)
    grads = torch.autograd.grad(norm, list(model.parameters()))
    assert torch.equal(torch.cat([g.flatten() for g in grads]), weights(model).sign())


def test_one_step_without_data_gradient_moves_each_weight_towards_zero(make_ctx, memory):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5, -0.25, 0.0]))

        def forward(self, x):
            return 0.0 * self.w.sum() + torch.zeros(len(x), 4)

    retain = memory(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]))
    after = L1Sparse(lr=0.1, alpha=0.5, epochs=1, weight_decay=0.0)(Constant(), None, retain, make_ctx())
    assert after.w.tolist() == pytest.approx([0.45, -0.2, 0.0])


def test_without_penalty_it_is_finetune(unlearn, make_model):
    rest = {"lr": 0.01, "epochs": 3, "batch_size": 16}
    model = make_model("conv")
    assert torch.equal(
        weights(unlearn(L1Sparse(alpha=0.0, **rest), model)), weights(unlearn(Finetune(**rest), model))
    )


def test_a_stronger_penalty_leaves_smaller_weights(trained):
    norms = []
    for alpha in (0.0, 1e-2, 3e-2):
        torch.manual_seed(0)
        hyper = L1Sparse(alpha=alpha, epochs=3)
        model = hyper(copy.deepcopy(trained.model), None, trained.retain, trained.ctx)
        norms.append(l1_norm(model).item())
        assert trained.accuracy(model, trained.retain) > 0.9
    assert norms[0] > 1.02 * norms[1] > 1.04 * norms[2]
