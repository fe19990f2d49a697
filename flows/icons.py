"""The demo's collection: icon fonts that the package `qtawesome` carries, drawn as images with names as texts."""

import importlib.util
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_STATE = "icons.json"
_LAYOUT = 1
"""Counted up when other pictures or captions are drawn from the same fonts."""


@dataclass(frozen=True)
class _Font:
    """One font of one family; its files are `<file>*.ttf` and `<file>*charmap*.json`."""

    family: str
    file: str
    license: str
    style: str = "regular"
    suffixes: dict[str, str] = field(default_factory=dict)
    """Style of a glyph by the last word of its name; None of these words: `style`."""
    styles: frozenset[str] | None = None
    """Styles drawn; None: all."""
    numbered: bool = False
    """Whether a number at the end of a name counts drawings of the same idea."""


_FILLED = {"outline": "outline", "outlined": "outline", "filled": "fill", "fill": "fill", "line": "outline"}

_FONTS = (
    _Font("codicon", "codicon", "CC-BY-4.0", suffixes=_FILLED),
    _Font("elusive", "elusiveicons-webfont", "OFL-1.1", suffixes={"alt": "alternative"}),
    _Font("fontawesome", "fontawesome6-solid-webfont", "OFL-1.1", style="solid"),
    _Font("fontawesome", "fontawesome6-regular-webfont", "OFL-1.1", style="outline"),
    _Font("fontawesome", "fontawesome6-brands-webfont", "OFL-1.1", style="brand"),
    _Font("materialdesign", "materialdesignicons6-webfont", "Apache-2.0", style="fill", suffixes=_FILLED),
    _Font(
        "phosphor",
        "phosphor",
        "MIT",
        suffixes={"fill": "fill", "bold": "bold", "light": "light", "thin": "thin"},
        styles=frozenset({"regular", "fill"}),
    ),
    _Font("remixicon", "remixicon", "Apache-2.0", suffixes=_FILLED, numbered=True),
)

_COMPLETING = "materialdesign"
"""The largest family, of which only what others draw too is taken."""

_SAME_WORDS = {
    "account": "user",
    "alert": "warning",
    "close": "x",
    "cog": "gear",
    "email": "mail",
    "envelope": "mail",
    "exclamation": "warning",
    "slash": "off",
    "xmark": "x",
}
"""Words by which families name the same thing: one group, each with its own family's text."""

_NO_IDEA = frozenset({"alt", "variant", "logo", "simple", "straight", "outline"})
"""Words that tell drawings apart, not ideas."""


@dataclass(frozen=True)
class _Glyph:
    font: _Font
    character: str
    names: tuple[str, ...]
    style: str

    @property
    def id(self) -> str:
        kind = f"-{self.font.style}" if self.font.family == "fontawesome" else ""
        return f"{self.font.family}{kind}:{self.names[0]}"

    @property
    def texts(self) -> list[str]:
        return list(dict.fromkeys(" ".join(_idea_words(name, self.font)) for name in self.names))

    @property
    def group(self) -> str:
        words = [word for word in self.texts[0].split() if word not in _NO_IDEA] or self.texts[0].split()
        # Families order the same words differently: arrow circle down, circle arrow down.
        return " ".join(sorted(_SAME_WORDS.get(word, word) for word in words))


def render_icons(folder: Path, *, size: int = 64, progress: Callable[[int, int], None] | None = None) -> int:
    """Draw the icons into `folder`, black on white, `size` pixels square, beside a `captions.jsonl`; their number.

    A folder drawn earlier with the same size and fonts is left as it is; another of ours is replaced in one step.
    Captions have the columns id, image, texts, group (the idea, whoever drew it), family, style and license.
    `progress` is called with the number done and the number in all. Raises ValueError where the package is not
    installed, and for a folder that holds anything else.
    """
    fonts = _fonts_folder()
    names = sorted(path.name for font in _FONTS for path in fonts.glob(f"{font.file}*"))
    wanted = {"layout": _LAYOUT, "size": size, "fonts": names}
    if folder.exists():
        state = folder / _STATE
        found = json.loads(state.read_text()) if state.is_file() else None
        if found is None and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something other than icons drawn earlier; name a new folder")
        if found is not None and {**wanted, "icons": found["icons"]} == found:
            return int(found["icons"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        count = _render(fonts, aside, size, progress)
        (aside / _STATE).write_text(json.dumps({**wanted, "icons": count}))
        aside.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count


def _fonts_folder() -> Path:
    # The package is only looked for: importing it would ask for Qt.
    found = importlib.util.find_spec("qtawesome")
    if found is None or found.origin is None:
        raise ValueError("the demo's icons are not installed: pip install 'pairloom[demo]'")
    return Path(found.origin).parent / "fonts"


def _render(fonts: Path, folder: Path, size: int, progress: Callable[[int, int], None] | None) -> int:
    glyphs = [glyph for font in _FONTS for glyph in _glyphs(fonts, font)]
    shared = {glyph.group for glyph in glyphs if glyph.font.family != _COMPLETING}
    chosen = [glyph for glyph in glyphs if glyph.font.family != _COMPLETING or glyph.group in shared]
    drawn = 0
    pens: dict[str, _Pen] = {}
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as captions:
        for done, glyph in enumerate(chosen, start=1):
            if glyph.font.file not in pens:
                pens[glyph.font.file] = _Pen(_file(fonts, glyph.font, ".ttf"), size)
            image = pens[glyph.font.file].draw(glyph.character)
            if image is not None:
                path = Path("images", *glyph.id.split(":")).with_suffix(".png")
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                image.save(folder / path)
                caption = {
                    "id": glyph.id,
                    "image": path.as_posix(),
                    "texts": glyph.texts,
                    "group": glyph.group,
                    "family": glyph.font.family,
                    "style": glyph.style,
                    "license": glyph.font.license,
                }
                captions.write(json.dumps(caption, ensure_ascii=False) + "\n")
                drawn += 1
            if progress is not None:
                progress(done, len(chosen))
    return drawn


def _file(fonts: Path, font: _Font, suffix: str) -> Path:
    return next(path for path in sorted(fonts.glob(f"{font.file}*")) if path.name.endswith(suffix))


def _glyphs(fonts: Path, font: _Font) -> Iterator[_Glyph]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, code in json.loads(_file(fonts, font, ".json").read_text(encoding="utf-8")).items():
        names[chr(int(code, 16))].append(name)
    for character, known in sorted(names.items()):
        style = font.suffixes.get(known[0].split("-")[-1], font.style)
        if font.styles is None or style in font.styles:
            yield _Glyph(font, character, tuple(known), style)


def _idea_words(name: str, font: _Font) -> list[str]:
    """Words of a glyph's name without those that say how it is drawn."""
    words = name.replace("_", "-").split("-")
    if len(words) > 1 and words[-1] in font.suffixes:
        words.pop()
    if font.numbered and len(words) > 1 and words[-1].isdigit() and len(words[0]) > 1 and words[0] != "number":
        words.pop()
    return words


class _Pen:
    """Draws glyphs of one font in the middle of a square."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        self._margin = max(1, size // 16)
        # Twice as large, then shrunk: thin lines keep an even weight.
        self._font = ImageFont.truetype(path, round(1.6 * size), layout_engine=ImageFont.Layout.BASIC)
        self._missing = self._mask(chr(0x10FFFF))

    def draw(self, character: str) -> Image.Image | None:
        """The glyph black on white; None where the font has none, or an empty one."""
        mask = self._mask(character)
        if mask is None or (self._missing is not None and mask.tobytes() == self._missing.tobytes()):
            return None
        room = self._size - 2 * self._margin
        scale = min(0.5, room / max(mask.size))
        small = mask.resize(
            (max(1, round(mask.width * scale)), max(1, round(mask.height * scale))), Image.Resampling.BOX
        )
        icon = Image.new("L", (self._size, self._size), 255)
        icon.paste(0, ((self._size - small.width) // 2, (self._size - small.height) // 2), small)
        return icon.convert("RGB")

    def _mask(self, character: str) -> Image.Image | None:
        left, top, right, bottom = (round(edge) for edge in self._font.getbbox(character))
        if right <= left or bottom <= top:
            return None
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).text((-left, -top), character, fill=255, font=self._font)
        inked = mask.getbbox()
        return None if inked is None else mask.crop(inked)
