# %% [markdown]
# # MAML from scratch, and in the library
#
# MAML trains a starting point from which a few gradient steps on a handful of images
# solve a new task. This page writes it in 40 lines of PyTorch, trains it, and then
# shows that the library computes the same gradient, to 12 digits.
#
# ## Tasks
#
# A *task* is a small classification problem. Its *support set* has a few labelled
# images of each class: here 5 classes with 1 image each ("5-way 1-shot"). Its *query
# set* has other images of the same classes, and says how well the task was learned.
# The images are typeset characters that come with the package.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import metacontrast as mc

tasks = mc.EpisodeSampler(
    mc.load_dataset("glyphs", split="train"), ways=5, shots=1, queries=3, seed=0
)
support_x, support_y, query_x, query_y = tasks[0]

figure, axes = plt.subplots(4, 5, figsize=(5, 4.2))
rows = torch.cat(
    [support_x, query_x.view(5, 3, 1, 28, 28).transpose(0, 1).flatten(0, 1)]
)
for axis, image in zip(axes.flat, rows, strict=True):
    axis.imshow(image[0].numpy(), cmap="gray")
    axis.set_axis_off()
figure.suptitle("Top row: the support set. Below: the query set.")
plt.show()

# %% [markdown]
# ## From scratch
#
# A network is a function of its parameters, so that a task's adapted parameters can
# take their place. `create_graph=True` makes an inner step differentiable: the outer
# gradient then runs through it (*second order*).

# %%
torch.manual_seed(0)
encoder = nn.Sequential(
    *(
        nn.Conv2d(1, 16, 3, stride=2),
        nn.BatchNorm2d(16, track_running_stats=False),
        nn.ReLU(),
    ),
    *(
        nn.Conv2d(16, 16, 3, stride=2),
        nn.BatchNorm2d(16, track_running_stats=False),
        nn.ReLU(),
    ),
    *(nn.AdaptiveAvgPool2d(3), nn.Flatten()),
)
network = nn.Sequential(encoder, nn.Linear(144, 5)).double()
INNER_LR, OUTER_LR, STEPS, UPDATES = 0.4, 0.1, 2, 20


def loss_of(parameters, x, y):
    return cross_entropy(functional_call(network, parameters, (x.double(),)), y)


def adapted(parameters, x, y):
    for _ in range(STEPS):
        gradients = torch.autograd.grad(
            loss_of(parameters, x, y), parameters.values(), create_graph=True
        )
        parameters = {
            name: p - INNER_LR * g
            for (name, p), g in zip(parameters.items(), gradients, strict=True)
        }
    return parameters


def outer_gradient(parameters, batch):
    losses = [
        loss_of(adapted(parameters, s_x, s_y), q_x, q_y) for s_x, s_y, q_x, q_y in batch
    ]
    return torch.autograd.grad(sum(losses) / len(batch), parameters.values())


def meta_train(parameters, updates, meta_batch=4):
    for update in range(updates):
        batch = [tasks[meta_batch * update + i] for i in range(meta_batch)]
        gradients = outer_gradient(parameters, batch)
        moved = {
            name: p - OUTER_LR * g
            for (name, p), g in zip(parameters.items(), gradients, strict=True)
        }
        parameters = {name: p.detach().requires_grad_() for name, p in moved.items()}
    return parameters


start = {
    name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()
}
by_hand = meta_train(start, updates=UPDATES)

# %% [markdown]
# That is all of MAML: `adapted` is the inner loop, `outer_gradient` differentiates
# through it, and `meta_train` is the outer loop.
#
# ## In the library
#
# `mc.Model` takes the same encoder, and `mc.Inner` describes the same inner loop.
# Parameters are explicit values here too: the encoder's tensors by name, and a linear
# head.

# %%
model = mc.Model(encoder, ways=5, feature_size=144)
inner = mc.Inner(steps=STEPS, lr=INNER_LR, order="second")


def as_params(tensors):
    encoder = {
        name[2:]: t.detach() for name, t in tensors.items() if name.startswith("0.")
    }
    return mc.Params(
        encoder, mc.Head(tensors["1.weight"].detach(), tensors["1.bias"].detach())
    )


def largest_difference(one, other):
    pairs = zip(mc.to_tensors(one), mc.to_tensors(other), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


class InFloat64:
    """The same tasks in float64, so that two programs can be compared to 12 digits."""

    def batch(self, indices):
        support_x, support_y, query_x, query_y = tasks.batch(indices)
        return mc.Episode(support_x.double(), support_y, query_x.double(), query_y)


for name, parameters in {"at the start": start, "after training": by_hand}.items():
    expected = dict(
        zip(
            parameters,
            outer_gradient(parameters, [tasks[i] for i in range(4)]),
            strict=True,
        )
    )
    gradient, metrics = mc.meta_gradient(
        model, as_params(parameters), InFloat64().batch(range(4)), inner
    )
    difference = largest_difference(gradient, as_params(expected))
    print(f"{name}: no derivative differs by more than {difference:.0e}")
    assert difference < 1e-12

# %% [markdown]
# `mc.train` is the outer loop, with any optimizer. The same gradients make the same
# training:

# %%
trained = mc.train(
    model,
    InFloat64(),
    inner,
    updates=UPDATES,
    meta_batch=4,
    params=as_params(start),
    optimizer=lambda tensors: torch.optim.SGD(tensors, lr=OUTER_LR),
)
error = largest_difference(trained, as_params(by_hand))
print(f"after {UPDATES} updates no parameter differs by more than {error:.0e}")

# %% [markdown]
# This difference is larger than that of one gradient, because every update magnifies
# the rounding of the updates before.
#
# ## What was learned
#
# Test tasks have characters that were not seen in training. `mc.evaluate` adapts to
# each of them and counts correct answers. In the rows `zeroed` the head is set to
# zero before each task, which [helps for a reason](why_the_zero_matters.py);
# `nearest-mean` is the baseline that does not adapt at all.

# %%
test_tasks = mc.EpisodeSampler(
    mc.load_dataset("glyphs", split="test"), ways=5, shots=1, queries=5, seed=1
)
evaluation = mc.Evaluation(steps=(STEPS,), episodes=100)
single = mc.Model(encoder.float(), ways=5, feature_size=144)
for name, found in {"before": as_params(start), "after": trained}.items():
    print(name, "training")
    for row in mc.evaluate(
        single, mc.map_params(torch.Tensor.float, found), test_tasks, inner, evaluation
    ):
        accuracy = f"{100 * row.accuracy:.1f} ± {100 * row.ci95:.1f} %"
        print(f"  {row.method:12} head {row.head:6} {accuracy}")

# %% [markdown]
# ± is half the 95 % interval over the 100 test tasks; this is one training of 20
# updates, not a result. The library adds what the 40 lines leave out: tasks in
# parallel, fused layers, checkpoints, first order, learned step sizes, heads for any
# number of classes. See [training and evaluating](../training.md) and [training in
# Python](../research.md).
