"""How fast image tokens are drawn on a CPU: `python -m benchmarks.dalle_decode`.

Three sides draw from networks of the same shape, with random weights, in the same process, one
after the other in every round, each at its best number of threads:

    ours        the cache of `pipelines.dalle.cache`, one token at a time
    recompute   the same modules, one pass over all positions for each token, without a cache; timed
                at some positions of the sequence, and summed up over all of them
    gpt2        transformers' GPT-2 by `generate` with its static cache

Printed are tokens per second, medians of the rounds' ratios, which share of the memory's bandwidth
ours uses (what it must read for a step, over the time, over what reading alone reaches), and how
memory grows with the candidates.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipelines.dalle.cache import advance, bytes_per_candidate, plan_slots, prefill
from pipelines.dalle.masks import paper_masks
from pipelines.dalle.token_sampling import draw_tokens
from pipelines.dalle.transformer import Transformer, TransformerConfig
from pipelines.runtime.cpu import speed_up

SHAPE = TransformerConfig(
    grid=16,
    image_vocabulary=8192,
    text_length=32,
    text_vocabulary=1024,
    width=512,
    heads=8,
    masks=paper_masks(12),
)
QUICK = replace(SHAPE, grid=4, image_vocabulary=64, width=64, heads=2, masks=paper_masks(3))
TIMED_POSITIONS = 8  # of the recomputation


@dataclass(frozen=True)
class Sides:
    """Seconds that each side takes for all tokens of a batch, at its best number of threads."""

    ours: float
    recompute: float
    gpt2: float


@torch.inference_mode()
def draw_ours(network: Transformer, batch: int) -> None:
    """All tokens of `batch` candidates of one prompt."""
    config = network.config
    text, present, nothing = _prompt(config, 1)
    uniforms = torch.rand(batch, config.image_length)
    cache, logits = prefill(network, text, present, nothing, candidates=batch)
    tokens = draw_tokens(logits.expand(batch, -1), uniforms[:, 0], 1.0)
    for position in range(1, config.image_length):
        logits = advance(network, cache, tokens, position - 1)
        tokens = draw_tokens(logits, uniforms[:, position], 1.0)


@torch.inference_mode()
def draw_by_recomputing(network: Transformer, batch: int) -> float:
    """Seconds for all tokens, from the mean over evenly spread positions."""
    config = network.config
    text, present, _ = _prompt(config, batch)
    image = torch.zeros(batch, config.image_length, dtype=torch.int64)
    step = max(1, config.image_length // TIMED_POSITIONS)
    seconds = []
    for position in range(step // 2, config.image_length, step):
        begin = perf_counter()
        x = torch.cat(
            [network.embed_text(text, present), network.embed_image(image[:, :position])], dim=1
        )
        for mask, layer in zip(config.masks, network.blocks(), strict=True):
            x = layer(x, network.visible(mask, text.shape[1], position), None, network.kernel)
        logits = network.image_logits(network.norm(x[:, -1]))
        draw_tokens(logits, torch.rand(batch), 1.0)
        seconds.append(perf_counter() - begin)
    return statistics.mean(seconds) * config.image_length


def draw_by_gpt2(network: GPT2LMHeadModel, config: TransformerConfig, batch: int) -> None:
    """Draw the same numbers of text and image tokens, sampled without filters."""
    text = torch.ones(batch, config.text_length, dtype=torch.int64)  # 0 is padding
    network.generate(
        text,
        attention_mask=torch.ones_like(text),
        do_sample=True,
        top_k=0,
        max_new_tokens=config.image_length,
        min_new_tokens=config.image_length,
        cache_implementation="static",
        disable_compile=True,
    )


def _prompt(config: TransformerConfig, batch: int) -> tuple[torch.Tensor, ...]:
    text = torch.zeros(batch, config.text_length, dtype=torch.int64)
    nothing = torch.zeros(batch, 0, dtype=torch.int64)
    return text, torch.ones_like(text, dtype=torch.bool), nothing


def gpt2_of(config: TransformerConfig) -> GPT2LMHeadModel:
    """Return a GPT-2 of equal shape."""
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.text_outputs + config.image_vocabulary,
            n_positions=config.length,
            n_embd=config.width,
            n_layer=len(config.masks),
            n_head=config.heads,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    return network.eval()


def best_of_threads(run: Callable[[], float], threads: list[int]) -> tuple[float, int]:
    """Return the fewest seconds over numbers of threads, and that number."""
    results = []
    for number in threads:
        torch.set_num_threads(number)
        results.append((run(), number))
    return min(results)


def timed(run: Callable[[], None]) -> float:
    """Seconds of one call."""
    begin = perf_counter()
    run()
    return perf_counter() - begin


def compare(
    config: TransformerConfig, batch: int, rounds: int, threads: list[int]
) -> tuple[list[Sides], dict[str, int]]:
    """Every side's seconds in each round, and the numbers of threads that suit them."""
    torch.manual_seed(0)
    network = Transformer(config).eval().requires_grad_(False)
    speed_up([network])  # as `pipelines.checkpoints.loading` does with what it loads
    peer = gpt2_of(config)
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: timed(lambda: draw_ours(network, batch)),
        "recompute": lambda: draw_by_recomputing(network, batch),
        "gpt2": lambda: timed(lambda: draw_by_gpt2(peer, config, batch)),
    }
    suits = {name: best_of_threads(run, threads)[1] for name, run in sides.items()}  # and warms up
    results = []
    for _ in range(rounds):
        seconds = {name: best_of_threads(run, [suits[name]])[0] for name, run in sides.items()}
        results.append(Sides(**seconds))
    return results, suits


def bytes_read(config: TransformerConfig, batch: int) -> float:
    """Return what a step of ours cannot do without reading, on average: the weights of the layers
    and of the image half of the head, the shared text, and the image positions that are seen."""
    with torch.device("meta"):
        network = Transformer(config)
    weights = sum(p.numel() for layer in network.blocks() for p in layer.parameters())
    weights += config.image_vocabulary * config.width
    text = 2 * len(config.masks) * config.text_length * config.width
    slots = [plan_slots(m, config.grid, config.reach, torch.device("cpu")) for m in config.masks]
    seen = [torch.arange(s.count)[which].numel() for s in slots for which in s.seen]
    return 4 * (weights + text + 2 * config.width * batch * sum(seen) / config.image_length)


def bandwidth(threads: int, megabytes: int = 512) -> float:
    """Bytes per second that reading alone reaches."""
    torch.set_num_threads(threads)
    block = torch.ones(megabytes * 2**20 // 4)
    return block.nbytes / min(timed(lambda: block.sum()) for _ in range(5))


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dalle_decode", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 32], help="tokens a side")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it run?")
    arguments = parser.parse_args(argv)
    shape = QUICK if arguments.quick else SHAPE
    grids = [shape.grid] if arguments.quick else arguments.grids
    cores = torch.get_num_threads()
    threads = sorted({1, cores})
    reached = bandwidth(cores, 8 if arguments.quick else 512)
    print(f"reading alone: {reached / 1e9:.1f} GB/s with {cores} threads")
    for grid in grids:
        config = replace(shape, grid=grid)
        for batch in arguments.batches:
            results, suits = compare(config, batch, arguments.rounds, threads)
            print(f"\n{config.image_length} image tokens, batch {batch}, threads {suits}")
            _tell(results, config, batch, reached)
        each = bytes_per_candidate(config)
        dense = 2 * len(config.masks) * config.image_length * config.width * 4
        print(f"\ncache of 64 candidates: 64 x {each / 1e6:.2f} MB = {64 * each / 1e6:.1f} MB")
        print(f"  {64 * dense / 1e6:.1f} MB if it were dense; measured: {_measured(config, 64)}")
    return 0


def _tell(results: list[Sides], config: TransformerConfig, batch: int, reached: float) -> None:
    drawn = batch * config.image_length
    for name in ("ours", "recompute", "gpt2"):
        seconds = statistics.median(getattr(result, name) for result in results)
        print(f"  {name:10}{drawn / seconds:10.1f} tokens/s")
    for name in ("recompute", "gpt2"):
        ratio = statistics.median(getattr(result, name) / result.ours for result in results)
        print(f"  {ratio:.2f} times as fast as {name}")
    seconds = statistics.median(result.ours for result in results)
    read = bytes_read(config, batch) * config.image_length / seconds
    print(f"  {read / 1e9:.1f} GB/s read, {read / reached:.0%} of the memory's bandwidth")


def _measured(config: TransformerConfig, candidates: int) -> str:
    """How much the tensors of a cache grow from one candidate to many."""
    torch.manual_seed(0)
    network = Transformer(config).requires_grad_(False)
    sizes = [
        prefill(network, *_prompt(config, 1), candidates=number)[0] for number in (1, candidates)
    ]
    one, many = (cache.own_bytes + cache.shared_bytes for cache in sizes)
    return f"{(many - one) / (candidates - 1) / 1e6:.2f} MB for each further candidate"


if __name__ == "__main__":
    raise SystemExit(main())
