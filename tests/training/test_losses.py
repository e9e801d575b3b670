"""The two losses equal their definitions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from lame_training.objective.losses import IGNORE, info_nce, reconstruction


def unit(*shape: int) -> torch.Tensor:
    """Returns random unit rows, which are the same in every call."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_info_nce_is_cross_entropy_over_cosines() -> None:
    """Without masks the loss is the mean of -log softmax at the positive."""
    queries, candidates, positive = unit(4, 8), unit(6, 8), torch.tensor([3, 1, 0, 5])
    expected = F.cross_entropy(queries @ candidates.T / 0.05, positive)
    none = torch.zeros(4, 6, dtype=torch.bool)
    assert torch.isclose(
        info_nce(queries, candidates, positive, none, temperature=0.05, margin=None), expected
    )


def test_a_known_false_negative_does_not_count() -> None:
    """To mask a candidate is to leave it out."""
    queries, candidates, positive = unit(4, 8), unit(6, 8), torch.tensor([0, 1, 2, 3])
    known = torch.zeros(4, 6, dtype=torch.bool)
    known[:, 5] = True
    # the last candidate is no row's positive
    masked = info_nce(queries, candidates, positive, known, temperature=0.1, margin=None)
    without = info_nce(
        queries, candidates[:5], positive, known[:, :5] & False, temperature=0.1, margin=None
    )
    assert torch.isclose(masked, without)


def test_a_candidate_far_nearer_than_the_positive_counts_as_a_false_negative() -> None:
    """Within the margin it counts as a negative, beyond the margin it does not."""
    queries = torch.tensor([[1.0, 0.0]])
    positive = F.normalize(torch.tensor([[0.8, 0.6]]), dim=-1)
    near, far = F.normalize(torch.tensor([[0.85, 0.527]]), dim=-1), torch.tensor([[1.0, 0.0]])
    none = torch.zeros(1, 2, dtype=torch.bool)
    index = torch.tensor([0])
    # the positive's cosine is 0.8, so the margin of 0.1 ends between 0.85 and 1
    assert info_nce(queries, torch.cat([positive, near]), index, none, temperature=0.05) > 0.5
    assert info_nce(queries, torch.cat([positive, far]), index, none, temperature=0.05) == 0


def test_the_positive_is_never_masked() -> None:
    """A positive that is marked as a false negative counts; the loss stays finite."""
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert torch.isfinite(
        info_nce(unit(2, 4), unit(2, 4), torch.tensor([0, 1]), everything, temperature=0.05)
    )


def test_reconstruction_is_a_mean_over_samples_of_token_means() -> None:
    """A short target weighs as much as a long one, and padding weighs nothing."""
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    # a target of four tokens and one of a single token
    labels = torch.tensor([[1, 2, 3, 4], [5, IGNORE, IGNORE, IGNORE]])
    expected = (
        F.cross_entropy(logits[0], labels[0]) + F.cross_entropy(logits[1, :1], labels[1, :1])
    ) / 2
    assert torch.isclose(reconstruction(logits, labels), expected)
