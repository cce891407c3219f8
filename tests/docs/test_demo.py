"""docs/demo.ipynb runs from its first cell to its last, on a quick run and a small sweep."""

import json

import pytest

from tests.support.train_command import ROOT, TINY, call_train

NOTEBOOK = ROOT / "docs" / "demo.ipynb"


def outputs(cells):
    """Outputs of code cells: text, pictures, errors."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [[output["output_type"] for output in cell["outputs"]] for cell in code]


def test_the_notebook_has_its_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    made = outputs(cells)
    assert all(made)
    assert "error" not in {kind for kinds in made for kind in kinds}
    data = [o.get("data", {}) for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    assert sum("image/png" in each for each in data) >= 8
    assert str(ROOT) not in NOTEBOOK.read_text(encoding="utf-8")
    assert NOTEBOOK.stat().st_size < 3e6


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch, capsys):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    small = [*TINY, "data.num_images=400", "trainer.max_steps=20"]
    assert call_train([*small, "hydra.run.dir=outputs/a/b"], tmp_path, monkeypatch, capsys)[0] == 0
    sweep = ["-m", *small, "loss.beta=1e-4,1e-2", "sweep.name=s"]
    assert call_train(sweep, tmp_path, monkeypatch, capsys)[0] == 0
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert all(outputs(notebook.cells))
    assert (tmp_path / "outputs" / "demo" / "figures").is_dir()
