"""docs/wandb.md says what the code does."""

from support.wandb_page import PAGE, with_tables


def test_its_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_tables(text), "write them with: python tests/support/wandb_page.py"
