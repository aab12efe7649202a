"""A tiny tree in DMimage's layout, one file of it broken."""

from fake_folders import BROKEN, picture, write_tree

SETS = {"real_coco_valid": 2, "real_ucid": 1, "biggan_256": 2,
        "latent-diffusion_text2img_valid": 1, "progan_lsun": 0}
FILES = {
    **{f"{name}/{n}.png": picture(40 * place + n)
       for place, (name, number) in enumerate(SETS.items()) for n in range(number)},
    "progan_lsun/cat/0.png": picture(200), "biggan_256/torn.png": BROKEN["torn.png"],
    "biggan_256/list.txt": b"0.png", "operations.csv": b"filename,crop\n",
    "thumbnails/0.png": picture(210)}


def make_fake(root, *, around=""):
    """Writes the sets below a folder, or below one in it."""
    return write_tree(root, {around + name: content for name, content in FILES.items()})
