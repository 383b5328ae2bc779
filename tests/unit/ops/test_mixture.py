"""How rows choose among experts, and what becomes of their sum."""

from __future__ import annotations

import torch

from kept.ops import Expert, Router, Routing, mixture


def test_a_choice_is_the_highest_scores_in_ascending_order() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    chosen, weights = mixture.choose(scores, Routing(2, normalised=False))
    assert chosen.tolist() == [[1, 3], [0, 1]]  # of equal scores the first
    torch.testing.assert_close(weights, scores.softmax(-1).gather(1, chosen))
    _, shares = mixture.choose(scores, Routing(2, normalised=True))
    torch.testing.assert_close(shares, weights / weights.sum(1, keepdim=True))


def test_a_score_that_is_no_number_shows() -> None:
    scores = torch.tensor([[0.0, torch.nan, 1.0]])
    for normalised in (False, True):
        chosen, weights = mixture.choose(scores, Routing(2, normalised))
        assert chosen.tolist() == [[1, 2]]
        assert weights.isnan().all()


def test_a_sum_has_gradients() -> None:
    x, router = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    choices = [
        Expert(torch.randn(10, 6, requires_grad=True), torch.randn(6, 5, requires_grad=True))
        for _ in range(3)
    ]
    out = mixture.experts(x, Router(router), choices, Routing(3, normalised=True), "gelu")
    out.square().sum().backward()
    every = [x, router, *(w for each in choices for w in (each.gate_up, each.down))]
    assert all(each.grad is not None and each.grad.any() for each in every)


def test_groups_are_chosen_before_their_experts() -> None:
    scores = torch.tensor([[9.0, 0.0, 5.0, 4.0, 6.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    by_best = Routing(2, normalised=True, num_groups=3, top_groups=1)
    chosen, weights = mixture.choose(scores, by_best)
    assert chosen.tolist() == [[0, 1], [0, 1]]
    torch.testing.assert_close(weights, scores[:, :2].softmax(-1))
    by_two = Routing(3, False, "sigmoid", 2.0, num_groups=3, top_groups=2, group_best=2)
    bias = torch.tensor([0.0, -9.0, 0.0, 0.0, 0.0, 0.0])
    chosen, weights = mixture.choose(scores, by_two, bias)
    assert chosen.tolist() == [[2, 3, 4], [2, 3, 4]]
    torch.testing.assert_close(weights, 2 * scores.gather(1, chosen).sigmoid())


def test_a_bias_decides_who_is_chosen_and_not_what_weighs() -> None:
    scores, bias = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([5.0, 0.0, 0.0])
    chosen, weights = mixture.choose(scores, Routing(2, True, "sigmoid"), bias)
    assert chosen.tolist() == [[0, 2]]
    own = scores[:, [0, 2]].sigmoid()
    torch.testing.assert_close(weights, own / own.sum())


def test_no_expert_of_another_group_is_chosen_for_want_of_a_number() -> None:
    scores = torch.tensor([[-torch.inf, -torch.inf, 3.0, -torch.inf, 1.0, 2.0]])
    chosen, _ = mixture.choose(scores, Routing(2, False, num_groups=3, top_groups=1))
    assert chosen.tolist() == [[2, 3]]
