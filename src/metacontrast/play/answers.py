"""What the page shows of a session, as JSON: what is taught, the answer to an image, and what the head's start does.

For the answer A and the runner-up B the numbers of the page satisfy

    Σ_s contribution(s) + start = logit(A) − logit(B)

and every contribution is coefficient · similarity, up to `through_encoder` where the whole network adapts.
"""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from metacontrast.classifier.estimator import FewShotClassifier
from metacontrast.classifier.explanation import Explanation
from metacontrast.errors import InputError
from metacontrast.play.session import MOST_CLASSES, MOST_EXAMPLES, Session, Settings

SEEDS = (1, 2, 3, 4, 5, 6)
TOO_FEW = "two classes with an example each are needed before the model can answer"


def describe(session: Session) -> dict[str, Any]:
    """What is taught, and what may be changed."""
    task, classifier = session.task, session.classifier
    inner = session.inner(task.settings)
    return {
        "classes": [
            {"id": board.id, "name": board.name, "examples": [example.id for example in board.examples]}
            for board in task.boards
        ],
        "settings": asdict(task.settings) | {"steps": inner.steps, "lr": inner.lr, "scope": inner.scope},
        "start": session.head_start(task.settings),
        "bias": session.models[task.settings.model].model.head_bias,
        "models": [
            {
                "name": name,
                "channels": start.images.channels,
                "size": start.images.size,
                "updates": start.run.updates if start.run is not None else 0,
            }
            for name, start in session.models.items()
        ],
        "ready": classifier is not None,
        "calibrated": classifier is not None and bool(classifier.compare_),
        "can_undo": session.can_undo,
        "milliseconds": 1000 * session.seconds,
        "most_classes": MOST_CLASSES,
        "most_examples": MOST_EXAMPLES,
    }


def answer(session: Session, image: bytes) -> dict[str, Any]:
    """Probabilities and what every example did for and against the answer."""
    classifier = ready(session)
    probabilities = classifier.predict_proba({"this file": image})[0].tolist()
    assert session.explain is not None
    found = session.explain(image)
    session.query = image
    named = dict(zip(classifier.classes_.tolist(), probabilities, strict=True))
    return {"probabilities": named, "explanation": _explained(found)}


def ready(session: Session) -> FewShotClassifier:
    """The fitted classifier, or an `InputError` that says what is missing."""
    if session.classifier is None:
        raise InputError(TOO_FEW)
    return session.classifier


def compare_starts(session: Session, image: bytes) -> dict[str, Any]:
    """The answers to one image when only the head's start differs: other random seeds, and other orders of classes.

    A head of zeros has no seed, and its rows are alike, so that the order of the classes cannot matter.
    """
    ready(session)
    if session.variants is None:
        session.variants = list(_variants(session))
    rows = []
    for seed, turn, fitted in session.variants:
        probabilities = fitted.predict_proba([image])[0]
        k = int(probabilities.argmax())
        label = fitted.classes_[k][1]
        rows.append({"seed": seed, "turn": turn, "label": label, "probability": float(probabilities[k])})
    return {"random": session.task.settings.random_head is not None, "rows": rows}


def _variants(session: Session) -> Any:
    """Classifiers of the same examples: seed, by how many places the classes were turned, and the classifier."""
    settings = session.task.settings
    if settings.random_head is not None:
        for seed in SEEDS:
            yield seed, 0, _fit_turned(session, replace(settings, random_head=seed), 0)
    for turn in range(1, min(4, len([board for board in session.task.boards if board.examples]))):
        yield settings.random_head, turn, _fit_turned(session, settings, turn)


def _fit_turned(session: Session, settings: Settings, turn: int) -> FewShotClassifier:
    """The classifier when the classes come in another order: classes are sorted by label, so a number comes first."""
    names = sorted({label for _, label in session.task.labelled.values()})
    place = {name: ((k + turn) % len(names), name) for k, name in enumerate(names)}
    images = {id: data for id, (data, _) in session.task.labelled.items()}
    return session.new_classifier(settings).fit(images, [place[y] for _, y in session.task.labelled.values()])


def _explained(found: Explanation) -> dict[str, Any]:
    columns = (found.names, found.labels, found.contributions, found.coefficients, found.similarities)
    names = ("id", "label", "contribution", "coefficient", "similarity")
    return {
        "label": found.label,
        "against": found.against,
        "difference": found.difference,
        "sum": float(np.sum(found.contributions)),
        "start": found.start,
        "through_encoder": found.through_encoder,
        "exact": found.is_exact,
        "support": [dict(zip(names, row, strict=True)) for row in zip(*map(list, columns), strict=True)],
    }
