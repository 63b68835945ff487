"""Prompts in chunks and with weights, against the text encoder called by hand."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.text import MOST_MOVED, Text

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONTEXT = 32


@pytest.fixture
def text(pipeline: LatentDiffusion) -> Text:
    return pipeline.text


def by_hand(text: Text, ids: list[int]) -> torch.Tensor:
    [reader] = text.readers
    bos, eos = reader.tokenizer.bos_token_id, reader.tokenizer.eos_token_id
    row = [bos, *ids, *[eos] * (CONTEXT - 1 - len(ids))]
    with torch.inference_mode():
        return reader.encoder(torch.tensor([row])).last_hidden_state


def ids_of(text: Text, prompt: str) -> list[int]:
    return text.readers[0].tokenizer(prompt, add_special_tokens=False).input_ids


def test_short_prompts_are_read_as_ever(text: Text) -> None:
    assert torch.equal(text.encode("a panda").hidden, by_hand(text, ids_of(text, "a panda")))
    assert text.encode("a panda").pooled is None


def test_long_prompts_are_read_in_chunks(text: Text) -> None:
    ids = ids_of(text, "panda " * 70)
    chunks = [by_hand(text, ids[i : i + CONTEXT - 2]) for i in range(0, 70, CONTEXT - 2)]
    hidden = text.encode("panda " * 70).hidden
    assert hidden.shape == (1, 3 * CONTEXT, 32)
    assert torch.allclose(hidden, torch.cat(chunks, dim=1), atol=1e-5)
    assert text.dropped("panda " * 70) == ""


def test_a_break_begins_a_chunk(text: Text) -> None:
    expected = [by_hand(text, ids_of(text, word)) for word in ("panda", "apple")]
    hidden = text.encode("panda BREAK apple").hidden
    assert torch.allclose(hidden, torch.cat(expected, dim=1), atol=1e-5)


def test_weights_scale_their_tokens_and_keep_the_mean(text: Text) -> None:
    ids = ids_of(text, "a panda")
    states = by_hand(text, ids)
    factors = torch.ones(CONTEXT)
    factors[2] = 1.3  # after the mark of the beginning and "a"
    scaled = states * factors[:, None]
    expected = scaled * states.mean() / scaled.mean()
    hidden = text.encode("a (panda:1.3)").hidden
    assert torch.allclose(hidden, expected, atol=1e-5)
    assert torch.allclose(hidden.mean(), states.mean(), atol=1e-6)
    assert torch.equal(text.encode("a (panda:1)").hidden, states)


def test_brackets_are_signs_in_plain_prompts(text: Text) -> None:
    ids = ids_of(text, "a (panda)")
    assert torch.equal(text.encode("a (panda)", syntax="plain").hidden, by_hand(text, ids))


def test_the_shorter_prompt_is_stretched(pipeline: LatentDiffusion) -> None:
    settings: dict[str, Any] = {"seeds": [1], "guidance": 3.0, "steps": 2}
    condition = (
        pipeline.begin("panda " * 40, negative_prompt="blue", **settings)._passes[0].conditions[0]
    )
    assert condition.negative is not None
    assert condition.negative.hidden.shape == condition.texts[0].hidden.shape == (1, 64, 32)
    silence = pipeline.text.encode("").hidden
    assert torch.equal(condition.negative.hidden[:, CONTEXT:], silence)
    pipeline.begin("panda " * 40, negative_prompt="blue", **settings).step(2)


def test_a_model_of_one_chunk_says_what_it_drops(text: Text) -> None:
    short = Text(text.readers, CONTEXT, CPU, pooled=False)
    assert short.token_count("a panda") == 4
    assert short.token_count("") == 2
    words = ["panda"] * 30
    assert short.dropped(" ".join(words)) == ""
    assert short.dropped(" ".join([*words, "Left  of", "é!"])) == "Left  of é!"
    assert short.dropped(" ".join([*words, "(Left:2) of"])) == "Left of"
    assert short.dropped("a BREAK panda") == "panda"
    kept = short.encode(" ".join(words)).hidden
    assert torch.equal(kept, short.encode(" ".join([*words, "red"])).hidden)


def test_pooled_vector_is_that_of_the_end(
    make_diffusion_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """With learned words, whose numbers are higher than that of the end."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from pipelines.checkpoints.loading import load_tokenizer
    from pipelines.diffusion.networks import Reader

    folder = make_diffusion_folder(tmp_path / "model")
    tokenizer = load_tokenizer(folder / "tokenizer")
    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer) + 1,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            projection_dim=8,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    words = {"cat": ((len(tokenizer),),)}
    text = Text([Reader(tokenizer, encoder)], CONTEXT, CPU, pooled=True, words=words)
    ids = [tokenizer.bos_token_id, len(tokenizer), *[tokenizer.eos_token_id] * (CONTEXT - 2)]
    with torch.inference_mode():
        expected = encoder(torch.tensor([ids])).text_embeds
    pooled = text.encode("cat").pooled
    assert pooled is not None
    assert torch.allclose(pooled, expected, atol=1e-6)


def ids_of_chunks(text: Text, prompt: str) -> list[list[int]]:
    return [[token.id for token in chunk] for chunk in text._chunks(0, prompt, "a1111")]


def cut_at_commas(ids: list[int], comma: int, room: int, most: int) -> list[list[int]]:
    """Cut tokens where AUTOMATIC1111's web UI does, from its rule: a full chunk ends behind its
    last comma, unless that is more than `most` tokens before its end or a comma comes next."""
    if len(ids) <= room:
        return [ids]
    commas = [i for i in range(room) if ids[i] == comma]
    moves = ids[room] != comma and commas != [] and room - commas[-1] <= most
    end = commas[-1] + 1 if moves else room
    return [ids[:end], *cut_at_commas(ids[end:], comma, room, most)]


def test_long_prompts_are_cut_at_commas(text: Text) -> None:
    chance, [comma] = random.Random(3), ids_of(text, ",")
    moved = 0
    for _ in range(300):
        words = [chance.choice(["red"] * chance.randint(1, 12) + [","]) for _ in range(90)]
        ids = ids_of(text, " ".join(words))
        expected = cut_at_commas(ids, comma, CONTEXT - 2, MOST_MOVED)
        assert ids_of_chunks(text, " ".join(words)) == expected
        moved += any(len(chunk) < CONTEXT - 2 for chunk in expected[:-1])
    assert moved > 100


def test_what_follows_a_comma_stays_together(text: Text) -> None:
    [comma], [red], [blue] = (ids_of(text, word) for word in (",", "red", "blue"))
    room = CONTEXT - 2
    found = ids_of_chunks(text, "red " * (room - 6) + ", " + "blue " * 8)
    assert found == [[*[red] * (room - 6), comma], [blue] * 8]
    assert [len(c) for c in ids_of_chunks(text, "red, " + "blue " * room)] == [room, 2]
    short = Text(text.readers, CONTEXT, CPU, pooled=False)  # reads the first chunk alone
    assert len(ids_of_chunks(short, "red " * (room - 6) + ", " + "blue " * 8)[0]) == room


def test_breaks_at_the_ends_of_a_prompt(text: Text) -> None:
    red = ids_of(text, "red")
    assert ids_of_chunks(text, "red BREAK ") == [red]
    assert ids_of_chunks(text, "BREAK red") == [[], red]
    assert ids_of_chunks(text, "red BREAK BREAK red") == [red, [], red]
    assert ids_of_chunks(text, "BREAK") == [[]]
    assert ids_of_chunks(text, "(red BREAK red:1.2)") == [red, red]  # a word in the web UI


def test_a_learned_word_is_not_torn(text: Text) -> None:
    words = {"style": ((500, 501, 502),), "long": (tuple(range(500, 540)),)}
    learned = Text(text.readers, CONTEXT, CPU, pooled=False, long=True, words=words)
    room, red = CONTEXT - 2, ids_of(text, "red")
    assert ids_of_chunks(learned, "red " * (room - 2) + "style") == [
        red * (room - 2),
        [500, 501, 502],
    ]
    assert [len(chunk) for chunk in ids_of_chunks(learned, "long")] == [room, 10]
