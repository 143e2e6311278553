"""A published ALBERT: RXNMapper's, trained on chemical reactions (Schwaller et al. 2021). Its wheel has the weights."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import neolm
from neolm.evaluation.pseudo_likelihood import one_at_a_time
from neolm.models.encoder import Encoder

WHEEL = "rxnmapper==0.4.3"
FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/"
REACTIONS = (  # acylations; rarer reactions have 0.95
    "CC(=O)Cl.Nc1ccccc1>>CC(=O)Nc1ccccc1",  # acetanilide
    "CC(=O)OC(C)=O.O=C(O)c1ccccc1O>>CC(=O)Oc1ccccc1C(=O)O",  # aspirin
    "O=C(O)c1ccccc1.NCc1ccccc1>>O=C(NCc1ccccc1)c1ccccc1",  # N-benzylbenzamide
)
ATOMS_AND_BONDS = re.compile(r"\[[^\]]*\]|Br|Cl|>>|%\d\d|.")


@pytest.fixture(scope="module")
def reaction_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the wheel, which is fetched from the package registry."""
    place = tmp_path_factory.mktemp("rxnmapper")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(place), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        pytest.skip(f"needs a package registry that has {WHEEL}: {reason}")
    with zipfile.ZipFile(wheels[0]) as archive:
        for name in ("config.json", "pytorch_model.bin", "vocab.txt"):
            (place / name).write_bytes(archive.read(FOLDER + name))
    return place


@pytest.mark.slow
def test_masked_accuracy_of_reactions(reaction_model: Path) -> None:
    model = neolm.load_model(reaction_model, "cpu", "float32")
    assert isinstance(model, Encoder)
    assert model.config.family == "albert"
    vocabulary = {line: number for number, line in enumerate((reaction_model / "vocab.txt").read_text().splitlines())}
    right = total = 0
    for reaction in REACTIONS:
        tokens = ["[CLS]", *ATOMS_AND_BONDS.findall(reaction), "[SEP]"]
        _, hits = one_at_a_time(model, [vocabulary[token] for token in tokens], vocabulary["[MASK]"])
        right, total = right + int(hits.sum()), total + len(hits)
    assert right / total >= 0.98, f"{right} of {total}"
