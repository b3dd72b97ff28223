"""`make bench`: the server against the same work in one process."""

from tests.bench.serving import main

if __name__ == "__main__":
    main()
