"""Spoken words: as eSpeak NG says them, or as they are in WAV files.

eSpeak NG is a synthesizer by formants under the GPL-3.0: an optional package, which is loaded as a library and called. May
import NumPy and SciPy.
"""

from __future__ import annotations

import ctypes
import re
import zlib
from collections.abc import Iterator
from ctypes.util import find_library
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.io import wavfile

from adamas.lab.inputs import InputError

RATE = 16_000  # samples in a second
LENGTH = RATE  # samples of a sound
WORDS = (
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)
ACCENTS = ("en-US", "en", "en-GB-x-rp", "en-GB-scotland", "en-GB-x-gbclan", "en-029")
NEW_ACCENTS = ("en-GB-x-gbcwmd", "en-US-nyc")  # only in the test
THROATS = (
    *(
        "f1",
        "f2",
        "f4",
        "f5",
        "m1",
        "m2",
        "m4",
        "m5",
        "m6",
        "m8",
        "Alicia",
        "Andrea",
        "Denis",
        "Diogo",
        "Gene",
        "Henrique",
    ),
    *(
        "Hugo",
        "Jacky",
        "Lee",
        "Marco",
        "Mario",
        "Michael",
        "anika",
        "antonio",
        "belinda",
        "boris",
        "ed",
        "gustave",
        "ian",
    ),
    *("john", "marcelo", "miguel", "norbert", "pablo", "pedro", "quincy", "robert", "sandro", "steph", "travis"),
)
NEW_THROATS = ("f3", "m3", "m7", "Annie", "Mike", "linda", "max", "rob", "shelby", "victor")  # only in the test
TAKES = 2  # of each word in each voice, in the training
SPEEDS, PITCHES = (120, 240), (20, 80)  # words in a minute; eSpeak's 0 to 99
NOISE = 10.0, 30.0  # decibels below the word
TEST_SHARE = 0.2  # of the people who have recorded words

Sound = NDArray[np.float32]


class Spoken(NamedTuple):
    """A word that was spoken.

    Attributes:
        sound: LENGTH samples.
        word: its index among the words.
        is_test: whether its voice is one of the test.
    """

    sound: Sound
    word: int
    is_test: bool


# ---- eSpeak NG


class ESpeak:
    """The library, which exists once in a process. It has random numbers of its own: they are the same in every new process.

    Raises:
        InputError: it is not installed, or has no voices.
    """

    _SYNCHRONOUS, _SPEED, _PITCH, _UTF8 = 2, 1, 3, 1  # of espeak-ng/speak_lib.h

    def __init__(self) -> None:
        library, data = found()
        self._library = ctypes.CDLL(library)
        self._rate = self._library.espeak_Initialize(self._SYNCHRONOUS, 0, data, 0)
        if self._rate <= 0:
            raise InputError(
                "task", f"'speech': {library} finds no voices: pip install --force-reinstall espeakng-loader"
            )
        self._heard: list[NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._hear)  # kept, since the library calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, word: str, voice: str, speed: int, pitch: int) -> Sound:
        """The word in a voice, such as ``en-US+f1``, at RATE.

        Raises:
            InputError: the library has no such voice.
        """
        self._heard.clear()
        text = word.encode()
        if self._library.espeak_SetVoiceByName(f"gmw/{voice}".encode()) != 0:
            raise InputError("task", f"'speech': eSpeak NG has no voice {voice}: pip install 'adamas[speech]'")
        self._library.espeak_SetParameter(self._SPEED, speed, 0)
        self._library.espeak_SetParameter(self._PITCH, pitch, 0)
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, self._UTF8, None, None)
        self._library.espeak_Synchronize()
        return resampled(np.concatenate(self._heard) / np.float32(32768), self._rate)


def version() -> str:
    """The version of eSpeak NG."""
    info = ctypes.CDLL(found()[0]).espeak_Info
    info.restype = ctypes.c_char_p
    return str(info(None).decode())


def found() -> tuple[str, bytes | None]:
    """The path of the library, and that of its data; None for the data of the system's.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("espeakng_loader") is not None:
        import espeakng_loader

        return espeakng_loader.get_library_path(), espeakng_loader.get_data_path().encode()
    library = find_library("espeak-ng")
    if library is None:
        raise InputError(
            "task",
            "'speech' needs eSpeak NG: pip install 'adamas[speech]', or apt-get install espeak-ng; or give a folder of "
            "recordings as data_dir",
            other="data_dir",
        )
    return library, None


def synthesized() -> Iterator[Spoken]:
    """Every word in every voice, each time at another speed, pitch and place, with other noise; always the same ones."""
    espeak = ESpeak()
    of_training = [(accent, throat, False) for accent in ACCENTS for throat in THROATS] * TAKES
    of_test = [(accent, throat, True) for accent in (*ACCENTS, *NEW_ACCENTS) for throat in NEW_THROATS]
    rng = np.random.default_rng(0)
    for accent, throat, is_test in of_training + of_test:
        for index, word in enumerate(WORDS):
            speed, pitch = (int(rng.integers(*bounds)) for bounds in (SPEEDS, PITCHES))
            sound = espeak.say(word, f"{accent}+{throat}", speed, pitch)
            yield Spoken(with_noise(sound, rng), index, is_test)


def with_noise(sound: Sound, rng: np.random.Generator) -> Sound:
    """A second in which the word begins somewhere, with noise whose spectrum falls from white to that of a waterfall."""
    sound = sound[:LENGTH]
    first = int(rng.integers(0, LENGTH - len(sound) + 1))
    whole = np.zeros(LENGTH, np.float32)
    whole[first : first + len(sound)] = sound
    spectrum = np.fft.rfft(rng.standard_normal(LENGTH)) / np.maximum(np.arange(LENGTH // 2 + 1), 1) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, LENGTH).astype(np.float32)
    whole += np.float32(10 ** (-rng.uniform(*NOISE) / 20) * sound.std() / noise.std()) * noise
    return whole


# ---- recordings


def recorded(folder: Path) -> tuple[tuple[str, ...], Iterator[Spoken]]:
    """The words of a folder, and the recordings in it: WAV files, in a folder for each word.

    The part of a file's name before ``_nohash_``, or all of it, says who speaks, as in Speech Commands. Of all people, a fifth
    is in the test.

    Raises:
        InputError: it is no folder, or there are fewer than two words.
    """
    if not folder.is_dir():
        raise InputError(
            "data_dir", f"{str(folder)!r} is not a folder: give one with a folder of WAV files for each word"
        )
    words = tuple(
        sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    )
    if len(words) < 2:
        raise InputError("data_dir", f"{str(folder)!r} must have a folder of WAV files for each of two words or more")
    return words, _recordings(folder, words)


def _recordings(folder: Path, words: tuple[str, ...]) -> Iterator[Spoken]:
    for index, word in enumerate(words):
        for path in sorted(one for one in (folder / word).iterdir() if one.suffix.lower() == ".wav"):
            person = re.sub(r"_nohash_.*$", "", path.stem)
            is_test = zlib.crc32(person.encode()) < TEST_SHARE * 2**32
            yield Spoken(_whole(_read(path)), index, is_test)


def _read(path: Path) -> Sound:
    try:
        rate, samples = wavfile.read(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError("data_dir", f"has a damaged file, {path} ({error})") from error
    if samples.dtype == np.uint8:  # its middle is silence
        samples = (samples.astype(np.int16) - 128) * 256
    scale = 2.0 ** (8 * samples.dtype.itemsize - 1) if samples.dtype.kind == "i" else 1.0
    sound = (samples / scale).astype(np.float32)
    if sound.ndim == 2:
        sound = sound.mean(1)
    if not len(sound):
        raise InputError("data_dir", f"has a file without sound, {path}")
    if not np.isfinite(sound).all():
        raise InputError("data_dir", f"has a file whose samples are not all finite, {path}")
    return resampled(sound, rate)


def resampled(sound: NDArray[np.floating], rate: int) -> Sound:
    """The sound at RATE."""
    common = gcd(rate, RATE)
    made: Sound = signal.resample_poly(sound, RATE // common, rate // common).astype(np.float32)
    return made


def _whole(sound: Sound) -> Sound:
    """The middle LENGTH samples, with silence around a shorter sound."""
    if len(sound) >= LENGTH:
        first = (len(sound) - LENGTH) // 2
        return sound[first : first + LENGTH]
    before = (LENGTH - len(sound)) // 2
    return np.pad(sound, (before, LENGTH - len(sound) - before))
