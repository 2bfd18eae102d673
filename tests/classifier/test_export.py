"""An exported file answers as the classifier does, without this library."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from classifier_kit import SIZE, grey_images, tiny_start
from failing_disk import no_more_than
from metacontrast import FewShotClassifier
from metacontrast.classifier.export import export
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError

PARAMETERS = [{}, {"steps": 3, "scope": "all", "reject": 0.2}]


@pytest.fixture(params=PARAMETERS, ids=["one step", "three"])
def classifier(request) -> FewShotClassifier:
    return FewShotClassifier(tiny_start(channels=3), **request.param).fit(*grey_images())


def asked() -> np.ndarray:
    return np.stack([grey_images(seed=5)[0]] * 3, axis=1)


def test_a_torch_program_answers_the_same_for_any_batch(in_float64, classifier, tmp_path):
    path = export(classifier.state_, tmp_path / "c.pt2", "torch")
    extra = {"metacontrast.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    for count in (1, 5, 15):
        images = torch.from_numpy(asked()[:count])
        probabilities, similarity = program(images)
        answers = classifier.answer(images)
        np.testing.assert_allclose(probabilities, answers.probabilities, rtol=0, atol=1e-12)
        np.testing.assert_allclose(similarity, answers.similarity, rtol=0, atol=1e-12)
    facts = json.loads(extra["metacontrast.json"])
    assert facts["classes"] == classifier.classes_.tolist()
    assert facts["threshold"] == classifier.threshold_


def test_onnxruntime_agrees_to_1e_4(classifier, tmp_path):
    """Another float32 program: 6e-8 times the size of the calibrated logits, some tens, a few times per layer."""
    runtime = pytest.importorskip("onnxruntime")
    path = export(classifier.state_, tmp_path / "c.onnx", "onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 15):
        probabilities, similarity = session.run(None, {"images": asked()[:count]})
        answers = classifier.answer(torch.from_numpy(asked()[:count]))
        np.testing.assert_allclose(probabilities, answers.probabilities, atol=1e-4)
        np.testing.assert_allclose(similarity, answers.similarity, atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["metacontrast"])
    assert (facts["classes"], facts["size"], facts["channels"]) == (classifier.classes_.tolist(), 16, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["c.onnx"]


def test_without_the_extra_the_message_names_it(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"metacontrast\[onnx\]"):
        export(classifier.state_, tmp_path / "c.onnx", "onnx")
    assert not list(tmp_path.iterdir())


class Branches(nn.Module):
    """Another program for dark images than for bright ones."""

    feature_size = 3 * SIZE * SIZE

    def forward(self, x):
        return x.flatten(1) if x.mean() > 0 else -x.flatten(1)


class FirstAlone(nn.Module):
    """NumPy in the middle, of which an exporter sees nothing."""

    feature_size = 3 * SIZE * SIZE

    def forward(self, x):
        return torch.from_numpy(np.tanh(x.numpy())).flatten(1)


@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("encoder", [Branches, FirstAlone])
def test_encoders_that_cannot_be_exported_are_one_line(tmp_path, encoder, form):
    pytest.importorskip("onnx")
    start = StartingPoint.from_encoder(encoder(), ImageFormat(3, SIZE))
    fitted = FewShotClassifier(start, head="prototype").fit(*grey_images())
    with pytest.raises(InputError, match=rf"the encoder {encoder.__name__} cannot be exported as {form}") as caught:
        export(fitted.state_, tmp_path / "c", form)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_full_disk_is_one_line_and_leaves_nothing(classifier, tmp_path, form):
    pytest.importorskip("onnx")
    with no_more_than(5_000), pytest.raises(InputError, match=r"cannot write .*: File too large"):
        export(classifier.state_, tmp_path / "c", form)
    assert not list(tmp_path.iterdir())


def test_a_program_that_answers_otherwise_is_not_written(classifier, tmp_path, monkeypatch):
    """Guards: an exporter that leaves something out, here the temperature."""
    trace = torch.export.export

    def careless(module, *arguments, **options):
        module = copy.deepcopy(module)
        module.temperature = 10.0
        return trace(module, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", careless)
    with pytest.raises(InputError, match="gives other answers than the classifier"):
        export(classifier.state_, tmp_path / "c", "torch")
