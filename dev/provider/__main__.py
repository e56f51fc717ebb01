"""``python -m dev.provider --host H --port P --api-key-file F``: serve the stand-in until told to stop."""

import argparse
from pathlib import Path

import uvicorn

from dev.provider import NAME
from dev.provider.app import create_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.provider", description=f"Serve {NAME}.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--api-key-file", type=Path, required=True, help="a file that holds the key to ask for")
    options = parser.parse_args()
    key = options.api_key_file.read_text().strip()
    if not key:
        parser.error(f"{options.api_key_file} is empty: write the key that clients must send into it")
    uvicorn.run(create_app(key), host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
