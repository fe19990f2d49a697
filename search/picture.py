"""Parts of the pictures that people see: images fitted into squares, texts into widths, sheets into bytes."""

import io

from PIL import Image, ImageDraw, ImageFont

from pairloom.storage.escaping import plain


def paste(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], cell: int) -> None:
    """Put `picture` into the middle of a square, made smaller where it is larger."""
    small = picture.copy()
    small.thumbnail((cell, cell))
    sheet.paste(small, (corner[0] + (cell - small.width) // 2, corner[1] + (cell - small.height) // 2))


def fitting(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int
) -> str:
    """`text` on one line, cut where it is wider than `width` pixels."""
    line = " ".join(plain(text[:1000]).split())[:200]
    shown = line
    while shown and draw.textlength(shown + ("…" if shown != line else ""), font=font) > width:
        shown = shown[:-1]
    return shown if shown == line else shown + "…"


def webp(sheet: Image.Image, max_bytes: int) -> bytes | None:
    """As good as `max_bytes` allow, or None."""
    for quality in (80, 60, 40, 20):
        out = io.BytesIO()
        sheet.save(out, "WEBP", quality=quality, method=4)
        if out.tell() <= max_bytes:
            return out.getvalue()
    return None
