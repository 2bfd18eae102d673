# %% [markdown]
# # Your own encoder and your own loss
#
# Nothing in the library is tied to images or to classes. This page meta-learns to fit
# sine waves, the regression example of the MAML paper, with a network and a loss of
# its own; then it learns the inner step sizes too (Meta-SGD).
#
# ## Tasks of your own
#
# Tasks are any object with `batch(indices)`, which returns an `mc.Episode` of tasks
# stacked along the first axis. Task `i` is always the same: a sine with its own
# amplitude and phase, with 10 support points and 10 query points.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import metacontrast as mc

POINTS = 10


class Sines:
    def batch(self, indices):
        x, y = zip(*map(self.task, indices), strict=True)
        x, y = torch.stack(x), torch.stack(y)
        return mc.Episode(x[:, :POINTS], y[:, :POINTS], x[:, POINTS:], y[:, POINTS:])

    def task(self, index):
        amplitude, phase = self.wave(index)
        rng = torch.Generator().manual_seed(index)
        x = 10 * torch.rand(2 * POINTS, 1, generator=rng) - 5
        return x, amplitude * torch.sin(x[:, 0] + phase)

    def wave(self, index):
        rng = torch.Generator().manual_seed(index + 2**32)
        amplitude, phase = torch.rand(2, generator=rng)
        return 0.1 + 4.9 * amplitude, torch.pi * phase


tasks = Sines()
print(
    {name: tuple(part.shape) for name, part in tasks.batch(range(4))._asdict().items()}
)

# %% [markdown]
# ## A model and a loss of your own
#
# Any `nn.Module` is an encoder; `feature_size` is the length of what it returns.
# `ways` is the number of outputs. A loss is a function of one task's outputs
# `(example, way)` and labels `(example,)`.

# %%
torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
model = mc.Model(encoder, ways=1, feature_size=40)


def squared_error(outputs, y):
    return ((outputs[:, 0] - y) ** 2).mean()


inner = mc.Inner(steps=1, lr=0.01, order="second", loss=squared_error)
start = model.init(torch.Generator().manual_seed(0))
UPDATES = 120
outer = {
    "updates": UPDATES,
    "meta_batch": 8,
    "optimizer": lambda tensors: torch.optim.Adam(tensors, lr=0.005),
}
maml = mc.train(model, tasks, inner, params=start, **outer)

# %% [markdown]
# ## Learn the step sizes too
#
# `mc.learned_rates` gives every parameter an inner step size of its own and puts them
# into the parameters. So the optimizer, the checkpoints and the outer gradient
# include them, and the training is the same line.

# %%
with_rates = mc.learned_rates(model, start, inner, per="parameter")
meta_sgd = mc.train(model, tasks, inner, params=with_rates, **outer)
for name, rate in meta_sgd.rates.items():
    ends = f"from {rate.min():.3f} to {rate.max():.3f}"
    print(f"{name:22} step size {rate.mean():.3f} on average, {ends}")

# %% [markdown]
# ## Judge on new tasks
#
# `mc.evaluate` counts correct classes, so the error of a regression is a line of our
# own: adapt, predict, compare. The same 100 new tasks are used throughout, and the
# differences are paired by task.

# %%
new_tasks = range(1_000_000, 1_000_100)


def errors(params, steps):
    found = []
    for index in new_tasks:
        support_x, support_y, query_x, query_y = (p[0] for p in tasks.batch([index]))
        adapted = mc.adapt(model, params, support_x, support_y, inner.at_test(steps))
        outputs = model.query_logits(adapted, support_x, query_x)
        found.append(squared_error(outputs, query_y))
    return torch.stack(found).detach()


def mean_and_interval(values):
    return f"{values.mean():.2f} ± {1.96 * values.std() / len(values) ** 0.5:.2f}"


methods = {"random start": start, "MAML": maml, "Meta-SGD": meta_sgd}
found = {name: (errors(each, 0), errors(each, 1)) for name, each in methods.items()}
for name, (before, after) in found.items():
    ends = (mean_and_interval(before), mean_and_interval(after))
    print(f"{name:13} before {ends[0]}, after {ends[1]}")
gain = found["MAML"][1] - found["Meta-SGD"][1]
print("After a step Meta-SGD's error is lower than MAML's by", mean_and_interval(gain))

# %% [markdown]
# ± is half the 95 % interval over tasks. Both fit a wave better after the step than
# before it, and learned step sizes give a much lower error; some of them are
# negative. They were learned for exactly one step: with more steps at test the inner
# loop may not converge.

# %%
index = new_tasks[4]
amplitude, phase = tasks.wave(index)
line = torch.linspace(-5, 5, 200)[:, None]
support_x, support_y = (part[0] for part in tasks.batch([index])[:2])
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained", sharey=True)
for axis, name in zip(axes, ("MAML", "Meta-SGD"), strict=True):
    params = methods[name]
    adapted = mc.adapt(model, params, support_x, support_y, inner.at_test(1))
    truth = amplitude * torch.sin(line[:, 0] + phase)
    before, after = (
        model.query_logits(each, support_x, line)[:, 0].detach()
        for each in (params, adapted)
    )
    axis.plot(line[:, 0], truth, color="grey", label="the wave")
    axis.plot(line[:, 0], before, "--", label="before")
    axis.plot(line[:, 0], after, label="after one step")
    axis.plot(support_x[:, 0], support_y, "ko", markersize=4, label="support set")
    axis.set(title=name, xlabel="x")
axes[0].legend(fontsize="small")
plt.show()

# %% [markdown]
# This is one small training of 120 updates. Momentum in the inner loop, a loss after
# every inner step and other optimizers are further lines: [training in
# Python](../research.md). What an encoder may do with its batch: [an encoder of your
# own](../own-encoder.md).
