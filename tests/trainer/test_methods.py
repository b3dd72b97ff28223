"""The methods: each one's loss is its paper's equation, and gradient flows where that says."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import typing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from indexer.errors import InvalidField
from indexer.model import Preprocessing
from tests.trainer import literal, photo_folders, tiny
from tests.trainer.literal import Matrix, rows
from tests.trainer.test_training_data import found
from trainer import estimates, methods, protocol, stage
from trainer.drift import LEAST_WEIGHT, MOST_STAGES
from trainer.losses import MARGIN, TEMPERATURE
from trainer.memory import Memory
from trainer.methods import Init, Learner, Start
from trainer.network import EmbeddingNetwork
from trainer.training_data import TrainingStage

NAMES = ("fecd", "finetune", "initial", "joint", "mutual")
LEARNING = ("fecd", "finetune", "joint", "mutual")


@dataclasses.dataclass(frozen=True)
class Case:
    """A method after so many stages, and what its equation has: the weights, and how features before F_o's are told."""

    spec: str
    stages: int
    correlation: float = 0.0  # lambda_2
    mutual: float | None = None  # lambda_3, where there is a supporting student
    old: str = "none"


CASES = [
    *(Case(spec, stages) for spec in ("finetune", "initial", "joint") for stages in (0, 3)),
    Case("fecd", 0, correlation=10),
    Case("fecd", 1, correlation=10),
    Case("fecd", 3, correlation=10, old="scaled"),
    Case("fecd:correlation=2.5", 3, correlation=2.5, old="scaled"),
    Case("mutual", 1, correlation=10, mutual=8),
    Case("mutual", 3, correlation=10, mutual=8, old="virtual"),
    Case("mutual:mutual=1,supporter=pretrained,old=none", 3, correlation=10, mutual=1),
    Case("mutual:old=scaled", 3, correlation=10, mutual=8, old="scaled"),
    Case("mutual:correlation=2,mutual=0.5", 3, correlation=2, mutual=0.5, old="virtual"),
    Case("mutual:mutual=0", 3, correlation=10, mutual=0, old="virtual"),
]
case_ids = [f"{case.spec} after {case.stages}" for case in CASES]


def begin(spec: str, start: Start) -> Learner:
    return methods.find(spec).begin(start)


def moved(learner: Learner) -> Learner:
    """As in the midst of training: no student is where it began, so that no term is 0."""
    draw = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for network in learner.students.values():
            for parameter in network.parameters():
                parameter.add_(0.3 * parameter.std().nan_to_num(1) * torch.randn(parameter.shape, generator=draw))
    return learner


def old_features(case: Case, start: Start, taught: Tensor, step: int) -> list[Matrix]:
    """Features by the models of the stages before the teacher's."""
    earlier = start.memory.stages[:-1]
    if case.old == "virtual":
        return [
            literal.virtual_features(rows(taught), rows(each.prototypes_now), rows(each.drifts), LEAST_WEIGHT)
            for each in earlier
        ]
    if case.old == "scaled":  # test_estimates.py holds what u is
        scaled, _ = estimates.scaled(start.memory, seed=start.seed, device=tiny.CPU)(taught, step)
        return [rows(taught.double() * (1 + (each / taught - 1).double())) for each in scaled]
    return []


def equation(
    case: Case, labels: list[int], served: Matrix, supporter: Matrix | None, teacher: Matrix, old: list[Matrix]
) -> dict[str, float]:
    """mutual, Eq. 1 and 2, with Eq. 6 for the third term; lambda_1 is 1. Without a supporter: FECD's, or triplet."""
    terms = {"triplet": literal.triplet(served, labels, MARGIN)}
    if case.correlation:
        summed = sum(literal.correlation(each, served, TEMPERATURE) for each in [*old, teacher])
        terms["correlation"] = case.correlation * summed
    if supporter is not None and case.mutual is not None:
        terms["triplet_supporter"] = literal.triplet(supporter, labels, MARGIN)
        terms["mutual"] = case.mutual * literal.mutual(supporter, served, TEMPERATURE)
    return terms


@dataclasses.dataclass
class Given:
    """One step of a method, as the equation sees it."""

    case: Case
    step: int = 5

    def __post_init__(self) -> None:
        self.start = tiny.start(self.case.stages)
        self.learner = moved(begin(self.case.spec, self.start))
        self.images, self.labels = tiny.batch()
        with torch.no_grad():
            taught = self.start.network.features(self.images)
        self.teacher, self.old = rows(taught), old_features(self.case, self.start, taught, self.step)

    def features(self, name: str) -> Matrix | None:
        network = self.learner.students.get(name)
        return rows(network.features(self.images)) if network else None

    def total(self, **replaced: Matrix) -> float:
        return sum(self.terms(**replaced).values())

    def terms(self, **replaced: Matrix) -> dict[str, float]:
        features = {name: replaced.get(name, self.features(name)) for name in ("served", "supporter")}
        served = features["served"]
        assert served is not None
        return equation(self.case, self.labels.tolist(), served, features["supporter"], self.teacher, self.old)


class TestEquations:
    @pytest.mark.parametrize("case", CASES, ids=case_ids)
    def test_every_term_of_a_step_is_the_equations(self, case: Case) -> None:
        given = Given(case)
        got = given.learner.losses(given.images, given.labels, given.step)
        expected = given.terms()
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert got[name].item() == pytest.approx(value, rel=1e-3, abs=2e-6), name
            assert got[name].shape == ()
            assert value > 1e-3 or case.mutual == 0, f"{name} is too small to tell anything"

    @pytest.mark.parametrize("case", CASES, ids=case_ids)
    def test_a_step_minimises_their_sum(self, case: Case) -> None:
        """The gradient that it leaves in each student's head is the equation's: by differences, in two directions."""
        given = Given(case)
        students = torch.nn.ModuleDict(dict(given.learner.students))
        values = {name: given.features(name) for name in given.learner.students}
        expected = given.total()
        told = stage.step(
            given.learner, torch.optim.SGD(students.parameters(), lr=0), given.images, given.labels, given.step
        )
        assert sum(told.values()) == pytest.approx(expected, rel=1e-3)
        for name, network in given.learner.students.items():
            assert values[name] == given.features(name)  # a learning rate of 0
            gradient = network.head.weight.grad
            assert gradient is not None
            random = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(2))
            for direction in (gradient.double(), random.double()):
                direction = direction / direction.norm()
                slope = self.slope(given, name, network, direction)
                assert (gradient.double() * direction).sum().item() == pytest.approx(slope, rel=1e-2, abs=1e-4), name

    @staticmethod
    def slope(given: Given, name: str, network: EmbeddingNetwork, direction: Tensor) -> float:
        """Of the equation's total, as the student's head moves."""
        with torch.no_grad():
            pooled = network.pooled(given.images).double()
            weight, bias = network.head.weight.double(), network.head.bias.double()
        small = 1e-5
        up, down = (
            given.total(**{name: rows(pooled @ (weight + sign * small * direction).T + bias)}) for sign in (1, -1)
        )
        return (up - down) / (2 * small)

    @pytest.mark.parametrize(("spec", "old"), [("mutual", "virtual"), ("fecd", "scaled")])
    def test_of_very_many_stages_a_step_takes_some_and_weighs_them_as_all(self, spec: str, old: str) -> None:
        stages, step = MOST_STAGES + 4, 5
        start, (images, labels) = tiny.start(stages), tiny.batch()
        learner = moved(begin(spec, start))
        with torch.no_grad():
            taught = start.network.features(images)
            served = rows(learner.served.features(images))
        chosen, _ = estimates.find(old)(start.memory, seed=start.seed, device=tiny.CPU)(taught, step)
        summed = sum(literal.correlation(rows(each), served, TEMPERATURE) for each in chosen)
        expected = 10 * (literal.correlation(rows(taught), served, TEMPERATURE) + summed * (stages - 1) / MOST_STAGES)
        assert len(chosen) == MOST_STAGES
        assert learner.losses(images, labels, step)["correlation"].item() == pytest.approx(expected, rel=1e-3)

    def test_mutual_begins_as_fecd_does_but_for_the_supporter(self) -> None:
        start, (images, labels) = tiny.start(1), tiny.batch()
        mutual, fecd = (begin(spec, start).losses(images, labels, 0) for spec in ("mutual", "fecd"))
        assert {name: mutual[name].item() for name in fecd} == {name: each.item() for name, each in fecd.items()}
        assert fecd["correlation"].item() == pytest.approx(0, abs=1e-5)  # F_p is still F_o


class Watched(Start):
    """Shows what a method has asked for."""

    teachers: list[EmbeddingNetwork]
    fresh_ones: list[tuple[Init, EmbeddingNetwork]]

    @classmethod
    def of(cls, stages: int) -> Watched:
        start, fresh_ones = tiny.start(stages), []

        def fresh(init: Init) -> EmbeddingNetwork:
            fresh_ones.append((init, start.fresh(init)))
            return fresh_ones[-1][1]

        watched = cls(start.network, start.memory, fresh, start.seed, start.device)
        object.__setattr__(watched, "teachers", [])
        object.__setattr__(watched, "fresh_ones", fresh_ones)
        return watched

    def teacher(self) -> EmbeddingNetwork:
        self.teachers.append(super().teacher())
        return self.teachers[-1]


def trained(learner: Learner, steps: int = 3) -> Learner:
    schedule = dataclasses.replace(tiny.SCHEDULE, steps=steps)
    stage.train(learner, tiny.stage(), schedule, tiny.AUGMENTATION, seed=1, device=tiny.CPU, key="")
    return learner


class TestGradientStops:
    @pytest.mark.parametrize(("spec", "stages"), [("fecd", 3), ("mutual", 1), ("mutual", 3)])
    def test_the_teacher_never_changes(self, spec: str, stages: int) -> None:
        start = Watched.of(stages)
        before = tiny.weights(start.network)
        learner = trained(begin(spec, start))
        (teacher,) = start.teachers
        assert tiny.same(tiny.weights(teacher), before)
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
        trainable = {id(each) for network in learner.students.values() for each in network.parameters()}
        assert not trainable & {id(each) for each in teacher.parameters()}

    @pytest.mark.parametrize("spec", NAMES)
    def test_every_student_changes_in_every_part(self, spec: str) -> None:
        learner = begin(spec, tiny.start(3))
        before = tiny.weights(learner)
        after = tiny.weights(trained(learner))
        for name in before:
            statistics = "running" in name or "num_batches" in name
            assert torch.equal(before[name], after[name]) == statistics, name

    @pytest.mark.parametrize("spec", NAMES)
    def test_the_network_to_start_from_stays_as_it_is(self, spec: str) -> None:
        start = tiny.start(3)
        before = tiny.weights(start.network)
        learner = trained(begin(spec, start))
        assert tiny.same(tiny.weights(start.network), before)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in start.network.parameters())
        assert not start.network.training
        own = {id(each) for each in start.network.parameters()}
        assert not own & {id(each) for network in learner.students.values() for each in network.parameters()}

    def test_without_the_mutual_term_the_supporter_has_no_part_in_what_is_served(self) -> None:
        """To the bit as with another supporter, and as with none."""
        specs = ("mutual:mutual=0", "mutual:mutual=0,supporter=pretrained", "fecd")
        random, pretrained, none = (tiny.weights(trained(begin(spec, tiny.start(1))).served) for spec in specs)
        assert tiny.same(random, pretrained)
        assert tiny.same(random, none)

    def test_with_it_the_supporter_has(self) -> None:
        specs = ("mutual", "mutual:supporter=pretrained")
        random, pretrained = (tiny.weights(trained(begin(spec, tiny.start(1))).served) for spec in specs)
        assert not tiny.same(random, pretrained)


class TestBegin:
    @pytest.mark.parametrize("spec", NAMES)
    def test_what_is_served_begins_as_the_model_before_to_the_bit(self, spec: str) -> None:
        start = tiny.start(3)
        served = begin(spec, start).served
        assert tiny.same(tiny.weights(served), tiny.weights(start.network))
        assert all(parameter.requires_grad for parameter in served.parameters())

    @pytest.mark.parametrize("spec", LEARNING)
    def test_a_frozen_model_can_be_started_from(self, spec: str) -> None:
        start = tiny.start(1)
        start.network.requires_grad_(False)
        learner = begin(spec, start)
        before = tiny.weights(learner.served)
        assert not tiny.same(tiny.weights(trained(learner).served), before)

    @pytest.mark.parametrize(("spec", "init"), [("mutual", "random"), ("mutual:supporter=pretrained", "pretrained")])
    def test_the_supporter_begins_as_the_setting_says_and_not_as_the_model_before(self, spec: str, init: Init) -> None:
        start = Watched.of(1)
        learner = begin(spec, start)
        ((asked, network),) = start.fresh_ones
        assert asked == init
        assert learner.students["supporter"] is network
        assert tiny.same(tiny.weights(network), tiny.weights(tiny.start(1).fresh(init)))
        assert not tiny.same(tiny.weights(network), tiny.weights(start.network))

    def test_each_stage_has_a_supporter_of_its_own(self) -> None:
        """Of this stage's seed, and without what the supporter of the stage before has learned."""
        first = trained(begin("mutual", tiny.start(1, seed=3))).students["supporter"]
        next_ones = [begin("mutual", tiny.start(2, seed=seed)).students["supporter"] for seed in (3, 4)]
        assert tiny.same(tiny.weights(next_ones[0]), tiny.weights(tiny.start(seed=3).fresh("random")))
        assert not tiny.same(tiny.weights(next_ones[1]), tiny.weights(next_ones[0]))
        assert not tiny.same(tiny.weights(next_ones[0]), tiny.weights(first))

    @pytest.mark.parametrize(
        ("spec", "students", "forwards"),
        [("finetune", 1, 0), ("initial", 1, 0), ("joint", 1, 0), ("fecd", 1, 1), ("mutual", 2, 1)],
    )
    def test_the_cost_of_a_step_is_told(self, spec: str, students: int, forwards: int) -> None:
        """By the forward passes that are seen, of networks that learn and of those that do not."""
        start = Watched.of(3)
        learner, passes = begin(spec, start), list[bool]()
        for network in [*learner.students.values(), *start.teachers]:
            network.head.register_forward_hook(lambda module, given, result: passes.append(torch.is_grad_enabled()))
        learner.losses(*tiny.batch(), 0)
        assert (len(learner.students), learner.forwards) == (students, forwards)
        assert sorted(passes) == [False] * forwards + [True] * students


class TestFind:
    def test_the_methods_by_name(self) -> None:
        assert methods.names() == list(NAMES)

    @pytest.mark.parametrize("name", methods.names())
    def test_every_file_of_the_folder_has_a_method_that_says_what_it_is(self, name: str) -> None:
        kind = importlib.import_module(f"trainer.methods.{name}").METHOD
        method = methods.find(name)
        assert type(method) is kind
        assert kind() == method  # every setting has a default
        assert isinstance(method.learns, bool)
        assert isinstance(method.keeps_photos, bool)
        with pytest.raises(dataclasses.FrozenInstanceError):
            method.settings = ()  # type: ignore[attr-defined]

    def test_one_stays_as_it_is_and_one_keeps_photos(self) -> None:
        found = {name: methods.find(name) for name in NAMES}
        assert [name for name in NAMES if not found[name].learns] == ["initial"]
        assert [name for name in NAMES if found[name].keeps_photos] == ["joint"]

    def test_settings_are_the_papers_unless_they_are_given(self) -> None:
        def settings(spec: str) -> dict[str, Any]:
            return vars(methods.find(spec))

        usual = {"correlation": 10.0, "mutual": 8.0, "supporter": "random", "old": "virtual"}
        assert settings("mutual") == settings("mutual:") == usual
        assert settings("mutual:mutual=1,old=none") == usual | {"mutual": 1.0, "old": "none"}
        assert settings("mutual:supporter=pretrained,correlation=0") == usual | {
            "supporter": "pretrained",
            "correlation": 0.0,
        }
        assert settings("fecd") == {"correlation": 10.0}
        assert settings("finetune") == {}

    @pytest.mark.parametrize("name", ["mutal", "", "_method", "_correlation", "mutual.mutual", "../stage", "Mutual"])
    def test_an_unknown_method_is_refused_with_the_known_ones(self, name: str) -> None:
        with pytest.raises(InvalidField, match="fecd, finetune, initial, joint, mutual") as refused:
            methods.find(name)
        assert (refused.value.field, refused.value.got) == ("method", name)
        assert refused.value.expected == ", ".join(NAMES)

    @pytest.mark.parametrize(
        ("spec", "key", "choices"),
        [
            ("mutual:lambda_2=1", "lambda_2", "correlation, mutual, supporter, old"),
            ("mutual:learns=1", "learns", "correlation, mutual, supporter, old"),
            ("mutual:=1", "", "correlation, mutual, supporter, old"),
            ("fecd:mutual=1", "mutual", "correlation"),
            ("finetune:mutual=1", "mutual", "none"),
        ],
    )
    def test_an_unknown_setting_is_refused_with_the_known_ones(self, spec: str, key: str, choices: str) -> None:
        with pytest.raises(InvalidField) as refused:
            methods.find(spec)
        assert (refused.value.field, refused.value.got, refused.value.expected) == ("method", key, choices)

    @pytest.mark.parametrize(
        ("setting", "value", "expected"),
        [
            ("supporter", "copied", "pretrained or random"),
            ("supporter", "", "pretrained or random"),
            ("old", "Virtual", "virtual or scaled or none"),
            *(("mutual", value, "a number, at least 0") for value in ("much", "", "-1", "nan", "inf", "1e999")),
        ],
    )
    def test_a_value_that_a_setting_cannot_take_is_refused(self, setting: str, value: str, expected: str) -> None:
        with pytest.raises(InvalidField, match=f"{setting} of mutual") as refused:
            methods.find(f"mutual:{setting}={value}")
        assert (refused.value.field, refused.value.got, refused.value.expected) == ("method", value, expected)

    @pytest.mark.parametrize("spec", ["mutual:mutual=1,mutual=1", "mutual:old=none,mutual=1,old=scaled"])
    def test_a_setting_that_is_given_twice_is_refused(self, spec: str) -> None:
        with pytest.raises(InvalidField, match="twice") as refused:
            methods.find(spec)
        assert refused.value.field == "method"


NEW_METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from trainer.losses import triplet
from trainer.methods import Learner, Start


@dataclass(frozen=True)
class Weighted:
    learns: ClassVar[bool] = True
    keeps_photos: ClassVar[bool] = False

    weight: float = 1.0

    def begin(self, start: Start) -> Learner:
        served = start.copy()

        def losses(images, labels, step):
            return {"own": self.weight * triplet(served.features(images), labels)}

        return Learner({"served": served}, losses)


METHOD = Weighted
"""


@pytest.fixture
def folder_of_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that counts as part of the package."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("trainer.methods."):
            del sys.modules[name]
            delattr(methods, name.rpartition(".")[2])


def test_a_new_method_is_one_new_file(folder_of_methods: Path) -> None:
    (folder_of_methods / "weighted.py").write_text(NEW_METHOD)
    (folder_of_methods / "_shared.py").write_text("")
    assert methods.names() == sorted([*NAMES, "weighted"])
    heard: list[stage.Progress] = []
    stage.train(
        begin("weighted:weight=0.5", tiny.start()),
        tiny.stage(),
        tiny.SCHEDULE,
        tiny.AUGMENTATION,
        seed=1,
        device=tiny.CPU,
        key="",
        after_step=heard.append,
    )
    assert len(heard) == tiny.SCHEDULE.steps
    assert all(progress.losses.keys() == {"own"} for progress in heard)
    with pytest.raises(InvalidField, match="it has weight"):
        methods.find("weighted:heavy=1")


class TestPromise5:
    """No old training images: what a method is given, and what it makes of it, lead to none."""

    OLD, NEW = ("ants", "bees"), ("cats", "dogs")

    @pytest.fixture
    def experiment(self, tmp_path: Path) -> protocol.Protocol:
        folder = photo_folders.make(tmp_path / "photos", dict.fromkeys(self.OLD + self.NEW, 5))
        return protocol.build(folder, [2, 2])

    @staticmethod
    def learn(learner: Learner, photos: TrainingStage) -> None:
        stage.train(learner, photos, tiny.SCHEDULE, tiny.AUGMENTATION, seed=1, device=tiny.CPU, key="")

    def second(self, experiment: protocol.Protocol) -> Start:
        """What the second stage starts from, when the first has really been trained and remembered."""
        photos, learner = experiment.training(0), begin("initial", tiny.start(0))
        self.learn(learner, photos)
        features, labels = stage.features(learner.served, photos, Preprocessing(tiny.SIDE, tiny.SIDE), tiny.CPU)
        memory = Memory("", tiny.D).after_stage(
            0, photos.categories, labels, model="first", features=features, features_before=features
        )
        return Start(learner.served, memory, tiny.start().fresh, 4, tiny.CPU)

    @staticmethod
    def names(experiment: protocol.Protocol, number: int) -> list[str]:
        return [path.name for part in typing.get_args(protocol.Part) for path, _ in experiment.photos([number], part)]

    @pytest.mark.parametrize("spec", NAMES)
    def test_promise_5_a_start_and_what_is_begun_with_it_lead_to_no_photo(
        self, spec: str, experiment: protocol.Protocol
    ) -> None:
        start = self.second(experiment)
        learner = begin(spec, start)
        every = self.names(experiment, 0) + self.names(experiment, 1)
        assert found(every, start, learner) == set()
        assert found(["ants"], start) == {"ants"}  # the name of a category is remembered, so the walk got there

    @pytest.mark.parametrize("spec", [name for name in NAMES if not methods.find(name).keeps_photos])
    def test_promise_5_nor_does_what_is_trained_lead_to_an_old_photo(
        self, spec: str, experiment: protocol.Protocol
    ) -> None:
        start, photos = self.second(experiment), experiment.training(1)
        learner = begin(spec, start)
        self.learn(learner, photos)
        assert found(self.names(experiment, 0), start, learner, photos) == set()

    def test_the_walk_would_find_a_photo_behind_a_start(self, experiment: protocol.Protocol) -> None:
        def fresh(photos: object, init: Init) -> EmbeddingNetwork:
            raise NotImplementedError

        old = self.names(experiment, 0)
        ways: list[Callable[[Init], EmbeddingNetwork]] = [
            partial(fresh, experiment.training(0)),
            lambda init: fresh(experiment, init),
        ]
        for way in ways:
            assert found(old, dataclasses.replace(tiny.start(), fresh=way))
