"""The templates of dynamicprompts' own tests and documents mean here what they mean there.

All of their combinations are compared with what the library itself lists, and what seeds choose
must be among those. Its parser, which is slow but its own, reads them for the comparison.
"""

import random
from pathlib import Path

import pytest
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.parse import parse as their_parse
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager

from gen.errors import InputError
from gen.settings.templates import combinations, expand
from gen.settings.templates.grammar import parse

FILES = {
    "animal.txt": "__animals/${genus:*}/*__",
    "animals/all-references.txt": "# here\n\n__mammals/canine__\n__mammals/feline__\n__mystical__",
    "animals/mammals/canine.txt": "dog\nwolf",
    "animals/mammals/feline.txt": "cat\ntiger",
    "animals/mystical.txt": "unicorn",
    "animals/reptiles/lizards.yaml": "- iguana\n- gecko",
    "animals/reptiles/snakes.txt": "python\ncobra",
    "cars.yaml": "cars:\n  porsche:\n    name: [Porsche]\n    types: [sports car]\n"
    "  john_deere:\n    name: [John Deere]\n    types: [tractor]",
    "colors-cold.txt": "# comment\nblue\ngreen",
    "colors-warm.txt": "# comment\nred\nyellow",
    "dupes.txt": "red\nblue\nblue\ngreen\nred",
    "flavors/pantry.json": '{"bitter": ["coffee", "dark chocolate"]}',
    "flavors/sour.txt": "grapefruit\nlemon",
    "flavors/sweet.txt": "# comment\nvanilla\nchocolate\nstrawberry",
    "invalid.yaml": "# the top has to be a list or a table\nhello",
    "pantry.yaml": "clothing: [T-shirt, Pants, Shoes]\nartists:\n  finnish: [Akseli, Eero]\n"
    "  moonbase: john madden\n  1234: 5678\n  flurp: 12345\n  flem: ''",
    "plush-toy.yaml": "- Cute ${animal} plush toy, soft lighting",
    "referencing-colors.txt": "__colors-warm__\n__colors-cold__",
    "season.txt": "summer\n{autumn|fall}\nwinter\nspring",
    "season_clothes.txt": "In ${season:summer}, I wear ${season:summer} shirts",
    "shapes.yaml": "- circle\n- square\n- triangle",
    "variant.txt": "{red|green}",
    "wrappers.txt": "Art Deco, ..., sleek\nPop Art, ....., vivid colors",
}
# What their tests and documents write; a line each, \n being a new line.
TEMPLATES = r"""
hello world
good-bye world
good_bye world
I, love. punctuation
Test änderō
Test [low emphasis]
Test [low emphasis:0.4]
Test (high emphasis)
Test (high emphasis:0.4)
Unmatched } bracket
A literal sentence
I love bread
[cat|dog]
[cat:dog:0.25]
{cat|dog}
{red|green|blue}
{new york|washing-ton!|änder}
{|red|blue}
{__colors-warm__|washington}
{My favourite colour is __colors-cold__ and not __colors-warm__|__colors-cold__ is my favourite}
{__colors-cold__|{__shapes__|washington}}
{1::cat|2::dog|3::bird} test
{0.2::cat|0.3::dog|0.4::bird} test
{1::cat|dog|3::bird} test
{2$$cat|dog|bird}
{1-2$$cat|dog|bird}
{1-3$$cat|dog|bird}
{-2$$cat|dog|bird}
{0-1$$a|b|c|d}
foo {0-1$$a|b|c|d}
foo {a|b|c|d}
{2$$ and $$cat|dog|bird}
I love {2$$|$$green|yellow|blue} roses
{2$$  $$cat|dog|bird}
{2$$cat|dog|bird}{3$$red|blue|green}
one\ntwo\nthree # comment\n# A comment\n{cat|dog|bird} # another\n__colors-cold__# another\nfive
{RED|GREEN|BLUE}
{A|B|C} {D|E|g}
__colors-cold__
__animals/mammals/canine__
__colors-cold__ __colors-cold__
,__colors-cold__
__colors-cold__ world
${animal = cat} the animal is ${animal:dog}
${animal ?= cat} the animal is ${animal:dog}
${animal =! cat} the animal is ${animal:dog}
${animal ?=! cat} the animal is ${animal:dog}
${animal=cat}the animal is ${animal:dog}
the animal is ${animal:dog}
${a =! foo}${a}
prefix,\n({0$$a|b} {1$$c|d|e}),\nsuffix
{2$$ 1| 2| 3} {2$$ 1| 2| 3}
prompt with closing bra}ce but {parsed|accepted}
{2$$__colors-cold__}
{\n# 60% A\n0.6::A\n|\n# 40% B\n0.4::B\n}
{1$$A|B|{2$$ and $$X|Y|Z}}
__animals/all-references__
{|hot,}{|summer,}{|blue sky,}
${animal={fox|manatee}} __plush-toy(animal=fox)__
__plush-toy(animal=fox)__
%{__wrappers__$${fox|cow}}
%{happy ... on a meadow$${fox|cow}}
%{happy … on a meadow$${fox|cow}}
%{happy ᠁ on a meadow$${fox|cow}}
%{happy ......... on a meadow$${fox|cow}}
%{happy $${fox|cow}}
%{... in jail$${fox|cow}}
%{ {cool|hot} ...$${fox|cow}}
A red {square|circle}
A {red|blue|} rose
A {red|green} {square|circle}
A {2$$red|green} {square|circle}
A {1-2$$red|green|blue} square
A {2$$|$$red|green|blue} square
A {1::red|2::green|3::blue} square
A {red|green {square|circle}}
A __colors-cold__ square
{__colors*__}
{2$$__colors*__|black}
A red {3$$square|circle}
(__colors*__:2.3)
{2$$ and $$A|B|C}
{2$$|$$A|B|C}
I love __flavors/sour__ and __flavors/sweet__
I saw a __animals/mammals/*__
I love {1-2$$red|green|blue}
__referencing-colors__
__variant__
__shapes__
__clothing__
__artists/finnish__
__artists/moonbase__
__flavors/*__
__flavors/bitter__
__dupes__
__color*__
wearing __colors-${temp:cold}__ suede shoes
${temp=cold}wearing __colors-${temp}__ suede shoes
${genus=mammals}${species=feline}__animals/${genus:reptiles}/${species:snakes}__
${genus=reptiles}__animals/${genus}/*__
${genus=mammals}__animal__
__animal(genus=mammals)__
{red|green|blue} are cool
{2$$red|green|blue} are cool
one {two|three} __colors-warm__
{summer|autumn|winter|spring} is coming
{0.5::summer|0.1::autumn|0.3::winter|0.1::spring}
My favourite ice-cream flavours are {2$$chocolate|vanilla|strawberry}
My favourite ice-cream flavours are {2$$ and $$chocolate|vanilla|strawberry}
My favourite ice-cream flavours are {1-2$$ and $$chocolate|vanilla|strawberry}
{-2$$chocolate|vanilla|strawberry}
{1-$$chocolate|vanilla|strawberry}
p{4$$chocolate|vanilla|strawberry}
__season__ is coming
My favourite ice-cream flavours are {2$$__flavors/sweet__}
The colour of my shirt is __colors*__
In the zoo: __animals/**__
${season={summer|autumn}}\nIn ${season}, I wear ${season} shirts
${person={blond|redhead}, {green|blue} eyes}\nA ${person} man
__season_clothes(season=winter)__
__season_clothes__
${season={\n summer\n |autumn\n # | fall\n |winter\n}}\nIn ${season:summer}, I wear shirts
%{something wrapping ..., very cool, neat$$this internal prompt}
A {red|green|blue} {square|circle}
A diamond ring set on a {gold|platinum} band.
A diamond ring set on a {{rose|yellow|white} gold|platinum} band.
A ring on a {\n {rose|yellow} gold # comments\n | platinum # ignored\n} band
A {diamond|ruby|emerald} ring set on a {classic|thin|thick} band
{A diamond|A ruby|An emerald} ring set on a {classic|thin|thick} band
Funko pop {yoda|darth vader|leia} figurine, made of {wood|plastic|metal|stone}, on white
Funko pop {2$$ and $$yoda|darth vader|leia} figurine, made of {wood|plastic}
I love {red|green|blue} roses
I {love|hate} {New York|Chicago} in {June|July|August}
My favourite season is __season__
My favourite colours are __colors-cold__, __colors-warm__, and __shapes__
""".strip().splitlines()
# What is drawn in their random mode with the marks of samplers, or where they have no choice.
CHOSEN = {
    "A {@red|green} ball": {"A red ball", "A green ball"},
    "A {~red|green} ball": {"A red ball", "A green ball"},
    "A {!red|green} ball": {"A red ball", "A green ball"},
    "{~0.2::red|0.4::green|0.6::blue}": {"red", "green", "blue"},
    "{@0.2::red|0.4::green|0.6::blue}": {"red", "green", "blue"},
    "{!__shapes__}": {"circle", "square", "triangle"},
    "{~1-2$$ and $$red|blue}": {"red", "blue", "red and blue", "blue and red"},
    "{!1-2$$a|b}": {"a", "b", "a,b", "b,a"},
    "a {@ball|{@car|bike}}": {"a ball", "a car", "a bike"},
    "a {@ball|{!car|bike}}": {"a ball", "a car", "a bike"},
    "a {@ball|{car|bike}}": {"a ball", "a car", "a bike"},
    "a {@%{hot ... bath$$foot}|car}": {"a hot foot bath", "a car"},
    "test __@colors-cold__": {"test blue", "test green"},
    "test __~colors-cold__": {"test blue", "test green"},
    "{@embedding1|embedding2} and {@embedding3|embedding4}": {
        "embedding1 and embedding3",
        "embedding2 and embedding4",
    },
    "${car=!{porsche|john_deere}}a __cars/${car}/types__ by __cars/${car}/name__": {
        "a sports car by Porsche",
        "a tractor by John Deere",
    },
    "${n=!{1|2}}${n}${n}": {"11", "22"},
    "${season=!__season__}In ${season}, ${season} shirts": {
        f"In {season}, {season} shirts"
        for season in ("summer", "autumn", "fall", "winter", "spring")
    },
    "__colors-{cold|warm}__": {"blue", "green", "red", "yellow"},
    "I like {2$$__colors-cold__|__colors-cold__}": {
        f"I like {first},{second}" for first in ("blue", "green") for second in ("blue", "green")
    },
    "": {""},
}
REFUSED = (  # by the library, too, or left as they are by it without a word
    "{cat|dog",
    "{2$$ $ $$cat|dog|bird}",
    "${a}",
    "wearing __colors-${temp}__ suede shoes",
    "A __missing__ wildcard",
    "__../cant_touch_this__",
    "__foo/../bar__",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wildcards")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("template", [line.replace("\\n", "\n") for line in TEMPLATES])
def test_all_combinations_are_theirs(template: str, folder: Path) -> None:
    theirs = SamplingContext(SamplingMethod.COMBINATORIAL, WildcardManager(folder))
    expected = dict.fromkeys(str(each).strip() for each in theirs.sample_prompts(template))
    assert combinations(template, folder) == list(expected)
    assert {expand(template, seed, folder) for seed in range(12)} <= set(expected)


@pytest.mark.parametrize("template", CHOSEN)
def test_what_seeds_choose(template: str, folder: Path) -> None:
    assert {expand(template, seed, folder) for seed in range(60)} == CHOSEN[template]


@pytest.mark.parametrize("template", REFUSED)
def test_what_is_refused(template: str, folder: Path) -> None:
    with pytest.raises(InputError, match="prompt: "):
        expand(template, 0, folder)


def test_turns_within_turns_are_theirs(folder: Path) -> None:
    for template in ("{@ball|{@car|bike}}", "{@a|{@b|c|d}|e}", "{@ball|{!car|bike}} {@x|y}"):
        theirs = SamplingContext(SamplingMethod.RANDOM, WildcardManager(folder))
        listed = [str(each) for each in theirs.sample_prompts(template, 12)]
        assert [expand(template, seed, folder) for seed in range(12)] == listed


def test_what_goes_on_without_end_has_one_value_in_a_combination(folder: Path) -> None:
    assert combinations("{@a|b}") == ["a"]
    assert combinations("{red|green} {@ball|car}") == ["red ball", "green car"]
    assert combinations("${c={@a|b}}${c}{x|y}") == ["ax", "ay"]
    assert len(combinations("{a|b|c} {~d|e}")) == 3
    with pytest.raises(InputError, match="fewer different options"):
        combinations("{2$$a|a}")


def test_too_many_combinations_are_counted() -> None:
    with pytest.raises(InputError, match=r"make 1,728 prompts, at most 1000"):
        combinations("{a|b|c|d|e|f|g|h|i|j|k|l}" * 3)
    with pytest.raises(InputError, match="more than a trillion"):
        combinations("{a|b}" * 100)
    with pytest.raises(InputError, match="make 1,320 prompts"):
        combinations("{3$$a|b|c|d|e|f|g|h|i|j|k|l}")


def test_random_templates_are_read_as_they_read_them() -> None:
    signs = "{ } | $$ __ ${ %{ a 2 1-2 :: 0.5 = ?= ~ @ : name (x=1) #c ... é ${a= ${a} {a|b} , [ ]"
    chance, compared = random.Random(7), 0
    for _ in range(400):
        template = "".join(chance.choices(signs.split(), k=chance.randint(1, 7)))
        try:
            expected = their_parse(template)
        except Exception:  # they refuse more, and with errors of many kinds
            continue
        assert parse(template) == expected, template
        compared += 1
    assert compared > 150
