"""miniImageNet is read alike from every layout in which people have it, and only when it is complete."""

import io
import json
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from metacontrast.data import mini_imagenet
from metacontrast.data.decode import ReadOptions
from metacontrast.data.mini_imagenet import FOLDERS, class_names, read, sources
from metacontrast.errors import InputError

OPTIONS = ReadOptions()
CLASSES = ("n01532829", "n01558993")
OTHER = "n01704323"
COUNT = 3
PUBLISHED = {split: class_names(split) for split in ("train", "val", "test")}


@pytest.fixture(autouse=True)
def two_classes_of_three(monkeypatch):
    """A complete set here is two of the published classes with three images each."""
    monkeypatch.setattr(mini_imagenet, "class_names", lambda split: CLASSES)
    monkeypatch.setattr(mini_imagenet, "IMAGES", COUNT)


def photo(number, size=84):
    """A plain image whose value tells which one it is."""
    return np.full((size, size, 3), 20 * number + 10, np.uint8)


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(photo(number)).save(buffer, "PNG")
    return buffer.getvalue()


def numbered(classes=CLASSES):
    """Each image's number, class and name as in the set's own files."""
    return [(c * COUNT + i, name, f"{name}{i:08d}.jpg") for c, name in enumerate(classes) for i in range(COUNT)]


def write_images(folder, rows):
    for number, _, name in rows:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def as_csv(root, split, classes=CLASSES, place=""):
    write_images(root / "images", numbered(classes))
    (root / place).mkdir(exist_ok=True)
    lines = ["filename,label", *(f"{name},{label}" for _, label, name in numbered(classes))]
    (root / place / f"{split}.csv").write_text("\n".join(lines) + "\n")


def as_pickle(root, split, classes=CLASSES, protocol=2):
    rows = numbered(classes)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    by_class = {c: [order.index(number) for number, name, _ in rows if name == c] for c in reversed(classes)}
    content = {"image_data": np.stack([photo(number) for number in order]), "class_dict": by_class}
    (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content, protocol))


def as_folders(root, split, classes=CLASSES):
    write_images(root / split, [(number, label, f"{label}/{name}") for number, label, name in numbered(classes)])


def as_flat(root, split, classes=CLASSES):
    write_images(root / "images", numbered(classes))


def as_flat_folders(root, split, classes=CLASSES):
    as_folders(root, "images", classes)


def as_parquet(root, split, classes=CLASSES, texts=False, nested=True):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    hub_split = {"val": "validation"}.get(split, split)
    names = list(reversed(classes))
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    (root / "data").mkdir()
    for part, rows in enumerate((numbered(classes)[:2], numbered(classes)[2:])):
        table = pa.table(
            {
                "image": [{"bytes": png(number), "path": name} if nested else png(number) for number, _, name in rows],
                "label": [label if texts else names.index(label) for _, label, _ in rows],
            }
        ).replace_schema_metadata({} if texts else {"huggingface": json.dumps(features)})
        pq.write_table(table, root / "data" / f"{hub_split}-{part:05d}-of-00002.parquet")


LAYOUTS = [as_csv, as_pickle, as_folders, as_flat, as_flat_folders, as_parquet]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_layout_gives_the_same_images(tmp_path, monkeypatch, layout, split):
    """Same classes in the published order, same images in the order of the set: so the same digest."""
    classes = PUBLISHED[split][:2]
    monkeypatch.setattr(mini_imagenet, "class_names", lambda _: classes)
    layout(tmp_path, split, classes)
    images = read(tmp_path, split, OPTIONS)
    assert images.name == f"mini-imagenet/{split}"
    assert images.classes == classes
    assert images.shape == (3, 84, 84)
    assert images.counts.tolist() == [COUNT, COUNT]
    assert images.images[:, 0, 0, 0].tolist() == [10, 30, 50, 70, 90, 110]
    assert images.mean == (0.485, 0.456, 0.406)
    assert all(path.exists() for path in sources(tmp_path))


def test_the_published_split_is_64_16_20_different_classes():
    assert [len(names) for names in PUBLISHED.values()] == [64, 16, 20]
    assert len({name for names in PUBLISHED.values() for name in names}) == 100
    assert all(list(names) == sorted(names) for names in PUBLISHED.values())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_set_may_lie_in_a_folder_of_its_own(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    as_pickle(tmp_path / folder, "train")
    assert len(read(tmp_path, "train", OPTIONS)) == 2
    assert sources(tmp_path) == [tmp_path / folder / "mini-imagenet-cache-train.pkl"]


@pytest.mark.parametrize("place", ["", "csv", "splits"])
def test_the_lists_may_lie_in_a_folder_of_their_own(tmp_path, place):
    as_csv(tmp_path, "train", place=place)
    assert len(read(tmp_path, "train", OPTIONS)) == 2


def test_layouts_are_tried_in_order(tmp_path):
    for layout in LAYOUTS:
        layout(tmp_path, "train")
    assert sources(tmp_path) == [tmp_path / "train.csv", tmp_path / "images"]


def test_other_sizes_and_turned_classes_are_made_when_asked(tmp_path):
    as_pickle(tmp_path, "train")
    images = read(tmp_path, "train", ReadOptions(image_size=8, rotations=True))
    assert images.shape == (3, 8, 8)
    assert len(images) == 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_unknown_classes_are_named(tmp_path, layout):
    layout(tmp_path, "train", (CLASSES[0], OTHER))
    message = rf"1 of the 2 classes are missing \({CLASSES[1]}\) and 1 are not of this split \({OTHER}\)"
    with pytest.raises(InputError, match=message):
        read(tmp_path, "train", OPTIONS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_class_with_too_few_images_is_named(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(mini_imagenet, "IMAGES", 600)
    layout(tmp_path, "train")
    with pytest.raises(InputError, match=r"2 of 2 classes do not have 600 images \(n01532829 has 3, n01558993 has 3\)"):
        read(tmp_path, "train", OPTIONS)


def test_a_set_that_is_not_there_says_where_it_may_be_put(tmp_path):
    for look in (lambda: read(tmp_path, "train", OPTIONS), lambda: sources(tmp_path)):
        with pytest.raises(
            InputError, match=r"train is not in .*train\.csv and images/; .*train-\*\.parquet"
        ) as caught:
            look()
        assert "\n" not in str(caught.value)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="no split 'all', only train, val, test"):
        class_names("all")


def test_an_image_of_the_list_that_is_not_there_is_named(tmp_path):
    as_csv(tmp_path, "train")
    (tmp_path / "images" / "n0153282900000001.jpg").unlink()
    with pytest.raises(
        InputError, match=r"1 of 6 images cannot be used: n0153282900000001\.jpg cannot be read \(No such"
    ):
        read(tmp_path, "train", OPTIONS)
    assert read(tmp_path, "train", ReadOptions(skip_unreadable=True)).counts.tolist() == [2, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"filename,label\n../../secret.jpg,n01532829\n",
        b"filename,label\n/secret.jpg,n01532829\n",
        b"a,b\n1,2\n",
        b"filename,label\nx.jpg\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_list_that_is_no_list_of_images_is_refused(tmp_path, content):
    as_csv(tmp_path, "train")
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"train\.csv.* fetch it again"):
        read(tmp_path, "train", OPTIONS)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cache_files_of_any_protocol(tmp_path, protocol):
    as_pickle(tmp_path, "train", protocol=protocol)
    assert len(read(tmp_path, "train", OPTIONS)) == 2


class Planted:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_planted_cache_file_runs_nothing(tmp_path):
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    path.write_bytes(pickle.dumps({"image_data": Planted(f"touch {tmp_path}/trace"), "class_dict": {}}))
    with pytest.raises(InputError, match=r"asks for .*system, which is never run"):
        read(tmp_path, "train", OPTIONS)
    assert not (tmp_path / "trace").exists()


IMAGES = np.zeros((2, 84, 84, 3), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"image_data": IMAGES},
        {"image_data": IMAGES.astype(np.float32), "class_dict": {"a": [0]}},
        {"image_data": IMAGES[..., 0], "class_dict": {"a": [0]}},
        {"image_data": IMAGES, "class_dict": {"a": [2]}},
        {"image_data": IMAGES, "class_dict": {"a": [-1]}},
        {"image_data": IMAGES, "class_dict": {"a": 0}},
        {"image_data": IMAGES, "class_dict": {"a": ["0"]}},
        {"image_data": IMAGES, "class_dict": {"a": [[0], [0, 1]]}},
        {"image_data": IMAGES, "class_dict": [0]},
    ],
)
def test_a_cache_file_of_another_content_is_refused(tmp_path, content):
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"mini-imagenet-cache-train\.pkl holds no (image_data|class_dict)"):
        read(tmp_path, "train", OPTIONS)


@pytest.mark.parametrize("how", [{"texts": True}, {"nested": False}])
def test_parquet_with_names_as_labels_or_bare_bytes(tmp_path, how):
    as_parquet(tmp_path, "train", **how)
    assert read(tmp_path, "train", OPTIONS).images[:, 0, 0, 0].tolist() == [10, 30, 50, 70, 90, 110]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    as_parquet(tmp_path, "train")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'metacontrast\[parquet\]'"):
        read(tmp_path, "train", OPTIONS)


@pytest.mark.parametrize("damage", ["text", "truncated", "columns", "metadata", "no bytes", "middle"])
def test_damaged_parquet_is_one_line_that_names_the_file(tmp_path, damage):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    as_parquet(tmp_path, "train")
    path = tmp_path / "data" / "train-00000-of-00002.parquet"
    whole = path.read_bytes()
    table = pq.read_table(path)
    if damage == "columns":
        pq.write_table(table.select(["label"]), path)
    elif damage == "metadata":
        pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), path)
    elif damage == "no bytes":
        pq.write_table(table.set_column(0, "image", pa.array([{"bytes": None, "path": "a.jpg"}] * 2)), path)
    else:
        path.write_bytes(
            {"text": b"text", "truncated": whole[:-20], "middle": whole[:40] + b"\xff" * 200 + whole[240:]}[damage]
        )
    with pytest.raises(InputError, match=r"train-00000-of-00002\.parquet") as caught:
        read(tmp_path, "train", OPTIONS)
    assert "\n" not in str(caught.value)


def test_labels_without_names_are_unknown_classes(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    as_parquet(tmp_path, "train")
    for path in (tmp_path / "data").iterdir():
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(InputError, match=r"2 are not of this split \(label 1, label 0\)"):
        read(tmp_path, "train", OPTIONS)
