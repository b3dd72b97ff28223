"""Model 0, from a recipe to a published folder, as the command line makes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from indexer.errors import InvalidField, ModelDamaged
from indexer.model import Preprocessing, load_manifest
from trainer import backbones, export, photos
from trainer.__main__ import main
from trainer.first_model import FirstModel, Published, preprocessing, publish_first_model

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def published(models: Path) -> Published:
    return publish_first_model(models, FirstModel(image_size=SIZE))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rendered photos in three folders."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(photos.rendered(300, SIZE, torch.Generator().manual_seed(5)).numpy()):
        (folder / str(i % 3)).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / str(i % 3) / f"{i}.png")
    return folder


def answers(published: Published, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(published.folder / "model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["embeddings"], {"images": images.numpy()})[0])


def random_images(count: int, size: int = SIZE) -> Tensor:
    return photos.rendered(count, size, torch.Generator().manual_seed(9))


class TestPublished:
    def test_the_manifest_says_what_the_model_is(self, published: Published, models: Path) -> None:
        manifest = load_manifest(published.folder)
        assert manifest == published.manifest
        assert published.folder == models / manifest.id[:16]
        assert (manifest.backbone, manifest.dimension, manifest.stages) == ("efficientnet_lite0", 512, 0)
        assert manifest.preprocessing == Preprocessing(SIZE, 73)
        assert manifest.head == "orthogonal, seed 0"
        assert set(manifest.files) == {"model.onnx", "weights.safetensors"}

    @pytest.mark.parametrize(("size", "resize"), [(224, 256), (128, 146)])
    def test_the_papers_margin_is_cut_off(self, size: int, resize: int) -> None:
        assert preprocessing(size) == Preprocessing(size, resize)

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_it_takes_uint8_batches_of_any_size_and_gives_unit_vectors(self, published: Published, count: int) -> None:
        embeddings = answers(published, random_images(count))
        assert embeddings.shape == (count, 512)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(count))

    def test_its_input_and_output_are_named_and_shaped_as_the_engine_expects(self, published: Published) -> None:
        session = onnxruntime.InferenceSession(published.folder / "model.onnx", providers=["CPUExecutionProvider"])
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [SIZE, SIZE, 3])
        assert (result.name, result.type, result.shape[1:]) == ("embeddings", "tensor(float)", [512])
        assert isinstance(given.shape[0], str)

    def test_training_can_go_on_from_it(self, published: Published) -> None:
        network = export.load_network(published.folder)
        images = random_images(4)
        with torch.inference_mode():
            cosines = functional.cosine_similarity(network(images), answers(published, images))
        assert cosines.min() > 0.99999

    def test_training_does_not_go_on_from_altered_weights(self, published: Published, tmp_path: Path) -> None:
        folder = shutil.copytree(published.folder, tmp_path / "copy")
        weights = bytearray((folder / "weights.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "weights.safetensors").write_bytes(weights)
        with pytest.raises(ModelDamaged, match="altered"):
            export.load_network(folder)

    def test_it_answers_as_torch_does_on_photos(self, published: Published, grocery: Path) -> None:
        network = export.load_network(published.folder)
        paths = photos.sample(photos.find(grocery), 32, torch.Generator().manual_seed(0))
        images = torch.cat(list(photos.batches(paths, preprocessing(SIZE))))
        model = (published.folder / "model.onnx").read_bytes()
        assert len(images) == 32
        assert export.check_parity(network, model, images) > 0.99999


class TestIdentity:
    @pytest.mark.slow
    def test_the_same_recipe_makes_the_same_model_in_another_process(
        self, published: Published, tmp_path: Path
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "trainer",
            "export",
            "--data",
            str(tmp_path),
            "--image-size",
            str(SIZE),
            "--json",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        assert done.stderr == ""
        assert told["manifest"]["id"] == published.manifest.id
        assert told["manifest"]["files"] == dict(published.manifest.files)
        assert told["folder"] == str(tmp_path / "models" / published.manifest.id[:16])

    def test_the_file_names_no_machine_and_no_source(self, published: Published) -> None:
        content = (published.folder / "model.onnx").read_bytes()
        for told in (str(ROOT), str(Path.home()), sys.prefix, "site-packages", ".py", "torch"):
            assert told.encode() not in content, told
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


class TestParity:
    def test_a_model_of_another_network_is_not_published(self, published: Published) -> None:
        network = export.load_network(published.folder)
        model = (published.folder / "model.onnx").read_bytes()
        with torch.no_grad():
            network.head.weight += 0.05 * torch.randn(512, 1280, generator=torch.Generator().manual_seed(0))
        with pytest.raises(ModelDamaged, match="answers otherwise") as damaged:
            export.check_parity(network, model, random_images(4))
        assert damaged.value.expected == "at least 0.9999"

    def test_a_network_that_answers_nan_is_not_published(self, published: Published) -> None:
        network = export.load_network(published.folder)
        with torch.no_grad():
            network.head.bias[0] = torch.nan
        with pytest.raises(ModelDamaged):
            export.check_parity(network, (published.folder / "model.onnx").read_bytes(), random_images(2))


class TestPhotos:
    @pytest.mark.slow
    def test_a_fitted_head_is_fitted_on_the_photos(self, models: Path, pictures: Path, published: Published) -> None:
        fitted = publish_first_model(models, FirstModel(image_size=SIZE, photos=pictures, head="pca"))
        assert fitted.manifest.id != published.manifest.id
        assert fitted.manifest.head == "pca, exponent 0.125, shrinkage 0.3, 300 photos"
        images = torch.cat(list(photos.batches(photos.find(pictures), preprocessing(SIZE))))
        with torch.inference_mode():
            features = export.load_network(fitted.folder).features(images)
        torch.testing.assert_close(features.mean(dim=0), torch.zeros(512), rtol=0, atol=1e-3)

    @pytest.mark.slow
    def test_with_few_photos_the_head_is_the_one_that_needs_none_and_a_model_that_is_there_is_kept(
        self, models: Path, pictures: Path, published: Published
    ) -> None:
        chosen = publish_first_model(models, FirstModel(image_size=SIZE, photos=pictures))
        assert chosen.manifest == published.manifest  # created_at and all

    def test_a_fitted_head_needs_photos(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidField, match="fitted on photos") as refused:
            publish_first_model(tmp_path, FirstModel(image_size=SIZE, head="pca"))
        assert refused.value.field == "head"

    def test_too_few_photos_are_refused(self, tmp_path: Path, pictures: Path) -> None:
        with pytest.raises(InvalidField, match="100 photos are too few"):
            publish_first_model(tmp_path, FirstModel(image_size=SIZE, photos=pictures / "0", head="pca"))

    @pytest.mark.parametrize(
        ("make", "got"), [(lambda path: None, "no such folder"), (lambda path: path.mkdir(), "an empty folder")]
    )
    def test_a_folder_without_photos_is_refused(self, make: Callable[[Path], None], got: str, tmp_path: Path) -> None:
        make(tmp_path / "photos")
        with pytest.raises(InvalidField, match="no photos") as refused:
            photos.find(tmp_path / "photos")
        assert refused.value.got == got

    def test_a_photo_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
        with pytest.raises(Exception, match=r"torn\.jpg: ") as refused:
            list(photos.batches(photos.find(tmp_path), preprocessing(SIZE)))
        assert type(refused.value).__name__ == "ImageUnreadable"

    def test_a_sample_is_drawn_from_all_the_folder(self) -> None:
        paths = [Path(f"{i}.jpg") for i in range(1000)]
        drawn = photos.sample(paths, 100, torch.Generator().manual_seed(0))
        assert len(set(drawn)) == 100
        assert 400 < np.mean([int(path.stem) for path in drawn]) < 600
        assert photos.sample(paths[:5], 100, torch.Generator().manual_seed(0)) != paths[:5]

    def test_rendered_images_have_structure_that_survives_pooling(self) -> None:
        images = random_images(4).float()
        assert images.shape == (4, SIZE, SIZE, 3)
        coarse = functional.avg_pool2d(images.permute(0, 3, 1, 2), 16)
        assert images.std() > 20
        assert coarse.std() > 10


class TestCommand:
    def test_it_prints_the_model_and_its_figures(
        self, published: Published, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("trainer.first_model.publish_first_model", lambda models, recipe: published)
        assert main(["export", "--data", "anywhere"]) == 0
        told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert told["model"] == published.manifest.id[:16]
        assert told["folder"] == str(published.folder)
        assert set(told) == {"model", "folder", "backbone", "head", "image", "parity", "took"}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--backbone", "alexnet"], "no backbone 'alexnet'"),
            (["--image-size", "wide"], "invalid int value"),
            (["--image-size", "8"], "takes images of a size from 32"),
            (["--head", "best"], "invalid choice"),
            (["--head", "pca"], "fitted on photos"),
            (["--photos", "nowhere"], "no photos below nowhere"),
            (["--weights", "nowhere.pth"], "cannot read weights from nowhere.pth"),
            (["--loud"], "unrecognized arguments"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_bad_argument_is_one_line_and_exit_code_2(
        self, arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        try:
            code: object = main(["export", "--data", str(tmp_path), *arguments])
        except SystemExit as stopped:
            code = stopped.code
        told = capsys.readouterr()
        assert code == 2
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert said in told.err
        assert not (tmp_path / "models").exists()

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ModelDamaged("it answers otherwise")])
    def test_a_failure_is_one_line_and_exit_code_1(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(models: Path, recipe: FirstModel) -> Published:
            raise error

        monkeypatch.setattr("trainer.first_model.publish_first_model", fail)
        assert main(["export", "--data", "anywhere"]) == 1
        assert capsys.readouterr().err == f"python -m trainer: {error}\n"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("resnet50", 64), ("vit_b_16", 64)])
def test_torchvisions_networks_are_exported_from_a_file_of_weights(name: str, size: int, tmp_path: Path) -> None:
    """The file is as torchvision's own: the whole network with its classifier, here untrained."""
    from trainer.backbones._torchvision import untrained

    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    torch.save(untrained(name, **options).state_dict(), tmp_path / "own.pth")
    recipe = FirstModel(backbone=name, weights=tmp_path / "own.pth", image_size=size)
    published = publish_first_model(tmp_path / "models", recipe)
    assert published.manifest.source["weights"].startswith("own.pth, sha256 ")
    assert backbones.find(name).width >= 512
    embeddings = answers(published, random_images(3, size))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    assert os.listdir(tmp_path / "models") == [published.folder.name]
