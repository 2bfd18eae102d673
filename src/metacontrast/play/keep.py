"""Taking what was taught home: a classifier's folder, one zip of it, ONNX, a picture; and bringing it back.

No name or path comes from the page. A zip may hold the two files of a classifier and nothing else, and it is measured
before it is unpacked.
"""

import re
import threading
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from metacontrast.classifier.estimator import FewShotClassifier
from metacontrast.classifier.explanation import as_seen, save_explanation
from metacontrast.classifier.export import export
from metacontrast.data.decode import to_png
from metacontrast.data.published import DAMAGE
from metacontrast.errors import InputError
from metacontrast.files import read_facts
from metacontrast.play.answers import ready
from metacontrast.play.session import MOST_CLASSES, MOST_EXAMPLES, Session, Settings
from metacontrast.training.run import CONFIG

ZIP_LIMIT = 64_000_000
_SAVING = threading.Lock()
_FILE = re.compile(r"(?:[^/\\]{1,80}/)?(config\.json|model(?:-[1-9][0-9]{0,17})?\.safetensors)")


def save(session: Session, folder: Path) -> Path:
    """Write the classifier to the next free `classifier-N` below `folder`."""
    classifier = ready(session)
    with _SAVING:  # pages save side by side, and each needs a folder of its own
        names = (re.fullmatch(r".*-(\d+)", each.name) for each in folder.glob("classifier-*"))
        place = folder / f"classifier-{1 + max((int(found[1]) for found in names if found), default=0)}"
        classifier.save(place)
    return place


def as_zip(session: Session) -> bytes:
    """The classifier's folder as one file."""
    file = BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        ready(session).save(folder)
        for each in sorted(Path(folder).glob("[!.]*")):
            archive.write(each, f"classifier/{each.name}")
    return file.getvalue()


def load_zip(session: Session, data: bytes) -> None:
    """Go on from a classifier that was taken home: its model, its settings and its examples."""
    with TemporaryDirectory() as folder:
        _unpack(data, Path(folder))
        model = read_facts(Path(folder) / CONFIG).get("model")
        if isinstance(model, dict) and "source" in model:  # to load it may download, because a file says so
            raise InputError("this classifier's encoder comes from elsewhere: use it with `metacontrast predict`")
        try:
            loaded = FewShotClassifier.load(folder)
        except InputError as error:
            raise InputError(
                f"this zip does not hold a complete classifier: {str(error).replace(folder, 'its folder')}"
            ) from error
    boards = _boards(loaded)
    candidate = loaded.state_.fitted.candidate
    if candidate.method != "adapted":
        raise InputError(
            f"this classifier predicts with a {candidate.method} head, which the page does not explain: use it with "
            "`metacontrast predict`"
        )
    name = session.add_model(loaded.state_.start)
    settings = Settings(name, candidate.steps or None, candidate.lr or None, loaded.scope, loaded.random_head)
    session.start_over(boards, settings)


def as_onnx(session: Session) -> bytes:
    """The classifier as one ONNX file."""
    with TemporaryDirectory() as folder:
        return export(ready(session).state_, Path(folder) / "classifier.onnx", "onnx").read_bytes()


def as_picture(session: Session) -> bytes:
    """The explanation of the last image that was asked about, as a PNG."""
    classifier = ready(session)
    if not session.query or session.explain is None:
        raise InputError("there is nothing to explain yet: draw or drop an image on the query board")
    (prediction,) = classifier.predict_each([session.query])
    assert prediction.pixels is not None
    with TemporaryDirectory() as folder:
        found = session.explain(session.query)
        path = save_explanation(classifier.state_, found, prediction.pixels, Path(folder) / "explanation.png")
        return path.read_bytes()


def _unpack(data: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
            found = [_FILE.fullmatch(each.filename) for each in members]
            if not all(found) or len(members) != 2:
                raise InputError("this zip is not one of this page: it must hold config.json and model.safetensors")
            if sum(each.file_size for each in members) > ZIP_LIMIT:
                raise InputError(f"this zip unpacks to more than {ZIP_LIMIT // 10**6} MB: it is not one of this page")
            for each, name in zip(members, found, strict=True):
                assert name is not None
                with archive.open(each) as packed:  # gives no more than the size that was checked
                    (folder / name[1]).write_bytes(packed.read(ZIP_LIMIT))
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError("this file is not a valid zip: choose one that the page made") from error


def _boards(loaded: FewShotClassifier) -> tuple[tuple[str, tuple[bytes, ...]], ...]:
    """The examples as the model saw them, as PNGs, which are read back without loss."""
    if loaded.support_.features is not None:
        raise InputError("this classifier keeps features in place of its images: use it with `metacontrast predict`")
    support = loaded.support_
    counts = support.counts.tolist()
    if len(counts) > MOST_CLASSES or max(counts) > MOST_EXAMPLES:
        raise InputError(
            f"this classifier has {len(counts)} classes with up to {max(counts)} examples; the page takes "
            f"{MOST_CLASSES} with {MOST_EXAMPLES}: use it with `metacontrast predict`"
        )
    if len({str(label) for label in support.classes}) < len(counts):
        raise InputError("two classes of this classifier have one name: use it with `metacontrast predict`")
    boards: dict[str, list[bytes]] = {}
    for image, label in zip(as_seen(loaded.state_, support.images), support.labels, strict=True):
        boards.setdefault(str(label), []).append(to_png(image.transpose(1, 2, 0)))
    return tuple((name, tuple(images)) for name, images in boards.items())
