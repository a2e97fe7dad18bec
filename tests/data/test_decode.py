"""Image files of every kind: right, or one line with their name; damaged ones by the hundred."""

import io
import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from snnrepro.data import decode as module
from snnrepro.data.decode import MAX_PIXELS, decode
from snnrepro.errors import DataError

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)


def write(tmp_path, picture, kind="PNG", **options):
    file = tmp_path / "a.JPEG"
    picture.save(file, kind, **options)
    return str(file)


def refused(file):
    with pytest.raises(DataError) as caught:
        decode(file)
    assert str(caught.value).startswith(f"{file}: not a readable image: ") and "\n" not in str(caught.value)
    return str(caught.value)


def values(tensor):
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_of_8_bits_are_what_pillow_converts(tmp_path, mode):
    picture = Image.fromarray(COLOURS).convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(RAMP))
    np.testing.assert_array_equal(values(decode(write(tmp_path, picture))), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind, mode", [("JPEG", "L"), ("JPEG", "CMYK"), ("JPEG", "YCbCr"), ("GIF", "P"),
                                        ("BMP", "RGB"), ("WEBP", "RGBA"), ("PPM", "L"), ("PPM", "1")])  # fmt: skip
def test_other_formats_are_what_pillow_converts(tmp_path, kind, mode):
    file = write(tmp_path, Image.fromarray(COLOURS).convert(mode), kind)
    np.testing.assert_array_equal(values(decode(file)), np.asarray(Image.open(file).convert("RGB")))


def test_transparent_palettes_raise_no_warning(tmp_path):
    picture = Image.fromarray(COLOURS).convert("P")
    file = write(tmp_path, picture, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(values(decode(file)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_grey_of_16_bits_is_scaled(tmp_path, kind):
    grey = RAMP.astype(np.uint16) * 257
    shown = values(decode(write(tmp_path, Image.fromarray(grey), kind)))
    np.testing.assert_array_equal(shown, np.repeat(RAMP[..., None], 3, -1))
    assert decode(write(tmp_path, Image.fromarray(np.full((2, 2), 65535, np.uint16)), kind)).min() == 255


def png(width, height, depth, colour, raw=b""):
    """Returns a PNG of a header and compressed pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_colours_of_16_bits_keep_the_higher_8(tmp_path):
    rows = (COLOURS.astype(">u2") * 257).reshape(8, -1)
    (tmp_path / "a.JPEG").write_bytes(png(8, 8, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows)))
    np.testing.assert_array_equal(values(decode(str(tmp_path / "a.JPEG"))), COLOURS)


@pytest.mark.parametrize("mode, kind", [("F", "PPM"), ("F", "TIFF"), ("I", "TIFF"), ("I;16", "TIFF"), ("LAB", "TIFF")])
def test_grey_of_unknown_range_and_other_formats_are_refused(tmp_path, mode, kind):
    refused(write(tmp_path, Image.new(mode, (8, 8)), kind))


def test_a_program_in_the_file_is_never_started(tmp_path, monkeypatch):
    monkeypatch.setattr(module.Image, "init", lambda: pytest.fail("formats that were not asked for"), raising=True)
    assert "cannot identify" in refused(write(tmp_path, Image.fromarray(COLOURS), "EPS"))


def test_exif_does_not_turn_an_image(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    assert decode(write(tmp_path, Image.new("RGB", (8, 4)), "JPEG", exif=exif)).shape == (3, 4, 8)


@pytest.mark.parametrize("size", [(20_000, 10_000), (9_460, 9_460), (2**31 - 1, 1)])
def test_a_huge_image_is_refused_by_its_size_before_it_is_unpacked(tmp_path, size):
    (tmp_path / "a.JPEG").write_bytes(png(*size, 8, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "pixels" in refused(str(tmp_path / "a.JPEG"))


def test_the_largest_image_that_is_read(tmp_path, monkeypatch):
    file = write(tmp_path, Image.new("RGB", (8, 4)))
    monkeypatch.setattr(module, "MAX_PIXELS", 32)
    assert decode(file).shape == (3, 4, 8)
    monkeypatch.setattr(module, "MAX_PIXELS", 31)
    assert "8 x 4 pixels, more than 31" in refused(file)
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda file: file.symlink_to("/nowhere")])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, make):
    make(tmp_path / "a.JPEG")
    refused(str(tmp_path / "a.JPEG"))


@pytest.mark.parametrize("error", [NotImplementedError(), OverflowError("x"), EOFError(), MemoryError(),
                                   RecursionError("a\nb"), struct.error("x"), zlib.error("x"),
                                    SyntaxError("x"), IndexError()])  # fmt: skip
def test_whatever_a_plugin_raises_is_one_line(tmp_path, monkeypatch, error):
    file = write(tmp_path, Image.fromarray(COLOURS))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    refused(file)


def seeds():
    picture = Image.fromarray(COLOURS)
    kinds = [("JPEG", "RGB", {}), ("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}), ("PNG", "RGB", {}),
             ("PNG", "P", {"icc_profile": b"x" * 90, "dpi": (3, 3)}), ("PNG", "1", {}), ("GIF", "P", {}),
             ("BMP", "P", {}), ("WEBP", "RGB", {}), ("PPM", "RGB", {}), ("TIFF", "L", {}), ("DDS", "RGBA", {}),
             ("TGA", "RGB", {}), ("PCX", "RGB", {}), ("ICO", "RGBA", {}), ("MPO", "RGB", {})]  # fmt: skip
    for kind, mode, options in kinds:
        content = io.BytesIO()
        picture.convert(mode).save(content, kind, **options)
        yield content.getvalue()


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, capfd, recwarn, caplog):
    rng, contents, file = np.random.default_rng(0), list(seeds()), tmp_path / "a.JPEG"
    outcomes = []
    for number in range(500):
        content = bytearray(contents[number % len(contents)])
        content = content[: rng.integers(1, len(content) + 1)] if number % 5 == 0 else content
        end = len(content) if number % 2 else min(len(content), 100)
        for _ in range(rng.integers(0, 6)):
            content[rng.integers(0, end)] = rng.choice([0, 127, 128, 255, rng.integers(0, 256)])
        file.write_bytes(content)
        try:
            image = decode(str(file))
            assert image.dtype == torch.uint8 and image.shape[0] == 3
            outcomes.append(True)
        except DataError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            outcomes.append(False)
    assert 50 < sum(outcomes) < 450
    assert capfd.readouterr().err == "" and [str(w) for w in recwarn.list] == []
    assert not [record for record in caplog.records if record.levelno < logging.CRITICAL]
