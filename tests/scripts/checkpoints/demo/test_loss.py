"""The banded RNN-T loss against a plain one, cell by cell."""

import pytest
import torch
from torch import Tensor

from scripts.checkpoints.demo.loss import Lattice, band, cell_labels, cell_scores, rnnt_loss, scatter_lattice

BATCH, FRAMES, LABELS, PIECES = 4, 9, 5, 7
BLANK = PIECES - 1


def plain_loss(blank: Tensor, label: Tensor, frames: int, labels: int) -> Tensor:
    """The textbook recursion over one lattice, differentiated by autograd."""
    alpha: dict[tuple[int, int], Tensor] = {}
    for t in range(frames):
        for u in range(labels + 1):
            ways = [blank.new_zeros(())] if t == u == 0 else []
            ways += [alpha[t - 1, u] + blank[t - 1, u]] if t else []
            ways += [alpha[t, u - 1] + label[t, u - 1]] if u else []
            alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(alpha[frames - 1, labels] + blank[frames - 1, labels])


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [B, T, U + 1, V] in double precision, targets, lengths: full, short, without labels, one frame."""
    torch.manual_seed(3)
    logits = torch.randn(BATCH, FRAMES, LABELS + 1, PIECES, dtype=torch.double, requires_grad=True)
    targets = torch.randint(0, BLANK, (BATCH, LABELS))
    return logits, targets, torch.tensor([9, 6, 7, 1]), torch.tensor([5, 3, 0, 2])


def lattices(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Blank [B, T, U + 1] and label [B, T, U] log-probabilities."""
    scores = logits.log_softmax(-1)
    index = targets[:, None, :, None].expand(-1, scores.shape[1], -1, 1)
    return scores[..., BLANK], scores[:, :, :-1].gather(3, index)[..., 0]


def test_loss_and_gradient_equal_the_plain_recursion(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, targets, frames, labels = case
    blank, label = lattices(logits, targets)
    fast = rnnt_loss(Lattice(blank, label, frames, labels))
    slow = torch.stack(
        [plain_loss(blank[i], label[i], int(frames[i]), int(labels[i])) for i in range(BATCH)],
    )
    torch.testing.assert_close(fast, slow)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.double)
    (fast_gradient,) = torch.autograd.grad((fast * weights).sum(), logits, retain_graph=True)
    (slow_gradient,) = torch.autograd.grad((slow * weights).sum(), logits)
    torch.testing.assert_close(fast_gradient, slow_gradient)


def test_a_full_band_changes_nothing(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, targets, frames, labels = case
    blank, label = lattices(logits, targets)
    first, last = torch.zeros(BATCH, LABELS + 1, dtype=torch.long), torch.full((BATCH, LABELS + 1), FRAMES)
    cells = band(first, last, frames, labels)
    assert cells[0].numel() == int((frames * (labels + 1)).sum())
    chosen = torch.stack([blank[cells], torch.nn.functional.pad(label, (0, 1))[cells]], 1)
    dense = scatter_lattice(cells, chosen, LABELS, frames, labels)
    torch.testing.assert_close(rnnt_loss(dense), rnnt_loss(Lattice(blank, label, frames, labels)))


def test_a_narrow_band_only_loses_alignments(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, targets, frames, labels = case
    blank, label = lattices(logits, targets)
    first = torch.arange(LABELS + 1).expand(BATCH, -1) - 1
    cells = band(first, first + 4, frames[:1].expand(BATCH), labels[:1].expand(BATCH))
    chosen = torch.stack([blank[cells], torch.nn.functional.pad(label, (0, 1))[cells]], 1)
    lengths = frames[:1].expand(BATCH), labels[:1].expand(BATCH)
    banded = rnnt_loss(scatter_lattice(cells, chosen, LABELS, *lengths))
    full = rnnt_loss(Lattice(blank, label, *lengths))
    assert bool(torch.isfinite(banded).all())
    assert bool((banded >= full - 1e-9).all())


def test_impossible_cells_give_no_gradient(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, targets, frames, labels = case
    blank, label = (part.detach().requires_grad_() for part in lattices(logits, targets))
    rnnt_loss(Lattice(blank, label, frames, labels)).sum().backward()  # type: ignore[no-untyped-call]
    assert blank.grad is not None
    assert label.grad is not None
    for row in range(BATCH):
        assert not blank.grad[row, int(frames[row]) :].any()
        assert not label.grad[row, :, int(labels[row]) :].any()


def test_cell_scores_equal_a_softmax() -> None:
    torch.manual_seed(4)
    hidden = torch.randn(60, 16, requires_grad=True)
    output = torch.nn.Linear(16, PIECES)
    labels = torch.randint(0, BLANK, (60,))
    fast = cell_scores(hidden, output, labels, BLANK)
    scores = output(hidden).log_softmax(1)
    slow = torch.stack([scores[:, BLANK], scores.gather(1, labels[:, None])[:, 0]], 1)
    torch.testing.assert_close(fast, slow, atol=2e-2, rtol=0)  # bfloat16
    weights = torch.randn(60, 2)
    inputs = [hidden, output.weight, output.bias]
    fast_gradients = torch.autograd.grad((fast * weights).sum(), inputs)
    for one, other in zip(fast_gradients, torch.autograd.grad((slow * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, atol=2e-2 * float(other.abs().max()), rtol=0)


def test_cell_labels_are_those_of_the_state() -> None:
    cells = (torch.tensor([0, 0, 1]), torch.tensor([0, 3, 2]), torch.tensor([0, 2, 1]))
    assert cell_labels(cells, torch.tensor([[5, 6], [7, 8]])).tolist() == [5, 0, 8]
