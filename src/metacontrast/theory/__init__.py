"""Why MAML is a noisy contrastive learner: the paper's closed forms, each checked by a test.

The setting is softmax cross entropy, a linear head, and an inner loop that moves the head only; in it every formula
here is exact up to rounding, with or without a bias. When the encoder adapts in the inner loop too, they describe MAML
only in part, save for one case: a single inner step from a head whose rows are equal, zero in particular, leaves the
encoder where it is. Such a head acts as a zeroed one: what is added to every row changes no softmax.

Functions take a `FeatureTask` (features, labels, head) and an `Inner` (steps, step size, order), whose `scope` they
leave aside: the head moves, and nothing else.

Losses are means over samples, batches means over tasks. The letters: (s, t) a support sample and its label,
(q, u) a query sample and its label, s_k and q_k their softmax outputs, φ the features, w the head, η and ρ
the inner and outer learning rates.

Reference: Kao, Chiu and Chen, "MAML is a Noisy Contrastive Learner in Classification", ICLR 2022.
"""

from metacontrast.theory.built_heads import BuiltTask, build_task, split_built_gradient
from metacontrast.theory.coefficients import contrastive_coefficients, wrong_sign_share, zeroed_coefficients
from metacontrast.theory.decomposition import (
    EncoderGradient,
    FeatureGradient,
    mean_split,
    split_encoder_gradient,
    split_feature_gradient,
)
from metacontrast.theory.head_updates import (
    Illustration,
    Preconditioner,
    adapted_heads,
    head_gradient,
    head_preconditioner,
    head_update,
    mean_square_error_illustration,
)
from metacontrast.theory.losses import contrastive_loss
from metacontrast.theory.similarity import contrast, similarity_heatmap
from metacontrast.theory.task import FeatureTask

__all__ = [
    "BuiltTask",
    "EncoderGradient",
    "FeatureGradient",
    "FeatureTask",
    "Illustration",
    "Preconditioner",
    "adapted_heads",
    "build_task",
    "contrast",
    "contrastive_coefficients",
    "contrastive_loss",
    "head_gradient",
    "head_preconditioner",
    "head_update",
    "mean_split",
    "mean_square_error_illustration",
    "similarity_heatmap",
    "split_built_gradient",
    "split_encoder_gradient",
    "split_feature_gradient",
    "wrong_sign_share",
    "zeroed_coefficients",
]
