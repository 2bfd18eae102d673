# %% [markdown]
# # Read a paper's claim, run it, judge it
#
# A curve that lies above another one is not yet a result. This page takes claims
# about MAML, writes down beforehand what would count for and against them, runs them
# with several seeds, and gives verdicts. It is the method behind [the
# figures](../figures/README.md), at toy size.
#
# ## 1. Say what the claim is, and when it would be wrong
#
# Kao, Chiu and Chen (ICLR 2022, Fig. 3) report that *zeroing the head at test raises
# accuracy* of a model that was trained with a random head. To test that, three
# choices are made before anything is run:
#
# - **What is compared:** the accuracy of one model on one list of test tasks, with
#   its head set to zero before each task or kept as it was trained. We look after one
#   inner step, and again after five.
# - **The margin:** "raises" means by more than 0 points.
# - **The verdict:** *supported* if the whole interval is above the margin, *not
#   supported* if all of it is at or below it, and *inconclusive* otherwise.
#
# The third claim is one of equality: with a zeroed head, one inner step at test is as
# good as five, *within one point*. An interval that contains 0 does not show that. To
# support it, the whole interval must lie within ± 1 point.

# %%
CLAIMS = {
    "zeroing helps after 1 step": ("above", "zeroed, 1 step", "kept, 1 step", 0.0),
    "zeroing helps after 5 steps": ("above", "zeroed, 5 steps", "kept, 5 steps", 0.0),
    "5 steps are like 1 step": ("alike", "zeroed, 5 steps", "zeroed, 1 step", 1.0),
}


def verdict(kind, low, high, margin):
    if kind == "above":
        shown, refuted = low > margin, high <= margin
    else:
        shown = -margin < low and high < margin
        refuted = high <= -margin or low >= margin
    return "supported" if shown else "not supported" if refuted else "inconclusive"


# %% [markdown]
# ## 2. Run it
#
# Three seeds train three models. All are tested on the same tasks, so that
# differences can be paired by seed and by task.

# %%
import matplotlib.pyplot as plt
import torch

import metacontrast as mc
from metacontrast.experiments.statistics import over_seeds_and_tasks
from metacontrast.training.evaluate import evaluate_tasks

SEEDS, UPDATES, TEST_TASKS = 3, 16, 80
model = mc.Model(
    mc.encoders.conv4(channels=1, image_size=28, filters=12, blocks=3),
    ways=5,
    head="learned",
)
inner = mc.Inner(steps=1, lr=0.4)
train_images, test_images = (
    mc.load_dataset("glyphs", split=split) for split in ("train", "test")
)
test_tasks = mc.EpisodeSampler(test_images, ways=5, shots=1, queries=3, seed=0)
evaluation = mc.Evaluation(heads=("kept", "zeroed"), steps=(1, 5), episodes=TEST_TASKS)
ROWS = (
    "kept, 1 step",
    "kept, 5 steps",
    "zeroed, 1 step",
    "zeroed, 5 steps",
    "baseline",
)


def train_and_test(seed):
    tasks = mc.EpisodeSampler(train_images, ways=5, shots=1, queries=3, seed=seed)
    start = model.init(torch.Generator().manual_seed(seed))
    params = mc.train(model, tasks, inner, updates=UPDATES, params=start)
    return evaluate_tasks(model, params, test_tasks, inner, evaluation)


# (seed, task, row), in per cent
scores = 100 * torch.stack([train_and_test(seed) for seed in range(SEEDS)]).double()
accuracy = {row: scores[:, :, number].numpy() for number, row in enumerate(ROWS)}
for row, found in accuracy.items():
    by_seed = found.mean(1)
    spread = f"{by_seed.min():.1f} to {by_seed.max():.1f}"
    print(f"{row:15} {found.mean():.1f} %, single seeds from {spread}")

# %% [markdown]
# ## 3. Judge it
#
# Another run would differ for two reasons: other seeds, and other test tasks. The
# interval must cover both. `over_seeds_and_tasks` does: it treats both as random and
# their effects as crossed. With three seeds it is wide, as it should be.

# %%
estimates = {}
for claim, (kind, one, other, margin) in CLAIMS.items():
    estimates[claim] = over_seeds_and_tasks(accuracy[one] - accuracy[other])
    low, high = estimates[claim].interval()
    found = f"{estimates[claim].mean:+.1f} points [{low:+.1f}, {high:+.1f}]"
    print(f"{claim:28} {found:28} {verdict(kind, low, high, margin)}")

# %%
figure, axis = plt.subplots(figsize=(6, 2.2), layout="constrained")
for height, (claim, estimate) in enumerate(estimates.items()):
    low, high = estimate.interval()
    axis.plot([low, high], [height, height], color="C0")
    axis.plot(estimate.mean, height, "o", color="C0")
    one, other = CLAIMS[claim][1:3]
    by_seed = (accuracy[one] - accuracy[other]).mean(1)
    axis.plot(by_seed, [height + 0.2] * SEEDS, ".", color="grey")
axis.axvspan(-1, 1, color="0.9")
axis.axvline(0, color="black", linewidth=0.8)
axis.set(yticks=range(len(CLAIMS)), yticklabels=list(CLAIMS), xlabel="points")
axis.set_ylim(len(CLAIMS) - 0.3, -0.5)
figure.suptitle("95 % interval (blue), single seeds (grey dots)", fontsize="medium")
plt.show()

# %% [markdown]
# ## 4. Say what it does not show
#
# - *Inconclusive* is not a mild "no". It says that the interval is too wide, and that
#   more seeds would narrow it. Decide how many before you look: adding seeds until a
#   result appears makes errors likely ([how the figures handle
#   it](../reproducing.md#how-a-verdict-is-reached)).
# - Three claims at an error of 5 % each are wrong together more often than 5 %. The
#   summary of the figures corrects for it (Holm).
# - The scope is what was run: 16 updates of a small network on typeset characters, at
#   sizes that were chosen so that this page is quick. A claim about the end of
#   training, on photographs, is *not testable yet* with this, whatever the interval
#   says.
# - The baseline is the nearest class mean, without adaptation. An effect on
#   adaptation is worth little where the baseline is better.
#
# The claims of the whole paper, with their runs, are `metacontrast figure all`
# ([every figure](../reproducing.md)).
