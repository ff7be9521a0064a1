"""``rwp-dist dashboard``: a saved view of a W&B project, and a report with a table.

``panels`` says as data what the view shows; the library's objects, the page ``docs/wandb.md`` and
the tests are made from it.
"""
