"""Training a stage: to the bit the same however often it is broken off, and nothing changed by what is refused."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from indexer.errors import ImageUnreadable, InvalidField, ModelDamaged
from indexer.files import STAGING, write_bytes
from indexer.images import preprocess
from indexer.model import Preprocessing
from tests.trainer import tiny
from tests.trainer.photo_folders import photo
from trainer import methods, stage
from trainer.augment import Augmentation
from trainer.loader import Loader
from trainer.methods import Learner
from trainer.sampling import PKSampler
from trainer.stage import Diverged, Progress, Schedule
from trainer.training_data import TrainingStage

ROOT = Path(__file__).resolve().parents[2]
STEPS = tiny.SCHEDULE.steps
TERMS = {"triplet", "triplet_supporter", "correlation", "mutual"}
NEVER, ALWAYS = 1e9, 0.0  # seconds between checkpoints

Weights = dict[str, Tensor]


class Interrupted(Exception):
    """What breaks training off from outside."""


def learner(spec: str = "mutual") -> Learner:
    return methods.find(spec).begin(tiny.start(3))


def train(
    given: Learner,
    checkpoint: Path | None = None,
    *,
    photos: TrainingStage | None = None,
    schedule: Schedule = tiny.SCHEDULE,
    augmentation: Augmentation = tiny.AUGMENTATION,
    seed: int = 5,
    key: str = "this training",
    **options: Any,
) -> Weights:
    """Returns the weights of all students."""
    photos = photos or tiny.stage()
    stage.train(
        given, photos, schedule, augmentation, seed=seed, device=tiny.CPU, key=key, checkpoint=checkpoint, **options
    )
    return tiny.weights(given)


def break_at(step: int) -> Callable[[Progress], None]:
    def after_step(progress: Progress) -> None:
        if progress.step == step:
            raise Interrupted

    return after_step


def done(checkpoint: Path) -> int:
    """The steps that a checkpoint holds."""
    return int(torch.load(checkpoint, weights_only=True)["done"])


@pytest.fixture(scope="module")
def whole() -> Weights:
    """The weights after a training that was not broken off."""
    return train(learner())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


class TestResults:
    def test_the_same_seed_gives_the_same_weights_to_the_bit(self, whole: Weights) -> None:
        assert tiny.same(train(learner()), whole)

    @pytest.mark.parametrize("workers", [2, 5])
    def test_the_number_of_threads_that_load_makes_no_difference(self, workers: int, whole: Weights) -> None:
        assert tiny.same(train(learner(), workers=workers), whole)

    def test_neither_do_global_random_numbers_nor_are_any_drawn(self, whole: Weights) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            before = torch.get_rng_state()
            assert tiny.same(train(learner()), whole)
            assert torch.equal(torch.get_rng_state(), before)

    def test_nor_does_a_checkpoint(self, whole: Weights, checkpoint: Path) -> None:
        assert tiny.same(train(learner(), checkpoint, checkpoint_s=ALWAYS), whole)

    def test_another_seed_gives_others(self, whole: Weights) -> None:
        assert not tiny.same(train(learner(), seed=6), whole)

    def test_it_is_adam_on_the_sum_of_the_terms(self) -> None:
        """With decay and learning rate from the schedule; each batch is the loader's of that step."""
        given, expected = learner("finetune"), learner("finetune")
        after = train(given, schedule=replace(tiny.SCHEDULE, steps=2))
        network, photos = expected.served.train(), tiny.stage()
        sampler = PKSampler(photos.labels, seed=5, p=tiny.SCHEDULE.p, k=tiny.SCHEDULE.k)
        loader = Loader(photos, sampler, tiny.AUGMENTATION, seed=5)
        moments = {name: (torch.zeros_like(each), torch.zeros_like(each)) for name, each in network.named_parameters()}
        for t in (1, 2):
            batch = loader.batch(t - 1)
            network.zero_grad()
            sum(expected.losses(batch.images, batch.labels, t - 1).values()).backward()  # type: ignore[union-attr]
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    assert parameter.grad is not None
                    gradient = parameter.grad + tiny.SCHEDULE.weight_decay * parameter
                    m, v = (moment.clone() for moment in moments[name])
                    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                    moments[name] = m, v
                    step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                    parameter.sub_(tiny.SCHEDULE.learning_rate * step)
        for name, value in tiny.weights(expected).items():
            torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-4, msg=name)

    def test_what_is_served_is_returned_ready_to_serve(self) -> None:
        given = learner()
        options = {"seed": 5, "device": tiny.CPU, "key": ""}
        served = stage.train(given, tiny.stage(), tiny.SCHEDULE, tiny.AUGMENTATION, **options)  # type: ignore[arg-type]
        assert served is given.served
        assert not any(module.training for module in served.modules())


class TestProgress:
    def test_every_step_is_heard_once_with_its_terms(self) -> None:
        heard: list[Progress] = []
        train(learner(), after_step=heard.append)
        assert [progress.step for progress in heard] == list(range(1, STEPS + 1))
        assert all(progress.steps == STEPS for progress in heard)
        assert all(progress.losses.keys() == TERMS for progress in heard)
        assert all(isinstance(value, float) for progress in heard for value in progress.losses.values())
        assert all(progress.seconds > 0 for progress in heard)

    def test_the_weights_are_then_as_the_step_left_them(self) -> None:
        given, at = learner(), dict[int, Weights]()
        train(given, after_step=lambda progress: at.update({progress.step: tiny.weights(given)}))
        for steps in (1, 3):
            other = learner()
            with pytest.raises(Interrupted):
                train(other, after_step=break_at(steps))
            assert tiny.same(tiny.weights(other), at[steps])


class TestBrokenOff:
    @pytest.mark.parametrize("every", [ALWAYS, NEVER], ids=["a checkpoint each step", "one at the end"])
    @pytest.mark.parametrize("at", range(1, STEPS + 1))
    def test_after_any_step_it_goes_on_to_the_same_weights(
        self, at: int, every: float, whole: Weights, checkpoint: Path
    ) -> None:
        with pytest.raises(Interrupted):
            train(learner(), checkpoint, checkpoint_s=every, after_step=break_at(at))
        assert done(checkpoint) == at
        heard: list[Progress] = []
        assert tiny.same(train(learner(), checkpoint, checkpoint_s=every, after_step=heard.append), whole)
        assert [progress.step for progress in heard] == list(range(at + 1, STEPS + 1))

    def test_after_every_step_it_still_does(self, whole: Weights, checkpoint: Path) -> None:
        for at in range(1, STEPS + 1):
            with pytest.raises(Interrupted):
                train(learner(), checkpoint, after_step=break_at(at))
        assert tiny.same(train(learner(), checkpoint), whole)

    def test_what_is_finished_is_not_trained_again(self, whole: Weights, checkpoint: Path) -> None:
        train(learner(), checkpoint)
        before = checkpoint.read_bytes()
        unheard = train(learner(), checkpoint, after_step=lambda progress: pytest.fail("it took a step"))
        assert tiny.same(unheard, whole)
        assert checkpoint.read_bytes() == before

    def test_where_there_is_no_checkpoint_it_begins_anew(self, whole: Weights, checkpoint: Path) -> None:
        given = learner()
        with pytest.raises(Interrupted):
            train(given, after_step=break_at(2))
        assert not checkpoint.exists()
        assert tiny.same(train(learner(), checkpoint), whole)

    def test_a_checkpoint_is_written_when_it_is_due(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every 60 s, by a clock on which a step takes 25."""
        began = time.monotonic()
        clock, written = [began], list[tuple[float, int]]()
        monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: clock[0]))

        def after_step(progress: Progress) -> None:
            clock[0] += 25
            if checkpoint.exists():
                written.append((round(clock[0] - began), done(checkpoint)))

        train(learner(), checkpoint, schedule=replace(tiny.SCHEDULE, steps=8), after_step=after_step)
        assert written == [(100, 3), (125, 3), (150, 3), (175, 6), (200, 6)]
        assert done(checkpoint) == 8


def interrupt_in_losses(given: Learner, at: int) -> Learner:
    """Control-C while a step's losses are worked out."""

    def losses(images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        if step + 1 == at:
            signal.raise_signal(signal.SIGINT)
        return given.losses(images, labels, step)

    return replace(given, losses=losses)


class TestHalfAStep:
    """Is never kept."""

    @pytest.fixture(autouse=True)
    def heard(self) -> Iterator[None]:
        """Control-C raises, also where these tests run in the background of a shell, which has it ignored."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.parametrize("every", [ALWAYS, NEVER], ids=["a checkpoint each step", "none so far"])
    @pytest.mark.parametrize("at", [1, 2, STEPS])
    def test_sigint_between_the_beginning_and_the_end_of_a_step(
        self, at: int, every: float, whole: Weights, checkpoint: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(interrupt_in_losses(learner(), at), checkpoint, checkpoint_s=every)
        if every == ALWAYS and at > 1:
            assert done(checkpoint) == at - 1
        else:
            assert not checkpoint.exists()
        assert tiny.same(train(learner(), checkpoint), whole)

    @pytest.mark.parametrize("every", [ALWAYS, NEVER], ids=["a checkpoint each step", "none so far"])
    def test_sigint_when_some_of_the_weights_have_changed(
        self, every: float, whole: Weights, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def half(optimizer: torch.optim.Adam) -> None:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0] += 1
            signal.raise_signal(signal.SIGINT)

        given = learner()
        with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
            train(
                given,
                checkpoint,
                checkpoint_s=every,
                after_step=lambda progress: (
                    changed.setattr(torch.optim.Adam, "step", half) if progress.step == 2 else None
                ),
            )
        assert not tiny.same(tiny.weights(given), whole)
        assert (done(checkpoint) if checkpoint.exists() else 0) == (2 if every == ALWAYS else 0)
        assert tiny.same(train(learner(), checkpoint), whole)

    def test_at_every_line_of_the_loop(self, tmp_path: Path) -> None:
        """Broken off where each line of stage.py begins, one after the other, it goes on to the same weights."""
        schedule = replace(tiny.SCHEDULE, steps=2)
        expected = train(learner("finetune"), schedule=schedule)
        lines, broken_off = 0, 0
        while True:
            checkpoint = tmp_path / f"{lines}.pt"
            try:
                with interrupted_at(lines):
                    train(learner("finetune"), checkpoint, schedule=schedule, checkpoint_s=ALWAYS)
            except Interrupted:
                broken_off += 1
            else:
                break
            assert tiny.same(train(learner("finetune"), checkpoint, schedule=schedule), expected), lines
            lines += 1
        assert broken_off > 60
        assert not list(tmp_path.glob(f"{STAGING}*"))


class interrupted_at:  # noqa: N801  # a context manager, as contextlib's own
    """Raises Interrupted at the so-manyth line of stage.py that this thread comes to."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self.call)

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.before)

    def call(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        return self.line if frame.f_code.co_filename == stage.__file__ else None

    def line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise Interrupted
        return self.line


# Trains as the tests here do, with a checkpoint after each step, and says of each that it is done. It does not get past
# the end of step HELD_AT, so that a test that is late does not find it gone.
CHILD = """
import os, signal, sys, time
from pathlib import Path
import torch
from tests.trainer import test_stage

torch.set_num_threads(int(sys.argv[2]))
replace, calls = os.replace, []

def killed(source, target):
    calls.append(target)
    if len(calls) == KILLED_AT_WRITE:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

def after_step(progress):
    print(progress.step, flush=True)
    if progress.step == HELD_AT:
        time.sleep(60)

os.replace = killed
test_stage.train(
    test_stage.learner(),
    Path(sys.argv[1]),
    checkpoint_s=test_stage.ALWAYS,
    after_step=after_step,
)
"""


def child(checkpoint: Path, *, killed_at_write: int = 0, held_at: int = 0) -> subprocess.Popen[str]:
    code = CHILD.replace("KILLED_AT_WRITE", str(killed_at_write)).replace("HELD_AT", str(held_at))
    command = [sys.executable, "-c", code, str(checkpoint), str(torch.get_num_threads())]
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


class TestKilled:
    def test_at_some_instant_it_goes_on_to_the_same_weights(self, whole: Weights, checkpoint: Path) -> None:
        with child(checkpoint, held_at=3) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert done(checkpoint) >= 1
        assert tiny.same(train(learner(), checkpoint), whole)

    def test_while_a_checkpoint_is_written_the_earlier_one_is_whole_and_the_rest_is_swept(
        self, whole: Weights, checkpoint: Path
    ) -> None:
        with child(checkpoint, killed_at_write=3) as process:
            assert process.wait() == -signal.SIGKILL
        (left,) = checkpoint.parent.glob(f"{STAGING}*")
        assert left.stat().st_size > 1000
        assert done(checkpoint) == 2
        assert tiny.same(train(learner(), checkpoint), whole)
        assert list(checkpoint.parent.iterdir()) == [checkpoint]


class TestRefused:
    """Nothing is changed: neither the networks, nor the checkpoint."""

    @pytest.fixture
    def kept(self, checkpoint: Path) -> Iterator[Path]:
        """A checkpoint, which is afterwards what it was."""
        with pytest.raises(Interrupted):
            train(learner(), checkpoint, after_step=break_at(2))
        before = checkpoint.read_bytes()
        yield checkpoint
        assert checkpoint.read_bytes() == before

    @pytest.mark.parametrize(
        "other",
        [
            {"key": "another training"},
            {"seed": 6},
            {"schedule": replace(tiny.SCHEDULE, steps=STEPS + 1)},
            {"schedule": replace(tiny.SCHEDULE, learning_rate=1e-3)},
            {"schedule": replace(tiny.SCHEDULE, k=3)},
            {"augmentation": replace(tiny.AUGMENTATION, flip=0.0)},
        ],
        ids=["key", "seed", "steps", "learning rate", "batch", "augmentation"],
    )
    def test_the_checkpoint_of_another_training(self, other: dict[str, Any], kept: Path) -> None:
        given = learner()
        before = tiny.weights(given)
        with pytest.raises(InvalidField, match="another training; remove it to begin anew") as refused:
            train(given, kept, **other)
        assert refused.value.field == "checkpoint"
        assert refused.value.got.startswith("this training")
        assert tiny.same(tiny.weights(given), before)

    def test_a_checkpoint_of_another_format(self, kept: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.pt"
        torch.save(torch.load(kept, weights_only=True) | {"format": 2}, other)
        with pytest.raises(InvalidField) as refused:
            train(learner(), other)
        assert refused.value.field == "checkpoint"

    @pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_a_checkpoint_that_is_cut_off(self, part: float, kept: Path, tmp_path: Path) -> None:
        content = kept.read_bytes()
        self.refused_as_damaged(content[: int(part * len(content))], tmp_path)

    @pytest.mark.parametrize("content", [b"a text", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(5000)])
    def test_a_file_that_is_no_checkpoint(self, content: bytes, tmp_path: Path) -> None:
        self.refused_as_damaged(content, tmp_path)

    @pytest.mark.parametrize("state", [[1, 2], {}, {"key": "this training"}, {"done": 1}, torch.zeros(3)], ids=str)
    def test_something_else_that_torch_saved(self, state: object, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "other")
        self.refused_as_damaged((tmp_path / "other").read_bytes(), tmp_path)

    @staticmethod
    def refused_as_damaged(content: bytes, folder: Path) -> None:
        (folder / "damaged.pt").write_bytes(content)
        given = learner()
        before = tiny.weights(given)
        with pytest.raises(ModelDamaged, match=r"damaged\.pt is no checkpoint"):
            train(given, folder / "damaged.pt")
        assert tiny.same(tiny.weights(given), before)
        assert (folder / "damaged.pt").read_bytes() == content

    def test_one_altered_bit_is_found_unless_it_makes_no_difference(self, whole: Weights, checkpoint: Path) -> None:
        """Anywhere in the file: it is refused, or what it holds is the same."""
        train(learner(), checkpoint)
        content, given, refused = checkpoint.read_bytes(), learner(), 0
        untrained = tiny.weights(given)
        draw = random.Random(0)
        for _ in range(150):
            altered = bytearray(content)
            altered[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            checkpoint.write_bytes(altered)
            try:
                assert tiny.same(train(given, checkpoint), whole)
                given = learner()
            except ModelDamaged:
                assert tiny.same(tiny.weights(given), untrained)
                refused += 1
        assert refused > 20

    def test_a_checkpoint_runs_no_code(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"key": "this training", "done": 1, "format": 1, "students": Evil()}, tmp_path / "evil.pt")
        with pytest.raises(ModelDamaged):
            train(learner(), tmp_path / "evil.pt")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "values",
        [{"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0}],
        ids=str,
    )
    def test_a_schedule_that_cannot_be(self, values: dict[str, Any]) -> None:
        with pytest.raises(InvalidField):
            Schedule(**values)


class TestErrors:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_a_loss_that_is_not_finite_ends_it_before_the_weights_change(self, bad: float, checkpoint: Path) -> None:
        given = learner()
        last: list[Weights] = []

        def losses(images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
            return given.losses(images, labels, step) | {"bad": torch.tensor(bad if step == 2 else 0.0)}

        def after_step(progress: Progress) -> None:
            last[:] = [tiny.weights(given)]

        with pytest.raises(Diverged, match=r"step 3: .*'bad': " + str(bad)):
            train(replace(given, losses=losses), checkpoint, checkpoint_s=ALWAYS, after_step=after_step)
        assert tiny.same(tiny.weights(given), last[0])
        assert done(checkpoint) == 2

    def test_two_infinities_that_cancel_are_not_finite_either(self) -> None:
        given = learner()
        infinite = {"a": torch.tensor(float("inf")), "b": torch.tensor(float("-inf"))}
        with pytest.raises(Diverged):
            train(replace(given, losses=lambda *batch: given.losses(*batch) | infinite))

    @pytest.mark.parametrize("as_file", [True, False], ids=["a file", "bytes"])
    def test_a_photo_that_cannot_be_decoded_is_named_and_the_steps_before_it_are_kept(
        self, as_file: bool, whole: Weights, checkpoint: Path, tmp_path: Path
    ) -> None:
        good = tiny.stage()
        sampler = PKSampler(good.labels, seed=5, p=tiny.SCHEDULE.p, k=tiny.SCHEDULE.k)
        first = {index: step for step in reversed(range(STEPS)) for index in sampler.batch(step).tolist()}
        index, step = max(first.items(), key=lambda item: item[1])
        assert step > 0
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(photo(0)[:200])
        photos = list(good.photos)
        photos[index] = bad if as_file else bad.read_bytes()
        heard: list[Progress] = []
        with pytest.raises(ImageUnreadable) as refused:
            train(learner(), checkpoint, photos=replace(good, photos=tuple(photos)), after_step=heard.append)
        assert refused.value.message.startswith(f"{bad}: " if as_file else f"photo {index} of stage 1: ")
        assert refused.value.field == "photos"
        assert len(heard) == done(checkpoint) == step
        assert tiny.same(train(learner(), checkpoint), whole)

    def test_a_full_disk_ends_it_with_the_earlier_checkpoint_still_there(
        self, whole: Weights, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes: list[int] = []

        def full(path: Path, content: bytes) -> None:
            writes.append(len(content))
            if len(writes) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_bytes(path, content)

        monkeypatch.setattr(stage, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as error:
            train(learner(), checkpoint, checkpoint_s=ALWAYS)
        assert error.value.errno == errno.ENOSPC
        assert done(checkpoint) == 2
        monkeypatch.undo()
        assert tiny.same(train(learner(), checkpoint), whole)

    def test_what_broke_it_off_is_told_even_if_the_disk_is_full_too(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, content: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(stage, "write_bytes", full)
        with pytest.raises(Interrupted):
            train(learner(), checkpoint, after_step=break_at(2))
        assert not checkpoint.exists()


class TestFeatures:
    # More photos than one batch of `in_order` holds.
    PHOTOS, PREPROCESSING = tiny.stage(2, categories=7, each=10), Preprocessing(tiny.SIDE, 37)

    def test_they_are_each_photos_own_in_the_order_of_the_stage(self) -> None:
        network = tiny.network(4).train()
        features, labels = stage.features(network, self.PHOTOS, self.PREPROCESSING, tiny.CPU)
        assert labels.tolist() == list(self.PHOTOS.labels)
        assert (features.shape, features.dtype) == ((70, tiny.D), torch.float32)
        assert not features.requires_grad
        for i in range(len(self.PHOTOS)):
            pixels, _ = preprocess(self.PHOTOS.read(i), self.PREPROCESSING)
            with torch.no_grad():
                alone = network.eval().features(torch.from_numpy(pixels)[None])[0]
            torch.testing.assert_close(features[i], alone, rtol=1e-4, atol=1e-5)
        nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).amin()
        assert nearest > 1e-3  # a photo in another's place would have shown

    def test_it_is_told_after_each_batch_how_many_are_done_and_may_end_there(self) -> None:
        told = list[tuple[int, int]]()

        def tick(done: int, total: int) -> None:
            told.append((done, total))
            if len(told) == 3:
                raise Interrupted

        stage.features(tiny.network(4), self.PHOTOS, self.PREPROCESSING, tiny.CPU, tick)
        assert told == [(64, 70), (70, 70)]
        with pytest.raises(Interrupted):
            stage.features(tiny.network(4), self.PHOTOS, self.PREPROCESSING, tiny.CPU, tick)

    def test_a_photo_that_cannot_be_decoded_is_named(self) -> None:
        photos = replace(self.PHOTOS, photos=(*self.PHOTOS.photos[:-1], b"no photo"))
        with pytest.raises(ImageUnreadable, match="photo 69 of stage 2"):
            stage.features(tiny.network(4), photos, self.PREPROCESSING, tiny.CPU)
