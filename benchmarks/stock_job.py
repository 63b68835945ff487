"""The main job as one writes it with diffusers, transformers and PIL alone.

This is the peer that benchmarks/main_job.py measures against. As a script it does one job:

    python -m benchmarks.stock_job MODEL RERANKER "a panda" --out pictures
"""

import argparse
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer


class StockJob:
    """The stock pipeline and the stock CLIP, loaded."""

    def __init__(self, model: Path, reranker: Path) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        pipeline = StableDiffusionPipeline.from_pretrained(
            model, dtype=dtype, safety_checker=None, local_files_only=True
        )
        config = pipeline.scheduler.config
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline.to(self.device)
        clip = CLIPModel.from_pretrained(reranker, local_files_only=True)
        self.clip = clip.eval().to(self.device)
        self.processor = CLIPProcessor(
            CLIPImageProcessorPil.from_pretrained(reranker, local_files_only=True),
            CLIPTokenizer.from_pretrained(reranker, local_files_only=True),
        )

    @torch.inference_mode()
    def draw(
        self,
        prompt: str,
        out: Path,
        *,
        seed: int,
        candidates: int,
        top_k: int,
        batch: int,
        steps: int,
        guidance: float,
    ) -> None:
        """Draw the candidates, `batch` at a time, and save the `top_k` best as PNG."""
        seeds = range(seed, seed + candidates)
        images = []
        for start in range(0, candidates, batch):
            generators = [torch.Generator().manual_seed(s) for s in seeds[start : start + batch]]
            drawn = self.pipeline(
                prompt,
                num_images_per_prompt=len(generators),
                generator=generators,
                num_inference_steps=steps,
                guidance_scale=guidance,
            )
            images += drawn.images
        inputs = self.processor(
            text=[prompt], images=images, return_tensors="pt", padding=True, truncation=True
        )
        scores = self.clip(**inputs.to(self.device)).logits_per_text[0]
        for rank, index in enumerate(scores.topk(top_k).indices.tolist(), start=1):
            images[index].save(out / f"{seeds[index]}-r{rank}.png")


def main() -> None:
    """One job from nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("reranker", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    StockJob(options.model, options.reranker).draw(
        options.prompt,
        options.out,
        seed=options.seed,
        candidates=options.candidates,
        top_k=options.top_k,
        batch=options.batch,
        steps=options.steps,
        guidance=options.guidance,
    )


if __name__ == "__main__":
    main()
