"""`python -m patchword`: the command line."""

from patchword.cli import main

if __name__ == "__main__":
    main()
