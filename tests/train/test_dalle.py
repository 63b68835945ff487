"""The transformer's training, alone and in two processes, and the folder that comes out."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gen.cli import main as generate
from pipelines import families
from pipelines.checkpoints.specs import CHECKPOINTS
from pipelines.dalle.dvae import DiscreteVae, DvaeConfig, TowerConfig
from pipelines.dalle.masks import Mask
from pipelines.dalle.pipeline import Dalle
from train.configs import CONFIGS
from train.dalle import CodePool, DalleRecipe, DalleTask, build, tokenize
from train.loop import STATE, Progress, Schedule, Task, learning_rate, train
from train.muon import Muon
from train.shipping import ship
from train.stickers.facts import describe, holds
from train.stickers.renderer import render
from train.tokenizer import CONTEXT, save_tokenizer, train_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = DalleRecipe(width=32, heads=2, masks=(Mask.ROW, Mask.FULL), pool=48)
SCHEDULE = Schedule(batch_size=8, learning_rate=5e-3, warmup_steps=2, steps=12, ema_decay=0.8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("run") / "tokenizer"
    save_tokenizer(train_tokenizer(), folder)
    return CLIPTokenizer.from_pretrained(folder)


def make_task(
    tokenizer: CLIPTokenizer, recipe: DalleRecipe = TINY, cache: Path | None = None
) -> DalleTask:
    torch.manual_seed(0)
    dvae = DiscreteVae(
        DvaeConfig(
            vocabulary=64,
            size=64,
            code_width=8,
            first_kernel=1,
            encoder=TowerConfig(widths=(16,), blocks=1, kernel=1, patch=8),
            decoder=TowerConfig(widths=(16,), blocks=1, patch=8),
        )
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return DalleTask(recipe, dvae, text_encoder, tokenizer, cache)


@pytest.fixture(scope="module")
def run(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole training of a few steps."""
    run = tmp_path_factory.mktemp("run")
    shutil.copytree(tokenizer.name_or_path, run / "tokenizer")
    task = make_task(tokenizer)
    batch = task.batch(random.Random(7), 16, CPU)
    before = task(batch, torch.Generator())["loss"].item()
    train(task, SCHEDULE, run / "dalle")
    assert task(batch, torch.Generator())["loss"].item() < before - 0.2
    return run


@pytest.fixture(scope="module")
def shipped(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shipped")
    [folder] = ship(run, out, out)
    return folder


def test_training_leaves_log_plot_and_sheet(run: Path) -> None:
    line = json.loads((run / "dalle" / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 12
    assert {"loss", "image", "right"} < line.keys()
    assert (run / "dalle" / "loss.png").is_file()
    assert list((run / "dalle").glob("sheet-*.png"))


def test_the_shipped_folder_draws(shipped: Path, tmp_path: Path) -> None:
    """Half precision, all parts, the vocabulary; and the command knows the kind of folder."""
    assert shipped.name == "stickers-dalle"
    files = sorted(path.parent.name for path in shipped.rglob("*.safetensors"))
    assert files == ["dvae", "text_encoder", "transformer"]
    for path in shipped.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    words = ["a panda", "-m", str(shipped), "--reranker", "none", "--candidates", "2", "-q"]
    assert generate([*words, "--seed", "1", "--device", "cpu", "-o", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("0001-*.png"))) == 2
    assert json.loads((shipped / "vocabulary.json").read_text())["nouns"]


def test_a_text_encoder_that_another_has_is_not_shipped_twice(
    run: Path, shipped: Path, tmp_path: Path
) -> None:
    model, other = tmp_path / "stickers-dalle", tmp_path / "other"
    model.mkdir()
    shared = {part: f"../other/{part}" for part in ("text_encoder", "tokenizer")}
    (model / "salon.json").write_text(json.dumps({"shared": shared}))
    for part in shared:
        (other / part).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is not the same as"):
        ship(run, tmp_path, tmp_path)
    for part in shared:
        shutil.copytree(shipped / part, other / part, dirs_exist_ok=True)
    assert ship(run, tmp_path, tmp_path) == [model]
    assert sorted(path.name for path in model.iterdir() if path.is_dir()) == ["dvae", "transformer"]
    drawn = [Dalle.from_pretrained(each, "cpu")("a fox", seeds=[1]) for each in (model, shipped)]
    assert drawn[0] == drawn[1]


def test_the_task_draws_as_the_pipeline_does(shipped: Path, run: Path) -> None:
    """The sheets of training show what `generate` would."""
    pipeline = Dalle.from_pretrained(shipped, device="cpu")
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    task = make_task(tokenizer)
    task.frozen = (pipeline.dvae, pipeline.text_encoder)
    task.transformer = pipeline.transformer
    with torch.no_grad():
        [picture] = task.draw(["a panda"], seed=5, guidance=2.0)
    with pipeline.begin("a panda", seeds=[5], guidance=2.0) as draft:
        draft.step(draft.total)
        assert torch.equal(draft.pixels()[0], picture)


def test_shipping_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no trained diffusion"):
        ship(run, tmp_path, tmp_path, only="stickers")
    with pytest.raises(FileNotFoundError, match="holds no trained diffusion or clip or dalle"):
        ship(tmp_path, tmp_path, tmp_path)


def test_scenes_of_the_pool_have_their_own_codes(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    cache = tmp_path / "codes.safetensors"
    task = make_task(tokenizer, cache=cache)
    batch = task.batch(random.Random(0), 4, CPU)
    assert batch.codes.shape == (4, 64)
    assert task.pool is not None
    scene = task.pool.scenes[5]
    assert holds(describe(scene, random.Random(0)), scene)
    dvae = task.frozen[0]
    with torch.no_grad():
        assert torch.equal(dvae.encode(render([scene])).flatten(), task.pool.codes[5].long())
    again = CodePool(dvae, 48, True, cache)
    assert torch.equal(again.codes, task.pool.codes)
    with torch.no_grad():
        dvae.encoder.output.weight[0] += 1
    with pytest.raises(ValueError, match="codes of another discrete VAE or pool: remove it"):
        CodePool(dvae, 48, True, cache)


def test_captions_end_where_the_padding_begins(tokenizer: CLIPTokenizer) -> None:
    tokens, present = tokenize(tokenizer, ["a panda", ""])
    assert tokens.shape == present.shape == (2, CONTEXT)
    assert present.sum(dim=1).tolist() == [len(tokenizer("a panda").input_ids), 2]
    for row, here in zip(tokens, present, strict=True):
        assert row[here][-1] == tokenizer.eos_token_id
    task = make_task(tokenizer, replace(TINY, drop_captions=1.0))
    batch = task.batch(random.Random(0), 4, CPU)
    assert (batch.tokens == tokens[1]).all()


def test_text_tokens_in_the_stream_are_learned_too(tokenizer: CLIPTokenizer) -> None:
    task = make_task(tokenizer, replace(TINY, reads_hidden_states=False))
    batch = task.batch(random.Random(0), 4, CPU)
    figures = task(batch, torch.Generator())
    assert torch.allclose(figures["loss"], figures["text"] / 8 + figures["image"] * 7 / 8)
    figures["loss"].backward()
    assert task.transformer.text_embedding.weight.grad.abs().sum() > 0
    assert task.transformer.padding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_shipped_stays_small(name: str, tokenizer: CLIPTokenizer) -> None:
    recipe = CONFIGS[name]
    with torch.device("meta"):
        dvae = DiscreteVae(recipe.dvae.network)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=160, num_attention_heads=4, vocab_size=len(tokenizer))
        )
        transformer = build(recipe.dalle, dvae, text_encoder, tokenizer)
    sizes = [2 * sum(p.numel() for p in network.parameters()) for network in (dvae, transformer)]
    assert sizes[0] <= 3 * 2**20  # bytes in half precision
    assert sizes[1] <= 7 * 2**20
    spec = families.shipped()["stickers-dalle"]
    assert spec.folder == CHECKPOINTS / "stickers-dalle"
    assert spec.defaults["width"] == dvae.config.size
    assert spec.size_multiple == dvae.config.factor


# --- several processes ---

TWO_STEPS = replace(SCHEDULE, steps=2, batch_size=4)


def train_two_steps(tokenizer_folder: Path, out: Path) -> None:
    """What each process of the test below does."""
    torch.set_num_threads(1)
    train(make_task(CLIPTokenizer.from_pretrained(tokenizer_folder)), TWO_STEPS, out)


@pytest.fixture
def two_processes() -> list[dict[str, str]]:
    """The environments of two processes that find each other over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
    }
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def test_two_processes_train_on_the_mean_of_their_gradients(
    tokenizer: CLIPTokenizer, two_processes: list[dict[str, str]], tmp_path: Path
) -> None:
    """Against one process that goes through both processes' batches itself."""
    script = [sys.executable, __file__, tokenizer.name_or_path, str(tmp_path)]
    running = [
        subprocess.Popen(script, env=environment, stderr=subprocess.PIPE, text=True)
        for environment in two_processes
    ]
    ends = [(process.communicate(timeout=300)[1], process.returncode) for process in running]
    assert [code for _, code in ends] == [0, 0], ends[0][0] + ends[1][0]

    task = make_task(tokenizer)
    expected = two_steps_by_hand(task)
    found = load_file(tmp_path / STATE)
    for name, value in expected.items():
        assert torch.allclose(found[f"model.{name}"], value, atol=1e-5), name


def two_steps_by_hand(task: Task) -> dict[str, torch.Tensor]:
    optimizer = Muon(task, TWO_STEPS.learning_rate, weight_decay=TWO_STEPS.weight_decay)
    for step in range(2):
        for rank in range(2):
            rng = random.Random(f"{TWO_STEPS.seed}:{step}:0:{rank}")
            generator = torch.Generator().manual_seed(rng.getrandbits(63))
            batch = task.batch(rng, TWO_STEPS.batch_size, CPU)
            (task(batch, generator)["loss"] / 2).backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), TWO_STEPS.gradient_clip)
        rate = learning_rate(TWO_STEPS, Progress(step))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in task.named_parameters()}


def test_sharding_is_refused_where_it_would_be_ignored(
    tokenizer: CLIPTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs CUDA devices"):
        train(make_task(tokenizer), SCHEDULE, tmp_path)
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    train_two_steps(Path(sys.argv[1]), Path(sys.argv[2]))
