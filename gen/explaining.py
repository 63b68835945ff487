"""What the scores of a prompt's best images mean: how likely each matches, and claim by claim."""

import math
from contextlib import suppress

from gen.engine import Engine, Outcome
from gen.errors import InputError
from gen.image_prompts import go_by_images
from gen.models import WeightsError
from gen.result import CheckedClaim
from gen.run_folder.folder import RunFolder
from rerank.calibration import FILE


def check_explanations(engine: Engine, *, calibrate: bool, claims: bool) -> None:
    """Raise InputError or WeightsError for what `explain` could not do. Loads nothing."""
    if not calibrate and not claims:
        return
    spec = engine.reranker_spec()
    if spec is None:
        raise InputError("--calibrate and --claims need a reranker: name one with --reranker")
    if calibrate and not (spec.folder / FILE).is_file():
        raise WeightsError(
            f"{spec.name} has no {FILE}, which says what its scores mean: leave --calibrate out, "
            "or make one with `rerank calibrate`"
        )


def explain(
    outcome: Outcome,
    engine: Engine,
    folder: RunFolder | None = None,
    *,
    calibrate: bool = True,
    claims: bool = True,
) -> None:
    """Give the best images of a prompt their match, percentile and claims.

    By the first reranker; the run folder is told how likely they match. Raises WeightsError where
    that reranker is not calibrated, after the claims.
    """
    if not (calibrate or claims):
        return  # before any image is read
    images = {place: image for place, r in enumerate(outcome.best) if (image := r.open())}
    if not images:
        return
    reranker, prompt = engine.load_reranker(), outcome.plan.words
    encoded = reranker.encode(list(images.values()))
    results = [outcome.best[place] for place in images]
    if claims:
        for result, checked in zip(results, reranker.check(prompt, encoded), strict=True):
            result.claims = tuple(
                CheckedClaim(each.claim.kind, each.claim.text, each.holds)
                for each in checked.results
            )
            result.fits_best = checked.corrected
    if calibrate:
        for result, meaning in zip(results, reranker.calibrated(prompt, encoded), strict=True):
            if math.isfinite(meaning.probability):
                result.match, result.percentile = meaning.probability, meaning.percentile
        known = {result.seed: result.match for result in results if result.match is not None}
        if folder is not None and outcome.number is not None and known:
            folder.note_matches(outcome.number, known)


def explain_what_is_known(outcome: Outcome, engine: Engine, folder: RunFolder) -> None:
    """Do what `explain` does, as far as there is a reranker, and a calibration of it.

    What goes by images, not by the prompt, has no match.
    """
    if engine.reranker_spec() is None:
        return
    with suppress(WeightsError):
        by_words = not go_by_images(outcome.plan.request)
        explain(outcome, engine, folder, calibrate=by_words)
