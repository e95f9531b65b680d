"""`python -m habitab_server` is the same as `habitab`."""

from habitab_server.cli import main

if __name__ == "__main__":
    main()
