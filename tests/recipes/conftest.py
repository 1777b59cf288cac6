"""The shipped recipes, run whole: `make check-recipes`, some minutes. `make test` runs a few steps
of each (tests/test_recipes.py)."""
