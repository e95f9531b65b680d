"""The files of a base model: its shape, its vocabulary, and proof that its weights are whole. Never imports torch.

Two kinds of folder are read: ours (sha256 of every shard in the index) and Hugging Face's (`llama` or `qwen2`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import habitab_base
from habitab_engine.errors import BaseModelError, DamagedBaseError, MissingBaseError
from habitab_engine.home import sha256_of

EMBEDDED = Path(habitab_base.__file__).parent
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SUPPORTED = "habitab serves models of the llama and qwen2 families with SiLU and default or linear RoPE"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder of the Llama or Qwen2 family.

    `attention_bias` is Qwen2's: q, k and v have a bias, o has none. `rope_factor` is linear RoPE scaling
    (DeepSeek-Coder has 4): angles are taken at position / rope_factor. `tied` ones have no `lm_head.weight`.
    """

    model_type: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    max_positions: int
    rope_theta: float
    rms_eps: float
    tied: bool
    attention_bias: bool
    rope_factor: float = 1.0

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> ModelConfig:
        """Reads Hugging Face's config.json.

        Raises BaseModelError for what the engine cannot compute, DamagedBaseError for senseless numbers.
        """
        if problem := _unsupported(d):
            raise BaseModelError(f"This base model has {problem}; {SUPPORTED}.")
        width, heads = _positive(d, "hidden_size"), _positive(d, "num_attention_heads")
        theta, factor = _rope(d)
        config = cls(
            model_type=d["model_type"],
            layers=_positive(d, "num_hidden_layers"),
            width=width,
            heads=heads,
            kv_heads=_positive(d, "num_key_value_heads", heads),
            head_dim=_positive(d, "head_dim", width // heads),
            mlp=_positive(d, "intermediate_size"),
            vocab=_positive(d, "vocab_size"),
            max_positions=_positive(d, "max_position_embeddings", 2048),
            rope_theta=theta,
            rms_eps=_number(d, "rms_norm_eps", 1e-6),
            tied=bool(d.get("tie_word_embeddings", False)),
            attention_bias=d["model_type"] == "qwen2",
            rope_factor=factor,
        )
        if config.heads % config.kv_heads or config.head_dim % 2:
            raise DamagedBaseError("its numbers of heads do not fit each other")
        return config

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor the model needs, by name, as [out, in] for matrices."""
        named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.width)}
        for i in range(self.layers):
            named |= {f"model.layers.{i}.{name}": shape for name, shape in self._layer().items()}
        named["model.norm.weight"] = (self.width,)
        return named if self.tied else named | {"lm_head.weight": (self.vocab, self.width)}

    def _layer(self) -> dict[str, tuple[int, ...]]:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        biases = {"q": (q,), "k": (kv,), "v": (kv,)} if self.attention_bias else {}
        return {
            "input_layernorm.weight": (self.width,),
            "self_attn.q_proj.weight": (q, self.width),
            "self_attn.k_proj.weight": (kv, self.width),
            "self_attn.v_proj.weight": (kv, self.width),
            "self_attn.o_proj.weight": (self.width, q),
            **{f"self_attn.{name}_proj.bias": shape for name, shape in biases.items()},
            "post_attention_layernorm.weight": (self.width,),
            "mlp.gate_proj.weight": (self.mlp, self.width),
            "mlp.up_proj.weight": (self.mlp, self.width),
            "mlp.down_proj.weight": (self.width, self.mlp),
        }


@dataclass(frozen=True, slots=True)
class Base:
    """A whole base model on disk: its shape, its name, and the sha256 of its weights, as `Checkpoint` has them."""

    config: ModelConfig
    base_id: str
    sha256: str


def identify(folder: Path | None) -> Base:
    """The base model in `folder` (None: the embedded one), every byte of its weights checked.

    Raises MissingBaseError, DamagedBaseError, or BaseModelError for a model of another kind.
    """
    place = place_of(folder)
    config = load_config(place)
    shards, promised = shards_of(place)
    with ThreadPoolExecutor(max_workers=2) as pool:
        digests = dict(zip((shard.name for shard in shards), pool.map(sha256_of, shards), strict=True))
    check_digests(place, digests, promised)
    return Base(config, base_id(place), identity_of(digests))


def load_config(folder: Path | None) -> ModelConfig:
    """The shape of the model in `folder`, from its config.json alone."""
    path = place_of(folder) / "config.json"
    fields = _read_json(path)
    try:
        return ModelConfig.from_dict(fields)
    except DamagedBaseError as error:
        raise damaged(path, str(error)) from error


def load_vocabulary(folder: Path | None, config: ModelConfig) -> dict[str, int]:
    """Every token's id from the tokenizer.json in `folder`, added and special ones included.

    Raises MissingBaseError, or DamagedBaseError where the file cannot be read or belongs to another model.
    """
    path = place_of(folder) / "tokenizer.json"
    spec = _read_json(path)
    try:
        vocabulary = dict(spec["model"]["vocab"]) | {t["content"]: t["id"] for t in spec["added_tokens"]}
        entries = max(vocabulary.values()) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "it is not a byte-pair tokenizer") from error
    # Rows are padded to round numbers: Qwen2.5-Coder has 271 more than tokens. A tenth is another tokenizer.
    if not 0.9 * config.vocab <= entries <= config.vocab:
        raise damaged(path, f"it has {entries:,} entries, but the model has {config.vocab:,} rows")
    return vocabulary


def base_id(folder: Path | None) -> str:
    """The name by which adapters know the base in `folder`."""
    place = place_of(folder)
    return habitab_base.BASE_ID if place == EMBEDDED else place.resolve().name


def _unsupported(d: Mapping[str, Any]) -> str:
    """What the engine cannot compute, in words, or nothing."""
    rope = _rope_fields(d)
    wrong = {
        f"the model type {d.get('model_type')!r}": d.get("model_type") not in ("llama", "qwen2"),
        f"the activation {d.get('hidden_act')!r}": d.get("hidden_act", "silu") not in ("silu", "swish"),
        "biases in its MLP": bool(d.get("mlp_bias")),
        "biases in its attention": d.get("model_type") == "llama" and bool(d.get("attention_bias")),
        "sliding-window attention": bool(d.get("use_sliding_window")),
        "a quantisation of its own": bool(d.get("quantization_config")),
        f"RoPE of type {_rope_type(rope)!r}": _rope_type(rope) not in ("default", "linear"),
    }
    return next((problem for problem, found in wrong.items() if found), "")


def _rope_fields(d: Mapping[str, Any]) -> Mapping[str, Any]:
    """Newer files have `rope_parameters`, older ones `rope_scaling` (often null)."""
    fields = d.get("rope_parameters") or d.get("rope_scaling") or {}
    if not isinstance(fields, Mapping):
        raise DamagedBaseError("its RoPE settings are not an object")
    return fields


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _rope(d: Mapping[str, Any]) -> tuple[float, float]:
    """(theta, linear factor)."""
    rope = _rope_fields(d)
    theta = _number(rope if "rope_theta" in rope else d, "rope_theta", 10_000.0)
    return theta, _number(rope, "factor", 1.0) if _rope_type(rope) == "linear" else 1.0


def _number(d: Mapping[str, Any], key: str, default: float) -> float:
    value = d.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise DamagedBaseError(f"its {key} is not a number above 0")
    return float(value)


def _positive(d: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = d.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DamagedBaseError(f"its {key} is not a whole number above 0")
    return value


def place_of(folder: Path | None) -> Path:
    place = EMBEDDED if folder is None else folder
    if not place.is_dir():
        raise MissingBaseError(f"The base model's folder {place} does not exist; {advice(place)}.")
    return place


def advice(place: Path) -> str:
    return "reinstall habitab" if place == EMBEDDED else "copy the model's folder again"


def damaged(path: Path, why: str) -> DamagedBaseError:
    return DamagedBaseError(f"The base model's file {path} is damaged ({why}); {advice(path.parent)}.")


def _need(path: Path) -> None:
    if not path.is_file():
        raise MissingBaseError(f"The base model's file {path} is missing; {advice(path.parent)}.")


def _read_json(path: Path) -> dict[str, Any]:
    _need(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(value, dict):
        raise damaged(path, "it is not a JSON object")
    return value


def shards_of(place: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files and the sha256 that the index promises for them (ours does, others do not)."""
    if (place / SINGLE).is_file():
        return [place / SINGLE], {}
    if not (place / INDEX).is_file():
        raise _no_weights(place)
    index = _read_json(place / INDEX)
    weight_map, promised = index.get("weight_map"), index.get("sha256", {})
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(promised, dict):
        raise damaged(place / INDEX, "it lists no weights")
    names = sorted({str(name) for name in weight_map.values()} | promised.keys())
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise damaged(place / INDEX, "it names files that are not shards of this folder")
    for name in names:
        _need(place / name)
    return [place / name for name in names], promised


def _no_weights(place: Path) -> BaseModelError:
    pickles = [path.name for pattern in PICKLES for path in place.glob(pattern)]
    if pickles:
        return BaseModelError(
            f"The weights in {place} are pickle files ({pickles[0]}), which can run code when opened; "
            "save the model as safetensors and try again."
        )
    return MissingBaseError(f"There is no {SINGLE} and no {INDEX} in {place}; {advice(place)}.")


def check_digests(place: Path, digests: Mapping[str, str], promised: Mapping[str, str]) -> None:
    for name, expected in promised.items():
        if digests[name] != expected:
            raise damaged(place / name, "its checksum is not the one in the index")


def identity_of(digests: Mapping[str, str]) -> str:
    """One sha256 for all shards, from their own in the order of their names."""
    return hashlib.sha256("".join(digests[name] for name in sorted(digests)).encode()).hexdigest()
