"""Photos with their masks drawn on: size, colours, captions and odd inputs."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from legion_jax.display import captions, overlay

GREY = np.full((120, 600, 3), 128, np.uint8)


def _box(top: int, bottom: int, left: int, right: int, *, shape=(120, 600)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def _colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.asarray(picture).reshape(-1, 3)}


def test_photo_keeps_its_pixels_away_from_masks():
    mask = _box(40, 80, 100, 200)
    picture = np.asarray(overlay.draw_overlay(GREY, [mask], ["a scar"], title="tampered 97 %"))
    assert picture.dtype == np.uint8 and picture.shape[1:] == (600, 3) and picture.shape[0] > 160
    np.testing.assert_array_equal(picture[:120, 220:], GREY[:, 220:])
    inside = picture[60, 150]
    tinted = 128 + overlay.FILL * (np.array(overlay.colour(0)) - 128)
    np.testing.assert_array_equal(inside, np.rint(tinted))
    np.testing.assert_array_equal(picture[60, [100, 199]], [overlay.colour(0)] * 2)  # outline


def test_nothing_to_say_leaves_the_photo():
    np.testing.assert_array_equal(overlay.draw_overlay(GREY, [], [], title=None), GREY)


def test_title_alone_adds_a_strip():
    picture = overlay.draw_overlay(GREY, [], [], title="real 99 %")
    assert picture.width == 600 and picture.height > 120
    assert (255, 255, 255) in _colours(picture.crop((0, 120, *picture.size)))


def test_every_mask_shows_its_colour_in_photo_and_caption():
    masks = [_box(40, 80, 10 + 70 * k, 60 + 70 * k) for k in range(len(overlay.PALETTE))]
    picture = overlay.draw_overlay(GREY, masks, ["words"] * len(masks), title=None)
    photo = _colours(picture.crop((0, 0, 600, 120)))
    strip = _colours(picture.crop((0, 120, *picture.size)))
    assert len(set(overlay.PALETTE)) >= 8
    for tone in overlay.PALETTE:
        assert tone in photo
        assert tuple((c + 255) // 2 for c in tone) in strip


def test_outlines_stay_visible_under_later_masks():
    below, above = _box(40, 80, 100, 200), np.ones((120, 600), bool)
    picture = np.asarray(overlay.paint_masks(GREY, [below, above]))
    np.testing.assert_array_equal(picture[60, 100], overlay.colour(0))
    np.testing.assert_array_equal(picture[0, 0], overlay.colour(1))


def test_outline_only():
    picture = np.asarray(overlay.paint_masks(GREY, [_box(40, 80, 100, 200)], fill=0,
                                             colours=[(1, 2, 3)]))
    np.testing.assert_array_equal(picture[60, 150], GREY[60, 150])
    np.testing.assert_array_equal(picture[40, 150], [1, 2, 3])


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (8, 8, (480, 480)),
        (33, 1200, (1200, 33)),
        (1200, 33, (480, 1600)),
        (1, 1, (480, 480)),
        (1, 700, (700, 1)),
        (700, 1, (480, 1600)),
        (2000, 40, (480, 2000)),
    ],
)
def test_odd_sizes(height, width, expected):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    masks = [np.zeros((height, width), bool), np.ones((height, width), bool)]
    masks.append(masks[0].copy())
    masks[2][0, 0] = True
    bare = overlay.draw_overlay(image, [], [], title=None)
    picture = overlay.draw_overlay(image, masks, ["none", "all", "corner"], title="synthetic 51 %")
    assert picture.width == expected[0] and picture.height > expected[1]
    assert bare.height == expected[1]


def test_thirty_masks_and_long_phrases():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, [80, 500], (30, 2))
    masks = [_box(y, y + 30, x, x + 60) for y, x in corners]
    phrases = ["x" * 3000, "word " * 3000, "", " \n\t ", "手 é 🙂 – “quoted” \x00"] * 6
    few = overlay.draw_overlay(GREY, masks[:5], phrases[:5], title="tampered 97 %")
    many = overlay.draw_overlay(GREY, masks, phrases, title="tampered 97 %" * 20)
    assert many.width == 600 and few.height < many.height < 3000


def test_masks_side_by_side_share_colours_and_phrases():
    masks = [_box(40, 80, 100, 200)], [_box(10, 30, 300, 400)]
    picture = overlay.draw_comparison(GREY, masks, ["a scar"], titles=["truth", "model"])
    assert picture.width == 2 * 600 + overlay.GAP
    top = next(y for y in range(picture.height) if picture.getpixel((0, y)) == (128,) * 3)
    left, right = 100, 600 + overlay.GAP + 300
    for column, row in ((left, 60), (right, 20)):
        assert picture.getpixel((column, top + row)) == overlay.colour(0)
    assert picture.getpixel((right, top + 60)) == (128,) * 3  # the truth is not drawn here
    strip = _colours(picture.crop((0, top + 120, *picture.size)))
    assert tuple((c + 255) // 2 for c in overlay.colour(0)) in strip
    with pytest.raises(ValueError, match=r"\[1, 0\] masks, but 1 phrases"):
        overlay.draw_comparison(GREY, [masks[0], []], ["a scar"], titles=["truth", "model"])


def test_an_empty_mask_is_named_in_the_caption():
    caption = overlay._caption("real 80 %", ["a hand", ""], [False, True])
    assert caption == [("real 80 %", None), ("a hand (empty mask)", overlay.colour(0)),
                       ("(no phrase)", overlay.colour(1))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café – naïve", "cafe - naive"),
        ("5 × 3 ≥ 14", "5 x 3 >= 14"),
        ("手 hand", "? hand"),
        ("“kept…” 97 %", "“kept...” 97 %"),
        ("a\u00a0b", "a b"),
    ],
)
def test_letters_the_font_lacks(text, expected):
    assert captions.spell(text) == expected


def test_lines_fit_and_lose_no_word():
    font = ImageFont.load_default(size=16)
    text = "the left hand of the person has six fingers and " + "w" * 60
    lines = captions.wrap(text, 200, 16)
    assert all(font.getlength(line) <= 200 for line in captions.wrap(text * 9, 200, 16) + lines[:4])
    assert captions.wrap("six fingers", 200, 16) == ["six fingers"]
    assert "".join(captions.wrap("w" * 60, 200, 16)) == "w" * 60
    assert captions.wrap(text * 9, 200, 16)[-1].endswith("...")
    assert captions.wrap("", 200, 16) == [""]


@pytest.mark.parametrize(
    ("image", "masks", "phrases", "message"),
    [
        (GREY[..., 0], [], [], r"image needs uint8\[H, W, 3\], got uint8\(120, 600\)"),
        (GREY / 255, [], [], "got float64"),
        (GREY[:0], [], [], r"\(0, 600, 3\)"),
        (GREY, [_box(1, 2, 3, 4)], [], "1 masks, but 0 phrases"),
        (GREY, [_box(1, 2, 3, 4, shape=(9, 9))], ["a"], r"mask 0 needs bool\(120, 600\), got bool"),
        (GREY, [_box(1, 2, 3, 4) * 1.0], ["a"], "mask 0 needs .* got float64"),
    ],
)
def test_unusable_inputs_are_named(image, masks, phrases, message):
    with pytest.raises(ValueError, match=message):
        overlay.draw_overlay(image, masks, phrases, title=None)
