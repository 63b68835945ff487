"""Openly licensed drawings of things, rendered once into arrays that training reads.

The drawings come as npm packages, keyed by Unicode code point. `build` installs them into a cache
outside the repository, checks what it got, renders every drawing once and writes NOTICE with the
credits. Each style is one array (N, side, side, 4) uint8 on disk: colours multiplied by alpha, so
that averaging neighbouring pixels is right at the edges too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.world.concepts import CONCEPTS, Concept

CACHE = Path(os.environ.get("SALON_WORLD", Path.home() / ".cache" / "salon" / "world"))
SIDE = 96  # pixels of a rendered drawing: larger than any sprite at 64 pixels
LARGE_SIDE = 224  # the same at 256 pixels, for the upsampler


@dataclass(frozen=True)
class Drawings:
    """One set of drawings: the package it comes in, and whom to thank."""

    package: str
    version: str
    sha256: str  # of icons.json, or over the names and hashes of all files in assets/
    licence: str
    credit: str


# What was downloaded and hashed when this table was written; `salon-train atlas` checks it again.
SETS: Mapping[str, Drawings] = {
    "noto": Drawings(
        "@iconify-json/noto",
        "1.2.9",
        "9eac6ef4e7ec122b6f0e7ac281d61008afdbc720d0ce861e398b939daaa347c6",
        "Apache-2.0",
        "Noto Emoji, Google",
    ),
    "fluent-emoji-flat": Drawings(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "f5f4cf457c0db2ad5a2e42e033e02e0c87d10e43d0164cfffb3bb84914970a63",
        "MIT",
        "Fluent Emoji, Microsoft",
    ),
    "fluent-emoji-3d": Drawings(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "6a7129244a43e0c80b17cc8cb8856d23191d02d45d5ef2e9e1cf701a6ee8f0e9",
        "MIT",
        "Fluent Emoji, Microsoft; packaged by LobeHub",
    ),
    "twemoji": Drawings(
        "@iconify-json/twemoji",
        "1.2.5",
        "5d5d820790565b764f2728675d487c9ee4c1fc83916d8567d5aca8ba7527c242",
        "CC-BY-4.0",
        "Twemoji, Twitter and other contributors",
    ),
    "noto-v1": Drawings(
        "@iconify-json/noto-v1",
        "1.2.5",
        "ce70d8aa90345cf389875c3571ecd245bd943401822a0c5a0f62336bf8487333",
        "Apache-2.0",
        "Noto Emoji before Android 8 (the blobs), Google",
    ),
}


def build(folder: Path = CACHE, side: int = SIDE) -> Iterator[str]:
    """Install the packages, check them, render every set and write NOTICE; yields what was done.

    Raises ValueError for a package that is not the one this table was written for, and
    FileNotFoundError where npm is not installed.
    """
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    names = [f"{drawings.package}@{drawings.version}" for drawings in SETS.values()]
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(packages), *names],
        check=True,
        capture_output=True,
    )
    for name, drawings in SETS.items():
        source = packages / "node_modules" / drawings.package
        found = package_hash(source)
        if found != drawings.sha256:
            raise ValueError(
                f"{source} is not what was expected: its hash is {found}, not {drawings.sha256}; "
                "delete the folder and build the atlas again"
            )
        path = folder / f"{name}-{side}.npy"
        if path.is_file():
            yield f"{name}: rendered before, {path}"
            continue
        drawn = [concept for concept in CONCEPTS if name in concept.drawings]
        array = np.stack([render(source, concept.drawings[name], side) for concept in drawn])
        _write(path, array)
        yield f"{name}: {len(drawn)} drawings, {side} pixels, {drawings.licence}"
    (folder / "NOTICE").write_text(notice(), encoding="utf-8")


def package_hash(source: Path) -> str:
    """Return the SHA-256 of a package's drawings."""
    icons = source / "icons.json"
    if icons.is_file():
        return hashlib.sha256(icons.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for path in sorted((source / "assets").iterdir()):
        total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def render(source: Path, name: str, side: int) -> np.ndarray:
    """Return one drawing as (side, side, 4) uint8, centred, its colours multiplied by alpha."""
    if name.endswith(".webp"):
        with Image.open(source / "assets" / name) as file:
            image = file.convert("RGBA")
    else:
        image = _rasterize(_icons(source), name, 2 * side)
    pixels = np.asarray(image, dtype=np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    bands = [
        np.asarray(Image.fromarray(band).resize((side, side), Image.Resampling.BOX))
        for band in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(bands, axis=2).round().clip(0, 255).astype(np.uint8)


@cache
def _icons(source: Path) -> dict[str, Any]:
    return json.loads((source / "icons.json").read_text(encoding="utf-8"))


def _rasterize(icons: Mapping[str, Any], name: str, side: int) -> Image.Image:
    """Return an icon of a collection as RGBA, side × side."""
    import resvg_py

    entry = _entry(icons, name)
    width, height = (entry.get(k, icons.get(k, 16)) for k in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{entry["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
    with Image.open(io.BytesIO(bytes(png))) as image:
        upright = image.convert("RGBA").rotate(-90 * entry.get("rotate", 0))
    if entry.get("hFlip"):
        upright = upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if entry.get("vFlip"):
        upright = upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return upright


def _entry(icons: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an icon's entry; an alias is its parent, turned or mirrored as it says."""
    if name in icons["icons"]:
        return icons["icons"][name]
    alias = icons["aliases"][name]
    return {**_entry(icons, alias["parent"]), **alias}


@dataclass(frozen=True)
class Atlas:
    """The rendered drawings of one set: `pixels[row[codepoint]]` is one of them."""

    pixels: np.ndarray  # (N, side, side, 4) uint8, read from disk as needed
    row: Mapping[str, int]


def load(name: str, folder: Path = CACHE, side: int = SIDE) -> Atlas:
    """Open a set that `build` rendered. Raises FileNotFoundError with the way out."""
    path = folder / f"{name}-{side}.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run salon-train world atlas")
    drawn: Sequence[Concept] = [concept for concept in CONCEPTS if name in concept.drawings]
    pixels = np.load(path, mmap_mode="r")
    return Atlas(pixels, {concept.codepoint: row for row, concept in enumerate(drawn)})


SMALL = Path(__file__).with_name("small.npz")
SMALL_THINGS = (
    "panda", "fox", "red apple", "banana", "automobile", "rocket", "deciduous tree", "sunflower",
    "house", "balloon", "crown", "robot", "octopus", "strawberry", "bicycle", "light bulb",
)  # fmt: skip


def write_small(folder: Path = CACHE, out: Path = SMALL) -> Path:
    """Write the drawings of a few things, for tests that must not need the packages."""
    arrays: dict[str, np.ndarray] = {}
    for name in SETS:
        atlas = load(name, folder)
        few = [c for c in CONCEPTS if c.name in SMALL_THINGS and c.codepoint in atlas.row]
        arrays[name] = np.stack([atlas.pixels[atlas.row[each.codepoint]] for each in few])
        arrays[f"{name}-keys"] = np.array([each.codepoint for each in few])
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out


def load_small(name: str, path: Path = SMALL) -> Atlas:
    """Open the few drawings of one set."""
    with np.load(path) as file:
        keys = [str(key) for key in file[f"{name}-keys"]]
        return Atlas(file[name], {key: row for row, key in enumerate(keys)})


def notice() -> str:
    """Return the credits that pictures made with these drawings owe."""
    lines = ["The drawings that the world is composed of come from these packages:", ""]
    for drawings in SETS.values():
        lines.append(
            f"- {drawings.credit}: {drawings.licence}, npm package {drawings.package} "
            f"{drawings.version}"
        )
    lines += [
        "",
        "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/",
        "",
        "The words come from emojibase-data and emojilib (MIT) and from WordNet 3.1, copyright",
        "Princeton University, whose licence permits any use that keeps its notice. How near other",
        "words are was asked of all-MiniLM-L6-v2 (Apache-2.0).",
    ]
    return "\n".join(lines) + "\n"


def _write(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    os.replace(temporary, path)
