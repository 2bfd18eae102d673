"""MAML++: MAML with what keeps its training stable (Antoniou, Edwards and Storkey 2019).

- An inner learning rate for each tensor and step, learned (`learned_rates`).
- Weights and biases of the batch norms for each inner step, learned; the inner loop leaves them alone.
- At first the query loss after every inner step counts; the shares of all but the last fall to 0.03/N over the first
  15 % of the updates, and then to nothing.
- First order in the first half of the updates, then second order.
- A cosine schedule of the outer learning rate.

Their code keeps running averages of batch statistics for each step; here statistics are those of the task, as for every
method. Their norms of step i also see the query images after it; here those of step i + 1 do, θⁱ has norms of its own.
"""

from dataclasses import replace

from metacontrast.maml.inner import learned_rates, learned_step_norms
from metacontrast.model.model import Model
from metacontrast.types import Inner, Params

MULTI_STEP, FIRST_ORDER = 0.15, 0.5
"""The shares of all updates in which every inner step's loss counts, and in which training is of first order."""
_LEAST = 0.03


def annealed(inner: Inner, share: float) -> Inner:
    """The inner loop when that share of the updates is done; at the end `inner` itself.

    >>> annealed(Inner(2, order="second"), 0.0).loss_weights, annealed(Inner(2, order="second"), 0.075).loss_weights
    ((0.5, 0.5), (0.25, 0.75))
    >>> annealed(Inner(2, order="second"), 0.2).order
    'first'
    """
    inner = replace(inner, order="first") if share < FIRST_ORDER else inner
    if share >= MULTI_STEP or inner.steps < 2:
        return inner
    each, others = max(1 - share / MULTI_STEP, _LEAST) / inner.steps, inner.steps - 1
    return replace(inner, loss_weights=(*[each] * others, 1 - others * each))


def rates_and_norms(model: Model, params: Params, inner: Inner) -> Params:
    """The same parameters with learned rates per tensor and step, and with learned batch norms per step."""
    params = learned_step_norms(model, learned_rates(model, params, inner), inner)
    norms = {f"encoder.{name}" for name in params.step_norms}
    return params._replace(rates={name: rate for name, rate in params.rates.items() if name not in norms})
