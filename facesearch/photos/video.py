"""Frames of videos, through OpenCV's FFmpeg. A frame's path says which and when: `a.mp4#t=12.500`.

A frame is handed on as a BMP file, which is its pixels and nothing else: so everything that works
on photos works on frames. OpenCV turns them upright.

When is what the video says of each frame: telephones do not take as many every second, so frames
cannot be counted instead.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator

import cv2
import numpy as np

from facesearch.errors import PhotoError, Reason
from facesearch.photos.read import os_detail, os_reason, require_regular
from facesearch.settings import PhotoLimits

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
"""What the name of a file ends in, in lower case, that is taken for a video."""
_FRAME = re.compile(r"(.+)#t=(\d{1,7}\.\d{3})", re.DOTALL)
_SECONDS_TO_WAIT = 30
_COMPLETE = 0.9
"""Share of the frames announced, or of the time they would take, that a sound video has: some
announce a guess."""
_BACK_S = 1.0, 30.0, math.inf
"""How long before a frame one looks for it. FFmpeg seeks by counting frames, so it may land too
late; then from further back, and at last from the beginning."""
_SAME_S = 0.001
"""Frames are told apart by more than this."""

# FFmpeg would talk on stderr about every damaged file; read when the first video is opened
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:  # and OpenCV would warn of each that FFmpeg refuses
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def is_video(name: str) -> bool:
    """Whether a file of that name is taken for a video."""
    return name.lower().endswith(SUFFIXES)


def frame_path(video: str, seconds: float) -> str:
    """The path of a frame."""
    return f"{video}#t={seconds:.3f}"


def split(path: str) -> tuple[str, float] | None:
    """Video and time of a frame's path; None if it is none."""
    match = _FRAME.fullmatch(path)
    if match is None or not is_video(match[1]) or not os.path.isfile(match[1]):
        return None
    return match[1], float(match[2])


def sampled(path: str, every: float, limits: PhotoLimits) -> Iterator[tuple[float, bytes]]:
    """(seconds, BMP file) of a frame every so many seconds, in order.

    Raises:
        PhotoError: it cannot be read, is no video, or (after the frames before the damage) ends
            early.
    """
    capture = _opened(path, limits)
    try:
        rate = _rate(capture)
        due, seconds, number = 0.0, -math.inf, 0
        while capture.grab():
            seconds = _when(capture, seconds, rate)
            number += 1
            near = seconds + 0.5 / rate  # the frame nearest to the time that is due
            if near >= due:
                yield seconds, _bmp(capture, path)
                due = every * (near // every + 1)
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        share = max(number, seconds * rate) / max(announced, 1)
        if share < _COMPLETE or not number:
            detail = f"the video ends after {max(seconds, 0):.1f} s, before it should"
            raise PhotoError(Reason.TRUNCATED, path, detail)
    finally:
        capture.release()


def frame(path: str, seconds: float, limits: PhotoLimits) -> bytes:
    """One frame, as a BMP file.

    Raises:
        PhotoError: as `sampled`; MISSING if the video is not that long.
    """
    for back in _BACK_S:
        capture = _opened(path, limits)
        try:
            if sought := back < seconds:
                capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * (seconds - back))
            if _go_on_to(capture, seconds, sought=sought):
                return _bmp(capture, path)
        finally:
            capture.release()
    raise PhotoError(Reason.MISSING, frame_path(path, seconds), "the video has no such frame")


def _go_on_to(capture: cv2.VideoCapture, seconds: float, *, sought: bool) -> bool:
    """Read on to the frame of a time; whether it is there, and was not passed over by seeking."""
    rate, now = _rate(capture), -math.inf
    while capture.grab():
        first, now = now < 0, _when(capture, now, rate)
        if now >= seconds - _SAME_S:
            return not (sought and first and now > seconds + _SAME_S)
    return False


def _when(capture: cv2.VideoCapture, before: float, rate: float) -> float:
    """The time of the frame just read, to the millisecond; by its rate if the video has none."""
    seconds = round(float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000, 3)
    return seconds if seconds > before else before + 1 / rate


def _opened(path: str, limits: PhotoLimits) -> cv2.VideoCapture:
    try:
        require_regular(os.stat(path), path)
        with open(path, "rb") as file:  # FFmpeg does not say why it cannot
            empty = not file.read(1)
    except OSError as err:
        raise PhotoError(os_reason(err), path, os_detail(err)) from err
    if empty:
        raise PhotoError(Reason.EMPTY, path, "empty file (zero bytes)")
    waits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    capture = cv2.VideoCapture()
    try:
        parameters = [value for wait in waits for value in (wait, 1000 * _SECONDS_TO_WAIT)]
        opened = capture.open(path, cv2.CAP_FFMPEG, parameters)
    except (cv2.error, UnicodeError) as err:
        raise PhotoError(Reason.UNREADABLE, path, "OpenCV cannot open a file so named") from err
    if not opened:
        raise PhotoError(Reason.CORRUPT, path, "FFmpeg finds no video in it; damaged or incomplete")
    width, height = (
        int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if width * height > limits.max_pixels:
        detail = f"{width} x {height} pixels, more than photos.max_pixels ({limits.max_pixels:,})"
        raise PhotoError(Reason.TOO_MANY_PIXELS, path, detail)
    return capture


def _rate(capture: cv2.VideoCapture) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else 25.0


def _bmp(capture: cv2.VideoCapture, path: str) -> bytes:
    read, pixels = capture.retrieve()
    if not read:
        raise PhotoError(Reason.CORRUPT, path, "a frame of it cannot be decoded")
    return cv2.imencode(".bmp", np.asarray(pixels))[1].tobytes()
