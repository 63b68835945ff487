"""Make the choices of a template: those of a seed, or all of them."""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import cast

from dynamicprompts.commands import (
    Command,
    LiteralCommand,
    SequenceCommand,
    VariantCommand,
    VariantOption,
    WildcardCommand,
    WrapCommand,
)
from dynamicprompts.commands.variable_commands import (
    VariableAccessCommand,
    VariableAssignmentCommand,
)
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.samplers import CombinatorialSampler, RandomSampler
from dynamicprompts.samplers.base import Sampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.sampling_result import SamplingResult
from dynamicprompts.types import ResultGen
from dynamicprompts.utils import rotate_and_join
from dynamicprompts.wildcards import WildcardManager

from gen.errors import InputError
from gen.settings.templates.folder import NoWildcards, read_folder
from gen.settings.templates.grammar import parse
from pipelines.settings import MAX_TEXT

MOST_CHOICES = 1000  # in one prompt: files that name each other would go on without end
MOST_COMBINATIONS = 1000
COMMANDS_EACH = 100  # that making one combination may take, on average
UNCOUNTED = 10**12  # combinations: more are only said to be more


def expand(template: str, seed: int, folder: Path | None = None) -> str:
    """Return a prompt with all choices made, always the same for a seed.

    Without a `folder` of wildcards their signs stay as they are. Raises InputError for choices that
    cannot be made, and for those that have no end.
    """
    context = _Context(
        SamplingMethod.RANDOM,
        _wildcards(template, folder),
        samplers=_samplers(seed),
        rand=Random(seed),
        budget=_Budget(MOST_CHOICES),
    )
    with _limits():
        made = next(iter(context.sample_prompts(parse(template))), None)
    return _checked("" if made is None else str(made))


def combinations(template: str, folder: Path | None = None) -> list[str]:
    """Return the prompts of all combinations of a template's choices, in order, each once.

    Choices that are marked as random (`~`) or in turn (`@`) go along with the others. Raises
    InputError, which says how many there would be, for more than MOST_COMBINATIONS.
    """
    context = _Context(
        SamplingMethod.COMBINATORIAL,
        _wildcards(template, folder),
        samplers=_samplers(0),
        rand=Random(0),
        budget=_Budget(MOST_CHOICES),
    )
    with _limits():
        command = parse(template)
        number = _count(command, context)
        if number > MOST_COMBINATIONS:
            raise InputError(
                f"prompt: its choices make {_shown(number)} prompts, at most {MOST_COMBINATIONS} "
                "are made of one; leave some out, or draw some of them by their seeds"
            )
        context = replace(context, budget=_Budget(MOST_COMBINATIONS * COMMANDS_EACH))
        made = [_checked(str(result)) for result in context.sample_prompts(command)]
        if not made:
            raise StopIteration
    return list(dict.fromkeys(made))


@dataclass
class _Budget:
    """How many choices may still be made."""

    left: int

    def spend(self, command: Command) -> None:
        """Count a command in."""
        self.left -= not isinstance(command, LiteralCommand | SequenceCommand)
        if self.left < 0:
            raise InputError(f"prompt: more than {MOST_CHOICES} choices")


@dataclass(frozen=True)
class _Context(SamplingContext):
    """What the samplers of dynamicprompts share, with a budget, and our reading of lines."""

    budget: _Budget = field(default_factory=lambda: _Budget(MOST_CHOICES))

    def generator_from_command(self, command: Command) -> ResultGen:
        self.budget.spend(command)
        if isinstance(command, VariableAssignmentCommand):  # which is made within a sequence
            command = SequenceCommand([command])
        return super().generator_from_command(command)

    def sample_prompts(
        self, prompt: str | Command, num_prompts: int | None = None
    ) -> Iterator[SamplingResult]:
        command = parse(prompt) if isinstance(prompt, str) else prompt
        if self.default_sampling_method == SamplingMethod.COMBINATORIAL:
            command = _whole(command)
        return itertools.islice(self.generator_from_command(command), num_prompts)

    def process_variable_assignments(
        self, commands: Iterable[Command]
    ) -> tuple[list[Command], SamplingContext]:
        """Let `?=` keep what was set earlier in the same text, too, not only around it."""
        kept, names = [], set()
        for command in commands:
            if isinstance(command, VariableAssignmentCommand):
                if not command.overwrite and command.name in names:
                    continue
                names.add(command.name)
            kept.append(command)
        return super().process_variable_assignments(kept)


class _InTurn(Sampler):
    """One option after the other, beginning with the one whose number is the seed.

    That of dynamicprompts begins with the first each time, and never ends where there is none.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _get_variant(self, command: VariantCommand, context: SamplingContext) -> ResultGen:
        command = _with_lines(command, context).adjust_range()
        bounds = range(command.min_bound, command.max_bound + 1)
        found = (chosen for k in bounds for chosen in command.get_value_combinations(k))
        options = list(itertools.islice(found, MOST_CHOICES))
        if not options:
            raise InputError(f"prompt: no {command.min_bound} different options to choose from")
        # A turn within a turn goes on when the outer one is through: {@a|{@b|c}} is a, b, a, c.
        inner = replace(context, samplers=_samplers(self.seed // len(options)))
        turns = [[inner.generator_from_command(value) for value in chosen] for chosen in options]
        for i in itertools.count(self.seed):
            yield rotate_and_join(turns[i % len(turns)], separator=command.separator)

    def _get_wildcard(self, command: WildcardCommand, context: SamplingContext) -> ResultGen:
        return self._get_variant(
            VariantCommand([VariantOption(command)]), context.with_variables(command.variables)
        )

    def _get_wrap(self, command: WrapCommand, context: SamplingContext) -> ResultGen:
        around = context.generator_from_command(command.wrapper)
        for outer, inner in zip(
            around, context.generator_from_command(command.inner), strict=False
        ):
            yield outer.as_wrapper()(inner)


class _AtRandom(RandomSampler):
    """Options by their weights, none twice."""

    def _get_variant(self, command: VariantCommand, context: SamplingContext) -> ResultGen:
        return super()._get_variant(_with_lines(command, context), context)

    def _get_variant_choices(
        self, values: list[Command], weights: list[float], num_choices: int, rand: Random
    ) -> list[Command]:
        """Choose by number: that of dynamicprompts confuses options that are equal, or weights."""
        left = list(range(len(values)))
        chosen = []
        for _ in range(num_choices):
            of_left = [weights[i] for i in left]
            if sum(of_left) <= 0:
                break
            [i] = rand.choices(left, of_left)
            left.remove(i)
            chosen.append(values[i])
        return chosen


class _All(CombinatorialSampler):
    """Every combination of options, and every line once, whatever its weight."""

    def _get_variable(self, command: VariableAccessCommand, context: SamplingContext) -> ResultGen:
        value = context.variables.get(command.name, command.default)
        endless = value is not None and _is_endless(value)
        results = super()._get_variable(command, context)
        yield from itertools.islice(results, 1 if endless else None)

    def _get_variant(self, command: VariantCommand, context: SamplingContext) -> ResultGen:
        return super()._get_variant(_with_lines(command, context), context)

    def _get_wildcard(self, command: WildcardCommand, context: SamplingContext) -> ResultGen:
        inner = context.with_variables(command.variables)
        for line in _lines(command, context):
            yield from inner.sample_prompts(line.value)


def _count(command: Command | None, context: _Context) -> int:
    """Return how many combinations a command has; those that come to the same text count twice."""
    match command:
        case SequenceCommand():
            tokens, inner = context.process_variable_assignments(command.tokens)
            return math.prod(_count(token, cast(_Context, inner)) for token in tokens)
        case VariantCommand() if command.sampling_method in (None, SamplingMethod.COMBINATORIAL):
            return _count_choice(_with_lines(command, context).adjust_range(), context)
        case WildcardCommand() if command.sampling_method in (None, SamplingMethod.COMBINATORIAL):
            inner = context.with_variables(command.variables)
            context.budget.spend(command)
            return sum(
                _count(line.value, cast(_Context, inner)) for line in _lines(command, context)
            )
        case WrapCommand():
            return _count(command.wrapper, context) * _count(command.inner, context)
        case VariableAccessCommand():
            context.budget.spend(command)
            value = context.variables.get(command.name, command.default)
            inner = context.for_sampling_variable(command.name)
            return _count(value, cast(_Context, inner))
    return 1


def _count_choice(command: VariantCommand, context: _Context) -> int:
    """Return the number of ordered choices: k! times the k-th elementary symmetric polynomial."""
    ways = [1] + [0] * command.max_bound  # to choose k of the options so far, in one order
    for option in command.variants:
        number = _count(option.value, context)
        for k in range(command.max_bound, 0, -1):
            ways[k] = min(ways[k] + ways[k - 1] * number, UNCOUNTED)
    bounds = range(command.min_bound, command.max_bound + 1)
    return sum(math.factorial(min(k, 20)) * ways[k] for k in bounds)


def _is_endless(command: Command) -> bool:
    """Whether a command always has another value: it is marked as random or as in turn."""
    return command.sampling_method in (SamplingMethod.RANDOM, SamplingMethod.CYCLICAL)


def _whole(command: Command) -> SequenceCommand:
    """Return a sequence, which ends where its only part would go on without end."""
    return command if isinstance(command, SequenceCommand) else SequenceCommand([command])


def _samplers(seed: int) -> dict[SamplingMethod, Sampler]:
    return {
        SamplingMethod.RANDOM: _AtRandom(),
        SamplingMethod.COMBINATORIAL: _All(),
        SamplingMethod.CYCLICAL: _InTurn(seed),
    }


def _with_lines(command: VariantCommand, context: SamplingContext) -> VariantCommand:
    """Return the choice with the lines of a wildcard as its options, where that is all it has."""
    only = command.values[0] if len(command.values) == 1 else None
    if not isinstance(only, WildcardCommand) or isinstance(context.wildcard_manager, NoWildcards):
        return command
    return replace(command, variants=_lines(only, context))


def _lines(command: WildcardCommand, context: SamplingContext) -> list[VariantOption]:
    """Return the lines that a wildcard means, each with its weight."""
    name = str(next(iter(context.sample_prompts(command.wildcard, 1))))
    values = context.wildcard_manager.get_values(name)
    if len(values) == 0:  # there is no folder: it stays as it is
        return [VariantOption(LiteralCommand(context.wildcard_manager.to_wildcard(name)))]
    return [VariantOption(parse(str(v)), getattr(v, "weight", 1.0)) for v in values.items]


def _wildcards(template: str, folder: Path | None) -> WildcardManager:
    return read_folder(folder) if folder is not None and "__" in template else NoWildcards()


@contextmanager
def _limits() -> Iterator[None]:
    """Raise InputError for what the samplers cannot make of a template."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that {!a|b} is at random within a random prompt
            yield
    except RecursionError as error:
        raise InputError("prompt: its choices name each other without end") from error
    except (StopIteration, RuntimeError) as error:  # the latter where a generator met the former
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, StopIteration):
            raise
        raise InputError("prompt: a choice has fewer different options than it asks for") from error
    except KeyError as error:
        reason = str(error.args[0]).removesuffix(" is not defined in this context")
        name = reason.removeprefix("Variable ")
        raise InputError(f"prompt: ${{{name}}} was not set; ${{{name}=...}} sets it") from error


def _checked(made: str) -> str:
    made = made.strip()
    if len(made) > MAX_TEXT:
        raise InputError(f"prompt: its choices come to more than {MAX_TEXT} characters")
    return made


def _shown(number: int) -> str:
    return f"{number:,}" if number < UNCOUNTED else "more than a trillion"
