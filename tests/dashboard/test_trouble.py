"""What the pages say when there is nothing yet, and when the database is gone: never a traceback, always what to do."""

from pathlib import Path

import pytest
import streamlit as st

from edgerad.database import Database
from edgerad.settings import load_settings
from tests.dashboard.test_pages import PAGES, draw, text

EMPTY = {
    "worklist": "The worklist is empty. X-rays appear seconds after",
    "case": "Open a case from the worklist",
    "label": "Nothing to label",
    "trends": "No assessments in this span",
    "operations": "none yet",
}


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of our own, without a database."""
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EDGERAD_CORE__STORE__ENDPOINT_URL", "http://127.0.0.1:9")
    for key in ("ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.setenv(f"EDGERAD_CORE__STORE__{key}__VALUE", "k")
    st.cache_resource.clear()
    return tmp_path


@pytest.mark.parametrize("module", PAGES)
def test_an_empty_database_is_said_in_words(settings_of: Path, module: str) -> None:
    database = Database(load_settings().database_url)
    database.upgrade()
    database.close()
    assert EMPTY[module] in text(draw(module))


@pytest.mark.parametrize("module", PAGES)
def test_a_database_that_does_not_answer_is_said_with_what_to_do(
    settings_of: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setenv("EDGERAD_DATABASE__URL__VALUE", "postgresql+psycopg://edgerad:hush@127.0.0.1:9/edgerad")
    said = text(draw(module))
    assert "The database does not answer" in said
    assert "`edgerad up`" in said
    assert "hush" not in said
