"""What we write, other programs read: the same tensors, the same tokens, the same choices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from habitab_engine.base_files import EMBEDDED
from habitab_engine.checkpoint import RowInt8, load_checkpoint
from habitab_engine.errors import BaseModelError, InputError
from habitab_engine.export import export_gguf, export_hf
from llama import LlamaCpp

os.environ["HF_HUB_OFFLINE"] = "1"
NEAR = 0.05
PROMPTS = (
    "<filename>shop.py\n<fim_suffix>\n<fim_middle>def total(prices):\n    result = 0\n    for price in",
    "<filename>a.js\n<fim_suffix>\n}\n<fim_middle>function add(a, b) {\n",
    "<file_sep>b.py\nclass Stack:\n    pass\n<filename>c.py\n<fim_suffix><fim_middle>import os\n",
    'package main\n\nimport (\n\t"fmt"\n)\n\nfunc main() {\n',
)
CODE = (
    "def f(x):\n    return x\n\n\n\tif 12345 == 'é😀':  \n        pass\n",
    "for   i in\r\n range( 10 ):   ",
    "class A { int x=0; } // don't I'll  \t\t x\n",
    "ﬁ Ⅷ ² 中文 שלום \u200b\u00a0 end",
    PROMPTS[0],
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The embedded base in both formats: 0.9 GB, so it is not left behind."""
    folder = tmp_path_factory.mktemp("exported")
    export_hf(folder)
    export_gguf(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))


def causal_lm(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def assert_greedy(model: Any, prompt: list[int], tokens: list[int]) -> None:
    """Each token is the model's best one, given those before it, or within NEAR of it."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    lost = logits.max(dim=1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert lost.max() < NEAR, lost


def test_transformers_loads_our_export_with_equal_tensors(exported: Path) -> None:
    model, base = causal_lm(exported), load_checkpoint(None)
    state = model.state_dict()
    assert base.tensors.keys() == state.keys() - {"lm_head.weight"}
    for name, tensor in base.tensors.items():
        assert torch.equal(tensor.float() if isinstance(tensor, RowInt8) else tensor, state[name])
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])
    assert model.dtype == torch.float32


def test_transformers_tokenises_as_we_do_and_knows_the_end(exported: Path, tokenizer: Tokenizer) -> None:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    assert [theirs(text)["input_ids"] for text in CODE] == [tokenizer.encode(text).ids for text in CODE]
    assert (theirs.eos_token_id, theirs.pad_token_id) == (0, 0)
    assert theirs.decode(theirs(CODE[0])["input_ids"]) == CODE[0]


def test_both_major_versions_of_transformers_find_the_angle_of_rope(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100_000


def test_the_model_card_travels_with_the_weights(exported: Path) -> None:
    assert "Apache" in (exported / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_llama_cpp_cuts_text_into_the_same_tokens_and_makes_the_same_choices(
    exported: Path, tokenizer: Tokenizer
) -> None:
    served, model = LlamaCpp(exported / "habitab-base-1-f16.gguf"), causal_lm(exported)
    assert [served.tokens(text) for text in CODE] == [tokenizer.encode(text).ids for text in CODE]
    for text in PROMPTS:
        prompt = tokenizer.encode(text).ids
        tokens = served.greedy(prompt, 24)
        assert len(tokens) >= 20
        assert_greedy(model, prompt, tokens)


def test_llama_cpp_loads_the_eight_bit_file_and_knows_the_gap(exported: Path, tokenizer: Tokenizer) -> None:
    import gguf

    path = exported / "habitab-base-1-q8_0.gguf"
    fields = gguf.GGUFReader(path).fields
    for name, token in {"suf": 9, "mid": 10, "pre": 8, "pad": 7, "sep": 5, "eos": 0}.items():
        key = f"tokenizer.ggml.{name if name == 'eos' else 'fim_' + name}_token_id"
        assert fields[key].contents() == token
    assert path.stat().st_size < 140e6
    assert len(LlamaCpp(path).greedy(tokenizer.encode(PROMPTS[0]).ids, 8)) == 8


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_another_base_of_either_family_exports_to_both_formats(
    tmp_path: Path, tokenizer: Tokenizer, kind: str, tied: bool
) -> None:
    import transformers

    torch.manual_seed(3)
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 20_000.0} if kind == "Llama" else None
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=32_800,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        rope_parameters=rope,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "source")
    shutil.copyfile(EMBEDDED / "tokenizer.json", tmp_path / "source" / "tokenizer.json")
    export_hf(tmp_path / "hf", tmp_path / "source")
    f16, q8_0 = export_gguf(tmp_path / "gguf", tmp_path / "source")
    again, state = causal_lm(tmp_path / "hf"), model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    prompt = tokenizer.encode(PROMPTS[1]).ids
    assert_greedy(model, prompt, LlamaCpp(f16).greedy(prompt, 20))
    assert len(LlamaCpp(q8_0).greedy(prompt, 4)) == 4


def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(tmp_path: Path) -> None:
    folder = linked_base(tmp_path / "source")
    spec = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(spec | {"pre_tokenizer": {"type": "Metaspace"}}))
    with pytest.raises(BaseModelError, match=r"convert_hf_to_gguf\.py"):
        export_gguf(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


def linked_base(folder: Path) -> Path:
    folder.mkdir()
    for path in EMBEDDED.glob("*.*"):
        if path.suffix in (".json", ".safetensors"):
            os.link(path, folder / path.name)
    return folder


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(InputError, match=r"config\.json exists already"):
        export_hf(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "mine")]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        export_hf(tmp_path / "file" / "deeper")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from habitab_engine.errors import InputError
from habitab_engine.export import export_gguf, export_hf
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
for export in (export_hf, export_gguf):
    try:
        export(Path(sys.argv[1]))
    except InputError as error:
        print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "new" / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.count("cannot be written") for line in done.stdout.splitlines()] == [1, 1]
    assert list(tmp_path.iterdir()) == []
