"""An image file as RGB pixels: every kind that Pillow reads becomes what it shows, or is refused by name."""

import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from snnrepro.errors import DataError

# What is tried, whatever the file's name says. Of Pillow's other formats some start programs or hold grey of unknown
# range, and the library of TIFF writes its complaints around Python.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP")
# Pillow warns above so many pixels, and refuses twice as many: a small file may unpack into all of the memory.
MAX_PIXELS = 89_478_485

# What its plugins find odd about a file that they read all the same.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(file: str) -> Tensor:
    """Returns the image in ``file`` as RGB, uint8 (3, H, W). Raises DataError naming the file.

    As Pillow's ``convert("RGB")``, which the papers' loaders use: the first frame of several, what lies behind
    transparency as stored, not turned by EXIF. Grey of 16 bits keeps its higher 8, as colours of 16 bits do in Pillow.
    """
    try:
        # A pipe would be waited for.
        if Path(file).exists() and not Path(file).is_file():
            raise ValueError("not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as picture:
                return F.pil_to_tensor(_rgb(picture))
    except Exception as error:
        # Pillow's plugins raise whatever the code below them does, for files that are damaged or no images.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{file}: not a readable image: {reason}") from None


def _rgb(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS}; make it smaller")
    if picture.mode == "F":
        raise ValueError("mode F: the range of its grey is unknown; save it as PNG")
    if picture.mode.startswith("I"):
        # 16 bits, which some versions of Pillow keep as 32.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")
