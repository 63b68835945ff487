"""The graph of nodes that ComfyUI writes into its images, read as a record of ours.

A graph has no place that says what was asked: values come from other nodes, through nodes that pass
them on, and often there are several samplers. What is read is the first pass towards the image that
was saved. Every walk is bounded by the size of the graph.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gen.errors import InputError
from gen.metadata.record import Metadata
from gen.metadata.understood import MODEL, make_record

NODES_MAX = 5000
DEEPEST = 60  # nodes between a value and where it is used
LONGEST = 20_000  # characters of a text that is put together
SIZED = re.compile(r"(\d{2,5})\s*[x×*]\s*(\d{2,5})")
TEXTS = (
    *("text", "text_g", "text_l", "t5xxl", "clip_l", "clip_g", "prompt", "user_prompt", "bert"),
    *("mt5xl", "llama", "string", "value", "wildcard_text", "populated_text", "tags", "any"),
)
PARTS = re.compile(r"(?:text|string|prompt|str)_?(?:[a-h]|\d{1,2})")  # of texts that are joined
LATENTS = ("latent_image", "latent", "samples", "latents", "samples_to", "pixels", "image", "pipe")
VALUES = ("value", "Value", "number", "int", "float", "seed_num")
CHECKPOINTS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "checkpoint", "model")
STARTS = frozenset({"positive", "guider", "text_embeds", "conditioning", "basic_pipe", "pipe"})

Node = Mapping[str, Any]


def read_graph(nodes: Mapping[str, Any]) -> Metadata:
    """Read ComfyUI's `prompt`. Raises InputError if no sampler is in the graph."""
    return _Graph(nodes).record()


class _Graph:
    """Nodes by id, and ways through them."""

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        if len(nodes) > NODES_MAX:
            raise InputError(f"its ComfyUI graph has more than {NODES_MAX} nodes")
        self.nodes: dict[str, Node] = {
            str(key): node
            for key, node in nodes.items()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        }
        self._steps = 0

    def record(self) -> Metadata:
        samplers = [key for key in self.nodes if self._is_sampler(key)]
        if not samplers:
            raise InputError("no sampler that we know is in its ComfyUI graph")
        chosen = self._first_pass(samplers)
        inputs = self._inputs(chosen)
        notes = [f"{len(samplers)} passes of sampling, read as one"] if len(samplers) > 1 else []
        guider = self._node(inputs.get("guider"))
        sigmas = self._with_steps(inputs.get("sigmas"))
        encoders: list[Node] = []
        positive = self._texts(inputs, "positive", encoders)
        negative = self._texts(inputs, "negative", [])
        if negative and negative == positive:
            notes.append("its negative prompt comes from where its prompt does")
            negative = []
        if len(positive) > 1:
            notes.append(f"{len(positive)} prompts, read as one")
        values = {
            "prompt": ", ".join(positive),
            "negative_prompt": ", ".join(negative),
            "seed": self._number((inputs, self._node(inputs.get("noise"))), "seed", "noise_seed"),
            "steps": self._number((inputs, sigmas), "steps"),
            "guidance": self._guidance((inputs, guider), encoders),
            "sampler": self._sampler(inputs),
            "schedule": self._schedule(inputs, sigmas),
            "clip_skip": self._clip_skip(encoders),
            **self._size(inputs),
            MODEL: self._model((inputs, guider), notes),
        }
        denoise = self._number((inputs, sigmas), "denoise")
        if denoise is not None and denoise < 1:
            notes.append(f"denoise {denoise}: it began with another image")
        return make_record(values, notes)

    def _inputs(self, key: str) -> Node:
        found: Node = self.nodes[key]["inputs"]
        return found

    def _kind(self, key: str) -> str:
        return str(self.nodes[key].get("class_type", ""))

    def _target(self, link: Any) -> str | None:
        """Return the id of the node that a link, `[id, output]`, leads to."""
        if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str | int):
            key = str(link[0])
            return key if key in self.nodes else None
        return None

    def _node(self, link: Any) -> Node:
        """Return the inputs of the node behind a link, and behind those that pass it on."""
        for _ in range(DEEPEST):
            key = self._target(link)
            if key is None:
                return {}
            inputs = self._inputs(key)
            if len(inputs) != 1 or self._target(link := next(iter(inputs.values()))) is None:
                return inputs
        return {}

    def _is_sampler(self, key: str) -> bool:
        names = self._inputs(key).keys()
        return bool(
            {"steps", "sigmas"} & names
            and STARTS & names
            and {"seed", "noise_seed", "noise", "sampler_name", "sampler"} & names
        )

    def _first_pass(self, samplers: Sequence[str]) -> str:
        """Return the sampler that leads to what was saved and begins with no other's work."""
        consumed = {self._target(link) for key in self.nodes for link in self._inputs(key).values()}
        ends = [key for key in self.nodes if key not in consumed]
        saved = [key for key in ends if "save" in self._kind(key).lower()]
        above = self._reached(saved or ends)
        later = self._behind_samplers(set(samplers))
        ways = ([s for s in samplers if s in above and s not in later], samplers)
        first = next(way for way in ways if way)
        return max(first, key=lambda s: self._number((self._inputs(s),), "steps") or 0)

    def _reached(self, keys: Sequence[str]) -> set[str]:
        """Return the nodes that these depend on, themselves included."""
        found, waiting = set(keys), list(keys)
        while waiting:
            for link in self._inputs(waiting.pop()).values():
                key = self._target(link)
                if key is not None and key not in found:
                    found.add(key)
                    waiting.append(key)
        return found

    def _behind_samplers(self, samplers: set[str]) -> set[str]:
        """Return the nodes that depend on a sampler."""
        users: dict[str, list[str]] = {}
        for key in self.nodes:
            for link in self._inputs(key).values():
                if (target := self._target(link)) is not None:
                    users.setdefault(target, []).append(key)
        found: set[str] = set()
        waiting = list(samplers)
        while waiting:
            for user in users.get(waiting.pop(), ()):
                if user not in found:
                    found.add(user)
                    waiting.append(user)
        return found

    def _number(self, nodes: Sequence[Node], *names: str) -> float | int | None:
        """Return the first of these inputs that is a number, there or where its link leads to."""
        for inputs in nodes:
            for name in names:
                value = self._value(inputs.get(name), name, (int, float))
                if value is not None:
                    return value
        return None

    def _value(self, value: Any, name: str, kinds: tuple[type, ...]) -> Any:
        """Return a value of one of these types, wherever it comes from; None if it isn't found."""
        for _ in range(DEEPEST):
            if isinstance(value, kinds) and not isinstance(value, bool):
                return value
            key = self._target(value)
            if key is None:
                return None
            inputs = self._inputs(key)
            near = (n for n in inputs if n.startswith(name))
            named = next((inputs[n] for n in (name, *near, *VALUES) if n in inputs), None)
            if named is None:
                right = [v for v in inputs.values() if isinstance(v, kinds) and v is not True]
                links = [v for v in inputs.values() if self._target(v) is not None]
                ways = right if len(right) == 1 else links if len(links) == 1 else []
                named = next(iter(ways), None)
            value = named
        return None

    def _with_steps(self, link: Any) -> Node:
        """Return the node behind a link that says a number of steps, past those that split it."""
        for _ in range(DEEPEST):
            inputs = self._node(link)
            if "steps" in inputs or "sigmas" not in inputs:
                return {**inputs, "class": self._kind_behind(link)}
            link = inputs["sigmas"]
        return {}

    def _kind_behind(self, link: Any) -> str:
        key = self._target(link)
        return "" if key is None else self._kind(key)

    def _guidance(self, nodes: Sequence[Node], encoders: Sequence[Node]) -> float | int | None:
        """Return the guidance; of distilled models that which is told to the network."""
        scale = self._number(nodes, "cfg", "cfg_scale", "cfg_conds")
        distilled = self._number(encoders, "guidance")
        return distilled if distilled is not None and scale in (None, 1) else scale

    def _sampler(self, inputs: Node) -> str | None:
        name = self._value(inputs.get("sampler_name"), "sampler_name", (str,))
        if name is None and "sampler" in inputs:
            name = self._value(inputs["sampler"], "sampler_name", (str,))
            kind = self._kind_behind(inputs["sampler"])
            if name is None and kind.startswith("Sampler"):  # SamplerEulerAncestral and so on
                name = kind.removeprefix("Sampler")
        return name or self._value(inputs.get("scheduler"), "scheduler", (str,))

    def _schedule(self, inputs: Node, sigmas: Node) -> str | None:
        if "sampler_name" in inputs or "sampler" in inputs:
            for node in (inputs, sigmas):
                if found := self._value(node.get("scheduler"), "scheduler", (str,)):
                    return str(found)
            kind = str(sigmas.get("class", ""))
            return kind.removesuffix("Scheduler") if kind in ("KarrasScheduler",) else None
        return None

    def _size(self, inputs: Node) -> dict[str, Any]:
        """Return width and height of the latents that it began with, if they are told."""
        for _ in range(DEEPEST):
            link = next((inputs[n] for n in LATENTS if self._target(inputs.get(n))), None)
            key = self._target(link)
            if key is None:
                return {}
            inputs = self._inputs(key)
            sides = {
                side: self._number((inputs,), side, f"empty_latent_{side}")
                for side in ("width", "height")
            }
            if None not in sides.values():
                return sides
            for value in inputs.values():
                if isinstance(value, str) and (size := SIZED.match(value[:40].strip())):
                    return {"width": size[1], "height": size[2]}
        return {}

    def _model(self, nodes: Sequence[Node], notes: list[str]) -> str | None:
        """Return the checkpoint's name; what changes it on the way is noted."""
        for start in nodes:
            inputs = start
            for _ in range(DEEPEST):
                for name in CHECKPOINTS:
                    if isinstance(inputs.get(name), str):
                        return str(inputs[name])
                if isinstance(inputs.get("lora_name"), str):
                    notes.append(f"LoRA {inputs['lora_name'][:100]}")
                ways = ("model", "model1", "pipe", "basic_pipe", "ckpt_name", "unet_name")
                key = next((k for n in ways if (k := self._target(inputs.get(n)))), None)
                if key is None:
                    break
                inputs = self._inputs(key)
        return None

    def _clip_skip(self, encoders: Sequence[Node]) -> int | None:
        """Return from which layer, counted from the end, the text encoder is read."""
        for inputs in encoders:
            for _ in range(DEEPEST):
                layer = self._number((inputs,), "stop_at_clip_layer", "clip_skip")
                if isinstance(layer, int) and layer < 0:
                    return -layer
                key = self._target(inputs.get("clip"))
                if key is None:
                    break
                inputs = self._inputs(key)
        return None

    def _texts(self, inputs: Node, role: str, encoders: list[Node]) -> list[str]:
        """Return the texts that the positive or negative conditioning was made of, each once.

        The nodes on the way are put into `encoders`.
        """
        found: list[str] = []
        seen: set[str] = set()
        if role == "negative" and "guider" in inputs:  # of which not all have one
            guider = self._node(inputs["guider"])
            inputs = {role: guider[role]} if role in guider else {}
        starts = [inputs[n] for n in (role, *sorted(STARTS - {"positive"})) if n in inputs]
        waiting: list[Any] = starts[:1]
        while waiting:
            value = waiting.pop()
            key = self._target(value)
            if isinstance(value, str) and value.strip() and value.strip() not in found:
                found.append(value.strip())
            if key is None or key in seen or "zeroout" in self._kind(key).lower():
                continue
            seen.add(key)
            inputs = self._inputs(key)
            encoders.append(inputs)
            waiting += reversed(list(self._ways(inputs, role)))
        return found

    def _ways(self, inputs: Node, role: str) -> Iterator[Any]:
        """Yield the texts of a node and the links towards others, for one of the two roles."""
        if role in inputs:
            yield inputs[role]
            return
        other = "negative" if role == "positive" else "positive"
        texts = [name for name in inputs if name in TEXTS or role in name or PARTS.fullmatch(name)]
        if texts:
            for name in texts:
                yield self._text(inputs, name, role)
            return
        links = [n for n in inputs if self._target(inputs[n]) is not None and other not in n]
        passing = [n for n in links if "cond" in n or n in STARTS]
        for name in passing or (links if len(links) == 1 else []):
            yield inputs[name]

    def _text(self, inputs: Node, name: str, role: str, depth: int = 0) -> str:
        """Return a text of a node, put together from other nodes if need be."""
        self._steps += 1
        value = inputs.get(name)
        if isinstance(value, str) or depth > DEEPEST or self._steps > 2 * NODES_MAX:
            return value if isinstance(value, str) else ""
        key = self._target(value)
        if key is None:
            return ""
        inputs = self._inputs(key)
        parts = [n for n in inputs if PARTS.fullmatch(n)]
        named = next((n for n in (*(n for n in inputs if role in n), *TEXTS) if n in inputs), None)
        if len(parts) > 1:
            between = inputs.get("delimiter", inputs.get("separator", " "))
            texts = [self._text(inputs, part, role, depth + 1) for part in parts]
            joined = (between if isinstance(between, str) else " ").join(filter(None, texts))
            return joined[:LONGEST]
        if named is None:
            said = [n for n, v in inputs.items() if isinstance(v, str)]
            links = [n for n, v in inputs.items() if self._target(v) is not None]
            ways = said if len(said) == 1 else links if len(links) == 1 else []
            named = next(iter(ways), None)
        return "" if named is None else self._text(inputs, named, role, depth + 1)
