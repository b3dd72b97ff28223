"""What methods with a teacher share."""

from __future__ import annotations

from torch import Tensor

from trainer.losses import gram_kl


def correlation(student: Tensor, teacher: Tensor, old: Tensor, factor: float) -> Tensor:
    """L_corr of mutual, Eq. 6: the correlation loss to the teacher and to what is estimated of the models before it.

    student (N, D), teacher (N, D), old (B, N, D) with B >= 0, the factor of the old ones' sum -> a scalar. Without
    earlier stages this is the third term of Eq. 1.
    """
    latest = gram_kl(student, teacher)
    return latest + factor * gram_kl(student, old) if len(old) else latest
