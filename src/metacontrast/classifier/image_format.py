"""The place of `ImageFormat` for anyone who gives an encoder of their own."""

from metacontrast.data.image_format import ImageFormat

__all__ = ["ImageFormat"]
