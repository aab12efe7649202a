"""The videos of FaceForensics++: which of them show one face, whatever data set has their frames.

Frames lie in folders named for their video, `071`, or for the video changed and the one the face is
from, `071_054`.
"""

import re
from collections.abc import Iterable, Sequence

_NAME = re.compile(r"(\d+)(?:_(\d+))?(?:__.*)?")


def videos_of(folder: str) -> list[str]:
    """Numbers of the videos that a folder of frames is named for; [] where it is no such name."""
    match = _NAME.fullmatch(folder)
    return [number for number in match.groups() if number] if match else []


def faces(videos: Iterable[Sequence[str]]) -> dict[str, str]:
    """{video: the first, by name, of all videos it is connected to}.

    Videos that are named together share a face, and so do, however indirectly, those that share
    one with the same video.
    """
    above: dict[str, str] = {}

    def first(video: str) -> str:
        while above.setdefault(video, video) != video:
            video = above[video]
        return video

    for together in videos:
        for video in together:
            low, high = sorted((first(together[0]), first(video)))
            above[high] = low
    return {video: first(video) for video in above}
