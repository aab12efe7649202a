"""A tiny tree in DD-VQA's layout, with frames of FaceForensics++ beside it and every defect."""

import json

from fake_folders import picture, write_tree

WHOLE, NOSE, EYES = ("Does the image looks real/fake?", "Does the person's nose look real/fake?",
                     "Do the person's eyes look real/fake?")


def asked(word, *, questions=(WHOLE, NOSE, EYES), answers=2):
    """The questions of a video, each with several answers."""
    return {str(number): {"question": question, "answer": [
        f"It looks {word}, says {person}." for person in range(answers)]}
        for number, question in enumerate(questions)}


ANNOTATIONS = {
    "test_set/Deepfakes/Deepfakes.json": {
        "0_114_102": asked("fake"), "0_102_200": asked("fake", questions=(WHOLE,))},
    "test_set/Neuraltexture/Neuraltexture.json": {
        "6_114_102": asked("fake"),
        "6_300_301": asked("fake"),  # has no frames
        "7_114_102": asked("fake"),  # no such method
        "6_400_401": {"0": {"question": WHOLE, "answer": []}},
        "6_500_501": "fake"},
    "test_set/Original/Original.json": {"5_044": asked("real", answers=1)},
    "train_set/Original/Original.json": {"5_102": asked("real")}}
FRAMES = {
    **{f"ff++/manipulated_sequences/Deepfakes/c23/frames/114_102/{n:03d}.png": picture(n)
       for n in (0, 20, 40)},
    "ff++/manipulated_sequences/Deepfakes/c23/frames/102_200/000.png": picture(50),
    **{f"ff++/manipulated_sequences/NeuralTextures/c23/frames/114_102/{n:03d}.png": picture(60 + n)
       for n in (0, 1)},  # fewer than questions
    **{f"ff++/original_sequences/youtube/c23/frames/044/{n:03d}.png": picture(80 + n)
       for n in range(3)},
    "ff++/original_sequences/youtube/c23/frames/102/000.png": picture(90),
    "ff++/original_sequences/youtube/c23/frames/102/notes.txt": b"no frame",
    "ff++/masks/102/000.png": picture(91)}  # of no method


def make_fake(root):
    """Writes annotations and frames below a folder."""
    return write_tree(root, FRAMES | {
        f"DQ_FF++/{name}": json.dumps(content).encode() for name, content in ANNOTATIONS.items()})
