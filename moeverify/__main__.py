"""``python -m moeverify``"""

from moeverify.cli import main

if __name__ == "__main__":
    main()
