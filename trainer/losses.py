"""The losses, as pure functions on features before normalisation: (N, D), N >= 1, row i of each argument one photo's.

Every loss looks only at cosines, so the length of a feature, a rotation common to all of them and the order of the
photos do not matter. Cosines are worked out in float32 at least, also under autocast: differences between two Gram
matrices are of the size of bfloat16's rounding.

Papers: "mutual" is Online Deep Metric Learning via Mutual Distillation (Liu, Wan-Lei Zhao, Jie Zhao).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MARGIN = 0.1
TEMPERATURE = 4.0


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, D), (..., M, D) -> cosines (..., N, M). A row of zeros has cosine 0 with everything."""
    with torch.autocast(a.device.type, enabled=False):
        return _unit(a) @ _unit(b).transpose(-1, -2)


def gram(features: Tensor) -> Tensor:
    """The Gram matrix G of L2-normalised features: (..., N, D) -> (..., N, N)."""
    return cosines(features, features)


def triplet(features: Tensor, labels: Tensor, *, margin: float = MARGIN) -> Tensor:
    """L_triplet of mutual, Eq. 1, "using hard sampling strategy": features (N, D), labels (N) -> a scalar.

    For each anchor, with S its cosines to the other photos of the batch:

        negatives kept      S > min(S of its positives) - margin
        positives kept      S < max(S of its negatives) + margin
        loss of the anchor  mean(1 - S of positives kept) + mean(S of negatives kept)

    and the loss is the mean over all N anchors. Both sets are empty when every positive is nearer than every negative
    by the margin, or when the anchor has no positive or no negative: such an anchor counts as 0.

    Departs from the paper: it names the loss only; this is the form of the authors' released code, the hard mining of
    Multi-Similarity (Wang et al., 2019) before a contrastive loss.
    """
    similarity = gram(features)
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = similarity.masked_fill(same, -torch.inf).amax(dim=1, keepdim=True)
    kept_positive = positive & (similarity < hardest_negative + margin)
    kept_negative = ~same & (similarity > hardest_positive - margin)
    return (_mean_where(kept_positive, 1 - similarity) + _mean_where(kept_negative, similarity)).mean()


def gram_kl(student: Tensor, teacher: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """L_corr of mutual, Eq. 1 and 5: correlation distillation. (N, D), (N, D) -> a scalar.

        L_corr = 1/N sum KL(sigma(G_o), sigma(G_p))

    with G_o the teacher's Gram matrix, G_p the student's, sigma the softmax of each row at temperature T, and
    KL(P, Q) = sum P log(P / Q): the teacher's rows are the target. Gradient reaches the student only. A teacher of
    shape (B, N, D) stands for B teachers, and the sum over them is returned: Eq. 6. The two may differ in D.

    Departs from the paper: times T^2, as in the released code, so that T does not scale the gradient.
    """
    target = _log_rows(teacher.detach(), temperature)
    return _kl(target, _log_rows(student, temperature).expand_as(target), temperature)


def mutual_gram_kl(a: Tensor, b: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """L_mutual of mutual, Eq. 2: two students learn from each other. (N, D), (N, D) -> a scalar.

        L_mutual = 1/2 (1/N sum KL(sigma(G_p), sigma(G_s)) + 1/N sum KL(sigma(G_s), sigma(G_p)))

    with G_p and G_s the Gram matrices of `a` and `b`, and the rest as in `gram_kl`. It is symmetric, and both
    students get gradient from both directions.
    """
    p, s = _log_rows(a, temperature), _log_rows(b, temperature)
    return (_kl(p, s, temperature) + _kl(s, p, temperature)) / 2


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _mean_where(kept: Tensor, values: Tensor) -> Tensor:
    """The mean of each row's values that are kept: (N, M), (N, M) -> (N). 0 for a row that keeps none."""
    return (values * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)


def _log_rows(features: Tensor, temperature: float) -> Tensor:
    """log sigma(G): (..., N, D) -> (..., N, N)"""
    return functional.log_softmax(gram(features) / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor, temperature: float) -> Tensor:
    """T^2 / N sum KL(P, Q) over all rows of (..., N, N)."""
    total = functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * (temperature**2 / log_p.shape[-1])
