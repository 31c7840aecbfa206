"""Image lists: which test images of a data set archs are scored on, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.strict_json import Json, fields_of, file_errors, read_object, shown

IMAGES_FORMAT = "nni-nas-consistency images 1"


def write_image_list(path: Path, data: str, images: Sequence[int], provenance: Mapping[str, Json]) -> None:
    """Write an image list atomically.

    Args:
        path: The file; an older one is replaced.
        data: Name of the data set.
        images: Indices of test images, the first being 0, in the order in which batches are made of them.
        provenance: How they were chosen.
    """
    document = {"format": IMAGES_FORMAT, "data": data, "images": list(images), "provenance": dict(provenance)}
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")


def read_image_list(path: Path, data: str, count: int | None) -> list[int]:
    """Return the indices of an image list.

    Args:
        path: The file.
        data: Name of the data set whose images are scored on.
        count: Number of test images that it has; None: as many as the list needs.

    Raises:
        FileError: The file is no image list, is for another data set, or names an image twice or one that is not there.
    """
    with file_errors(path):
        keys = ("format", "data", "images", "provenance")
        kind, of_data, images, _ = fields_of(read_object(path), "the file", keys)
        if kind != IMAGES_FORMAT:
            raise ValueError(f"has the format {shown(kind)}, not {IMAGES_FORMAT!r}; make one with `images choose`")
        if of_data != data:
            raise ValueError(f"names images of {shown(of_data)}, not of {shown(data)}; choose images of that data set")
        if not isinstance(images, list) or not images:
            raise ValueError("names no images; make one with `images choose`")
        return _checked(images, count)


def _checked(images: list[object], count: int | None) -> list[int]:
    checked: dict[int, None] = {}
    for image in images:
        if type(image) is not int or image < 0 or (count is not None and image >= count):
            last = "" if count is None else f" to {count - 1}"
            raise ValueError(f"names the image {shown(image)}; the data set has those from 0{last}")
        if image in checked:
            raise ValueError(f"image {image} appears twice; keep one of them")
        checked[image] = None
    return list(checked)
