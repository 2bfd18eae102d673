"""Pickles are read as data: arrays and containers come back whole, and nothing that a file asks for is run."""

import collections
import os
import pickle
import struct

import numpy as np
import pytest

from metacontrast.data.safe_pickle import load
from metacontrast.errors import InputError

CORE = np._core if hasattr(np, "_core") else np.core  # NumPy 2 renamed it


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


class Asks:
    """Pickles as a call of `function` with `arguments`, and a state for what the call returns."""

    def __init__(self, function, *arguments, state=None):
        self.asked = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.asked


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_come_back_as_they_were(tmp_path, protocol):
    """Every pickle protocol writes arrays, scalars, bytes and sets differently."""
    arrays = {
        "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "names": np.array(["cat", "Ωμ"]),
        "empty": np.zeros((0, 84, 84, 3), np.uint8),
    }
    plain = {
        "class": [1, 2],
        "pair": (None, True, 1.5),
        "raw": b"\x00\xff",
        "none": b"",
        "some": {1, 2},
        "text": "é",
    }
    found = load(write(tmp_path / "a.pkl", {**arrays, **plain, "scalar": np.int64(7)}, protocol))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.pop(name), array)
    assert found.pop("scalar") == 7
    assert found == plain


@pytest.mark.parametrize("protocol", range(6))
def test_other_dictionaries_become_plain_ones(tmp_path, protocol):
    grouped = collections.defaultdict(list, {"n01": [1]})
    ordered = collections.OrderedDict([(np.int64(1), grouped)])
    assert load(write(tmp_path / "a.pkl", ordered, protocol)) == {1: {"n01": [1]}}


def python2_pickle(raw: bytes, shape: tuple[int, int, int, int]) -> bytes:
    """What Python 2's cPickle wrote at protocol 2 for {'image_data': uint8 array, 'class_dict': {'n01': [0, 1]}}."""
    text = b"T" + struct.pack("<I", len(raw)) + raw
    sizes = b"".join(b"K" + bytes([size]) for size in shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(" + sizes + b"t"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + text
        + b"tb"
    )
    return b"\x80\x02}(U\x0aimage_data" + array + b"U\x0aclass_dict}U\x03n01](K\x00K\x01esu."


def test_python_2_files_are_read(tmp_path):
    """The caches in circulation were written by Python 2, whose byte strings are pixels above 127 too."""
    path = tmp_path / "old.pkl"
    path.write_bytes(python2_pickle(bytes(range(244, 256)), (2, 1, 2, 3)))
    found = load(path)
    np.testing.assert_array_equal(found["image_data"].ravel(), np.arange(244, 256))
    assert found["image_data"].shape == (2, 1, 2, 3)
    assert found["class_dict"] == {"n01": [0, 1]}


PLANTED = {
    "system": lambda trace: Asks(os.system, f"touch {trace}"),
    "eval": lambda trace: Asks(eval, f"open({trace!r}, 'w')"),
    "open": lambda trace: Asks(open, trace, "w"),
    "getattr": lambda trace: Asks(getattr, "text", "upper"),
    "load": lambda trace: Asks(np.load, trace),
    "fromfile": lambda trace: Asks(np.fromfile, trace),
    "bytearray": lambda trace: Asks(bytearray, 10**12),
}


@pytest.mark.parametrize("function", PLANTED)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_planted_calls_are_refused_and_never_run(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    path = write(tmp_path / "bad.pkl", {"image_data": PLANTED[function](str(trace))}, protocol)
    with pytest.raises(InputError, match=rf"bad\.pkl .*it asks for .*\.{function}, which is never run"):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"cnumpy.f2py\ncompile\n(tR.",
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"cmetacontrast.data.safe_pickle\n_Note\n.",
        b"\x82\x01.",
        b"Pname\n.",
    ],
)
def test_names_that_lead_further_are_refused(tmp_path, text):
    """Dotted names, this package's own names, registered extensions and persistent ids are ways round a list."""
    path = tmp_path / "bad.pkl"
    path.write_bytes(text)
    with pytest.raises(InputError, match="is not a pickle of plain data"):
        load(path)


def rebuild(shape, dtype, values):
    return Asks(CORE.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, values))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, None], dtype=object),
        np.zeros(2, [("a", "u1"), ("b", "O")]),
        rebuild((1,), np.dtype("O"), b"8 bytes!"),
        rebuild((1,), Asks(np.dtype, "O8", state=(3, "|", None, None, None, -1, -1, 0)), b"8 bytes!"),
        rebuild((10**9,), np.dtype("u1"), b"short"),
        rebuild((-1, -5), np.dtype("u1"), b"short"),
        rebuild((5.0,), np.dtype("u1"), b"short"),
        rebuild(5, np.dtype("u1"), b"short"),
        rebuild((5,), "u1", b"short"),
        Asks(CORE.multiarray._reconstruct, np.ndarray, (0,), b"b"),
        Asks(CORE.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1,)),
        Asks(CORE.multiarray.scalar, np.dtype("u1")),
        Asks(np.ndarray, (1,), "O", b"8 bytes!"),
        np.ndarray,
    ],
)
def test_arrays_that_are_not_plain_numbers_are_refused(tmp_path, array):
    """An array of objects made from raw bytes would let a file choose addresses in memory."""
    with pytest.raises(InputError, match="is not a pickle of plain data"):
        load(write(tmp_path / "bad.pkl", array))


@pytest.mark.parametrize("content", [b"", b"\x80\x04]", b"no pickle", b"\xff" * 50, b"]\x94h\x00a."])
def test_damaged_files_are_one_line(tmp_path, content):
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_list_that_holds_itself_is_refused(tmp_path):
    circle = []
    circle.append(circle)
    with pytest.raises(InputError, match="RecursionError"):
        load(write(tmp_path / "bad.pkl", circle))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pkl .*No such file"):
        load(tmp_path / "none.pkl")
