"""Every kind of image file becomes the pixels that a person would see, or one line that names the file."""

import io
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metacontrast.data.decode import Item, decode, decode_all, is_grey, suffixes
from metacontrast.errors import InputError


def encode(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def picture(height=8, width=12, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_a_file_its_bytes_its_array_and_its_image_give_the_same_pixels(tmp_path):
    array = picture(8, 8)
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(array)))
    for source in (path, path.read_bytes(), array, Image.fromarray(array)):
        np.testing.assert_array_equal(decode(source, 8), array.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "TGA", "WEBP", "JPEG2000"])
def test_formats_without_loss_keep_every_pixel(kind):
    grey = Image.fromarray(picture(8, 8, 1)[..., 0])
    how = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encode(grey, kind, **how), 8, "L")[0], np.asarray(grey))


@pytest.mark.parametrize("resample", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_images_are_resized_to_a_square_without_keeping_the_aspect(mode, channels, resample):
    image = Image.fromarray(picture())
    pixels = decode(image, 5, mode, resample)
    assert pixels.shape == (channels, 5, 5)
    expected = np.asarray(image.convert(mode).resize((5, 5), Image.Resampling[resample.upper()]))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0).squeeze(), expected)


# What a viewer does to the stored pixels, by the EXIF standard's orientation number.
UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation, kind):
    stored = picture(8, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encode(Image.fromarray(stored), kind, exif=exif, **how), 8)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05junk"])
def test_damaged_exif_does_not_hide_the_image(exif):
    image = Image.new("RGB", (8, 8), "red")
    assert decode(encode(image, "JPEG", exif=exif), 8)[0].min() > 250


def half_transparent(mode):
    """Black, opaque on the left and fully transparent on the right."""
    alpha = Image.new("L", (8, 8), 0)
    alpha.paste(255, (0, 0, 4, 8))
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putalpha(alpha)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize("wanted", ["L", "RGB"])
def test_transparency_becomes_white(mode, wanted):
    pixels = decode(half_transparent(mode) if mode == "PA" else encode(half_transparent(mode)), 8, wanted)
    assert (pixels[:, :, :4] == 0).all()
    assert (pixels[:, :, 4:] == 255).all()


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_a_transparent_palette_entry_becomes_white(transparency):
    """One index or an alpha for each entry; Pillow warns about the latter when it converts straight to RGB."""
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 200, 200, 0, 0])
    image.paste(1, (4, 0, 8, 8))
    pixels = decode(encode(image, transparency=transparency), 8)
    assert pixels[:, 0, 0].tolist() == [0, 0, 200]
    assert pixels[:, 0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_colour_becomes_white(mode):
    black = 0 if mode != "RGB" else (0, 0, 0)
    assert (decode(encode(Image.new(mode, (8, 8)), transparency=black), 8, "L") == 255).all()


def test_a_transparent_grey_of_16_bits_becomes_white():
    """Written by hand: Pillow writes no such PNG. Greys 0, which is transparent, and 0x6400."""
    rows = b"".join(b"\0" + struct.pack(">2H", 0, 0x6400) for _ in range(2))
    chunks = {b"IHDR": struct.pack(">2I5B", 2, 2, 16, 0, 0, 0, 0), b"tRNS": b"\0\0", b"IDAT": zlib.compress(rows)}
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (chunks | {b"IEND": b""}).items()
    ]
    assert decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts), 2, "L").tolist() == [[[255, 100]] * 2]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([[0, 257, 32896, 65535]], np.uint16), "PNG"),
        (np.array([[0, 257, 32896, 65535]], np.uint16), "TIFF"),
        (np.array([[0, 257, 32896, 65535]], np.int32), "TIFF"),
        (np.array([[0, 1 / 255, 128 / 255, 1]], np.float32), "TIFF"),
        (np.array([[0, 1, 128, 255]], np.float32), "TIFF"),
        (np.array([[0, 257, 32896, 65535]], np.float32), "TIFF"),
    ],
)
def test_deep_greys_are_scaled_not_clipped(array, kind):
    wide = np.repeat(array, 4, axis=0)
    assert decode(encode(Image.fromarray(wide), kind), 4, "L")[0, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (np.array([[0, 1, 128, 255]], np.int32), [0, 1, 128, 255]),
        (np.array([[0, 257, 32896, 65535]], np.int32), [0, 1, 128, 255]),
        (np.array([[0, 1, 128, 255]], np.uint16), [0, 0, 0, 1]),
    ],
    ids=["32 bits to 255", "32 bits to 65535", "16 bits"],
)
def test_greys_of_16_bits_have_one_scale_and_those_of_32_the_least(source, expected):
    image = Image.fromarray(np.repeat(source, 4, axis=0))
    assert decode(image, 4, "L")[0, 0].tolist() == expected
    if image.mode == "I;16":  # Pillow reads it as mode I
        assert Image.open(io.BytesIO(encode(image, "PPM"))).mode == "I"
        assert decode(encode(image, "PPM"), 4, "L")[0, 0].tolist() == expected


@pytest.mark.parametrize("array", [np.full((2, 2), -1, np.int32), np.full((2, 2), np.nan, np.float32)])
def test_greys_on_no_known_scale_are_refused(array):
    with pytest.raises(InputError, match=r"its greys lie between .* save it with 8 or 16 bits"):
        decode(encode(Image.fromarray(array), "TIFF"), 2)


def test_what_is_read_from_one_open_file_is_read_by_one_thread(tmp_path):
    """Guards an image that stands in a list twice, and two images of one file: Pillow reads them when they are used."""
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        image, one, two = Image.open(tmp_path / "a.png"), Image.open(file), Image.open(file)
        sources = [image, tmp_path / "a.png", one, image, two, *[image] * 300]
        threads: dict[int, set[int]] = {}

        def decode_item(item: Item):
            threads.setdefault(int(item.label), set()).add(threading.get_ident())
            item.source if isinstance(item.source, Path) else item.source.load()
            return np.full(1, int(item.name), np.uint8)

        groups = ["0", "1", "2", "0", "2", *["0"] * 300]
        items = [
            Item(group, str(k % 256), source) for k, (group, source) in enumerate(zip(groups, sources, strict=True))
        ]
        found = list(decode_all(items, decode_item))
    assert [item for item, _ in found] == items
    assert [int(pixels[0]) for _, pixels in found] == [k % 256 for k in range(305)]
    assert len(threads[2]) == 1
    assert len(threads[0]) <= 2  # one for each batch of 256


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX", "RGBa"])
def test_other_colour_spaces_are_converted(mode):
    """White is white in all of them, after the conversion to and fro."""
    white = {"CMYK": (0, 0, 0, 0), "YCbCr": (255, 128, 128), "HSV": (0, 0, 255)}
    image = Image.new(mode, (8, 8), white.get(mode, (255, 255, 255, 255)))
    assert (decode(image, 8) >= 254).all()


def test_a_cmyk_jpeg_has_its_colours():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = decode(encode(red, "JPEG"), 8)
    assert pixels[0].min() > 240
    assert pixels[1:].max() < 15


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red")]
    assert (decode(encode(frames[0], kind, save_all=True, append_images=frames[1:]), 8) == 255).all()


def png_header(width, height):
    """A PNG that promises this many pixels and holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10_000, 10_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_by_file_and_number(tmp_path, width, height):
    """Below, between and above the two limits at which Pillow itself warns and raises."""
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(InputError, match=rf"huge\.png has {width * height} pixels, more than the limit of 64000000"):
        decode(path, 8)


def test_the_pixel_limit_can_be_set():
    with pytest.raises(InputError, match="the image has 64 pixels, more than the limit of 63"):
        decode(Image.new("L", (8, 8)), 8, max_pixels=63)


DAMAGED = {
    "truncated.png": encode(Image.fromarray(picture(64, 64)))[:3000],
    "truncated.jpg": encode(Image.fromarray(picture(64, 64)), "JPEG")[:1500],
    "truncated.gif": encode(Image.fromarray(picture(64, 64)), "GIF")[:1500],
    "truncated.tif": encode(Image.fromarray(picture(64, 64)), "TIFF")[:1500],
    "empty.png": b"",
    "text.png": b"this is no image",
    "half-header.png": b"\x89PNG\r\n\x1a\n\0\0",
    "no-pixels.png": png_header(8, 8),
    "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_line_that_names_the_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as caught:
        decode(path, 8)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "finding"), [("empty.png", r"is empty \(0 bytes\)"), ("text.png", "is not an image of a known format")]
)
def test_the_line_says_what_is_wrong(tmp_path, name, finding):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    for source in (path, DAMAGED[name]):
        with pytest.raises(InputError, match=f"x {finding}"):
            decode(source, 8, name="x")


def test_a_missing_file_and_an_array_of_no_image_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png cannot be read \(No such file"):
        decode(tmp_path / "none.png", 8)
    with pytest.raises(InputError, match="the image cannot be read"):
        decode(np.zeros((2, 2, 7), np.uint8), 8)


def test_random_damage_never_escapes_as_another_error():
    """Flipped bytes reach the depths of Pillow's readers; whatever they raise or warn of is an InputError or pixels."""
    generator = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        whole = np.frombuffer(encode(Image.fromarray(picture(16, 16)), kind, exif=exif), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[generator.integers(0, len(whole), 4)] = generator.integers(0, 256, 4)
            try:
                outcome = str(decode(damaged.tobytes(), 8).shape)
            except InputError as error:
                outcome = str(error)
            assert outcome == "(3, 8, 8)" or re.fullmatch("the image (is|has|cannot).*", outcome)


def test_warning_filters_are_as_before():
    before = list(warnings.filters)
    decode(Image.new("L", (8, 8)), 8)
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("mode", "grey"), [("1", True), ("L", True), ("LA", True), ("I;16", True), ("P", False), ("RGB", False)]
)
def test_the_header_tells_grey_from_colour(tmp_path, mode, grey):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new(mode, (8, 8))))
    assert is_grey(path) is grey


def test_file_endings_of_photographs_are_known():
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm"} <= suffixes()
    assert not {".txt", ".csv", ".h5", ".eps", ".pdf", ".mpg"} & suffixes()
