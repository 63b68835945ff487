"""Files of our own that others may have edited: of run folders, of servers, and of the reranker."""

import json
from pathlib import Path

from fuzzing import Parser

from gen.errors import InputError
from gen.run_folder.events import from_json
from gen.run_folder.fold import fold_what_fits
from gen.run_folder.manifest import Unreadable, records
from pipelines.checkpoints.errors import WeightsError
from rerank.calibration import calibrating, calibration
from rerank.learn.choices import read_choices
from rerank.learn.previews import PreviewHead
from rerank.search.parts import _entry
from ui.service.queue import Journal
from ui.service.rules import read_rules
from ui.service.styles import read_styles

JSON_SIGNS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"-1", b"1e999", b"null", b"9" * 400)
MANIFEST = b"""{"event": "run", "fingerprint": "a", "seed": 4}
{"event": "prompt", "number": 1, "key": "k", "request": {"prompt": "a fox", "seed": 4}}
{"event": "picture", "number": 1, "seed": 4, "model": "stickers", "file": "candidates/0001-4.png"}
{"event": "judged", "number": 1, "scores": {"4": 0.5}}
{"event": "ranked", "number": 1, "whole": true, "pictures": [{"rank": 1, "score": 0.5, "seed": 4,
 "file": "candidates/0001-4.png", "to": "0001-r1-4.png"}]}
{"event": "chosen", "number": 1, "seed": 4, "heart": true}
{"event": "deleted", "files": {"1": {"4": "0001-r1-4.png"}}}
{"event": "compared", "comparison": 1, "across": {"name": "steps", "values": [1, 2]},
 "down": {"name": "guidance", "values": [1.0]}, "numbers": [1]}
""".replace(b",\n", b",")
LOGISTIC = {"mean": [0.0], "std": [1.0], "weights": [1.0], "bias": 0.0}
PLAIN, CHANGED = ({k: v * n if k != "bias" else v for k, v in LOGISTIC.items()} for n in (4, 7))
CALIBRATION = {"weights": "a", "captions": ["a fox"], "changed": CHANGED, "plain": PLAIN}
LINES = (  # files of a JSON object a line, for the reranker
    (
        "captions to calibrate by",
        calibrating.read_captions,
        (b'{"file": ',),
        b'{"file": "a.png", "caption": "a fox", "matches": false}\n',
    ),
    (
        "choices to learn from",
        read_choices,
        (b'{"prompt": ', b'"weight": '),
        b'{"prompt": "a", "chosen": "a.png", "rejected": "b.png", "weight": 0.5}\n',
    ),
)


def _fold(path: Path) -> object:
    lines = (record for _, _, record in records(path))
    return fold_what_fits(from_json(each) for each in lines if not isinstance(each, Unreadable))


PARSERS = [
    Parser(
        name="a manifest",
        read=_fold,
        refuses=(),
        signs=(b'{"event": ', b'"picture"', b'"number": 1, ', b'"seed": ', b"\n", *JSON_SIGNS),
        examples=(MANIFEST,),
        suffix=".jsonl",
    ),
    Parser(
        name="the journal of a queue",
        read=Journal,
        refuses=(),
        signs=JSON_SIGNS,
        examples=(b'{"a": 1, "b": 2}',),
        suffix=".json",
    ),
    Parser(
        name="a row of an index",
        read=_entry,
        refuses=(),
        signs=JSON_SIGNS,
        examples=(b'{"file": "a/b.png", "size": 12, "changed": 34}',),
    ),
    Parser(
        name="a calibration",
        read=calibration.read,
        refuses=(WeightsError,),
        signs=(b'"mean"', b'"bias": ', b"0.5", *JSON_SIGNS),
        examples=(json.dumps(CALIBRATION).encode(),),
        suffix=".json",
    ),
    *(
        Parser(
            name=name,
            read=read,
            refuses=(ValueError,),
            signs=(*keys, b"\n", b"\xff", *JSON_SIGNS),
            examples=(example,),
            suffix=".jsonl",
        )
        for name, read, keys, example in LINES
    ),
    Parser(
        name="a head for previews",
        read=PreviewHead.load,
        refuses=(WeightsError,),
        signs=(b'"looks"', b'"share"', b'"mean"', b"0.5", *JSON_SIGNS),
        examples=(json.dumps({"reranker": "a", "looks": [{"share": 0.5, **LOGISTIC}]}).encode(),),
        suffix=".json",
    ),
    Parser(
        name="styles",
        read=read_styles,
        refuses=(InputError,),
        signs=(b",", b'"', b"\n", b"\r", b"{prompt}", b"\0", b"\xff", b"name,prompt\n"),
        examples=(b'name,prompt,negative_prompt\nink,"{prompt}, ink",colour\n',),
        suffix=".csv",
    ),
    Parser(
        name="rules for visitors",
        read=read_rules,
        refuses=(InputError,),
        signs=(b"[", b"]", b"{", b"}", b"=", b".", b'"""', b"'", b"\n", b"1", b"[[a]]", b"a."),
        examples=(b'models = ["a"]\nsettings = ["steps"]\ndelete = false\n[most]\nsteps = 50\n',),
        suffix=".toml",
    ),
]
