# %% [markdown]
# # Why the zero matters
#
# MAML trains an encoder and a linear head. Kao, Chiu and Chen (ICLR 2022) decompose
# the encoder's gradient: a *contrastive* part pulls features of one class together
# and pushes classes apart; an *interference* part comes from the weights that earlier
# tasks left in the head. The *zeroing trick* sets the head to zero after
# every update. This page splits that gradient, checks the sum, and watches the parts
# during training.
#
# ## Split the outer gradient of one task
#
# `theory.split_encoder_gradient` computes the parts in closed form, for an inner loop
# that moves the head alone. In the first-order gradient (FOMAML) there are two.

# %%
import matplotlib.pyplot as plt
import torch

import metacontrast as mc
from metacontrast import theory

tasks = mc.EpisodeSampler(
    mc.load_dataset("glyphs", split="train"), ways=5, shots=1, queries=5, seed=0
)
encoder = mc.encoders.conv4(
    channels=1, image_size=28, filters=12, downsampling="stride"
)
model = mc.Model(encoder, ways=5)
random_head = model.init(torch.Generator().manual_seed(0))
episode = tasks[0]


def length(tensors):
    return torch.cat([t.flatten() for t in tensors.values()]).norm().item()


head_only = mc.Inner(steps=1, lr=0.4, scope="head")
splits = {}
for name, params in {
    "random head": random_head,
    "zeroed head": mc.zero_head(random_head),
}.items():
    splits[name] = theory.split_encoder_gradient(
        model.features, params, episode, head_only
    )
    print(
        f"{name}: interference {length(splits[name].interference):.3f}, "
        f"contrastive {length(splits[name].contrastive_query):.3f}"
    )

# %% [markdown]
# With a head of zeros nothing interferes: the whole gradient compares query images
# with support images.
#
# The parts are not an approximation. Their sum is the gradient that automatic
# differentiation finds:

# %%
gradient, metrics = mc.meta_gradient(model, random_head, tasks.batch([0]), head_only)
total = splits["random head"].total
error = max((gradient.encoder[name] - total[name]).abs().max().item() for name in total)
print(f"largest difference from automatic differentiation: {error:.0e} (float32)")
assert error < 1e-4 * length(total)

# %% [markdown]
# ## Watch interference fall
#
# Scale the random head down, and interference falls with it, until at zero there is
# none. (The share of a part is its inner product with the whole gradient, divided by
# the square of the gradient's length; the shares sum to one.)

# %%
scales, shares = (1, 0.75, 0.5, 0.25, 0), []
for scale in scales:
    head = mc.Head(scale * random_head.head.weight, scale * random_head.head.bias)
    split = theory.split_encoder_gradient(
        model.features, mc.Params(random_head.encoder, head), episode, head_only
    )
    product = sum(
        (split.interference[name] * split.total[name]).sum() for name in split.total
    )
    shares.append(product.item() / length(split.total) ** 2)
    print(f"head scaled by {scale:4}: share of interference {shares[-1]:.2f}")

# %% [markdown]
# ## Watch the parts during training
#
# Now the whole network adapts, as in ordinary MAML. Three trainings see the same
# tasks and start from the same encoder. They differ in the head alone: one starts at
# random, one at zero, and one is set to zero after every update. `mc.explain` splits
# the outer gradient of test tasks. The *remainder* is what the closed form does not
# cover, because here the encoder moves in the inner loop too.

# %%
UPDATES, EVERY = 32, 8
inner = mc.Inner(steps=1, lr=0.4)
test_tasks = mc.EpisodeSampler(
    mc.load_dataset("glyphs", split="test"), ways=5, shots=1, queries=5, seed=1
)
examined = test_tasks.batch(range(4))
heads = {
    "random start": ("learned", 1.0),
    "zero start": ("learned", 0.0),
    "zeroing trick": ("zeroed", 1.0),
}
history, results = {}, {}

for name, (head, scale) in heads.items():
    model = mc.Model(encoder, ways=5, head=head)
    start = model.init(torch.Generator().manual_seed(0), head_init_scale=scale)
    history[name] = []

    def watch(update, params, metrics, model=model, seen=history[name]):
        if update % EVERY == 0:
            seen.append(mc.explain(model, params, examined, inner).scalars())

    watch(0, start, None)
    trained = mc.train(
        model, tasks, inner, updates=UPDATES, params=start, on_update=watch
    )
    results[name] = mc.evaluate(
        model, trained, test_tasks, inner, mc.Evaluation(heads=("kept",), episodes=60)
    )[0]

columns = ("interference", "contrastive", "remainder", "accuracy, %")
print(f"{'':14}" + "".join(f"{each:>13}" for each in columns))
for name, seen in history.items():
    last = seen[-1]
    contrastive = last["contrastive_query_share"] + last["contrastive_support_share"]
    shown = (last["interference_share"], contrastive, last["remainder_share"])
    accuracy = f"{100 * results[name].accuracy:.1f} ± {100 * results[name].ci95:.1f}"
    print(f"{name:14}" + "".join(f"{each:13.2f}" for each in shown) + f"{accuracy:>13}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, seen in history.items():
    updates = range(0, UPDATES + 1, EVERY)
    left.plot(updates, [each["interference_share"] for each in seen], "o-", label=name)
    right.plot(updates, [each["wrong_sign_share"] for each in seen], "o-", label=name)
left.set(xlabel="updates", ylabel="share of interference")
right.set(xlabel="updates", ylabel="share of wrong signs")
left.legend()
plt.show()

# %% [markdown]
# A *wrong sign* is a query image that is pulled towards a support image of another
# class. With the zeroing trick both curves are exactly zero, and so is the remainder:
# from a head of zeros the first inner step cannot move the encoder, so the closed
# form holds for the whole network ([why](../theory.md#what-is-new-here)). With a
# random start most of the gradient is not contrast, and the model learns more slowly.
#
# This is one seed, 32 updates and a small network: it shows the mechanism. [The
# figures](../figures/README.md) are the evidence, and `metacontrast explain` makes
# [the same report](../explain.md) for a model of yours.
